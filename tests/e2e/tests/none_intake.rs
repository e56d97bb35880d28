//! A message in a queue, an intake that may do what its Role says and nothing else, and the operator behind it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tourniquet_azurite::{Sas, queue_account};
use tourniquet_e2e::people::{Place, right};
use tourniquet_e2e::snapshot::{Snapshot, traces};
use tourniquet_e2e::{RESPONSE_NAMESPACE, Scenario, TestPod, TestResponse, azurite, scenario, until};
use tourniquet_intake::cluster::Responses;
use tourniquet_intake::message::Ages;
use tourniquet_intake::queue::{Auth, Config, Queue};
use tourniquet_intake::respond::{INCIDENT_LABEL, Policy};
use tourniquet_intake::work::{Times, Work};

const CLUSTER: &str = "/subscriptions/1/resourceGroups/rg/providers/Microsoft.ContainerService/managedClusters/aks";
const SOON: Duration = Duration::from_secs(90);

/// Puts a message in, and waits for what is told of it in the end.
async fn ask(s: &Scenario, id: &str, action: &str, pod: &TestPod) -> Result<Value> {
    let azurite = azurite().await?;
    let now = Timestamp::now();
    let namespace = json!({ "Type": "K8s-namespace", "Name": pod.namespace });
    let alert = json!({
        "SystemAlertId": s.namespace, "AlertDisplayName": "Miner", "EndTimeUtc": now, "AzureResourceId": CLUSTER,
        "Entities": [{ "Type": "K8s-pod", "Name": pod.name, "Namespace": namespace }],
    });
    let message = json!({ "version": 1, "id": id, "sentAt": now, "action": action, "defenderAlert": alert });
    azurite.put_message(&s.namespace, &message.to_string()).await;
    until("the outcome is told", SOON, async || {
        let Some(content) = azurite.blob(&s.namespace, &format!("{id}.json")).await else { return Ok(None) };
        let outcome: Value = serde_json::from_slice(&content)?;
        Ok((outcome["state"] != "Working").then_some(outcome))
    })
    .await
}

/// The one that the intake created, which is the test's to remove from now on.
async fn created(s: &Scenario) -> Result<TestResponse> {
    let ours = ListParams::default().labels(INCIDENT_LABEL);
    let all = s.responses().list(&ours).await?.items;
    let incident = |id: Option<&str>| id == Some(s.namespace.as_str());
    let mine = all.iter().find(|response| incident(response.spec.incident.as_ref().and_then(|i| i.id.as_deref())));
    let name = mine.context("no response was created")?.name_any();
    let label = json!({ "metadata": { "labels": { "e2e.tourniquet.dev/test": s.namespace } } });
    s.responses().patch_metadata(&name, &PatchParams::default(), &Patch::Merge(&label)).await?;
    s.known(RESPONSE_NAMESPACE, &name).await
}

#[test]
fn a_message_isolates_the_pod_that_it_names_and_another_one_releases_it() {
    scenario("intake", |s| async move {
        let azurite = azurite().await?;
        let pod = s.pod("web").await?;
        let before = Snapshot::of_namespace(&s.env, &s.namespace).await?;
        let rights =
            [right(Place::Responses, "get,list,create,patch,isolate,release", "incidentresponses.tourniquet.dev")];
        let intake = s.person("intake", &rights).await?;
        azurite.create_queue(&s.namespace).await;
        azurite.create_queue(&format!("{}-poison", s.namespace)).await;
        azurite.create_container(&s.namespace).await;
        let config = Config {
            queues: azurite.queue_endpoint(),
            queue: s.namespace.clone(),
            blobs: azurite.endpoint(),
            outcomes: s.namespace.clone(),
            auth: Auth::Sas(queue_account("aup", "co").into()),
            outcomes_auth: Auth::Sas(Sas::new(&s.namespace).with("cw").sign()),
            ca_bundle: Some(azurite.pki.ca.clone()),
        };
        let work = Work {
            queue: Queue::open(&config)?,
            responses: Responses::new(intake.client(), RESPONSE_NAMESPACE),
            policy: Policy {
                cluster: CLUSTER.parse().map_err(anyhow::Error::msg)?,
                namespace: RESPONSE_NAMESPACE.into(),
                verbs: ["isolate", "collect", "release"].map(String::from).into(),
                commands: BTreeMap::new(),
                store: Some("soc".into()),
                targets: 10,
            },
            ages: Ages { on_the_way: SignedDuration::from_mins(15), waiting: SignedDuration::from_hours(24) },
            most_received: 20,
            times: Times { pause: Duration::from_millis(100), ..Times::default() },
        };
        let stop = CancellationToken::new();
        let _ends = stop.clone().drop_guard();
        tokio::spawn(work.run(stop));

        let outcome = ask(&s, "isolate", "isolatePod", &pod).await?;
        let response = created(&s).await?;
        let told = &outcome["responses"][0];
        ensure!(
            told["name"] == response.name.as_str() && told["target"] == format!("pod {}/web", s.namespace),
            "{outcome}"
        );
        // What the operator says, and not more.
        let contained = response.condition("Contained").await?.context("no Contained")?;
        ensure!(told["contained"] == contained.status.as_str(), "{outcome}");
        ensure!(outcome["comment"].as_str().is_some_and(|comment| comment.contains("Release: ")), "{outcome}");

        // Its Role has no such verb, whatever its own configuration allows.
        let refused = ask(&s, "collect", "collect", &pod).await?;
        ensure!(refused["state"] == "Refused", "{refused}");
        ensure!(
            refused["comment"].as_str().is_some_and(|comment| comment.contains("the cluster refused it")),
            "{refused}"
        );

        let released = ask(&s, "release", "release", &pod).await?;
        ensure!(released["comment"].as_str().is_some_and(|comment| comment.contains("Released")), "{released}");
        response.becomes("Reverted", "True", SOON).await?;
        s.is_what_it_was(&before).await?;
        ensure!(traces(&s.env, &response.uid).await?.is_empty());
        Ok(())
    });
}

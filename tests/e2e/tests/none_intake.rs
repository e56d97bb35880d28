//! A message in a queue, the intake as the chart installs it, with the ServiceAccount and the Role that the chart gives it, and the operator behind it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tourniquet_azurite::{Sas, queue_account};
use tourniquet_e2e::people::Ask;
use tourniquet_e2e::snapshot::{Snapshot, traces};
use tourniquet_e2e::{
    OPERATOR_NAMESPACE, RESPONSE_NAMESPACE, Scenario, TestPod, TestResponse, azurite, scenario, until,
};
use tourniquet_intake::respond::INCIDENT_LABEL;

const CLUSTER: &str = "/subscriptions/1/resourceGroups/rg/providers/Microsoft.ContainerService/managedClusters/aks";
const INTAKE: &str = "tourniquet-intake";
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

/// The intake, as the chart renders it.
struct Intake<'a> {
    s: &'a Scenario,
    manifests: String,
}

impl<'a> Intake<'a> {
    async fn of_chart(s: &'a Scenario) -> Result<Self> {
        let azurite = azurite().await?;
        let image = s.env.intake.as_deref().context("TOURNIQUET_INTAKE is not set")?;
        let (repository, tag) = image.rsplit_once(':').context("an image without a tag")?;
        let set = [
            "intake.enabled=true".to_owned(),
            format!("intake.image.repository={repository}"),
            format!("intake.image.tag={tag}"),
            format!("intake.clusterID={CLUSTER}"),
            format!("intake.queueEndpoint={}", azurite.queue_endpoint()),
            format!("intake.queue={}", s.namespace),
            format!("intake.blobEndpoint={}", azurite.endpoint()),
            format!("intake.outcomes={}", s.namespace),
            "intake.verbs={isolate,release}".to_owned(),
            format!("intake.sas.secretRef={}", s.namespace),
            format!("intake.caBundle={}", azurite.pki.ca),
            // Whatever its configuration allows, its Role has no such verb.
            "intake.extraEnv[0].name=TOURNIQUET_INTAKE_VERBS".to_owned(),
            "intake.extraEnv[0].value=isolate\\,collect\\,release".to_owned(),
            "intake.extraEnv[1].name=TOURNIQUET_INTAKE_EVIDENCE_STORE".to_owned(),
            "intake.extraEnv[1].value=soc".to_owned(),
        ];
        let chart = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../charts/tourniquet"));
        // Of itself it asks no cluster for its version here, and takes an old one.
        let version = s.env.client.apiserver_version().await?.git_version;
        let mut helm = tokio::process::Command::new("helm");
        helm.args([
            "template",
            "tourniquet",
            "--namespace",
            OPERATOR_NAMESPACE,
            "--show-only",
            "templates/intake.yaml",
        ])
        .arg(chart);
        helm.args(["--kube-version", &version]);
        helm.args(set.iter().flat_map(|set| ["--set", set]));
        let rendered = helm.output().await.context("cannot run helm")?;
        ensure!(rendered.status.success(), "{}", String::from_utf8_lossy(&rendered.stderr));
        Ok(Self { s, manifests: String::from_utf8(rendered.stdout)? })
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.s.env.client.clone(), OPERATOR_NAMESPACE)
    }

    /// With the signatures that it reads.
    async fn install(&self) -> Result<()> {
        let outcomes = Sas::new(&self.s.namespace).with("cw").sign();
        let secret = serde_json::from_value(json!({
            "metadata": { "name": self.s.namespace },
            "stringData": { "queue": queue_account("aup", "co"), "outcomes": outcomes.expose_secret() },
        }))?;
        self.secrets().create(&PostParams::default(), &secret).await?;
        self.s.create_text(&self.manifests).await?;
        let deployments: Api<Deployment> = Api::namespaced(self.s.env.client.clone(), OPERATOR_NAMESPACE);
        until("the intake runs", SOON, async || {
            let status = deployments.get_status(INTAKE).await?.status.unwrap_or_default();
            Ok((status.ready_replicas == Some(1)).then_some(()))
        })
        .await
    }

    async fn uninstall(&self) -> Result<()> {
        self.s.delete_text(&self.manifests).await?;
        self.secrets().delete(&self.s.namespace, &DeleteParams::default()).await?;
        Ok(())
    }
}

/// Nothing of what a stolen token of it would be good for.
async fn may_nothing_else(s: &Scenario, pod: &TestPod, response: &TestResponse) -> Result<()> {
    let intake = s.signed_in(OPERATOR_NAMESPACE, INTAKE).await?;
    let responses = "/apis/tourniquet.dev/v1alpha1/namespaces";
    let mine = format!("{responses}/{RESPONSE_NAMESPACE}/incidentresponses/{}", response.name);
    ensure!(intake.asks(&Ask::get(&mine)).await?.code == 200, "it may read responses");
    for ask in [
        Ask::delete(&mine),
        Ask::merge_patch(format!("{mine}/status"), json!({ "status": { "target": "none" } })),
        Ask::get(format!("{responses}/{}/incidentresponses", pod.namespace)),
        Ask::get(format!("/api/v1/namespaces/{}/pods", pod.namespace)),
        Ask::get(format!("/api/v1/namespaces/{OPERATOR_NAMESPACE}/secrets")),
        Ask::get("/api/v1/nodes"),
    ] {
        let said = intake.asks(&ask).await?;
        ensure!(said.code == 403, "{ask:?}: {said:?}");
    }
    Ok(())
}

#[test]
fn a_message_isolates_the_pod_that_it_names_and_another_one_releases_it() {
    scenario("intake", |s| async move {
        let azurite = azurite().await?;
        azurite.create_queue(&s.namespace).await;
        azurite.create_queue(&format!("{}-poison", s.namespace)).await;
        azurite.create_container(&s.namespace).await;
        let intake = Intake::of_chart(&s).await?;
        let proven = async {
            intake.install().await?;
            proof(&s).await
        };
        let proven = proven.await;
        if proven.is_err() {
            let log = ["--namespace", OPERATOR_NAMESPACE, "logs", "deployment/tourniquet-intake", "--tail=50"];
            println!("the intake's log:\n{}", s.env.kubectl_output(&log).await.unwrap_or_default());
        }
        intake.uninstall().await?;
        proven
    });
}

async fn proof(s: &Scenario) -> Result<()> {
    let pod = s.pod("web").await?;
    let before = Snapshot::of_namespace(&s.env, &s.namespace).await?;

    let outcome = ask(s, "isolate", "isolatePod", &pod).await?;
    let response = created(s).await?;
    let told = &outcome["responses"][0];
    ensure!(
        told["name"] == response.name.as_str() && told["target"] == format!("pod {}/web", s.namespace),
        "{outcome}"
    );
    // What the operator says, and not more.
    let contained = response.condition("Contained").await?.context("no Contained")?;
    ensure!(told["contained"] == contained.status.as_str(), "{outcome}");
    ensure!(outcome["comment"].as_str().is_some_and(|comment| comment.contains("Release: ")), "{outcome}");

    let refused = ask(s, "collect", "collect", &pod).await?;
    ensure!(refused["state"] == "Refused", "{refused}");
    ensure!(refused["comment"].as_str().is_some_and(|comment| comment.contains("the cluster refused it")), "{refused}");
    may_nothing_else(s, &pod, &response).await?;

    let released = ask(s, "release", "release", &pod).await?;
    ensure!(released["comment"].as_str().is_some_and(|comment| comment.contains("Released")), "{released}");
    response.becomes("Reverted", "True", SOON).await?;
    s.is_what_it_was(&before).await?;
    ensure!(traces(&s.env, &response.uid).await?.is_empty());
    Ok(())
}

//! The workflows of the direct way against the real API server, with the real operator behind it. A user who is impersonated, with the Role that the chart gives
//! the Logic App's identity, stands in for the identity of Entra ID.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::Request as HttpRequest;
use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{ListParams, Patch, PatchParams};
use kube::client::Body;
use serde_json::{Value, json};
use tourniquet_e2e::people::{Ask, Person, Place, right};
use tourniquet_e2e::snapshot::{Snapshot, traces};
use tourniquet_e2e::{RESPONSE_NAMESPACE, Scenario, TestPod, TestResponse, scenario};
use tourniquet_workflow::{Answer, Request, Run, Send, Workflow};

const API_SERVER: &str = "https://api.example";
/// Of the application that AKS is in Entra ID, the same in every tenant.
const AKS: &str = "6dae42f8-4368-4678-94ff-3960e28e3630";
const CLUSTER: &str = "/subscriptions/1/resourceGroups/rg/providers/Microsoft.ContainerService/managedClusters/aks";
const INCIDENT: &str = "direct.tourniquet.dev/incident";
const SOON: Duration = Duration::from_secs(90);

fn settings(verbs: &str) -> Value {
    json!({
        "TOURNIQUET_API_SERVER": API_SERVER,
        "TOURNIQUET_IDENTITY": "identity",
        "TOURNIQUET_CLUSTER": CLUSTER,
        "TOURNIQUET_RESPONSE_NAMESPACE": RESPONSE_NAMESPACE,
        "TOURNIQUET_VERBS": verbs,
        "TOURNIQUET_COMMANDS": "{}",
        "TOURNIQUET_EVIDENCE_STORE": "soc",
    })
}

fn workflow(name: &str, verbs: &str, identity: &Person) -> Workflow {
    let app = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/azure/direct/app"));
    let client = identity.client();
    let send: Send = Arc::new(move |request: Request| {
        let client = client.clone();
        Box::pin(async move {
            if request.audience != AKS {
                return Err(format!("the API server takes no token for {}", request.audience));
            }
            let path = request.uri.strip_prefix(API_SERVER).ok_or("it asks somebody else")?;
            let mut asked = HttpRequest::builder().method(request.method.as_str()).uri(path);
            for (name, value) in &request.headers {
                asked = asked.header(name, value);
            }
            let body = Body::from(request.body.unwrap_or_default().into_bytes());
            let asked = asked.body(body).map_err(|error| error.to_string())?;
            let answer = client.send(asked).await.map_err(|error| error.to_string())?;
            let status = answer.status().as_u16();
            let headers = answer.headers().iter();
            let headers =
                headers.map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
            let headers = headers.collect();
            let body = answer.into_body().collect_bytes().await.map_err(|error| error.to_string())?;
            Ok(Answer { status, headers, body: String::from_utf8_lossy(&body).into_owned() })
        })
    });
    Workflow::of_app(&app, name, &settings(verbs), send).in_real_time()
}

fn alert(s: &Scenario, action: &str, pod: &TestPod) -> Value {
    json!({ "action": action, "defenderAlert": {
        "SystemAlertId": s.namespace, "AlertDisplayName": "Miner", "EndTimeUtc": Timestamp::now(), "AzureResourceId": CLUSTER,
        "Entities": [
            { "$id": "1", "Type": "K8s-pod", "Name": pod.name, "Namespace": { "$ref": "2" } },
            { "$id": "2", "Type": "K8s-namespace", "Name": pod.namespace },
        ],
    } })
}

fn answered(run: &Run) -> Result<&Value> {
    Ok(&run.response.as_ref().with_context(|| format!("nothing was answered: {run:#?}"))?["body"])
}

/// Those of this test's incident, which are the test's to remove.
async fn created(s: &Scenario) -> Result<Vec<TestResponse>> {
    let ours = ListParams::default().labels(&format!("{INCIDENT}={}", s.namespace));
    let label = json!({ "metadata": { "labels": { "e2e.tourniquet.dev/test": s.namespace } } });
    let mut created = Vec::new();
    for response in s.responses().list(&ours).await?.items {
        let name = response.name_any();
        s.responses().patch_metadata(&name, &PatchParams::default(), &Patch::Merge(&label)).await?;
        created.push(s.known(RESPONSE_NAMESPACE, &name).await?);
    }
    Ok(created)
}

async fn identity(s: &Scenario) -> Result<Person> {
    // As in charts/tourniquet/templates/direct.yaml.
    let rights = [right(Place::Responses, "get,list,create,patch,isolate,release", "incidentresponses.tourniquet.dev")];
    s.person("direct", &rights).await
}

#[test]
fn an_alert_isolates_its_pod_once_and_a_release_lets_it_go_as_often_as_it_is_asked() {
    scenario("direct", |s| async move {
        let pod = s.pod("web").await?;
        let before = Snapshot::of_namespace(&s.env, &s.namespace).await?;
        let identity = identity(&s).await?;
        let respond = workflow("respond", "isolate,release", &identity);

        let run = respond.run("1", &alert(&s, "isolatePod", &pod)).await;
        let responses = created(&s).await?;
        let [response] = responses.as_slice() else { anyhow::bail!("{} responses: {run:#?}", responses.len()) };
        let told = &answered(&run)?["responses"][0];
        ensure!(told["name"] == response.name.as_str(), "{told}");
        // What the operator says, and not more.
        let contained = response.condition("Contained").await?.context("no Contained")?;
        ensure!(told["contained"] == contained.status.as_str(), "{told}");
        ensure!(answered(&run)?["state"] == "Settled", "{run:#?}");

        let again = respond.run("2", &alert(&s, "isolatePod", &pod)).await;
        ensure!(answered(&again)?["responses"][0]["name"] == response.name.as_str(), "{again:#?}");
        ensure!(created(&s).await?.len() == 1, "a second one was created");

        let release = workflow("release", "isolate,release", &identity);
        for name in ["3", "4"] {
            let released = release.run(name, &alert(&s, "release", &pod)).await;
            let answer = answered(&released)?;
            ensure!(answer["state"] == "Settled" && answer["refused"] == json!([]), "{released:#?}");
            response.becomes("Reverted", "True", SOON).await?;
        }
        s.is_what_it_was(&before).await?;
        ensure!(traces(&s.env, &response.uid).await?.is_empty());
        Ok(())
    });
}

#[test]
fn a_verb_that_is_off_is_refused_by_the_workflow_and_one_outside_the_role_by_the_api_server() {
    scenario("direct-refused", |s| async move {
        let pod = s.pod("web").await?;
        let identity = identity(&s).await?;

        let off = workflow("respond", "isolate,release", &identity).run("1", &alert(&s, "collect", &pod)).await;
        ensure!(off.response.as_ref().is_some_and(|answer| answer["statusCode"] == 403), "{off:#?}");

        // Whatever the settings of the Logic App say.
        let beyond = workflow("respond", "collect", &identity).run("2", &alert(&s, "collect", &pod)).await;
        ensure!(answered(&beyond)?["state"] == "Refused", "{beyond:#?}");
        let comment = answered(&beyond)?["comment"].as_str().unwrap_or_default();
        ensure!(comment.contains("collect"), "{comment}");
        ensure!(created(&s).await?.is_empty());

        let responses = format!("/apis/tourniquet.dev/v1alpha1/namespaces/{RESPONSE_NAMESPACE}/incidentresponses");
        let elsewhere = format!("/apis/tourniquet.dev/v1alpha1/namespaces/{}/incidentresponses", s.namespace);
        let asks = [
            Ask::delete(format!("{responses}/any")),
            Ask::get(elsewhere),
            Ask::get(format!("/api/v1/namespaces/{}/pods", s.namespace)),
            Ask::get(format!("/api/v1/namespaces/{}/secrets", s.namespace)),
            Ask::get("/apis/tourniquet.dev/v1alpha1/evidencestores"),
        ];
        for ask in asks {
            let said = identity.asks(&ask).await?;
            ensure!(said.code == 403, "{ask:?}: {} {}", said.code, said.message());
        }
        Ok(())
    });
}

//! What others do to a target or to what a response put there is noticed by watch: long before anything is looked at without a cause.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use serde_json::{Value, json};
use tourniquet_api::names;
use tourniquet_e2e::{Scenario, Spec, TestResponse, scenario, until};

const SOON: Duration = Duration::from_secs(60);
/// A look that nothing gave cause to comes after 300 s. A watch takes milliseconds; the rest is for a busy machine.
const NOTICED: Duration = Duration::from_secs(8);
const KEY: &str = "soc.example.com/incident";

async fn labelled(s: &Scenario, target: Value) -> Result<TestResponse> {
    let actions = json!([{ "label": { "set": { KEY: "4711" } } }]);
    let response = s.respond("label", Spec(json!({ "target": target, "actions": actions }))).await?;
    response.becomes_because("Ready", "Labelled", SOON).await?;
    Ok(response)
}

async fn drifts(response: &TestResponse, whose: &str) -> Result<()> {
    let ready = response.becomes_because("Ready", "Drifted", NOTICED).await?;
    ensure!(ready.message.contains(KEY) && ready.message.contains(whose), "{ready:?}");
    Ok(())
}

async fn kubectl(s: &Scenario, line: &str) -> Result<()> {
    let words: Vec<&str> = line.split(' ').collect();
    s.env.kubectl_output(&words).await.map(drop)
}

#[test]
fn a_label_that_somebody_takes_off_a_pod_that_is_not_isolated() {
    scenario("watch-pod", |s| async move {
        s.pod("web").await?;
        let response = labelled(&s, json!({ "pod": { "namespace": s.namespace, "name": "web" } })).await?;
        kubectl(&s, &format!("--namespace {} label pod web {KEY}-", s.namespace)).await?;
        drifts(&response, &format!("pod {}/web", s.namespace)).await
    });
}

#[test]
fn a_label_that_somebody_takes_off_a_namespace() {
    scenario("watch-ns", |s| async move {
        let response = labelled(&s, json!({ "namespace": { "name": s.namespace } })).await?;
        kubectl(&s, &format!("label namespace {} {KEY}-", s.namespace)).await?;
        drifts(&response, &format!("namespace {}", s.namespace)).await
    });
}

#[test]
fn a_label_that_somebody_takes_off_a_node() {
    scenario("watch-node", |s| async move {
        let node = s.paper_node().await?;
        let noticed = async {
            let response = labelled(&s, json!({ "node": { "name": node.name } })).await?;
            kubectl(&s, &format!("label node {} {KEY}-", node.name)).await?;
            drifts(&response, &format!("node {}", node.name)).await
        };
        let noticed = noticed.await;
        node.delete().await?;
        noticed
    });
}

#[test]
fn a_container_that_restarts_in_a_pod_without_a_label_of_ours() {
    scenario("watch-restart", |s| async move {
        let ends = json!({ "spec": { "containers": [{ "command": ["sleep", "0", "25"], "ports": null }] } });
        s.create_pod("web", ends).await?;
        s.running("web").await?;
        let response = labelled(&s, json!({ "pod": { "namespace": s.namespace, "name": "web" } })).await?;
        ensure!(!s.get_pod("web").await?.labels().contains_key(names::CONTAINED_LABEL));
        until("the container is another one", SOON, async || Ok((s.restarts("web").await? > 0).then_some(()))).await?;
        let lost = response.becomes("EvidenceIntact", "False", NOTICED).await?;
        ensure!(lost.message.contains("container main of pod"), "{lost:?}");
        Ok(())
    });
}

async fn isolated(s: &Scenario) -> Result<TestResponse> {
    let web = s.pod("web").await?;
    let response = s.respond("cut", Spec::isolate(&web)).await?;
    response.becomes_because("Ready", "NotEnforced", SOON).await?;
    Ok(response)
}

#[test]
fn a_policy_that_allows_traffic_and_is_created_after_the_isolation() {
    scenario("watch-allow", |s| async move {
        let response = isolated(&s).await?;
        let names_it = async |labels: Value| {
            s.apply(json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": { "name": "theirs", "labels": labels },
                "spec": { "podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{}] },
            }))
            .await?;
            let ready = response.becomes_because("Ready", "AllowedByPolicy", NOTICED).await?;
            ensure!(ready.message.contains("NetworkPolicy theirs"), "{ready:?}");
            kubectl(&s, &format!("--namespace {} delete networkpolicy theirs", s.namespace)).await?;
            response.becomes_because("Ready", "NotEnforced", NOTICED).await.map(drop)
        };
        names_it(json!({})).await?;
        // It says that it is ours: no way past the watch.
        names_it(json!({ names::RESPONSE_LABEL: "somebody" })).await
    });
}

#[test]
fn our_policy_that_somebody_deletes_or_changes() {
    scenario("watch-policy", |s| async move {
        let response = isolated(&s).await?;
        let (policies, name) = (s.api::<NetworkPolicy>(), names::policy(&response.uid));
        let before = policies.get(&name).await?.uid();
        kubectl(&s, &format!("--namespace {} delete networkpolicy {name}", s.namespace)).await?;
        until("the policy is back", NOTICED, async || {
            Ok(policies.get_opt(&name).await?.filter(|policy| policy.uid() != before))
        })
        .await?;
        let opened = json!({ "spec": { "ingress": [{}] } }).to_string();
        let patch = ["--namespace", &s.namespace, "patch", "networkpolicy", &name, "--type=merge", "--patch", &opened];
        s.env.kubectl_output(&patch).await?;
        until("the policy is without a rule again", NOTICED, async || {
            let spec = policies.get(&name).await?.spec.unwrap_or_default();
            Ok(spec.ingress.is_none_or(|rules| rules.is_empty()).then_some(()))
        })
        .await?;
        response.becomes_because("Ready", "NotEnforced", SOON).await?;
        Ok(())
    });
}

#[test]
fn our_label_that_somebody_takes_off() {
    scenario("watch-label", |s| async move {
        let response = isolated(&s).await?;
        let key = names::isolation_label(&response.uid);
        // Both at once: without the contained label it is a pod like any other.
        let line = format!("--namespace {} label pod web {key}- {}-", s.namespace, names::CONTAINED_LABEL);
        kubectl(&s, &line).await?;
        until("both labels are back", NOTICED, async || {
            let labels = s.get_pod("web").await?.metadata.labels.context("no labels")?;
            Ok((labels.contains_key(&key) && labels.contains_key(names::CONTAINED_LABEL)).then_some(()))
        })
        .await?;
        response.becomes_because("Ready", "NotEnforced", SOON).await?;
        Ok(())
    });
}

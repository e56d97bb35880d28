//! What a response leaves that vanishes without being undone, with policies only. A program of its own: it puts the operator aside.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tourniquet_api::names;
use tourniquet_e2e::crash::Exclusive;
use tourniquet_e2e::events::{self, says};
use tourniquet_e2e::snapshot::{Snapshot, traces};
use tourniquet_e2e::{OPERATOR_NAMESPACE, PaperNode, Scenario, Spec, TestPod, TestResponse, scenario, until};

const SOON: Duration = Duration::from_secs(60);

#[test]
fn what_a_vanished_response_left_is_undone_and_nothing_else_is() {
    scenario("leftovers", |s| async move {
        let operator = Exclusive::begin(&s).await?;
        let swept = async {
            // So that the test need not wait for ten minutes.
            sweep_every(&s, "TOURNIQUET_SWEEP_EVERY=1s").await?;
            operator.end().await?;
            left_while_the_operator_is_away(&s).await?;
            written_late(&s).await?;
            let node = s.paper_node().await?;
            let swept = left_on_a_node_and_a_namespace(&s, &node).await;
            node.delete().await?;
            swept
        };
        let swept = swept.await;
        // Whatever became of the test: others need the operator as it was.
        sweep_every(&s, "TOURNIQUET_SWEEP_EVERY-").await?;
        let ready = ["--namespace", OPERATOR_NAMESPACE, "rollout", "status", "deployment/tourniquet-operator"];
        operator.end().await?;
        s.env.kubectl_output(&ready).await?;
        swept
    });
}

async fn sweep_every(s: &Scenario, change: &str) -> Result<()> {
    let set = ["--namespace", OPERATOR_NAMESPACE, "set", "env", "deployment/tourniquet-operator", change];
    s.env.kubectl_output(&set).await.map(drop)
}

async fn in_force(s: &Scenario, name: &str, pod: &TestPod) -> Result<TestResponse> {
    let response = s.respond(name, Spec::isolate(pod)).await?;
    response.becomes_because("Ready", "NotEnforced", SOON).await?;
    Ok(response)
}

async fn policy_of(s: &Scenario, response: &TestResponse) -> Result<NetworkPolicy> {
    Ok(s.api::<NetworkPolicy>().get(&names::policy(&response.uid)).await?)
}

async fn left_while_the_operator_is_away(s: &Scenario) -> Result<()> {
    let (web, other) = tokio::try_join!(s.pod("web"), s.pod("other"))?;
    let lives = in_force(s, "lives", &other).await?;
    let before = Snapshot::of_namespace(&s.env, &s.namespace).await?;
    let held = policy_of(s, &lives).await?;
    let vanishes = in_force(s, "vanishes", &web).await?;
    let left = policy_of(s, &vanishes).await?;

    let away = Exclusive::begin(s).await?;
    let vanished = async {
        vanishes.vanish().await?;
        ensure!(traces(&s.env, &vanishes.uid).await?.len() == 2, "a policy and a labelled pod are left");
        s.apply(json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": { "name": "theirs", "labels": { names::RESPONSE_LABEL: vanishes.uid } },
            "spec": { "podSelector": { "matchLabels": { "app": "nobody" } } },
        }))
        .await
    };
    let vanished = vanished.await;
    away.end().await?;
    vanished?;

    let theirs = "networkpolicy.networking.k8s.io/theirs";
    until("only somebody else's policy is left", SOON, async || {
        Ok((traces(&s.env, &vanishes.uid).await? == [theirs]).then_some(()))
    })
    .await?;
    let told = s.pod_events(&web, &["Warning NotIsolated", "Warning LeftoverUndone"]).await?;
    says(&told, "LeftoverUndone", &[&vanishes.uid, "does not exist any more", "taken off"])?;
    let told = until("it is told on the policy", SOON, async || {
        let told = events::of(&s.env, &s.namespace, &left.uid().unwrap_or_default()).await?;
        Ok((!told.is_empty()).then_some(told))
    })
    .await?;
    says(&told, "LeftoverUndone", &[&vanishes.uid, &format!("{}/{}", vanishes.namespace, vanishes.name), "deleted"])?;

    s.is_what_it_was(&before).await?;
    let kept = policy_of(s, &lives).await?;
    ensure!(kept.metadata == held.metadata, "the policy of a response that lives was touched: {kept:?}");
    ensure!(s.api::<NetworkPolicy>().get_opt("theirs").await?.is_some(), "it is not ours");
    Ok(())
}

/// A former operator's write that comes after everything was undone.
async fn written_late(s: &Scenario) -> Result<()> {
    let late = s.pod("late").await?;
    let before = Snapshot::of_namespace(&s.env, &s.namespace).await?;
    let response = in_force(s, "late", &late).await?;
    response.delete().await?;
    response.gone(SOON).await?;
    let manager = names::field_manager(&response.uid);
    let label = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": late.name, "uid": late.uid, "labels": { names::isolation_label(&response.uid): "true" } },
    });
    let pods = s.api::<k8s_openapi::api::core::v1::Pod>();
    let written = pods.patch(&late.name, &PatchParams::apply(&manager), &Patch::Apply(&label)).await?;
    ensure!(written.labels().contains_key(&names::isolation_label(&response.uid)), "the late write is there");

    until("the late write is undone", SOON, async || {
        let difference = before.diff(&Snapshot::of_namespace(&s.env, &s.namespace).await?);
        Ok(difference.is_empty().then_some(()))
    })
    .await?;
    let told = s.pod_events(&late, &["Warning NotIsolated", "Normal Released", "Warning LeftoverUndone"]).await?;
    says(&told, "LeftoverUndone", &[&response.uid])
}

async fn left_on_a_node_and_a_namespace(s: &Scenario, node: &PaperNode) -> Result<()> {
    let befores = (Snapshot::of_namespace(&s.env, &s.namespace).await?, Snapshot::of_node(&s.env, &node.name).await?);
    let label = json!({ "label": { "set": { "soc.example.com/incident": "4711" } } });
    let on_node = json!({ "target": { "node": { "name": node.name } }, "actions": [label, { "cordon": {} }] });
    let on_namespace = json!({ "target": { "namespace": { "name": s.namespace } }, "actions": [label] });
    let cordons = s.respond("cordons", Spec(on_node)).await?;
    cordons.becomes_because("Ready", "Cordoned", SOON).await?;
    let labels = s.respond("labels", Spec(on_namespace)).await?;
    labels.becomes_because("Ready", "Labelled", SOON).await?;

    let away = Exclusive::begin(s).await?;
    let vanished = async {
        cordons.vanish().await?;
        labels.vanish().await?;
        let left = Snapshot::of_node(&s.env, &node.name).await?;
        ensure!(!befores.1.diff(&left).is_empty(), "the node is cordoned still");
        Ok(())
    };
    let vanished: Result<()> = vanished.await;
    away.end().await?;
    vanished?;

    until("the node and the namespace are what they were", SOON, async || {
        let node = befores.1.diff(&Snapshot::of_node(&s.env, &node.name).await?);
        let namespace = befores.0.diff(&Snapshot::of_namespace(&s.env, &s.namespace).await?);
        Ok((node.is_empty() && namespace.is_empty()).then_some(()))
    })
    .await?;
    let told = s.events_of(&node.uid, &["Normal Labelled", "Normal Cordoned", "Warning LeftoverUndone"]).await?;
    says(&told, "LeftoverUndone", &[&cordons.uid, "was cordoned for", "does not exist any more"])
}

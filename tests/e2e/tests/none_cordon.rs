//! Cordoning, on nodes without a kubelet: objects in the API, one for each test.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Node;
use kube::api::Api;
use serde_json::{Value, json};
use tourniquet_api::Outcome;
use tourniquet_e2e::snapshot::Snapshot;
use tourniquet_e2e::{PaperNode, RESPONSE_NAMESPACE, Scenario, Spec, TestResponse, scenario};

const SOON: Duration = Duration::from_secs(30);

fn cordon(node: &str) -> Spec {
    on_node(node, json!([{ "cordon": {} }]))
}

fn on_node(node: &str, actions: Value) -> Spec {
    Spec(json!({ "target": { "node": { "name": node } }, "actions": actions }))
}

async fn is_cordoned(s: &Scenario, node: &PaperNode) -> Result<bool> {
    let node = Api::<Node>::all(s.env.client.clone()).get(&node.name).await?;
    Ok(node.spec.and_then(|spec| spec.unschedulable) == Some(true))
}

async fn kubectl(s: &Scenario, verb: &str, node: &PaperNode) -> Result<()> {
    s.env.kubectl_output(&[verb, &node.name]).await.map(drop)
}

async fn gone(response: &TestResponse) -> Result<()> {
    response.delete().await?;
    response.gone(SOON).await
}

/// With a node of its own, which is gone afterwards, whatever becomes of the test.
async fn with_node(s: &Scenario, body: impl AsyncFnOnce(&PaperNode) -> Result<()>) -> Result<()> {
    let node = s.paper_node().await?;
    let ended = body(&node).await;
    node.delete().await?;
    ended
}

async fn unchanged(s: &Scenario, node: &PaperNode, before: &Snapshot) -> Result<()> {
    let difference = before.diff(&Snapshot::of_node(&s.env, &node.name).await?);
    ensure!(difference.is_empty(), "the node is not what it was:\n{difference}");
    Ok(())
}

#[test]
fn a_node_is_cordoned_and_labelled_and_is_what_it_was() {
    scenario("cordon", |s| async move {
        with_node(&s, async |node| {
            let before = Snapshot::of_node(&s.env, &node.name).await?;
            ensure!(before.len() == 1);
            let both = json!([{ "label": { "set": { "soc.example.com/incident": "4711" } } }, { "cordon": {} }]);
            let response = s.respond("r", on_node(&node.name, both)).await?;
            response.becomes_because("Ready", "Cordoned", SOON).await?;
            ensure!(is_cordoned(&s, node).await?);
            ensure!(response.action("label").await?.outcome == Outcome::Done);
            ensure!(response.condition("Contained").await?.is_none(), "cordoning contains nothing");
            let residual = response.get().await?.status.unwrap_or_default().residual;
            ensure!(residual.iter().any(|open| open.code == "CordonContainsNothing"), "{residual:?}");
            gone(&response).await?;
            unchanged(&s, node, &before).await
        })
        .await
    });
}

#[test]
fn two_responses_cordon_one_node_and_it_stays_so_until_the_last() {
    scenario("cordon-two", |s| async move {
        with_node(&s, async |node| {
            let before = Snapshot::of_node(&s.env, &node.name).await?;
            for first_goes_first in [true, false] {
                let one = s.respond("one", cordon(&node.name)).await?;
                one.becomes_because("Ready", "Cordoned", SOON).await?;
                let two = s.respond("two", cordon(&node.name)).await?;
                two.becomes_because("Ready", "Cordoned", SOON).await?;
                let (first, last) = if first_goes_first { (&one, &two) } else { (&two, &one) };
                gone(first).await?;
                ensure!(is_cordoned(&s, node).await?);
                gone(last).await?;
                unchanged(&s, node, &before).await?;
            }
            Ok(())
        })
        .await
    });
}

#[test]
fn a_node_that_an_admin_had_cordoned_stays_cordoned() {
    scenario("cordon-before", |s| async move {
        with_node(&s, async |node| {
            kubectl(&s, "cordon", node).await?;
            let before = Snapshot::of_node(&s.env, &node.name).await?;
            let response = s.respond("r", cordon(&node.name)).await?;
            response.becomes_because("Ready", "Cordoned", SOON).await?;
            gone(&response).await?;
            unchanged(&s, node, &before).await
        })
        .await
    });
}

#[test]
fn an_admin_who_uncordons_it_is_not_fought() {
    scenario("cordon-drift", |s| async move {
        with_node(&s, async |node| {
            let before = Snapshot::of_node(&s.env, &node.name).await?;
            let response = s.respond("r", cordon(&node.name)).await?;
            response.becomes_because("Ready", "Cordoned", SOON).await?;
            kubectl(&s, "uncordon", node).await?;
            let ready = response.becomes_because("Ready", "Drifted", SOON).await?;
            ensure!(ready.message.contains("somebody has uncordoned it"), "{ready:?}");
            ensure!(response.action("cordon").await?.outcome == Outcome::Partial);
            // Something else about the node is a reason to look, and no reason to cordon it.
            s.env.kubectl_output(&["label", "node", &node.name, "looked-at=again"]).await?;
            let label = json!([{ "label": { "set": { "seen": "true" } } }]);
            let other = s.respond("other", on_node(&node.name, label)).await?;
            other.becomes_because("Ready", "Labelled", SOON).await?;
            gone(&other).await?;
            ensure!(!is_cordoned(&s, node).await?);
            gone(&response).await?;
            s.env.kubectl_output(&["label", "node", &node.name, "looked-at-"]).await?;
            unchanged(&s, node, &before).await
        })
        .await
    });
}

#[test]
fn the_operators_last_place_is_named_by_a_dry_run() {
    scenario("cordon-last", |s| async move {
        // A paper node is not ready, so the one real node is the last place.
        let nodes = Api::<Node>::all(s.env.client.clone()).list(&kube::api::ListParams::default()).await?;
        let real = nodes.items.into_iter().filter_map(|node| node.metadata.name);
        let Some(real) = real.into_iter().find(|name| !name.starts_with("paper-")) else {
            anyhow::bail!("no node that runs");
        };
        let response = s.respond("r", cordon(&real).with("dryRun", json!(true))).await?;
        response.becomes_because("Ready", "Planned", SOON).await?;
        let status = response.get().await?.status.unwrap_or_default();
        ensure!(status.residual.first().is_some_and(|open| open.code == "NoPlaceForOperator"), "{:?}", status.residual);
        let [step, preserve] = status.plan.as_slice() else { anyhow::bail!("two steps: {:?}", status.plan) };
        ensure!(step.object == format!("Node {real}") && step.change.contains("unschedulable"), "{step:?}");
        ensure!(preserve.object == step.object && preserve.change.contains("scale-down-disabled"), "{preserve:?}");
        Ok(())
    });
}

#[test]
fn a_node_is_not_another_one_of_its_name() {
    scenario("cordon-refused", |s| async move {
        with_node(&s, async |node| {
            let mut spec = cordon(&node.name);
            spec.0["target"]["node"]["uid"] = json!("11111111-2222-3333-4444-555555555555");
            let accepted = s.respond("uid", spec).await?.refused().await?;
            ensure!(accepted.reason == "UIDMismatch", "{accepted:?}");
            ensure!(!is_cordoned(&s, node).await?);
            Ok(())
        })
        .await
    });
}

#[test]
fn a_node_that_is_gone_does_not_hold_up_the_undo() {
    scenario("cordon-gone", |s| async move {
        let node = s.paper_node().await?;
        let response = s.respond("r", cordon(&node.name)).await?;
        response.becomes_because("Ready", "Cordoned", SOON).await?;
        node.delete().await?;
        response.becomes_because("Ready", "TargetGone", SOON).await?;
        gone(&response).await
    });
}

#[test]
fn the_example_is_carried_out_and_undone() {
    scenario("cordon-example", |s| async move {
        with_node(&s, async |node| {
            let before = Snapshot::of_node(&s.env, &node.name).await?;
            let name = format!("{}-example", s.namespace);
            let example = include_str!("../../../examples/cordon-node.yaml");
            ensure!(example.contains("name: aks-userpool-0") && example.contains("name: sentinel-4713"));
            let manifest = example.replace("name: aks-userpool-0", &format!("name: {}", node.name));
            s.apply_text(&manifest.replace("name: sentinel-4713", &format!("name: {name}"))).await?;
            let response = s.known(RESPONSE_NAMESPACE, &name).await?;
            response.becomes_because("Ready", "Cordoned", SOON).await?;
            gone(&response).await?;
            unchanged(&s, node, &before).await
        })
        .await
    });
}

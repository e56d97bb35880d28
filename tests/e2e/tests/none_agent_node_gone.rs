//! A node that has no agent and never will again.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::json;
use tourniquet_api::Outcome;
use tourniquet_e2e::{PaperNode, Scenario, Spec, TestPod, scenario, snapshot};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_node_that_is_gone_for_good_does_not_block_the_release() {
    scenario("cut-node-gone", |s| async move {
        let node = s.paper_node().await?;
        // The node goes, whatever becomes of the test.
        let waits = waits_for_the_agent(&s, &node).await;
        node.delete().await?;
        let (pod, response) = waits?;
        response.gone(SOON).await?;
        s.no_containment(&pod.uid().unwrap_or_default()).await?;
        let left = snapshot::traces(&s.env, &response.uid).await?;
        ensure!(left.is_empty(), "left: {left:?}");
        s.delete_pod("web").await
    });
}

async fn waits_for_the_agent(s: &Scenario, node: &PaperNode) -> Result<(Pod, tourniquet_e2e::TestResponse)> {
    let pod = s.create_pod("web", json!({ "spec": { "nodeName": node.name } })).await?;
    let target = TestPod {
        namespace: s.namespace.clone(),
        name: "web".to_owned(),
        uid: pod.uid().unwrap_or_default(),
        // It has none, and nothing asks for it.
        ip: std::net::Ipv4Addr::UNSPECIFIED.into(),
    };
    let response = s.respond("cut", Spec::isolate(&target)).await?;
    response.becomes("Stalled", "True", SOON).await?;
    let action = response.action("isolate").await?;
    ensure!(action.outcome == Outcome::Partial, "{action:?}");
    let said = format!("the agent on node {} has not cut the pod off: it has not answered yet", node.name);
    ensure!(action.message.as_deref().is_some_and(|message| message.contains(&said)), "{action:?}");
    let contained = response.condition("Contained").await?.context("no Contained")?;
    ensure!(contained.status != "True", "{contained:?}");

    response.delete().await?;
    let reverted = response.becomes_because("Reverted", "UndoBlocked", SOON).await?;
    ensure!(reverted.message.contains(&format!("the agent on node {}", node.name)), "{reverted:?}");
    Ok((pod, response))
}

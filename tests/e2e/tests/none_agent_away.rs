//! No agent runs on the node when a response is released. A program of its own: the others need an agent.

use std::time::Duration;

use anyhow::{Context, ensure};
use jiff::Timestamp;
use tourniquet_e2e::{Spec, scenario};

const SECOND: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(15);

#[test]
fn a_release_waits_for_the_agent_says_so_and_ends_when_it_is_back() {
    scenario("cut-away", |s| async move {
        let (web, peer) = tokio::try_join!(s.pod("web"), s.pod("peer"))?;
        let node = s.get_pod("web").await?.spec.and_then(|spec| spec.node_name).context("the pod has no node")?;
        let inbound = s.attempts(&peer, &web).await?;
        let outbound = s.attempts(&web, &peer).await?;
        let response = s.respond("cut", Spec::isolate(&web)).await?;
        let contained = response.becomes("Contained", "True", SOON).await?;
        ensure!(contained.reason == "Cut", "{contained:?}");
        let since = Timestamp::now();

        let agents = s.agents();
        agents
            .away(async || {
                response.delete().await?;
                let reverted = response.becomes_because("Reverted", "UndoBlocked", SOON).await?;
                ensure!(reverted.status == "False", "{reverted:?}");
                let ready = response.becomes_because("Ready", "UndoBlocked", SOON).await?;
                ensure!(ready.status == "False", "{ready:?}");
                for condition in [&reverted, &ready] {
                    ensure!(
                        condition.message.contains(&format!("the agent on node {node} has not lifted the cut of pod"))
                            && condition.message.contains("as soon as it runs there"),
                        "{condition:?}"
                    );
                }
                let so_far = Timestamp::now().duration_since(since).unsigned_abs();
                inbound.stays_silent(since, so_far + SECOND * 3).await?;
                outbound.stays_silent(since, so_far + SECOND * 3).await?;
                ensure!(response.get().await?.metadata.deletion_timestamp.is_some(), "it waits, deleted");
                Ok(())
            })
            .await?;
        response.gone(SOON).await?;
        let gone = Timestamp::now();
        inbound.answered(gone, SOON).await?;
        outbound.answered(gone, SOON).await?;
        s.no_containment(&web.uid).await
    });
}

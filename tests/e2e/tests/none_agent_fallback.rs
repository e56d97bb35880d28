//! A kernel without egress hooks, as far as this one can play it: the agent is told to use the hooks for IP packets.
//! What these leave open is claimed, and true. A program of its own: it changes the agent.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde_json::json;
use tourniquet_api::ContainmentState;
use tourniquet_e2e::{Scenario, Spec, scenario};

const SECOND: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(15);

#[test]
fn with_the_weaker_hooks_it_is_cut_and_what_they_leave_open_is_said() {
    scenario("cut-fallback", |s| async move {
        // What the hooks at interfaces stop, to have it beside.
        stops_what_it_says(&s, "netdev", "Netdev").await?;
        let env = json!([{ "name": "TOURNIQUET_HOOKS", "value": "Inet" }]);
        let weaker = json!({ "containers": [{ "name": "agent", "env": env }] });
        s.agents().changed(weaker, async || stops_what_it_says(&s, "inet", "Inet").await).await
    });
}

async fn stops_what_it_says(s: &Scenario, name: &str, hooks: &str) -> Result<()> {
    let (web_name, peer_name) = (format!("web-{name}"), format!("peer-{name}"));
    let (web, peer) = tokio::try_join!(s.pod(&web_name), s.pod(&peer_name))?;
    let inbound = s.attempts(&peer, &web).await?;
    let outbound = s.attempts(&web, &peer).await?;
    let mut flows = Vec::new();
    for (protocol, from, to) in
        [("udp", &web, &peer), ("udp", &peer, &web), ("udp-push", &web, &peer), ("udp-push", &peer, &web)]
    {
        flows.push(s.stream(protocol, from, to).await?);
    }
    let frames = s.frames(&web, &peer).await?;
    inbound.answered(Timestamp::UNIX_EPOCH, SOON).await?;
    outbound.answered(Timestamp::UNIX_EPOCH, SOON).await?;

    let response = s.respond(name, Spec::isolate(&web)).await?;
    let contained = response.becomes("Contained", "True", SOON).await?;
    ensure!(contained.reason == "Cut", "{contained:?}");
    let status = s.containment_becomes(&web.uid, ContainmentState::Cut, SOON).await?;
    ensure!(status.hooks.as_deref() == Some(hooks), "{status:?}");
    let cut = Timestamp::now();
    inbound.stays_silent(cut, SECOND * 3).await?;
    outbound.stays_silent(cut, SECOND * 3).await?;
    for flow in &flows {
        flow.none_came_back(cut, cut + SECOND * 3)?;
    }

    let arrived = frames.echoes(cut, cut + SECOND * 3);
    let residual = response.get().await?.status.context("no status")?.residual;
    let claimed = residual.iter().any(|open| open.code == "RawSocketsOpen");
    ensure!(claimed == (hooks == "Inet"), "{residual:?}");
    ensure!(claimed == (arrived > 0), "{arrived} frames of a packet socket arrived; said to be open: {claimed}");

    let deleted = response.delete().await?;
    response.gone(SOON).await?;
    inbound.answered(deleted, SOON).await?;
    outbound.answered(deleted, SOON).await?;
    Ok(())
}

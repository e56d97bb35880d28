//! The sandbox of a cut pod is made anew, with another network namespace: the agent cuts that as well.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::LogParams;
use serde_json::json;
use tourniquet_api::ContainmentState;
use tourniquet_e2e::{Scenario, Spec, TestPod, agents, scenario, until};

const SECOND: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(15);
/// The kubelet notices after a second or two, and starts sandbox and container.
const ANEW: Duration = Duration::from_secs(60);

#[test]
fn a_pod_whose_sandbox_is_made_anew_is_cut_again() {
    scenario("cut-sandbox", |s| async move {
        let peer = s.pod("peer").await?;
        // It tries to get out from its first moment on; its log says what came of it.
        let script = format!("/traffic/traffic try {} 20 & exec /traffic/traffic serve 8080", peer.address());
        let web =
            s.pod_with("web", json!({ "spec": { "containers": [{ "command": ["/bin/sh", "-c", script] }] } })).await?;
        let response = s.respond("cut", Spec::isolate(&web)).await?;
        response.becomes("Contained", "True", SOON).await?;
        let first = s.containment_becomes(&web.uid, ContainmentState::Cut, SOON).await?;

        let killed = Timestamp::now();
        kill(agents::sandbox(&web)?)?;
        let second = s
            .containment_that(&web.uid, "is of another namespace", ANEW, |status| {
                status.state == ContainmentState::Cut && status.network_namespace != first.network_namespace
            })
            .await?;
        let anew = another_address(&s, &web).await?;
        ensure!(anew.uid == web.uid, "it is another pod");
        let inbound = s.attempts(&peer, &anew).await?;
        let outbound = s.attempts(&anew, &peer).await?;
        let now = Timestamp::now();
        inbound.stays_silent(now, SECOND * 5).await?;
        outbound.stays_silent(now, SECOND * 5).await?;
        println!("{}", gap(&s, killed, second.cut_at.context("no cutAt")?.0).await?);
        let evidence = response.becomes("EvidenceIntact", "False", SOON).await?;
        ensure!(evidence.message.contains("was restarted"), "{evidence:?}");
        let contained = response.becomes("Contained", "True", SOON).await?;
        ensure!(contained.reason == "Cut", "{contained:?}");

        let deleted = response.delete().await?;
        response.gone(SOON).await?;
        inbound.answered(deleted, SOON).await?;
        outbound.answered(deleted, SOON).await?;
        s.no_containment(&web.uid).await
    });
}

fn kill(pid: u32) -> Result<()> {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid)?);
    Ok(nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)?)
}

async fn another_address(s: &Scenario, web: &TestPod) -> Result<TestPod> {
    until("the pod runs at another address", ANEW, async || {
        let now = s.running(&web.name).await?;
        Ok(Some(now).filter(|now| now.ip != web.ip))
    })
    .await
}

/// How long the new container could talk before it was cut; measured, not bounded.
async fn gap(s: &Scenario, killed: Timestamp, cut: Timestamp) -> Result<String> {
    let log = s.api::<Pod>().logs("web", &LogParams::default()).await?;
    let mut answered = Vec::new();
    let mut first = None;
    for line in log.lines() {
        let mut words = line.split(' ');
        let Some(start) = words.next().and_then(|word| word.parse().ok()) else { continue };
        let start = Timestamp::from_nanosecond(start)?;
        first = Some(first.map_or(start, |first: Timestamp| first.min(start)));
        if words.nth(1) == Some("answered") {
            answered.push(start);
        }
    }
    let first = first.context("the container has logged no attempt")?;
    let since = |from: Timestamp, to: Timestamp| to.duration_since(from).as_millis();
    Ok(format!(
        "killed -> the new container's first attempt {} ms, -> cut again {} ms; {} attempts were answered, the last {} ms after the first",
        since(killed, first),
        since(killed, cut),
        answered.len(),
        answered.iter().max().map_or(0, |last| since(first, *last)),
    ))
}

//! What has to hold where there are agents, on any policy engine and on none.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams};
use serde_json::json;
use tourniquet_api::{Answer, Assurance, Containment, Direction, Outcome, Probe};

use crate::snapshot::{Snapshot, traces};
use crate::{AGENT_NAMESPACE, Scenario, Spec, TestPod, TestResponse, until};

const SECOND: Duration = Duration::from_secs(1);
/// Everything here takes milliseconds; the machine may be busy.
const SOON: Duration = Duration::from_secs(15);

async fn isolated(s: &Scenario, name: &str, pod: &TestPod) -> Result<TestResponse> {
    let response = s.respond(name, Spec::isolate(pod)).await?;
    let contained = response.becomes("Contained", "True", SOON).await?;
    ensure!(contained.reason == "Cut", "{contained:?}");
    Ok(response)
}

fn milliseconds(from: Timestamp, to: Timestamp) -> i128 {
    to.duration_since(from).as_millis()
}

/// Isolated, proven, let go; the flow that was open before stops and goes on.
pub async fn isolates_and_lets_go(s: &Scenario) -> Result<()> {
    let (web, peer, third) = tokio::try_join!(s.pod("web"), s.pod("peer"), s.pod("third"))?;
    let before = Snapshot::of_namespace(&s.env, &s.namespace).await?;
    let inbound = s.attempts(&peer, &web).await?;
    let outbound = s.attempts(&web, &peer).await?;
    let control = s.attempts(&third, &peer).await?;
    for talk in [&inbound, &outbound, &control] {
        talk.answered(Timestamp::UNIX_EPOCH, SOON).await?;
    }
    let mut flows = Vec::new();
    for (protocol, from, to) in
        [("tcp", &web, &peer), ("tcp", &peer, &web), ("udp-push", &web, &peer), ("udp-push", &peer, &web)]
    {
        flows.push((protocol, s.stream(protocol, from, to).await?));
    }

    let response = isolated(s, "cut", &web).await?;
    let contained = Timestamp::now();
    let refused = [&inbound, &outbound];
    let mut first = Vec::new();
    for talk in refused {
        first.push(milliseconds(response.asked, talk.silent(response.asked, SECOND, SOON).await?.start));
        talk.stays_silent(contained, SECOND * 3).await?;
    }
    control.all_answered(contained, Timestamp::now())?;
    for (_, flow) in &flows {
        flow.none_came_back(contained, contained + SECOND * 3)?;
    }
    let ready = response.becomes("Ready", "True", SOON).await?;
    ensure!(ready.reason == "Cut", "{ready:?}");
    let probed = until("what answered before is silent, in both directions", SOON, async || {
        let action = response.action("isolate").await?;
        let result = action.results.first().cloned().context("no result")?;
        let silent = |probe: &Probe| probe.before.reached() && probe.after == Some(Answer::TimedOut);
        let proven = |direction| result.probes.iter().any(|probe| probe.direction == direction && silent(probe));
        let both = proven(Direction::Ingress) && proven(Direction::Egress);
        Ok(both.then_some((action, result)))
    });
    let (action, result) = probed.await?;
    ensure!(action.outcome == Outcome::Done && action.reason.as_deref() == Some("Cut"), "{action:?}");
    ensure!(result.target_uid == web.uid && result.assurance == Some(Assurance::Probed), "{result:?}");
    let message = result.message.clone().unwrap_or_default();
    ensure!(message.contains("ingress proven") && message.contains("egress proven"), "{message}");
    let open = result.connections.context("nobody listed the connections")?;
    let tcp = |arrow: &str| open.first.iter().any(|line| line.starts_with("tcp ") && line.contains(arrow));
    let listed = usize::try_from(open.count).is_ok_and(|count| count >= open.first.len());
    ensure!(
        tcp(" -> ") && tcp(" <- ") && listed,
        "the flows that the pod opened, and that were opened to it: {open:?}"
    );
    ensure!(open.first.iter().any(|line| line.contains(&peer.ip.to_string())), "{open:?}");

    let deleted = response.delete().await?;
    let back = [inbound.answered(deleted, SOON).await?.end, outbound.answered(deleted, SOON).await?.end];
    response.gone(SOON).await?;
    for (protocol, flow) in &flows {
        until(&format!("the {protocol} flow goes on"), SOON, async || Ok(flow.last().filter(|last| *last > deleted)))
            .await?;
    }
    println!(
        "created -> first refused {first:?} ms (to, from), deleted -> first accepted {:?} ms",
        back.map(|at| milliseconds(deleted, at))
    );
    s.is_what_it_was(&before).await?;
    ensure!(traces(&s.env, &response.uid).await?.is_empty());
    let containments: Api<Containment> = Api::namespaced(s.env.client.clone(), AGENT_NAMESPACE);
    ensure!(containments.get_opt(&web.uid).await?.is_none(), "its Containment is left");
    Ok(())
}

/// The kubelet's probes pass, of each kind, for two minutes: longer than the label waits.
pub async fn restarts_nothing(s: &Scenario) -> Result<()> {
    let kinds = [
        ("http", json!({ "httpGet": { "path": "/", "port": 8080 } })),
        ("tcp", json!({ "tcpSocket": { "port": 8080 } })),
        ("grpc", json!({ "grpc": { "port": 8080 } })),
        ("exec", json!({ "exec": { "command": ["/bin/sh", "-c", "exit 0"] } })),
    ];
    let probed = kinds.map(async |(kind, probe)| s.pod_probed(kind, probe).await);
    let (peer, pods) = tokio::try_join!(s.pod("peer"), futures::future::try_join_all(probed))?;
    let cut = async |pod: &TestPod| {
        let inbound = s.attempts(&peer, pod).await?;
        Ok::<_, anyhow::Error>((inbound, isolated(s, &pod.name, pod).await?))
    };
    let held = futures::future::try_join_all(pods.iter().map(cut)).await?;
    let contained = Timestamp::now();

    for (pod, (inbound, response)) in pods.iter().zip(&held) {
        inbound.stays_silent(contained, SECOND * 120).await?;
        let restarts = s.restarts(&pod.name).await?;
        ensure!(restarts == 0, "{} was restarted {restarts} times", pod.name);
        let intact = response.condition("EvidenceIntact").await?.context("no EvidenceIntact")?;
        ensure!(intact.status == "True", "{}: {intact:?}", pod.name);
        let label = tourniquet_api::names::isolation_label(&response.uid);
        let labels = s.get_pod(&pod.name).await?.metadata.labels.unwrap_or_default();
        ensure!(labels.contains_key(&label), "after a minute the policies select it as well: {labels:?}");
        let contained = response.condition("Contained").await?.context("no Contained")?;
        ensure!(contained.status == "True" && contained.reason == "Cut", "{contained:?}");
    }
    Ok(())
}

/// Two responses on one pod, released in either order: no gap in either direction.
pub async fn hands_over_without_a_gap(s: &Scenario) -> Result<()> {
    let (web, peer) = tokio::try_join!(s.pod("web"), s.pod("peer"))?;
    let inbound = s.attempts(&peer, &web).await?;
    let outbound = s.attempts(&web, &peer).await?;
    let first = isolated(s, "first", &web).await?;
    let contained = Timestamp::now();

    let second = s.respond("second", Spec::isolate(&web)).await?;
    first.delete().await?;
    first.gone(SOON).await?;
    let held = second.becomes("Contained", "True", SOON).await?;
    ensure!(held.reason == "Cut", "{held:?}");
    let third = s.respond("third", Spec::isolate(&web)).await?;
    third.delete().await?;
    third.gone(SOON).await?;
    let so_far = Timestamp::now().duration_since(contained).unsigned_abs();
    inbound.stays_silent(contained, so_far + SECOND * 3).await?;
    outbound.stays_silent(contained, so_far + SECOND * 3).await?;

    let deleted = second.delete().await?;
    second.gone(SOON).await?;
    inbound.answered(deleted, SOON).await?;
    outbound.answered(deleted, SOON).await?;
    Ok(())
}

/// The agent is killed while pods are cut: they stay cut, and the next one recognises it and changes nothing.
pub async fn outlives_the_agent(s: &Scenario) -> Result<()> {
    let (web, peer) = tokio::try_join!(s.pod("web"), s.pod("peer"))?;
    let inbound = s.attempts(&peer, &web).await?;
    let response = isolated(s, "cut", &web).await?;
    let contained = Timestamp::now();
    let containments: Api<Containment> = Api::namespaced(s.env.client.clone(), AGENT_NAMESPACE);
    let before = until("everything about the cut was tried", SOON, async || {
        let status = containments.get(&web.uid).await?.status.context("no status")?;
        let tried = status.probes.iter().all(|probe| !probe.before.reached() || probe.after.is_some());
        Ok(tried.then_some(status))
    })
    .await?;

    let agents: Api<Pod> = Api::namespaced(s.env.client.clone(), AGENT_NAMESPACE);
    let killed = agents.list_metadata(&ListParams::default()).await?.items;
    for agent in &killed {
        let name = agent.metadata.name.clone().unwrap_or_default();
        agents.delete(&name, &DeleteParams::default().grace_period(0)).await?;
    }
    until("another agent runs", Duration::from_secs(60), async || {
        let now = agents.list(&ListParams::default()).await?.items;
        let fresh = now.iter().find(|pod| !killed.iter().any(|killed| killed.metadata.uid == pod.metadata.uid));
        let phase = fresh.and_then(|pod| pod.status.as_ref()?.phase.clone());
        Ok((phase.as_deref() == Some("Running")).then_some(()))
    })
    .await?;
    let so_far = Timestamp::now().duration_since(contained).unsigned_abs();
    inbound.stays_silent(contained, so_far + SECOND * 5).await?;
    let after = containments.get(&web.uid).await?.status.context("no status")?;
    ensure!(before == after, "before: {before:?}\nafter: {after:?}");

    let deleted = response.delete().await?;
    inbound.answered(deleted, SOON).await?;
    response.gone(SOON).await?;
    Ok(())
}

//! The agent carries a Containment out: in milliseconds, without a policy engine, and lets go without harm. Nobody's response is behind
//! these Containments, and the operator would undo them: it is put aside.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;
use tourniquet_api::{Containment, ContainmentState, ContainmentStatus, NodeAgent};
use tourniquet_e2e::crash::Exclusive;
use tourniquet_e2e::{AGENT_NAMESPACE, Scenario, TestPod, scenario, until};

const SECOND: Duration = Duration::from_secs(1);
/// Everything here takes milliseconds; the machine may be busy.
const SOON: Duration = Duration::from_secs(10);

fn alone(name: &str, test: impl AsyncFnOnce(&Scenario) -> Result<()>) {
    scenario(name, |s| async move { Exclusive::during(&s, test(&s)).await });
}

/// A Containment as the operator will make it, removed at the end of the test.
struct Held {
    api: Api<Containment>,
    name: String,
    asked: Timestamp,
}

impl Held {
    async fn new(s: &Scenario, pod: &TestPod, ports: &[u16]) -> Result<Self> {
        let node = s.get_pod(&pod.name).await?.spec.and_then(|spec| spec.node_name).context("the pod has no node")?;
        let api: Api<Containment> = Api::namespaced(s.env.client.clone(), AGENT_NAMESPACE);
        let containment: Containment = serde_json::from_value(json!({
            "apiVersion": "internal.tourniquet.dev/v1alpha1", "kind": "Containment",
            "metadata": { "name": pod.uid },
            "spec": {
                "pod": { "namespace": pod.namespace, "name": pod.name, "uid": pod.uid },
                "nodeName": node, "probePorts": ports,
                "holders": { "11111111-2222-3333-4444-555555555555": { "response": "e2e/test" } },
            }
        }))?;
        let asked = Timestamp::now();
        api.create(&PostParams::default(), &containment).await?;
        Ok(Self { api, name: pod.uid.clone(), asked })
    }

    async fn status(&self) -> Result<ContainmentStatus> {
        Ok(self.api.get(&self.name).await?.status.unwrap_or_default())
    }

    async fn becomes(&self, state: ContainmentState) -> Result<ContainmentStatus> {
        let mut last = None;
        let found = until("the containment's state", SOON, async || {
            let status = self.status().await?;
            last = Some(status.clone());
            Ok(Some(status).filter(|status| status.state == state))
        })
        .await;
        found.with_context(|| format!("wanted {state:?}, the last was {last:?}"))
    }

    /// Nobody holds it any more; returns the time of asking.
    async fn let_go(&self) -> Result<Timestamp> {
        let nobody = json!({ "spec": { "holders": null } });
        let asked = Timestamp::now();
        self.api.patch(&self.name, &PatchParams::default(), &Patch::Merge(&nobody)).await?;
        Ok(asked)
    }

    async fn remove(&self) -> Result<()> {
        self.api.delete(&self.name, &DeleteParams::default()).await?;
        Ok(())
    }
}

#[test]
fn a_pod_is_cut_off_in_both_directions_and_let_go() {
    alone("agent-cut", async |s| {
        let (web, peer) = tokio::try_join!(s.pod("web"), s.pod("peer"))?;
        let inbound = s.attempts(&peer, &web).await?;
        let outbound = s.attempts(&web, &peer).await?;
        let stream = s.stream("tcp", &peer, &web).await?;
        inbound.answered(Timestamp::UNIX_EPOCH, SOON).await?;
        outbound.answered(Timestamp::UNIX_EPOCH, SOON).await?;

        let held = Held::new(s, &web, &[]).await?;
        let status = held.becomes(ContainmentState::Cut).await?;
        let cut = Timestamp::now();
        ensure!(status.hooks.as_deref() == Some("Netdev") && status.network_namespace.is_some(), "{status:?}");
        let refused = inbound.silent(held.asked, SECOND, SOON).await?.start;
        inbound.stays_silent(cut, SECOND * 3).await?;
        outbound.stays_silent(cut, SECOND * 3).await?;
        // A flow that was open before has stopped as well.
        stream.none_came_back(cut, cut + SECOND * 3)?;

        let asked = held.let_go().await?;
        held.becomes(ContainmentState::Lifted).await?;
        let back = inbound.answered(asked, SOON).await?.end;
        outbound.answered(asked, SOON).await?;
        until("the open flow goes on", SOON, async || Ok(stream.last().filter(|last| *last > asked))).await?;
        println!(
            "created -> first refused {} ms, released -> first accepted {} ms",
            refused.duration_since(held.asked).as_millis(),
            back.duration_since(asked).as_millis()
        );
        held.remove().await
    });
}

#[test]
fn the_kubelets_probes_go_on_passing() {
    alone("agent-probes", async |s| {
        let probe = json!({ "httpGet": { "path": "/", "port": 8080 } });
        let (web, peer) = tokio::try_join!(s.pod_probed("web", probe), s.pod("peer"))?;
        let inbound = s.attempts(&peer, &web).await?;
        let held = Held::new(s, &web, &[8080]).await?;
        held.becomes(ContainmentState::Cut).await?;

        inbound.stays_silent(Timestamp::now(), SECOND * 30).await?;
        let restarts = s.restarts("web").await?;
        ensure!(restarts == 0, "restarted {restarts} times");
        held.let_go().await?;
        held.becomes(ContainmentState::Lifted).await?;
        held.remove().await
    });
}

#[test]
fn a_pod_on_its_nodes_network_is_left_alone() {
    alone("agent-host", async |s| {
        let more = json!({ "spec": { "hostNetwork": true, "containers": [{
            "command": ["/traffic/traffic", "serve", "38081"], "ports": [{ "containerPort": 38081 }] }] } });
        let host = s.pod_with("host", more).await?;
        let held = Held::new(s, &host, &[]).await?;
        let status = held.becomes(ContainmentState::Failed).await?;
        ensure!(status.message.as_deref().is_some_and(|message| message.contains("node's own network")), "{status:?}");
        held.remove().await
    });
}

#[test]
fn a_containment_that_is_taken_away_sets_nobody_free_and_is_reported_until_somebody_decides() {
    alone("orphan", async |s| {
        let (web, peer) = tokio::try_join!(s.pod("web"), s.pod("peer"))?;
        let attempts = s.attempts(&peer, &web).await?;
        attempts.answered(Timestamp::UNIX_EPOCH, SOON).await?;
        let held = Held::new(s, &web, &[]).await?;
        held.becomes(ContainmentState::Cut).await?;
        let cut = attempts.silent(held.asked, SECOND, SOON).await?.start;

        let taken = held.api.get(&held.name).await?;
        held.api.delete(&held.name, &DeleteParams::default()).await?;
        let reports: Api<NodeAgent> = Api::namespaced(s.env.client.clone(), AGENT_NAMESPACE);
        let orphans = async || {
            let report = reports.get(&taken.spec.node_name).await?;
            let owners = report.metadata.owner_references.iter().flatten();
            ensure!(owners.into_iter().any(|owner| owner.kind == "Node"), "it stays when its node goes: {report:?}");
            let status = report.status.context("no report on the node")?;
            Ok::<_, anyhow::Error>(status.orphans.iter().any(|orphan| orphan.pod_uid == web.uid))
        };
        until("the cut is reported as nobody's", SOON, async || Ok(orphans().await?.then_some(()))).await?;
        let so_far = Timestamp::now().duration_since(cut).unsigned_abs();
        attempts.stays_silent(cut, so_far + SECOND * 2).await?;

        let mut decided = taken.clone();
        decided.spec.holders.clear();
        decided.metadata = kube::core::ObjectMeta { name: Some(held.name.clone()), ..Default::default() };
        decided.status = None;
        let asked = Timestamp::now();
        held.api.create(&PostParams::default(), &decided).await?;
        attempts.answered(asked, SOON).await?;
        held.becomes(ContainmentState::Lifted).await?;
        until("nothing is reported any more", Duration::from_secs(90), async || Ok((!orphans().await?).then_some(())))
            .await?;
        held.remove().await
    });
}

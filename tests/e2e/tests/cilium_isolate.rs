//! A pod is isolated, proven to be, and let go, on Cilium with its default timing.
//!
//! Each scenario uses fresh pods: a second change of labels within half a minute makes Cilium skip policy changes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde_json::json;
use tourniquet_api::{Answer as Probed, Assurance, Outcome};
use tourniquet_e2e::responses::condition;
use tourniquet_e2e::snapshot::{Snapshot, traces};
use tourniquet_e2e::{Scenario, Spec, TestPod, TestResponse, scenario};

/// Cilium gives a pod its new identity within 35 s; the operator gives up on it after 120 s.
const SETTLED: Duration = Duration::from_secs(150);
/// Undo writes four objects; Cilium then lets go within half a minute.
const UNDONE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

/// A response that has isolated the pod for real.
async fn isolated(s: &Scenario, name: &str, pod: &TestPod) -> Result<TestResponse> {
    let response = s.respond(name, Spec::isolate(pod)).await?;
    response.becomes("Contained", "True", SETTLED).await?;
    Ok(response)
}

#[test]
fn two_pods_talk_then_do_not_while_isolated_then_talk_again() {
    scenario("talk", |s| async move {
        let (web, peer, third) = tokio::try_join!(s.pod("web"), s.pod("peer"), s.pod("third"))?;
        let before = Snapshot::of_namespace(&s.env, &s.namespace).await?;
        let inbound = s.attempts(&peer, &web).await?;
        let outbound = s.attempts(&web, &peer).await?;
        let control = s.attempts(&third, &peer).await?;
        for talk in [&inbound, &outbound, &control] {
            talk.answered(Timestamp::UNIX_EPOCH, SECOND * 10).await?;
        }

        let response = isolated(&s, "cut", &web).await?;

        // What is said is checked against what two real pods see from that moment on.
        let contained = Timestamp::now();
        inbound.stays_silent(contained, SECOND * 5).await?;
        outbound.stays_silent(contained, SECOND * 5).await?;
        control.all_answered(contained, Timestamp::now())?;

        let ready = response.becomes("Ready", "True", SECOND * 10).await?;
        ensure!(ready.reason == "DenyTier", "{ready:?}");
        let status = response.get().await?.status.context("no status")?;
        let action = status.actions.first().context("no action")?;
        ensure!(action.outcome == Outcome::Done, "{action:?}");
        let result = action.results.first().context("no result")?;
        ensure!(result.target_uid == web.uid, "{result:?}");
        ensure!(result.assurance == Some(Assurance::Probed), "{result:?}");
        let probe = result.probes.first().context("no probe")?;
        ensure!(probe.before == Probed::Answered && probe.after == Some(Probed::TimedOut), "{probe:?}");
        ensure!(probe.peer == web.address().to_string(), "{probe:?}");
        let codes: Vec<&str> = status.residual.iter().map(|residual| residual.code.as_str()).collect();
        ensure!(codes.contains(&"EstablishedFlowsMaySurvive"), "{codes:?}");

        let columns = s.env.kubectl_output(&["-n", &response.namespace, "get", "ir", &response.name]).await?;
        let (head, row) = columns.trim().split_once('\n').context("no row")?;
        let head: Vec<&str> = head.split_whitespace().collect();
        ensure!(head == ["NAME", "TARGET", "READY", "CONTAINED", "REASON", "INCIDENT", "AGE"], "{columns}");
        let target = format!("pod {}/web", s.namespace);
        ensure!(row.contains(&target) && row.contains("True") && row.contains("DenyTier"), "{columns}");

        let deleted = response.delete().await?;
        response.gone(UNDONE).await?;
        inbound.answered(deleted, UNDONE).await?;
        outbound.answered(deleted, UNDONE).await?;
        let after = Snapshot::of_namespace(&s.env, &s.namespace).await?;
        let difference = before.diff(&after);
        ensure!(difference.is_empty(), "the namespace is not what it was:\n{difference}");
        ensure!(traces(&s.env, &response.uid).await?.is_empty());
        Ok(())
    });
}

#[test]
fn policies_that_allow_everything_do_not_defeat_it() {
    scenario("allowed", |s| async move {
        let (web, peer) = tokio::try_join!(s.pod("web"), s.pod("peer"))?;
        s.apply(json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": { "name": "allow-all" },
            "spec": { "podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": [{}], "egress": [{}] }
        }))
        .await?;
        s.apply(json!({
            "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": { "name": "allow-all" },
            "spec": { "endpointSelector": {}, "ingress": [{ "fromEntities": ["all"] }], "egress": [{ "toEntities": ["all"] }] }
        }))
        .await?;
        let inbound = s.attempts(&peer, &web).await?;
        let outbound = s.attempts(&web, &peer).await?;
        inbound.answered(Timestamp::UNIX_EPOCH, SECOND * 10).await?;
        outbound.answered(Timestamp::UNIX_EPOCH, SECOND * 10).await?;

        let response = isolated(&s, "cut", &web).await?;

        let contained = Timestamp::now();
        inbound.stays_silent(contained, SECOND * 5).await?;
        outbound.stays_silent(contained, SECOND * 5).await?;
        let message = response.action("isolate").await?.message.unwrap_or_default();
        ensure!(message.contains("overruled: NetworkPolicy allow-all"), "{message}");
        Ok(())
    });
}

#[test]
fn a_pod_with_a_liveness_probe_every_second_is_not_restarted() {
    scenario("liveness", |s| async move {
        let probe = json!({ "httpGet": { "path": "/", "port": 8080 } });
        let web = s.pod_probed("web", probe).await?;
        let peer = s.pod("peer").await?;
        let inbound = s.attempts(&peer, &web).await?;

        let response = isolated(&s, "cut", &web).await?;

        // 60 s of real isolation: as long as that, nobody else reaches the pod, and the kubelet does.
        inbound.stays_silent(Timestamp::now(), SECOND * 60).await?;
        let restarts = s.restarts("web").await?;
        ensure!(restarts == 0, "restarted {restarts} times");
        let intact = response.condition("EvidenceIntact").await?.context("no EvidenceIntact")?;
        ensure!(intact.status == "True", "{intact:?}");
        Ok(())
    });
}

#[test]
fn the_first_of_two_responses_is_released_within_a_second_of_the_seconds_creation() {
    scenario("handover", |s| async move {
        let (web, peer) = tokio::try_join!(s.pod("web"), s.pod("peer"))?;
        let inbound = s.attempts(&peer, &web).await?;
        let first = isolated(&s, "first", &web).await?;
        let contained = Timestamp::now();

        let second = s.respond("second", Spec::isolate(&web)).await?;
        let released = first.delete().await?;
        ensure!(released.duration_since(second.asked).unsigned_abs() < SECOND, "the test was too slow");
        // The first one waits until the second is seen in force; what it says meanwhile is that it waits.
        first.gone(SETTLED).await?;
        let held = second.becomes("Contained", "True", SETTLED).await?;
        ensure!(held.reason == "DenyTier", "{held:?}");
        let both = Timestamp::now().duration_since(contained).unsigned_abs();
        inbound.stays_silent(contained, both + SECOND * 5).await?;

        let deleted = second.delete().await?;
        second.gone(UNDONE).await?;
        inbound.answered(deleted, UNDONE).await?;
        Ok(())
    });
}

#[test]
fn the_second_of_two_responses_is_released_within_a_second_of_its_creation() {
    scenario("return", |s| async move {
        let (web, peer) = tokio::try_join!(s.pod("web"), s.pod("peer"))?;
        let inbound = s.attempts(&peer, &web).await?;
        let first = isolated(&s, "first", &web).await?;
        let contained = Timestamp::now();

        let second = s.respond("second", Spec::isolate(&web)).await?;
        second.delete().await?;
        second.gone(SETTLED).await?;

        // Two label changes have restarted Cilium's identity change; the first response holds through both.
        inbound.stays_silent(contained, SECOND * 45).await?;
        let held = first.becomes("Contained", "True", SETTLED).await?;
        ensure!(held.reason == "DenyTier", "{held:?}");
        Ok(())
    });
}

#[test]
fn a_release_says_who_goes_on_holding_the_pod() {
    scenario("held-by", |s| async move {
        let web = s.pod("web").await?;
        let first = isolated(&s, "first", &web).await?;
        let second = isolated(&s, "second", &web).await?;

        first.change(json!({ "release": true })).await?;

        let reverted = first.becomes("Reverted", "True", SETTLED).await?;
        ensure!(reverted.reason == "Released", "{reverted:?}");
        let contained = first.condition("Contained").await?.context("no Contained")?;
        ensure!(contained.status == "False" && contained.reason == "HeldByOther", "{contained:?}");
        ensure!(contained.message.contains(&second.name), "{contained:?}");
        ensure!(condition(&second.get().await?, "Contained").is_some_and(|held| held.status == "True"));
        Ok(())
    });
}

#[test]
fn a_new_pod_of_the_same_name_is_neither_isolated_nor_reverted() {
    scenario("same-name", |s| async move {
        let (web, peer) = tokio::try_join!(s.pod("web"), s.pod("peer"))?;
        let response = isolated(&s, "cut", &web).await?;

        s.delete_pod("web").await?;
        let other = s.pod("web").await?;
        ensure!(other.uid != web.uid);
        let before = s.get_pod("web").await?;
        response.becomes_because("Contained", "TargetGone", SECOND * 30).await?;
        let lost = response.condition("EvidenceIntact").await?.context("no EvidenceIntact")?;
        ensure!(lost.status == "False", "{lost:?}");
        let inbound = s.attempts(&peer, &other).await?;
        inbound.answered(Timestamp::now(), SECOND * 10).await?;

        response.delete().await?;
        response.gone(UNDONE).await?;
        let after = s.get_pod("web").await?;
        ensure!(before.metadata.labels == after.metadata.labels, "{:?}", after.metadata.labels);
        ensure!(
            before.metadata.managed_fields.iter().flatten().all(|entry| entry.manager.as_deref() != Some("tourniquet"))
        );
        ensure!(traces(&s.env, &response.uid).await?.is_empty());
        Ok(())
    });
}

#[test]
fn a_policy_that_somebody_changes_or_deletes_is_put_back() {
    scenario("drift", |s| async move {
        let (web, peer) = tokio::try_join!(s.pod("web"), s.pod("peer"))?;
        let inbound = s.attempts(&peer, &web).await?;
        let response = isolated(&s, "cut", &web).await?;
        let policy = tourniquet_api::names::policy(&response.uid);

        let opened = json!({ "spec": { "ingressDeny": null } }).to_string();
        let kind = "ciliumclusterwidenetworkpolicy";
        s.env.kubectl_output(&["patch", kind, &policy, "--type=merge", "--patch", &opened]).await?;
        tourniquet_e2e::until("the policy denies again", SECOND * 10, async || {
            let denies = s.env.kubectl_output(&["get", kind, &policy, "--output=jsonpath={.spec.ingressDeny}"]).await?;
            Ok((!denies.is_empty()).then_some(()))
        })
        .await?;
        s.env.kubectl_output(&["delete", kind, &policy]).await?;

        tourniquet_e2e::until("the policy is back", SECOND * 10, async || {
            let listed = s.env.kubectl_output(&["get", "ciliumclusterwidenetworkpolicies", "--output=name"]).await?;
            Ok(listed.contains(&policy).then_some(()))
        })
        .await?;
        response.becomes("Contained", "True", SECOND * 30).await?;
        inbound.stays_silent(Timestamp::now(), SECOND * 5).await?;
        Ok(())
    });
}

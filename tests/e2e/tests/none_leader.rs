//! Several operators, of which one leads: it is killed, cut off from the API server, or paused, while a response is in force and a command runs.
//! Another one takes over, no command runs twice (law 5), and what the former leader wrote late is undone (law 7).

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Api, ListParams};
use serde_json::json;
use tourniquet_api::Outcome;
use tourniquet_e2e::crash::{Candidate, Exclusive, Operator};
use tourniquet_e2e::{OPERATOR_NAMESPACE, Scenario, Spec, TestPod, scenario, until};

const SOON: Duration = Duration::from_secs(60);
/// How long after the end of its lease another one has to lead: that long, and not longer, nobody acts.
const TAKEOVER: jiff::SignedDuration = jiff::SignedDuration::from_secs(5);

/// Whoever leads by one lease acts on the responses of all tests: they go one after the other.
static ONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

async fn alone(s: &Scenario, test: impl Future<Output = Result<()>>) -> Result<()> {
    let _one = ONE.lock().await;
    Exclusive::during(s, test).await
}

#[test]
fn when_the_leader_is_killed_another_one_takes_over_and_runs_no_command_twice() {
    scenario("leader-killed", |s: Scenario| async move {
        alone(
            &s,
            Box::pin(taken_over(&s, async |first: &mut Option<Operator>| {
                first.take().context("no leader")?.kill().await
            })),
        )
        .await
    });
}

#[test]
fn when_the_leader_is_cut_off_from_the_api_server_another_one_takes_over_and_runs_no_command_twice() {
    scenario("leader-cut-off", |s: Scenario| async move {
        alone(
            &s,
            Box::pin(taken_over(&s, async |first: &mut Option<Operator>| {
                first.as_ref().context("no leader")?.cut_off().await
            })),
        )
        .await
    });
}

/// A response is in force and its command runs; the leader goes by what is done to it, and another one goes on.
async fn taken_over(s: &Scenario, goes: impl AsyncFnOnce(&mut Option<Operator>) -> Result<()>) -> Result<()> {
    let (seat, other_seat, pod) = tokio::try_join!(s.pod("seat"), s.pod("other-seat"), s.pod("web"))?;
    let lease = &s.namespace;
    let mut first = Some(Operator::start_as(s, &seat, Candidate { name: "first", lease, holds: None }).await?);
    leads(s, "first").await?;
    let second = Operator::start_as(s, &other_seat, Candidate { name: "second", lease, holds: None }).await?;
    let response = s.respond("r", Spec(isolates_and_runs(&pod))).await?;
    until("the command runs", SOON, async || Ok((count(s, &pod).await? == 1).then_some(()))).await?;
    until("the isolation is in force", SOON, async || Ok(policy(s).await?.then_some(()))).await?;

    goes(&mut first).await?;
    let took = leads(s, "second").await?;
    ensure!(took <= TAKEOVER, "another one led {took:#} after the lease was over");
    until("the command's end is told", SOON, async || {
        let action = response.action("run").await?;
        Ok((action.outcome == Outcome::Unknown).then_some(()))
    })
    .await?;
    ensure!(count(s, &pod).await? == 1, "it ran twice");
    ensure!(policy(s).await?, "what was in force is no longer");
    response.delete().await?;
    response.gone(SOON).await?;
    ensure!(!policy(s).await?, "something is left");
    ensure!(count(s, &pod).await? == 1, "it ran twice");

    if let Some(mut first) = first {
        ensure!(first.runs()?, "who lost the lease has ended instead of standing by");
        first.kill().await?;
    }
    second.stop().await
}

#[test]
fn what_a_paused_leader_wrote_late_is_undone() {
    scenario("leader-paused", |s: Scenario| async move { alone(&s, Box::pin(paused(&s))).await });
}

async fn paused(s: &Scenario) -> Result<()> {
    let (seat, other_seat, pod) = tokio::try_join!(s.pod("seat"), s.pod("other-seat"), s.pod("web"))?;
    let lease = &s.namespace;
    let holds = format!("/namespaces/{}/networkpolicies/", pod.namespace);
    let first = Candidate { name: "first", lease, holds: Some(&holds) };
    let mut first = Operator::start_as(s, &seat, first).await?;
    leads(s, "first").await?;
    let second = Operator::start_as(s, &other_seat, Candidate { name: "second", lease, holds: None }).await?;
    let spec = json!({
        "target": { "pod": { "namespace": pod.namespace, "name": pod.name } }, "actions": [{ "isolate": {} }],
    });
    let response = s.respond("r", Spec(spec)).await?;
    until("the leader's write is on its way", SOON, async || Ok(first.holds().then_some(()))).await?;
    first.pause()?;
    let took = leads(s, "second").await?;
    ensure!(took <= TAKEOVER, "another one led {took:#} after the lease was over");
    until("the other one isolates", SOON, async || Ok(policy(s).await?.then_some(()))).await?;
    response.delete().await?;
    response.gone(SOON).await?;
    ensure!(!policy(s).await?, "something is left");

    first.let_go();
    until("the late write has arrived", SOON, async || Ok(policy(s).await?.then_some(()))).await?;
    until("it is undone", SOON, async || Ok((!policy(s).await?).then_some(()))).await?;
    first.resume()?;
    leads(s, "second").await?;
    ensure!(first.runs()?, "who lost the lease has ended instead of standing by");
    second.stop().await?;
    leads(s, "first").await.context("who lost the lease does not take it again")?;
    first.stop().await
}

fn isolates_and_runs(pod: &TestPod) -> serde_json::Value {
    json!({
        "target": { "pod": { "namespace": pod.namespace, "name": pod.name } },
        "actions": [{ "isolate": {} }, { "run": { "command": ["/bin/sh", "-c", "echo x >> /tmp/count; sleep 300"] } }],
    })
}

async fn count(s: &Scenario, pod: &TestPod) -> Result<usize> {
    Ok(s.exec(pod, &["/bin/sh", "-c", "cat /tmp/count 2>/dev/null || true"]).await?.lines().count())
}

/// Whether a policy of ours is in the scenario's namespace.
async fn policy(s: &Scenario) -> Result<bool> {
    let api: Api<NetworkPolicy> = Api::namespaced(s.env.client.clone(), &s.namespace);
    Ok(!api.list_metadata(&ListParams::default()).await?.items.is_empty())
}

/// Waits until it has the lease; how long after the former holder's was over, by the clocks of both.
async fn leads(s: &Scenario, name: &str) -> Result<jiff::SignedDuration> {
    let api: Api<Lease> = Api::namespaced(s.env.client.clone(), OPERATOR_NAMESPACE);
    let mut over: Option<Timestamp> = None;
    until(&format!("{name} leads"), SOON, async || {
        let spec: LeaseSpec = api.get_opt(&s.namespace).await?.and_then(|lease| lease.spec).unwrap_or_default();
        if spec.holder_identity.as_deref() == Some(name) {
            let since = spec.acquire_time.context("nobody says since when")?.0;
            return Ok(Some(over.map_or(jiff::SignedDuration::ZERO, |over| since.duration_since(over))));
        }
        let lasts = i64::from(spec.lease_duration_seconds.unwrap_or_default());
        over = spec.renew_time.map(|renewed| renewed.0 + jiff::SignedDuration::from_secs(lasts));
        Ok(None)
    })
    .await
}

//! What a response leaves that vanishes without being undone, where pods are cut off. A program of its own: it puts the operator, or the
//! agents, aside.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams};
use tourniquet_api::{Containment, NodeAgent, names};
use tourniquet_e2e::crash::Exclusive;
use tourniquet_e2e::events::Shown;
use tourniquet_e2e::snapshot::{Snapshot, traces};
use tourniquet_e2e::{AGENT_NAMESPACE, Attempts, Scenario, Spec, TestPod, TestResponse, scenario, until};

const SECOND: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(60);
/// There is one operator to put aside.
static ALONE: Mutex<()> = Mutex::new(());

fn alone<F: Future<Output = Result<()>>>(name: &str, body: impl FnOnce(Scenario) -> F) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    scenario(name, body);
}

/// A pod that is cut off, and who tries to reach it and to be reached.
struct Cut {
    web: TestPod,
    before: Snapshot,
    attempts: [Attempts; 2],
    response: TestResponse,
    since: Timestamp,
}

async fn cut(s: &Scenario) -> Result<Cut> {
    let (web, peer) = tokio::try_join!(s.pod("web"), s.pod("peer"))?;
    let before = Snapshot::of_namespace(&s.env, &s.namespace).await?;
    let attempts = [s.attempts(&peer, &web).await?, s.attempts(&web, &peer).await?];
    let response = s.respond("cut", Spec::isolate(&web)).await?;
    let contained = response.becomes("Contained", "True", SOON).await?;
    ensure!(contained.reason == "Cut", "{contained:?}");
    Ok(Cut { web, before, attempts, response, since: Timestamp::now() })
}

impl Cut {
    async fn is_still_in_force(&self) -> Result<()> {
        let so_far = Timestamp::now().duration_since(self.since).unsigned_abs();
        for attempts in &self.attempts {
            attempts.stays_silent(self.since, so_far + SECOND).await?;
        }
        Ok(())
    }

    /// Nothing is left, traffic is back, and these words were told on the pod, one event each.
    async fn is_undone(&self, s: &Scenario, told: &[&str]) -> Result<()> {
        let containments: Api<Containment> = Api::namespaced(s.env.client.clone(), AGENT_NAMESPACE);
        until("the Containment is gone, and no orphan is reported", SOON, async || {
            let left = containments.get_opt(&self.web.uid).await?.is_some() || is_orphan(s, &self.web).await?;
            Ok((!left).then_some(()))
        })
        .await?;
        let now = Timestamp::now();
        for attempts in &self.attempts {
            attempts.answered(now, SOON).await?;
        }
        let left = traces(&s.env, &self.response.uid).await?;
        ensure!(left.is_empty(), "left: {left:?}");
        s.is_what_it_was(&self.before).await?;

        let mut wanted = vec!["Warning Isolated"];
        wanted.extend(told.iter().map(|_| "Warning LeftoverUndone"));
        let shown = s.pod_events(&self.web, &wanted).await?;
        let undone: Vec<&Shown> = shown.iter().filter(|shown| shown.reason == "LeftoverUndone").collect();
        for (event, words) in undone.iter().zip(told) {
            ensure!(event.note.contains(words), "no {words:?} in {event:?}");
        }
        Ok(())
    }
}

async fn is_orphan(s: &Scenario, pod: &TestPod) -> Result<bool> {
    let agents: Api<NodeAgent> = Api::namespaced(s.env.client.clone(), AGENT_NAMESPACE);
    let reports = agents.list(&ListParams::default()).await?.items;
    let mut orphans = reports.into_iter().flat_map(|agent| agent.status.unwrap_or_default().orphans);
    Ok(orphans.any(|orphan| orphan.pod_uid == pod.uid))
}

/// Does something while no operator runs, and puts it back, whatever becomes of that.
async fn without_operator(s: &Scenario, work: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
    let away = Exclusive::begin(s).await?;
    let worked = work().await;
    away.end().await?;
    worked
}

#[test]
fn what_a_vanished_response_left_is_undone_and_traffic_is_back() {
    alone("leftovers-cut", |s| async move {
        let cut = cut(&s).await?;
        let label = names::isolation_label(&cut.response.uid);
        until("the policies select the pod as well", SOON * 2, async || {
            Ok(s.get_pod("web").await?.labels().contains_key(&label).then_some(()))
        })
        .await?;
        without_operator(&s, async || {
            cut.response.vanish().await?;
            let left = traces(&s.env, &cut.response.uid).await?;
            ensure!(left.len() == 3, "a policy, a labelled pod and a Containment are left: {left:?}");
            cut.is_still_in_force().await
        })
        .await?;
        cut.is_undone(&s, &["taken off", "it is no longer", "the cut is lifted"]).await
    });
}

#[test]
fn a_cut_whose_containment_was_deleted_by_force_is_lifted() {
    alone("leftovers-orphan", |s| async move {
        let cut = cut(&s).await?;
        without_operator(&s, async || {
            cut.response.vanish().await?;
            let containments: Api<Containment> = Api::namespaced(s.env.client.clone(), AGENT_NAMESPACE);
            containments.delete(&cut.web.uid, &DeleteParams::default()).await?;
            until("the agent reports the orphan", SOON * 2, async || Ok(is_orphan(&s, &cut.web).await?.then_some(())))
                .await?;
            cut.is_still_in_force().await
        })
        .await?;
        cut.is_undone(&s, &["taken off", "the cut is lifted"]).await
    });
}

/// The release waits for an agent, and somebody loses patience. The operator runs all the time, and sees the response vanish.
#[test]
fn a_response_whose_finalizer_is_taken_off_while_it_waits_for_the_agent_is_undone_when_that_is_back() {
    alone("leftovers-impatient", |s| async move {
        let cut = cut(&s).await?;
        s.agents()
            .away(async || {
                cut.response.delete().await?;
                cut.response.becomes_because("Reverted", "UndoBlocked", SOON).await?;
                cut.response.vanish().await?;
                cut.is_still_in_force().await
            })
            .await?;
        cut.is_undone(&s, &["the cut is lifted"]).await
    });
}

//! Law 7: killed between any two API calls, the operator converges to the same end state once it runs again.
//!
//! One response and one fresh pod for each write and each side of it: the operator dies there while it applies, and again
//! at the write of the same number while it undoes. Between the two it has run undisturbed, and all responses say the same.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use tourniquet_api::names;

use crate::crash::{CrashAt, Exclusive, Operator, Side};
use crate::snapshot::traces;
use crate::{Scenario, Spec, TestPod, TestResponse, until};

/// No response needs more writes than this to be applied or undone; the sweep ends by itself before.
const MOST: u32 = 16;
/// How long one operator may take to come to its write.
const SOON: Duration = Duration::from_secs(60);

struct Schedule {
    write: u32,
    side: Side,
    pod: TestPod,
    /// The pod before anything was done to it.
    before: Pod,
    response: TestResponse,
}

impl Schedule {
    fn name(&self) -> String {
        format!("killed at write {} ({:?})", self.write, self.side)
    }

    fn crash(&self) -> CrashAt {
        let paths = vec![
            format!("/{}", self.response.name),
            format!("/{}", names::policy(&self.response.uid)),
            format!("/{}", self.pod.name),
            // Its Containment.
            format!("/{}", self.pod.uid),
        ];
        CrashAt { write: self.write, side: self.side, paths }
    }
}

/// The whole sweep, with this reason in the end.
pub async fn run(s: &Scenario, reason: &str, settled: Duration) -> Result<()> {
    let exclusive = Exclusive::begin(s).await?;
    let swept = sweep(s, reason, settled).await;
    // Also when the sweep failed: other tests need the cluster's operator, and so does the cleaning up.
    exclusive.end().await?;
    swept
}

async fn sweep(s: &Scenario, reason: &str, settled: Duration) -> Result<()> {
    let seat = s.pod("operator-seat").await?;
    let mut schedules = Vec::new();
    let mut applied_at = BTreeSet::new();
    for write in 1..=MOST {
        let mut died = false;
        for side in [Side::Before, Side::After] {
            let schedule = begin(s, write, side).await?;
            if apply(s, &seat, &schedule).await? {
                applied_at.insert(write);
                died = true;
            }
            schedules.push(schedule);
        }
        if !died {
            break;
        }
    }
    // Accepted, finalizer, policy, labels at least: fewer would mean that the proxy did not see the writes.
    ensure!(applied_at.len() >= 4, "only died at writes {applied_at:?}");
    ensure!(applied_at.len() < MOST as usize, "more writes than {MOST}");

    let operator = Operator::start(s, &seat, None).await?;
    for schedule in &schedules {
        let ready = schedule.response.becomes_because("Ready", reason, settled).await;
        ready.map_err(|error| error.context(schedule.name()))?;
    }
    let ends = futures::future::try_join_all(schedules.iter().map(|schedule| end_state(s, schedule))).await?;
    for (schedule, end) in schedules.iter().zip(&ends) {
        ensure!(Some(end) == ends.last(), "{}: {end}\nundisturbed: {}", schedule.name(), ends.last().unwrap());
    }
    operator.stop().await?;

    let mut undone_at = BTreeSet::new();
    for (index, schedule) in schedules.iter().enumerate() {
        // Every other one is deleted while no operator runs.
        let operator = if index % 2 == 0 {
            let operator = Operator::start(s, &seat, Some(schedule.crash())).await?;
            schedule.response.delete().await?;
            operator
        } else {
            schedule.response.delete().await?;
            Operator::start(s, &seat, Some(schedule.crash())).await?
        };
        until(&format!("{}: undone or dead", schedule.name()), SOON, async || {
            let gone = schedule.response.api().get_metadata_opt(&schedule.response.name).await?.is_none();
            Ok((gone || operator.crashed()).then_some(()))
        })
        .await?;
        if operator.crashed() {
            undone_at.insert(schedule.write);
        }
        operator.kill().await?;
    }
    ensure!(undone_at.len() >= 4, "only died at writes {undone_at:?} of undo");

    let operator = Operator::start(s, &seat, None).await?;
    for schedule in &schedules {
        schedule.response.gone(SOON).await.map_err(|error| error.context(schedule.name()))?;
        let left = traces(&s.env, &schedule.response.uid).await?;
        ensure!(left.is_empty(), "{}: left {left:?}", schedule.name());
        let after = s.get_pod(&schedule.pod.name).await?;
        ensure!(
            after.metadata.labels == schedule.before.metadata.labels,
            "{}: {:?}",
            schedule.name(),
            after.metadata.labels
        );
        ensure!(after.metadata.annotations == schedule.before.metadata.annotations, "{}", schedule.name());
        let ours = after.metadata.managed_fields.iter().flatten().filter_map(|entry| entry.manager.as_deref());
        ensure!(!ours.into_iter().any(|manager| manager.starts_with(names::OPERATOR_MANAGER)), "{}", schedule.name());
    }
    operator.stop().await?;
    println!("died at writes {applied_at:?} while applying and {undone_at:?} while undoing, on both sides of each");
    Ok(())
}

async fn begin(s: &Scenario, write: u32, side: Side) -> Result<Schedule> {
    let name = format!("target-{write}-{side:?}").to_lowercase();
    let pod = s.pod(&name).await?;
    let before = s.get_pod(&name).await?;
    let response = s.respond(&name, Spec::isolate(&pod)).await?;
    Ok(Schedule { write, side, pod, before, response })
}

/// Runs an operator until it dies, or has done all that it had to; true when it died.
async fn apply(s: &Scenario, seat: &TestPod, schedule: &Schedule) -> Result<bool> {
    let operator = Operator::start(s, seat, Some(schedule.crash())).await?;
    until(&format!("{}: applied or dead", schedule.name()), SOON, async || {
        let reason = schedule.response.condition("Ready").await?.map(|ready| ready.reason);
        let at_work = matches!(reason.as_deref(), None | Some("Applying" | "Pending" | "Accepted"));
        Ok((!at_work || operator.crashed()).then_some(()))
    })
    .await?;
    let died = operator.crashed();
    operator.kill().await?;
    Ok(died)
}

/// What all schedules have to agree on, without names and times.
async fn end_state(s: &Scenario, schedule: &Schedule) -> Result<String> {
    let response = schedule.response.get().await?;
    let status = response.status.clone().unwrap_or_default();
    let mut conditions: Vec<String> = status
        .conditions
        .iter()
        .map(|condition| format!("{}={} {}", condition.type_, condition.status, condition.reason))
        .collect();
    conditions.sort();
    let actions: Vec<String> = status
        .actions
        .iter()
        .map(|action| format!("{} {:?} {:?}", action.name, action.outcome, action.reason))
        .collect();
    let left = traces(&s.env, &schedule.response.uid).await?.len();
    let finalizers = response.metadata.finalizers;
    Ok(format!("{conditions:?} {actions:?} {left} objects, finalizers {finalizers:?}"))
}

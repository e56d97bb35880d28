//! Collect: what can be read of a pod, into an evidence store, beside everything else.
//!
//! It holds up what follows it for its `headStart` at most, and nothing ever waits for its end: not a release, which lets it finish, and not a
//! deletion for longer than it takes to seal what was received. A restart finishes what another instance has begun.

mod artifacts;

use jiff::SignedDuration;
use k8s_openapi::api::rbac::v1::PolicyRule;
use tourniquet_api::{Action, Collect, Outcome, Verb};

use crate::action::{Act, Assessment, Context, Plan, Undo, is_decided, kept};
use crate::effect::{Effect, Kind};
use crate::rbac::rule;
use crate::target::{self, describe};
use crate::task::{self, Artifact, Collection, CollectionReport, TaskKey, TaskReport, TaskState, Work};
use crate::world::{Read, Unread};

pub(crate) const COLLECT: CollectEvidence = CollectEvidence;

/// The journal's entry: that it was begun, by which instance.
const BEGUN: &str = "collection";

/// The action.
pub(crate) struct CollectEvidence;

impl Act for CollectEvidence {
    fn verb(&self) -> Verb {
        Verb::Collect
    }

    fn targets(&self) -> &'static [Kind] {
        &[Kind::Pod]
    }

    fn rbac(&self) -> Vec<PolicyRule> {
        vec![
            rule("", &["pods", "pods/log"], &["get"]),
            rule("", &["events"], &["list"]),
            // What belongs to a pod, beside what the receipt reads.
            rule("", &["services"], &["list"]),
            rule("", &["nodes", "namespaces"], &["get"]),
            rule("networking.k8s.io", &["networkpolicies"], &["list"]),
            rule("rbac.authorization.k8s.io", &["rolebindings"], &["list"]),
            // The agents on the nodes, and what they are asked for.
            rule("", &["pods"], &["list"]),
            tools(),
        ]
    }

    fn rbac_of(&self, asked: &Action, agents: bool) -> Vec<PolicyRule> {
        let by_tools = asked.collect.as_ref().is_some_and(|collect| artifacts::take_tools(collect, agents));
        self.rbac().into_iter().filter(|rule| by_tools || *rule != tools()).collect()
    }

    fn reads(&self, cx: &Context<'_>, undoing: bool) -> Vec<Read> {
        target::read(cx.target).filter(|_| !undoing).into_iter().collect()
    }

    fn plan(&self, cx: &Context<'_>) -> Result<Plan, Unread> {
        let mut plan = Plan::default();
        let Some(collect) = asked(cx) else { return Ok(plan) };
        if is_decided(cx.before) {
            return Ok(plan);
        }
        let key = cx.task(false);
        let seen = cx.world.task(&key)?;
        if seen.state.is_some() {
            return Ok(plan);
        }
        // What another instance has begun is gone on with: what is in its folder is recognised.
        if let Some(pod) = cx.pod()? {
            plan.changes.push(task::journal(BEGUN, &seen.instance));
            let artifacts = artifacts::wanted(collect, pod, cx.agents.is_some(), cx.may_exec);
            plan.effects.push(start(cx, key, collect, artifacts));
        } else if task::begun(cx.before, BEGUN).is_some() {
            plan.effects.push(start(cx, key, collect, Vec::new()));
        }
        Ok(plan)
    }

    fn holds_up(&self, cx: &Context<'_>) -> Result<Option<SignedDuration>, Unread> {
        let Some(collect) = asked(cx).filter(|_| !is_decided(cx.before)) else { return Ok(None) };
        let head_start = collect.head_start.get();
        let head_start = SignedDuration::try_from(head_start).unwrap_or_default();
        let left = match &cx.world.task(&cx.task(false))?.state {
            // It is about to begin.
            None if cx.pod()?.is_some() => head_start,
            Some(TaskState::Running { since, progress, .. }) => {
                let done = progress.as_ref().is_some_and(|progress| progress.volatile_done);
                if done { SignedDuration::ZERO } else { head_start - cx.world.now.duration_since(*since) }
            }
            _ => SignedDuration::ZERO,
        };
        Ok(Some(left).filter(|left| left.is_positive()))
    }

    fn assess(&self, cx: &Context<'_>) -> Result<Assessment, Unread> {
        if asked(cx).is_none() {
            return Ok(Assessment::default());
        }
        if let Some(kept) = kept(cx.before, [COLLECTED, IN_PART, NOT_SEALED, CANCELLED, GONE], NOT_SEALED) {
            return Ok(kept);
        }
        Ok(match &cx.world.task(&cx.task(false))?.state {
            Some(TaskState::Running { progress, .. }) => {
                let evidence = progress.clone().unwrap_or_default().evidence;
                Assessment {
                    outcome: Outcome::Running,
                    reason: "Collecting",
                    message: format!(
                        "{} of {} artifacts of {} are stored",
                        evidence.artifacts_done,
                        evidence.artifacts_total,
                        describe(cx.target)
                    ),
                    evidence: Some(evidence),
                    ..Assessment::default()
                }
            }
            Some(TaskState::Ended(TaskReport::Collection(report))) => judge(cx, report),
            None if task::begun(cx.before, BEGUN).is_some() => Assessment {
                outcome: Outcome::Running,
                reason: "Collecting",
                message: format!(
                    "what was collected of {} before the operator was restarted is being sealed",
                    describe(cx.target)
                ),
                ..Assessment::default()
            },
            _ => gone(cx),
        })
    }

    fn stays(&self) -> bool {
        true
    }

    fn undo(&self, cx: &Context<'_>) -> Result<Undo, Unread> {
        let mut undo = Undo::default();
        let begun = task::begun(cx.before, BEGUN).is_some();
        // A release lets it finish.
        let Some(collect) = asked(cx).filter(|_| cx.deleted && begun && !is_decided(cx.before)) else {
            return Ok(undo);
        };
        let key = cx.task(false);
        match &cx.world.task(&key)?.state {
            Some(TaskState::Running { ending: false, .. }) => {
                undo.effects.push(Effect::Stop { object: target::object(cx.target, Kind::Pod), key });
            }
            Some(TaskState::Running { .. }) => {
                undo.blocked = Some(format!("what was received of {} is being sealed", describe(cx.target)));
            }
            Some(TaskState::Ended(TaskReport::Collection(report))) => undo.settled = Some(judge(cx, report)),
            // What another instance has begun is sealed as it is.
            None => undo.effects.push(start(cx, key, collect, Vec::new())),
            // No report of a collection is none.
            Some(TaskState::Ended(TaskReport::Command(_) | TaskReport::Release(_))) => {}
        }
        Ok(undo)
    }
}

/// What programs of the container's own take, where no agent reads from outside.
fn tools() -> PolicyRule {
    rule("", &["pods/exec"], &["get", "create"])
}

fn asked<'a>(cx: &Context<'a>) -> Option<&'a Collect> {
    cx.action?.collect.as_ref()
}

fn start(cx: &Context<'_>, key: TaskKey, collect: &Collect, artifacts: Vec<Artifact>) -> Effect {
    let collection = Collection {
        custody: cx.custody(&collect.store_ref),
        timeout: collect.timeout.get(),
        artifacts,
        agents: cx.agents.map(|agents| agents.namespace.clone()),
    };
    let work = Work::Collection(Box::new(collection));
    Effect::Start { object: target::object(cx.target, Kind::Pod), key, work }
}

const COLLECTED: &str = "Collected";
const IN_PART: &str = "CollectedInPart";
const NOT_SEALED: &str = "NotSealed";
const CANCELLED: &str = "CollectionCancelled";
const GONE: &str = "TargetGone";

fn judge(cx: &Context<'_>, report: &CollectionReport) -> Assessment {
    let CollectionReport { evidence, missing, trouble, cancelled } = report;
    let (done, total) = (evidence.artifacts_done, evidence.artifacts_total);
    let said = format!("{done} of {total} artifacts of {} are stored whole", describe(cx.target));
    let lack = if missing.is_empty() { String::new() } else { format!("; not so: {}", missing.join("; ")) };
    let (outcome, reason, message) = match trouble {
        Some(trouble) => {
            let outcome = if done == 0 { Outcome::Failed } else { Outcome::Partial };
            let folder = match &evidence.url {
                Some(_) => format!("{said}, and their folder is not sealed, which it says itself: {trouble}{lack}"),
                None => format!("{said}, and no folder was opened: {trouble}{lack}"),
            };
            (outcome, if *cancelled { CANCELLED } else { NOT_SEALED }, folder)
        }
        None if *cancelled => (Outcome::Partial, CANCELLED, format!("ended by the deletion: {said}{lack}")),
        None if done == total => (Outcome::Done, COLLECTED, said),
        None if done == 0 => (Outcome::Failed, IN_PART, format!("{said}{lack}")),
        None => (Outcome::Partial, IN_PART, format!("{said}{lack}")),
    };
    Assessment { outcome, reason, message, evidence: Some(evidence.clone()), ..Assessment::default() }
}

/// Nothing can be read of it any more.
fn gone(cx: &Context<'_>) -> Assessment {
    let message = format!("{} is gone: there is nothing left to collect", describe(cx.target));
    Assessment { outcome: Outcome::Failed, reason: GONE, message, ..Assessment::default() }
}

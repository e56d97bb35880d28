//! What a status says, as pure functions of what is known.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tourniquet_api::{ActionStatus, IncidentResponse, IncidentResponseStatus, Outcome, PinnedTarget, TargetResult};

use crate::accept;
use crate::action::{self, Act, Contained};
use crate::conditions::{Conditions, Is};
use crate::pass::{Failure, Phase, Results, fit, phase};
use crate::preserve::{self, PRESERVE};
use crate::receipt;

/// The target in one string, for `kubectl get`.
pub(crate) fn describe_target(response: &IncidentResponse) -> String {
    let target = &response.spec.target;
    if let Some(pod) = &target.pod {
        format!("pod {}/{}", pod.namespace, pod.name)
    } else if let Some(pods) = &target.pods {
        accept::describe(pods)
    } else if let Some(namespace) = &target.namespace {
        format!("namespace {}", namespace.name)
    } else {
        format!("node {}", target.node.as_ref().map_or("", |node| &node.name))
    }
}

/// Whether any of its actions isolates: only then is there something to say about `Contained`.
pub(crate) fn isolates(response: &IncidentResponse) -> bool {
    response.spec.actions.iter().any(|action| action.isolate.is_some())
}

/// When the response releases itself.
pub(crate) fn expires_at(response: &IncidentResponse) -> Option<Timestamp> {
    let after = response.spec.expire_after?.get();
    let created = response.metadata.creation_timestamp.as_ref()?.0;
    created.checked_add(after).ok()
}

pub(crate) fn conditions<'a>(
    status: &'a mut IncidentResponseStatus,
    response: &IncidentResponse,
    now: Timestamp,
) -> Conditions<'a> {
    Conditions { list: &mut status.conditions, now, generation: response.metadata.generation }
}

/// Nothing is carried out.
pub(crate) fn refused(
    status: &mut IncidentResponseStatus,
    response: &IncidentResponse,
    now: Timestamp,
    reason: &str,
    message: &str,
) {
    status.actions = response
        .spec
        .actions
        .iter()
        .map(|action| ActionStatus {
            name: action.effective_name().to_owned(),
            outcome: Outcome::Skipped,
            reason: Some("Refused".to_owned()),
            ..ActionStatus::default()
        })
        .collect();
    // What was stored under another schema can have the same name twice, and a status must not.
    let mut names = BTreeSet::new();
    status.actions.retain(|action| names.insert(action.name.clone()));
    let mut conditions = conditions(status, response, now);
    conditions.set("Accepted", Is::False, reason, message);
    conditions.set("Ready", Is::False, reason, message);
    conditions.set("Stalled", Is::True, reason, message);
    conditions.set("Contained", Is::False, reason, "nothing was touched");
    conditions.remove("Reconciling");
}

/// It will be, on these targets; or is planned only, since that was asked for or is all that the operator does.
pub(crate) fn accepted(
    status: &mut IncidentResponseStatus,
    response: &IncidentResponse,
    now: Timestamp,
    targets: Vec<PinnedTarget>,
    plan_only: bool,
) {
    status.targets = targets;
    status.actions = response
        .spec
        .actions
        .iter()
        .map(|action| ActionStatus { name: action.effective_name().to_owned(), ..ActionStatus::default() })
        .collect();
    let (reason, message) = if response.spec.dry_run {
        ("PlanOnly", "the plan is in status.plan; nothing is touched")
    } else if plan_only {
        (
            "PlanOnly",
            "the operator runs in mode PlanOnly: the plan is in status.plan, and nothing is touched; in mode Enforce, create another \
             response to carry it out",
        )
    } else {
        ("Accepted", "the targets are pinned in status.targets")
    };
    conditions(status, response, now).set("Accepted", Is::True, reason, message);
}

/// Whether the action of this name isolates.
fn is_isolation(response: &IncidentResponse, name: &str) -> bool {
    let mut asked = response.spec.actions.iter().filter(|asked| asked.isolate.is_some());
    asked.any(|asked| asked.effective_name() == name)
}

/// Says in the message of an isolation which Services still send clients to what it isolates: they get no answer, and whoever is called for that
/// reads the message first.
pub(crate) fn name_services(status: &mut IncidentResponseStatus, response: &IncidentResponse) {
    let Some(routed) = status.residual.iter().find(|residual| residual.code == receipt::STILL_ROUTED) else { return };
    for action in status.actions.iter_mut().filter(|action| is_isolation(response, &action.name)) {
        if let (Outcome::Done | Outcome::Partial, Some(message)) = (action.outcome, &mut action.message) {
            message.push_str("; ");
            message.push_str(&routed.message);
        }
    }
}

/// Ready, Reconciling, Stalled and Contained of a response that holds, from what became of its actions.
pub(crate) fn holding(
    status: &mut IncidentResponseStatus,
    response: &IncidentResponse,
    now: Timestamp,
    contained: Option<Contained>,
) {
    let worst = status
        .actions
        .iter()
        .find(|action| matches!(action.outcome, Outcome::Pending | Outcome::Running))
        .or_else(|| status.actions.iter().find(|action| action.outcome != Outcome::Done))
        .or(status.actions.last());
    let told = |action: &ActionStatus| {
        let reason = action.reason.clone().unwrap_or_else(|| action.outcome.as_str().to_owned());
        (reason, format!("{}: {}", action.name, action.message.as_deref().unwrap_or(action.outcome.as_str())))
    };
    let outcome = worst.map_or(Outcome::Pending, |action| action.outcome);
    let (reason, message) = worst.map_or_else(|| ("Pending".to_owned(), String::new()), told);
    let isolate = |action: &&ActionStatus| is_isolation(response, &action.name);
    // One that was skipped is no matter where another one of the response holds the same targets.
    let isolations = status.actions.iter().filter(isolate);
    let isolations = isolations.filter(|one| contained != Some(Contained::Held) || one.outcome != Outcome::Skipped);
    let isolation = isolations.max_by_key(|action| rank(action.outcome)).map(told);
    let mut conditions = conditions(status, response, now);
    match outcome {
        Outcome::Pending | Outcome::Running => {
            conditions.set("Ready", Is::False, &reason, message.clone());
            conditions.set("Reconciling", Is::True, &reason, message.clone());
            conditions.remove("Stalled");
        }
        Outcome::Done => {
            conditions.set("Ready", Is::True, &reason, message.clone());
            conditions.remove("Reconciling");
            conditions.remove("Stalled");
        }
        _ => {
            conditions.set("Ready", Is::False, &reason, message.clone());
            conditions.set("Stalled", Is::True, &reason, message.clone());
            conditions.remove("Reconciling");
        }
    }
    // Of the isolation, whatever became of the other actions.
    let (reason, message) = isolation.unwrap_or((reason, message));
    match contained {
        Some(contained) => conditions.set("Contained", is(contained), &reason, message),
        None if isolates(response) && reason == "TargetGone" => {
            conditions.set("Contained", Is::False, "TargetGone", message);
        }
        None => {}
    }
}

/// How little is known to be done.
pub(crate) const fn rank(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Pending | Outcome::Running => 5,
        Outcome::Failed => 4,
        Outcome::Unknown => 3,
        Outcome::Partial => 2,
        Outcome::Skipped => 1,
        Outcome::Done | Outcome::Undone => 0,
    }
}

/// An action is what became of its targets: as bad as the worst, and not finished before the last. What failed on some of several was
/// carried out in part, and what there is nothing to do about on some counts only where that is so of all.
pub(crate) fn summarize(state: &mut ActionStatus, results: Results, now: jiff::Timestamp) {
    let Results { kept, further, worst_further, members, .. } = results;
    let all = || kept.iter().chain(&worst_further);
    let counted = |result: &&TargetResult| result.outcome != Outcome::Skipped;
    // The first of the worst.
    let worst = all().filter(counted).min_by_key(|result| std::cmp::Reverse(rank(result.outcome)));
    let worst = worst.or_else(|| all().next());
    let Some(worst) = worst else {
        state.results = kept;
        return;
    };
    let count = |outcome: Outcome| {
        kept.iter().filter(|result| result.outcome == outcome).count()
            + further.get(&outcome).copied().unwrap_or_default()
    };
    let total = kept.len() + further.values().sum::<usize>();
    let not_carried_out = count(Outcome::Failed) + count(Outcome::Unknown);
    state.outcome = match worst.outcome {
        Outcome::Failed | Outcome::Unknown if not_carried_out < total => Outcome::Partial,
        outcome => outcome,
    };
    // What is in a target says how it is held: by a cut, or by the policies.
    let first_member = kept.get(1).filter(|first| members && first.outcome == worst.outcome);
    state.reason = first_member.unwrap_or(worst).reason.clone();
    let message = worst.message.as_deref().unwrap_or_default();
    // Of what is in a target the target itself is none.
    let (done, all) = if members && kept.first().is_some_and(|own| own.outcome == Outcome::Done) {
        (count(Outcome::Done) - 1, total - 1)
    } else {
        (count(Outcome::Done), total)
    };
    state.message = match (total, done == all) {
        (0 | 1, _) => worst.message.clone(),
        (_, true) if members => Some(format!("{message}; done on all {all} pods that run there")),
        (_, true) => Some(format!("done on all {all}; the first: {message}")),
        (_, false) => Some(format!("done on {done} of {all}; {message}")),
    };
    state.further = further
        .into_iter()
        .map(|(outcome, count)| (outcome.as_str().to_owned(), i32::try_from(count).unwrap_or(i32::MAX)))
        .collect();
    if matches!(worst.outcome, Outcome::Pending | Outcome::Running) {
        state.finished_at = None;
    } else {
        state.finished_at.get_or_insert(Time(now));
    }
    state.results = kept;
}

const fn is(contained: Contained) -> Is {
    match contained {
        Contained::Held => Is::True,
        Contained::Open => Is::False,
        Contained::Unseen => Is::Unknown,
    }
}

/// Nothing is left of it.
pub(crate) fn released(
    status: &mut IncidentResponseStatus,
    response: &IncidentResponse,
    now: Timestamp,
    reason: &str,
    held_by: Option<&str>,
) {
    let stays = |name: &str| {
        let mut asked = response.spec.actions.iter().filter(|asked| asked.effective_name() == name);
        asked.any(|asked| asked.verb().and_then(action::action).is_some_and(Act::stays))
    };
    for action in &mut status.actions {
        if action.outcome == Outcome::Pending {
            action.outcome = Outcome::Skipped;
        } else if action.outcome != Outcome::Skipped && !stays(&action.name) {
            action.outcome = Outcome::Undone;
            action.reason = Some(reason.to_owned());
            action.message = None;
        }
        // Evidence is collected to its end.
        if action.outcome != Outcome::Running {
            action.finished_at.get_or_insert(Time(now));
        }
    }
    status.residual.clear();
    let left = what_stays(status, &stays);
    let mut conditions = conditions(status, response, now);
    conditions.set("Reverted", Is::True, reason, format!("everything that this response put in place is gone{left}"));
    conditions.set("Ready", Is::True, reason, "undone; the record stays until this resource is deleted");
    conditions.remove("Reconciling");
    conditions.remove("Stalled");
    if isolates(response) {
        match held_by {
            Some(other) => {
                conditions.set(
                    "Contained",
                    Is::False,
                    "HeldByOther",
                    format!("response {other} goes on holding the target"),
                );
            }
            None => conditions.set(
                "Contained",
                Is::False,
                reason,
                "this response holds nothing any more; a policy engine can take half a minute to let go",
            ),
        }
    }
}

/// What cannot be put back, for whoever reads that everything is.
fn what_stays(status: &IncidentResponseStatus, stays: &dyn Fn(&str) -> bool) -> String {
    let began = |action: &&ActionStatus| !matches!(action.outcome, Outcome::Skipped | Outcome::Undone);
    let left = status.actions.iter().filter(began).filter(|action| stays(&action.name)).map(|action| {
        let said = action.message.as_deref().unwrap_or_default();
        format!("; what action {} did stays ({said})", action.name)
    });
    left.collect()
}

/// Undo is under way, or waits; `contained` is what is seen of it meanwhile, of a response that isolates.
pub(crate) fn releasing(
    status: &mut IncidentResponseStatus,
    response: &IncidentResponse,
    now: Timestamp,
    reason: &str,
    message: &str,
    contained: Option<Contained>,
) {
    let mut conditions = conditions(status, response, now);
    if let Some(contained) = contained {
        conditions.set("Contained", is(contained), reason, message);
    }
    conditions.set("Reverted", Is::False, reason, message);
    conditions.set("Ready", Is::False, reason, message);
    conditions.set("Reconciling", Is::True, reason, message);
    conditions.remove("Stalled");
}

/// The reason of an action whose effect failed, until it is done.
pub(crate) const EFFECT_FAILED: &str = "EffectFailed";
/// The reason of an undo whose effect failed, until it is done.
pub(crate) const UNDO_FAILED: &str = "UndoFailed";

fn tried_again(first: &Failure, failures: usize) -> String {
    match failures {
        1 => format!("{}; it is tried again", first.message),
        more => format!("{} (and {} more); they are tried again", first.message, more - 1),
    }
}

/// The status of a response some of whose effects failed. They are tried again; a success overwrites this.
#[must_use]
pub fn report_failures(
    response: &IncidentResponse,
    status: &IncidentResponseStatus,
    undoing: bool,
    failures: &[Failure],
    now: Timestamp,
) -> IncidentResponseStatus {
    let mut status = status.clone();
    let (preserving, failures): (Vec<&Failure>, Vec<&Failure>) =
        failures.iter().partition(|failure| failure.action.as_deref() == Some(PRESERVE));
    if !undoing {
        // No action's, and no reason to doubt what the actions came to.
        for failure in preserving {
            let target = status.targets.iter().find(|target| failure.target.as_ref() == Some(&target.uid));
            status.residual.extend(target.map(|target| preserve::not_preserved(target, &failure.message)));
        }
    }
    let Some(first) = failures.first() else {
        fit(&mut status);
        return status;
    };
    let message = tried_again(first, failures.len());
    if undoing {
        let names: BTreeSet<&str> = failures.iter().filter_map(|failure| failure.action.as_deref()).collect();
        let message = if response.spec.actions.len() > 1 && !names.is_empty() {
            format!("{message}; not undone yet: {}", names.into_iter().collect::<Vec<_>>().join(", "))
        } else {
            message
        };
        let mut conditions = conditions(&mut status, response, now);
        conditions.set("Reverted", Is::False, UNDO_FAILED, message.clone());
        conditions.set("Ready", Is::False, UNDO_FAILED, message.clone());
        conditions.set("Stalled", Is::True, UNDO_FAILED, message);
        conditions.remove("Reconciling");
        fit(&mut status);
        return status;
    }
    for action in &mut status.actions {
        if !failures.iter().any(|failure| failure.action.as_ref() == Some(&action.name)) {
            continue;
        }
        let mut results = std::mem::take(&mut action.results);
        for result in &mut results {
            let is_of = |failure: &&&Failure| {
                failure.action.as_ref() == Some(&action.name)
                    && failure.target.as_ref().is_none_or(|target| *target == result.target_uid)
            };
            let mut failures = failures.iter().filter(is_of);
            let Some(first) = failures.next() else { continue };
            result.outcome = Outcome::Failed;
            result.reason = Some(EFFECT_FAILED.to_owned());
            result.message = Some(tried_again(first, 1 + failures.count()));
        }
        summarize(action, Results::of(results), now);
    }
    // What did work may contain the target all the same; nobody has looked.
    holding(&mut status, response, now, isolates(response).then_some(Contained::Unseen));
    fit(&mut status);
    status
}

/// The status of a response of which something that has to be seen cannot be looked at now. It is tried again.
#[must_use]
pub fn unobservable(response: &IncidentResponse, cause: &str, now: Timestamp) -> IncidentResponseStatus {
    let mut status = response.status.clone().unwrap_or_default();
    let phase = phase(response, &status, now);
    if matches!(phase, Phase::Refused | Phase::Planned | Phase::Released) {
        return status;
    }
    let message = format!("{cause}; it is tried again");
    status.observed_generation = response.metadata.generation;
    status.target = Some(describe_target(response));
    let mut conditions = conditions(&mut status, response, now);
    if phase == Phase::Releasing {
        conditions.set("Reverted", Is::False, "CannotObserve", message.clone());
    }
    if isolates(response) && phase != Phase::Unaccepted {
        conditions.set("Contained", Is::Unknown, "CannotObserve", message.clone());
    }
    conditions.set("Ready", Is::False, "CannotObserve", message.clone());
    conditions.set("Reconciling", Is::True, "CannotObserve", message);
    conditions.remove("Stalled");
    fit(&mut status);
    status
}

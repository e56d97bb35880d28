//! What a status says, as pure functions of what is known.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tourniquet_api::{ActionStatus, IncidentResponse, IncidentResponseStatus, Outcome, PinnedTarget};

use crate::action::Contained;
use crate::conditions::{Conditions, Is};
use crate::pass::Failure;

/// The target in one string, for `kubectl get`.
pub(crate) fn describe_target(response: &IncidentResponse) -> String {
    let target = &response.spec.target;
    if let Some(pod) = &target.pod {
        format!("pod {}/{}", pod.namespace, pod.name)
    } else if let Some(pods) = &target.pods {
        format!("pods {}", pods.namespace)
    } else if let Some(namespace) = &target.namespace {
        format!("namespace {}", namespace.name)
    } else {
        format!("node {}", target.node.as_ref().map_or("", |node| &node.name))
    }
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
    let mut conditions = conditions(status, response, now);
    conditions.set("Accepted", Is::False, reason, message);
    conditions.set("Ready", Is::False, reason, message);
    conditions.set("Stalled", Is::True, reason, message);
    conditions.set("Contained", Is::False, reason, "nothing was touched");
    conditions.remove("Reconciling");
}

/// It will be, on this target.
pub(crate) fn accepted(
    status: &mut IncidentResponseStatus,
    response: &IncidentResponse,
    now: Timestamp,
    target: PinnedTarget,
) {
    status.targets = vec![target];
    status.actions = response
        .spec
        .actions
        .iter()
        .map(|action| ActionStatus { name: action.effective_name().to_owned(), ..ActionStatus::default() })
        .collect();
    let (reason, message) = if response.spec.dry_run {
        ("PlanOnly", "the plan is in status.plan; nothing is touched")
    } else {
        ("Accepted", "the targets are pinned in status.targets")
    };
    conditions(status, response, now).set("Accepted", Is::True, reason, message);
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
    let (outcome, reason, message) = worst.map_or((Outcome::Pending, "Pending".to_owned(), String::new()), |action| {
        (
            action.outcome,
            action.reason.clone().unwrap_or_else(|| action.outcome.as_str().to_owned()),
            format!("{}: {}", action.name, action.message.as_deref().unwrap_or(action.outcome.as_str())),
        )
    });
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
    match contained {
        Some(contained) => conditions.set("Contained", is(contained), &reason, message),
        None if reason == "TargetGone" => conditions.set("Contained", Is::False, "TargetGone", message),
        None => {}
    }
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
    for action in &mut status.actions {
        if action.outcome != Outcome::Skipped {
            action.outcome = Outcome::Undone;
            action.reason = Some(reason.to_owned());
            action.message = None;
        }
        action.finished_at.get_or_insert(Time(now));
    }
    status.residual.clear();
    let isolates = response.spec.actions.iter().any(|action| action.isolate.is_some());
    let mut conditions = conditions(status, response, now);
    conditions.set("Reverted", Is::True, reason, "everything that this response put in place is gone");
    conditions.set("Ready", Is::True, reason, "undone; the record stays until this resource is deleted");
    conditions.remove("Reconciling");
    conditions.remove("Stalled");
    if isolates {
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

/// The status of a response some of whose effects failed. They are retried; a success overwrites this.
#[must_use]
pub fn report_failures(
    response: &IncidentResponse,
    status: &IncidentResponseStatus,
    undoing: bool,
    failures: &[Failure],
    now: Timestamp,
) -> IncidentResponseStatus {
    let mut status = status.clone();
    let Some(first) = failures.first() else { return status };
    let message = match failures.len() {
        1 => format!("{}; it is tried again", first.message),
        more => format!("{} (and {} more); they are tried again", first.message, more - 1),
    };
    if !undoing {
        for failure in failures {
            if let Some(action) = status.actions.iter_mut().find(|action| Some(&action.name) == failure.action.as_ref())
            {
                action.outcome = Outcome::Failed;
                action.reason = Some("EffectFailed".to_owned());
                action.message = Some(failure.message.clone());
            }
        }
    }
    let reason = if undoing { "UndoFailed" } else { "EffectFailed" };
    let mut conditions = conditions(&mut status, response, now);
    if undoing {
        conditions.set("Reverted", Is::False, reason, message.clone());
    }
    conditions.set("Ready", Is::False, reason, message.clone());
    conditions.set("Stalled", Is::True, reason, message);
    conditions.remove("Reconciling");
    status
}

/// The status of a stored object that this version cannot read: refused, with the reason.
#[must_use]
pub fn unreadable(error: &str, generation: Option<i64>, now: Timestamp) -> IncidentResponseStatus {
    let mut status = IncidentResponseStatus { observed_generation: generation, ..IncidentResponseStatus::default() };
    let message: String =
        format!("this version of tourniquet cannot read the object: {error}").chars().take(1024).collect();
    let mut conditions = Conditions { list: &mut status.conditions, now, generation };
    conditions.set("Accepted", Is::False, "Invalid", message.clone());
    conditions.set("Ready", Is::False, "Invalid", message.clone());
    conditions.set("Stalled", Is::True, "Invalid", message);
    conditions.set("Contained", Is::False, "Invalid", "nothing was touched");
    status
}

//! The order of effects. The list of actions decides outcomes; what is done to one object has an order of its own.

use std::collections::BTreeSet;

use tourniquet_api::{IncidentResponse, IncidentResponseStatus};

use super::Step;
use crate::effect::{Effect, Kind};
use crate::fields::merge;
use crate::status::EFFECT_FAILED;

/// The steps in their order.
pub(super) struct Arranged {
    pub(super) steps: Vec<Step>,
    /// The actions that wait for another one's step, to be planned again after it.
    pub(super) waiting: BTreeSet<String>,
}

/// The steps of all actions, as they are carried out: the cut before the policies, and labels last, since from a change of labels on
/// Cilium skips policy changes for half a minute. Undone in the same order, but for the cut, which goes last.
///
/// What one manager applies to one object is one apply: the second would withdraw what the first one put there.
pub(super) fn arranged(
    steps: Vec<Step>,
    releasing: bool,
    response: &IncidentResponse,
    status: &IncidentResponseStatus,
) -> Arranged {
    let failed = status.actions.iter().filter(|action| action.reason.as_deref() == Some(EFFECT_FAILED));
    let failed: BTreeSet<&str> = failed.map(|action| action.name.as_str()).collect();
    let isolates = |step: &Step| {
        response.spec.actions.iter().any(|action| action.effective_name() == step.action && action.isolate.is_some())
    };
    let mut arranged: Vec<Step> = Vec::new();
    let mut waiting = BTreeSet::new();
    for step in steps {
        let same = |other: &&mut Step| other.effect == step.effect || is_one_apply(&other.effect, &step.effect);
        let Some(other) = arranged.iter_mut().find(same) else {
            arranged.push(step);
            continue;
        };
        // What is refused must not take the other along: what failed waits for what did not, and is tried by itself after that.
        let fails = |step: &Step| failed.contains(step.action.as_str());
        if !releasing && fails(other) {
            waiting.insert(std::mem::replace(other, step).action);
            continue;
        }
        if !releasing && fails(&step) {
            waiting.insert(step.action);
            continue;
        }
        if other.target != step.target {
            // The policies that several pods have together.
            other.target = None;
        }
        if let (Effect::Apply { fields: into, .. }, Effect::Apply { fields, .. }) = (&mut other.effect, &step.effect) {
            merge(into, fields);
        }
        // If it fails, the isolation is what is tried by itself next.
        if isolates(other) {
            other.action = step.action;
        }
    }
    arranged.sort_by_key(|step| rank(&step.effect, releasing));
    Arranged { steps: arranged, waiting }
}

fn is_one_apply(one: &Effect, other: &Effect) -> bool {
    match (one, other) {
        (Effect::Apply { object, manager, .. }, Effect::Apply { object: of, manager: by, .. })
        | (Effect::Withdraw { object, manager }, Effect::Withdraw { object: of, manager: by }) => {
            object == of && manager == by
        }
        _ => false,
    }
}

const fn rank(effect: &Effect, releasing: bool) -> u8 {
    match (effect, effect.object().kind) {
        (_, Kind::Containment) if releasing => 4,
        (_, Kind::Containment) => 0,
        (_, Kind::NetworkPolicy | Kind::CiliumClusterwideNetworkPolicy | Kind::Tier | Kind::GlobalNetworkPolicy) => 1,
        // It holds for the version that was seen, which an apply changes.
        (Effect::Patch { .. }, _) => 2,
        _ => 3,
    }
}

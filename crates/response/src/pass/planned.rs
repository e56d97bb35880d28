//! The plan of a dry run: what would be done at once, what would follow, and what it would meet.

use jiff::SignedDuration;
use tourniquet_api::{IncidentResponse, IncidentResponseStatus, PlannedEffect, Residual};

use super::{Step, order, step};
use crate::action::{Act, Context};
use crate::effect::{Effect, ObjectRef};
use crate::isolate::containment::FOLLOWS;
use crate::world::Unread;

/// As long after everything is in place, nothing that follows is still waited for.
const BY_THEN: SignedDuration = SignedDuration::from_hours(1);

/// When what preserves the targets follows.
const AFTER_THAT: &str = "once an action has come to something";

/// What was planned so far.
#[derive(Default)]
pub(super) struct Planned {
    at_once: Vec<Step>,
    follows: Vec<Step>,
    preserving: Vec<Step>,
    meets: Vec<(ObjectRef, String)>,
}

impl Planned {
    /// Adds an action on one target. What is known to stay open of it is returned.
    pub(super) fn add(&mut self, act: &dyn Act, name: &str, mut cx: Context<'_>) -> Result<Vec<Residual>, Unread> {
        let next = act.plan(&cx)?;
        self.meets.extend(act.meets(&cx)?);
        cx.applied_at -= BY_THEN;
        let mut later = act.plan(&cx)?.effects;
        later.retain(|effect| !next.effects.contains(effect));
        let step = |effect: Effect| step(name, cx.target, effect);
        self.at_once.extend(next.effects.into_iter().map(step));
        self.follows.extend(later.into_iter().map(step));
        Ok(next.residual)
    }

    /// Whether nothing would be put in place.
    pub(super) fn is_empty(&self) -> bool {
        self.at_once.is_empty() && self.follows.is_empty()
    }

    /// Adds what keeps the targets from being chosen for removal.
    pub(super) fn preserve(&mut self, steps: impl Iterator<Item = Step>) {
        self.preserving.extend(steps);
    }

    /// All of it, in the order in which it would be done.
    pub(super) fn publish(self, response: &IncidentResponse, status: &IncidentResponseStatus) -> Vec<PlannedEffect> {
        let Self { at_once, follows, preserving, meets } = self;
        let arranged = |steps| order::arranged(steps, false, response, status).steps.into_iter();
        let steps =
            arranged(at_once).map(|step| (step, None)).chain(arranged(follows).map(|step| (step, Some(FOLLOWS))));
        let steps = steps.chain(preserving.into_iter().map(|step| (step, Some(AFTER_THAT))));
        let planned = steps.map(|(Step { action, effect, .. }, when)| PlannedEffect {
            action,
            verb: effect.verb().to_owned(),
            object: effect.object().to_string(),
            change: effect.change(),
            when: when.map(str::to_owned),
            meets: if when == Some(AFTER_THAT) { None } else { met(effect.object(), &meets) },
        });
        planned.collect()
    }
}

fn met(object: &ObjectRef, meets: &[(ObjectRef, String)]) -> Option<String> {
    // By name: an object of ours has no UID yet, and one that is replaced has.
    let same = |other: &ObjectRef| {
        (other.kind, &other.namespace, &other.name) == (object.kind, &object.namespace, &object.name)
    };
    let said: Vec<&str> = meets.iter().filter(|(of, _)| same(of)).map(|(_, said)| said.as_str()).collect();
    (!said.is_empty()).then(|| said.join("; "))
}

//! What an action is. One file per action implements [`Act`]; [`ACTIONS`] is where it is registered.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::rbac::v1::PolicyRule;
use std::net::SocketAddr;

use tourniquet_api::{
    Action, Assurance, Change, Connections, EvidenceResult, IncidentResponseSpec, Outcome, PinnedTarget, Probe,
    Residual, RunResult, StoreRef, TargetResult, Verb,
};

use crate::collect::COLLECT;
use crate::cordon::CORDON;
use crate::effect::{Effect, Kind, ObjectRef};
use crate::isolate::ISOLATE;
use crate::label::LABEL;
use crate::run::RUN;
use crate::settings::Agents;
use crate::target;
use crate::task::{Custody, TaskKey};
use crate::world::{Read, Unread, World};

/// Every action that is built. RBAC, acceptance and dispatch derive from this list.
pub(crate) const ACTIONS: &[&dyn Act] = &[&LABEL, &ISOLATE, &CORDON, &COLLECT, &RUN];

/// The action of a verb; `None` when it is not built yet.
pub(crate) fn action(verb: Verb) -> Option<&'static dyn Act> {
    ACTIONS.iter().copied().find(|action| action.verb() == verb)
}

/// What an action does to one target.
pub(crate) trait Act: Sync {
    /// The verb in the API.
    fn verb(&self) -> Verb;

    /// The kinds of target that it is carried out on.
    fn targets(&self) -> &'static [Kind];

    /// What is against carrying it out, beside what speaks against the target as such.
    fn refuses(&self, _: &Asked<'_>) -> Result<Option<Refusal>, Unread> {
        Ok(None)
    }

    /// Why it cannot be carried out on this target, of which there may be others. It is then that target's result; where it is so of
    /// all targets, the response is refused.
    fn passes_over(&self, _: &Asked<'_>) -> Result<Option<Refusal>, Unread> {
        Ok(None)
    }

    /// What else it is carried out on, beside the target: what is in it now.
    fn members(&self, _: &Context<'_>, _undoing: bool) -> Result<Vec<PinnedTarget>, Unread> {
        Ok(Vec::new())
    }

    /// What it needs to be allowed to do, and no more.
    fn rbac(&self) -> Vec<PolicyRule>;

    /// What of that it takes when it is asked for like this, with agents or without.
    fn rbac_of(&self, _asked: &Action, _agents: bool) -> Vec<PolicyRule> {
        self.rbac()
    }

    /// What it looks at, as far as that is known beforehand: read together, not one after the other.
    fn reads(&self, cx: &Context<'_>, undoing: bool) -> Vec<Read>;

    /// What to do so that the action is in place; empty when it is.
    fn plan(&self, cx: &Context<'_>) -> Result<Plan, Unread>;

    /// What the plan's effects would defeat, join, or be defeated by, each with the object that it is said of. For a dry run: who
    /// carries it out sees what comes of it instead.
    fn meets(&self, _: &Context<'_>) -> Result<Vec<(ObjectRef, String)>, Unread> {
        Ok(Vec::new())
    }

    /// What became of it, once the plan is empty.
    fn assess(&self, cx: &Context<'_>) -> Result<Assessment, Unread>;

    /// For how long the actions after it, where they have not begun, wait for it at most.
    fn holds_up(&self, _: &Context<'_>) -> Result<Option<SignedDuration>, Unread> {
        Ok(None)
    }

    /// Whether what it came to stays what it was when the response is released: what was done cannot be taken back.
    fn stays(&self) -> bool {
        false
    }

    /// What to do so that nothing of it is left; empty when nothing is.
    fn undo(&self, cx: &Context<'_>) -> Result<Undo, Unread>;
}

/// An action that was asked for.
pub(crate) struct Asked<'a> {
    /// What was seen.
    pub(crate) world: &'a World,
    /// The whole response.
    pub(crate) spec: &'a IncidentResponseSpec,
    /// The action.
    pub(crate) action: &'a Action,
    /// The target, as it would be pinned.
    pub(crate) target: &'a PinnedTarget,
    /// The pod, where the target is one.
    pub(crate) pod: Option<&'a Pod>,
}

/// Why a response is not carried out.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// The condition's reason.
    pub(crate) reason: &'static str,
    /// What is wrong, and what to do instead.
    pub(crate) message: String,
}

/// One action of one response on one target.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    /// What was seen.
    pub(crate) world: &'a World,
    /// The response's UID, from which every name derives.
    pub(crate) response_uid: &'a str,
    /// `namespace/name` of the response, for people who find its traces.
    pub(crate) response_name: &'a str,
    /// What was asked for. None: the stored response cannot be read, and all that is left is to undo it.
    pub(crate) action: Option<&'a Action>,
    /// The target, pinned when the response was accepted; or what is in it now.
    pub(crate) target: &'a PinnedTarget,
    /// The namespace that was asked for, where the target is a pod in it.
    pub(crate) namespace: Option<&'a PinnedTarget>,
    /// Whether there are so many targets that what belongs to them is listed, and not read one by one.
    pub(crate) listed: bool,
    /// The whole of what was asked for; `None` like `action`.
    pub(crate) spec: Option<&'a IncidentResponseSpec>,
    /// Whether the response is deleted: what goes on beside it ends with it.
    pub(crate) deleted: bool,
    /// How many outputs of commands share the room that a status has for them.
    pub(crate) outputs: usize,
    /// Whether programs may be started in pods.
    pub(crate) may_exec: bool,
    /// The agents, where there are any.
    pub(crate) agents: Option<&'a Agents>,
    /// What was reported of this target before.
    pub(crate) before: Option<&'a TargetResult>,
    /// Since when everything is in place: what is seen before that is no verdict.
    pub(crate) applied_at: Timestamp,
}

impl<'a> Context<'a> {
    /// The same of something that is in the target.
    pub(crate) fn of_member(&self, member: &'a PinnedTarget, before: Option<&'a TargetResult>) -> Self {
        Self {
            target: member,
            namespace: Some(self.target),
            listed: true,
            before,
            applied_at: before.and_then(|before| before.applied_at.as_ref()).map_or(self.world.now, |at| at.0),
            ..*self
        }
    }

    /// The task by which this action is carried out on this target.
    pub(crate) fn task(&self, undo: bool) -> TaskKey {
        TaskKey {
            response: self.response_uid.to_owned(),
            action: self.action.map_or("", Action::effective_name).to_owned(),
            target: self.target.uid.clone(),
            undo,
        }
    }

    /// Where evidence of this target goes, and what its record says of the circumstances.
    pub(crate) fn custody(&self, store: &StoreRef) -> Custody {
        Custody {
            store: store.name.clone(),
            node: self.target.node.clone(),
            response: self.response_name.to_owned(),
            incident: self.spec.and_then(|spec| spec.incident.clone()).unwrap_or_default(),
            requested_by: self.spec.and_then(|spec| spec.requested_by.clone()),
        }
    }

    /// The pinned pod; `None` when it is gone. One of its name with another UID is another one.
    pub(crate) fn pod(&self) -> Result<Option<&'a Pod>, Unread> {
        let pod = self.world.pod(self.target.namespace.as_deref().unwrap_or_default(), &self.target.name)?;
        Ok(pod.filter(|pod| pod.metadata.uid.as_deref() == Some(&self.target.uid)))
    }

    /// How long everything has been in place.
    pub(crate) fn elapsed(&self) -> SignedDuration {
        self.world.now.duration_since(self.applied_at)
    }
}

/// What to do next.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// In this order; a failure stops what follows.
    pub(crate) effects: Vec<Effect>,
    /// Positive controls that were made before the first effect, to be reported before it.
    pub(crate) probes: Vec<Probe>,
    /// The journal: what undo needs and cannot derive, stored before the first effect.
    pub(crate) changes: Vec<Change>,
    /// What is known to stay open, or to come of it, before anything is done: said before the first effect.
    pub(crate) residual: Vec<Residual>,
    /// What takes away what is no longer needed. It has no part in whether the action is in place.
    pub(crate) tidying: Vec<Effect>,
}

/// What to undo next.
#[derive(Debug, Default)]
pub(crate) struct Undo {
    /// In this order; a failure does not stop what follows.
    pub(crate) effects: Vec<Effect>,
    /// Why undo waits, with the reason for the condition. Nothing is undone before it is gone.
    pub(crate) waits: Option<(&'static str, String)>,
    /// What cannot be undone by us, with who has to. Everything else is undone all the same.
    pub(crate) blocked: Option<String>,
    /// Another response that goes on holding the target.
    pub(crate) held_by: Option<String>,
    /// The journal: what is begun so that it is undone, stored before the first effect.
    pub(crate) changes: Vec<Change>,
    /// What became of the action meanwhile, where that stays after the release.
    pub(crate) settled: Option<Assessment>,
}

/// Whether a target is contained by this response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Contained {
    /// Seen to be held.
    Held,
    /// Cannot be seen.
    Unseen,
    /// Known to be open.
    Open,
}

/// The reason of what somebody has changed after it was put in place. That is kept, and nothing is applied again.
pub(crate) const DRIFTED: &str = "Drifted";

/// Whether it was seen in place, of what is put in place once and not kept up against others.
pub(crate) fn was_in_place(before: Option<&TargetResult>) -> bool {
    before.is_some_and(|before| before.outcome == Outcome::Done || before.reason.as_deref() == Some(DRIFTED))
}

/// Whether nothing more will become of what is carried out once.
pub(crate) fn is_decided(before: Option<&TargetResult>) -> bool {
    before.is_some_and(|before| !matches!(before.outcome, Outcome::Pending | Outcome::Running))
}

/// What was decided before, which nothing changes any more. A reason that is none of these is that of a newer version.
pub(crate) fn kept(
    before: Option<&TargetResult>,
    reasons: impl IntoIterator<Item = &'static str>,
    otherwise: &'static str,
) -> Option<Assessment> {
    let before = before.filter(|before| is_decided(Some(before)))?;
    let known = reasons.into_iter().find(|reason| before.reason.as_deref() == Some(reason));
    Some(Assessment {
        outcome: before.outcome,
        reason: known.unwrap_or(otherwise),
        message: before.message.clone().unwrap_or_default(),
        ..Assessment::default()
    })
}

/// What may be said of a target that is no longer there.
pub(crate) fn gone(cx: &Context<'_>) -> Assessment {
    Assessment {
        outcome: if was_in_place(cx.before) { Outcome::Done } else { Outcome::Failed },
        reason: "TargetGone",
        message: format!("{} is gone; there is nothing left to act on", target::describe(cx.target)),
        ..Assessment::default()
    }
}

/// What became of an action on one target.
#[derive(Debug, Default)]
pub(crate) struct Assessment {
    pub(crate) outcome: Outcome,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) assurance: Assurance,
    pub(crate) probes: Vec<Probe>,
    /// The connections that were open when the target was cut off, where somebody listed them.
    pub(crate) connections: Option<Connections>,
    /// What a command wrote.
    pub(crate) run: Option<RunResult>,
    /// What was collected.
    pub(crate) evidence: Option<EvidenceResult>,
    pub(crate) contained: Option<Contained>,
    pub(crate) residual: Vec<Residual>,
    /// Addresses to go on trying, so that the next look knows whether they answer.
    pub(crate) watch: Vec<SocketAddr>,
    /// When to look again, when nothing else gives cause to.
    pub(crate) again_after: Option<SignedDuration>,
}

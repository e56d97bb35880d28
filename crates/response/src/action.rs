//! What an action is. One file per action implements [`Act`]; [`ACTIONS`] is where it is registered.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::rbac::v1::PolicyRule;
use std::net::SocketAddr;

use tourniquet_api::{Assurance, Connections, Outcome, PinnedTarget, Probe, Residual, TargetResult, Verb};

use crate::effect::Effect;
use crate::isolate::ISOLATE;
use crate::settings::Agents;
use crate::world::{Read, Unread, World};

/// Every action that is built. RBAC, acceptance and dispatch derive from this list.
pub(crate) const ACTIONS: &[&dyn Act] = &[&ISOLATE];

/// The action of a verb; `None` when it is not built yet.
pub(crate) fn action(verb: Verb) -> Option<&'static dyn Act> {
    ACTIONS.iter().copied().find(|action| action.verb() == verb)
}

/// What an action does to one target.
pub(crate) trait Act: Sync {
    /// The verb in the API.
    fn verb(&self) -> Verb;

    /// What it needs to be allowed to do, and no more.
    fn rbac(&self) -> Vec<PolicyRule>;

    /// What it looks at, as far as that is known beforehand: read together, not one after the other.
    fn reads(&self, cx: &Context<'_>, undoing: bool) -> Vec<Read>;

    /// What to do so that the action is in place; empty when it is.
    fn plan(&self, cx: &Context<'_>) -> Result<Plan, Unread>;

    /// What became of it, once the plan is empty.
    fn assess(&self, cx: &Context<'_>) -> Result<Assessment, Unread>;

    /// What to do so that nothing of it is left; empty when nothing is.
    fn undo(&self, cx: &Context<'_>) -> Result<Undo, Unread>;
}

/// One action of one response on one target.
pub(crate) struct Context<'a> {
    /// What was seen.
    pub(crate) world: &'a World,
    /// The response's UID, from which every name derives.
    pub(crate) response_uid: &'a str,
    /// `namespace/name` of the response, for people who find its traces.
    pub(crate) response_name: &'a str,
    /// The target, pinned when the response was accepted.
    pub(crate) target: &'a PinnedTarget,
    /// The agents, where there are any.
    pub(crate) agents: Option<&'a Agents>,
    /// What was reported of this target before.
    pub(crate) before: Option<&'a TargetResult>,
    /// Since when everything is in place: what is seen before that is no verdict.
    pub(crate) applied_at: Timestamp,
}

impl Context<'_> {
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
    /// What is known to stay open, or to come of it, before anything is done: said before the first effect.
    pub(crate) residual: Vec<Residual>,
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

/// What became of an action on one target.
#[derive(Debug)]
pub(crate) struct Assessment {
    pub(crate) outcome: Outcome,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) assurance: Assurance,
    pub(crate) probes: Vec<Probe>,
    /// The connections that were open when the target was cut off, where somebody listed them.
    pub(crate) connections: Option<Connections>,
    pub(crate) contained: Option<Contained>,
    pub(crate) residual: Vec<Residual>,
    /// Addresses to go on trying, so that the next look knows whether they answer.
    pub(crate) watch: Vec<SocketAddr>,
    /// When to look again, when nothing else gives cause to.
    pub(crate) again_after: Option<SignedDuration>,
}

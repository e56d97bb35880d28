//! One look at one response: what to report, what to do, when to look again.

mod hold;
mod order;
mod planned;
mod receipt;
mod recorded;
mod release;
mod results;
mod size;

use std::net::SocketAddr;

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use tourniquet_api::{Action, IncidentResponse, IncidentResponseStatus, Outcome, PinnedTarget, TargetResult, names};

pub(crate) use self::recorded::RELEASE_RECORDED;
pub(crate) use self::results::Results;
pub(crate) use self::size::{fit, too_large};
use crate::accept::{self, Decision};
use crate::action::{self, Context};
use crate::conditions;
use crate::effect::Effect;
use crate::fields::Fields;
use crate::isolate;
use crate::power::Power;
use crate::run;
use crate::settings::{Agents, Settings};
use crate::status;
use crate::target;
use crate::world::{PeerResponse, Unread, World};

/// Where a response is in its life. Derived from the object each time, never stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing was decided.
    Unaccepted,
    /// Refused; final.
    Refused,
    /// A dry run, planned; final.
    Planned,
    /// Carried out and kept up.
    Holding,
    /// Deleted, released or expired; being undone.
    Releasing,
    /// Undone.
    Released,
}

/// One effect, and the action that wants it.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The action's name in status.
    pub action: String,
    /// The UID of the target that it is done for; `None` where it is done for several.
    pub target: Option<String>,
    /// The effect.
    pub effect: Effect,
}

impl Step {
    /// That it did not work.
    #[must_use]
    pub fn failed(&self, message: String) -> Failure {
        Failure { action: Some(self.action.clone()), target: self.target.clone(), message }
    }
}

/// Something that did not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The action's name, where one is to blame.
    pub action: Option<String>,
    /// The UID of its target, where one of them is.
    pub target: Option<String>,
    /// What happened, to which object, and what to do next.
    pub message: String,
}

/// What one look comes to. The order for whoever carries it out: status, finalizer, steps, and look again if there were any. The finalizer of a new response can
/// come first ([`finalizer_ahead`]), and that of a refused one goes first ([`Pass::finalizer_goes_first`]).
#[derive(Clone, Debug, PartialEq)]
pub struct Pass {
    /// Where the response is.
    pub phase: Phase,
    /// The status to write when it differs from the stored one: always before the steps, since it pins what they act on.
    pub status: IncidentResponseStatus,
    /// Whether the finalizer has to be there: before the first step, and until nothing is left to undo.
    pub finalizer: bool,
    /// What to do. While holding, a failure stops what follows; while releasing it does not.
    pub steps: Vec<Step>,
    /// Addresses to go on trying in the background; an answer that changes is a reason to look again.
    pub watch: Vec<SocketAddr>,
    /// When to look again, when nothing else gives cause to.
    pub again_after: Option<SignedDuration>,
}

impl Pass {
    /// Whether the finalizer is taken off before the status is written: of a refused response there is nothing to undo, and whoever reads that it
    /// was refused finds that nobody holds it or writes to it any more.
    #[must_use]
    pub fn finalizer_goes_first(&self) -> bool {
        self.phase == Phase::Refused
    }
}

/// Decides what to do about a response.
///
/// # Errors
/// [`Unread`] names what has to be looked at first; look, and call again with the larger world.
pub fn pass(response: &IncidentResponse, world: &World, settings: &Settings) -> Result<Pass, Unread> {
    let mut pass = Pass {
        phase: Phase::Unaccepted,
        status: response.status.clone().unwrap_or_default(),
        finalizer: false,
        steps: Vec::new(),
        watch: Vec::new(),
        again_after: None,
    };
    pass.phase = phase(response, &pass.status, world.now);
    if pass.phase == Phase::Unaccepted {
        if response.metadata.deletion_timestamp.is_some() {
            // Nothing was done before it was accepted, so nothing is to be undone.
            return Ok(pass);
        }
        match accept::decide(response, world, settings)? {
            Decision::Refused { reason, message } => {
                status::refused(&mut pass.status, response, world.now, reason, &message);
            }
            Decision::Accepted(targets) => {
                let mode = settings.blast_radius.plan_only;
                status::accepted(&mut pass.status, response, world.now, targets, mode);
            }
        }
        pass.phase = phase(response, &pass.status, world.now);
    }
    pass.status.observed_generation = response.metadata.generation;
    pass.status.target = Some(status::describe_target(response));
    if !undo_has_begun(&pass.status) {
        pass.status.expires_at = status::expires_at(response).map(Time);
    }

    let look = Look {
        response,
        world,
        agents: settings.agents.as_ref(),
        may_exec: !settings.powers_off.contains(&Power::Exec),
        uid: response.metadata.uid.as_deref().unwrap_or_default(),
        name: full_name(&response.metadata),
    };
    match pass.phase {
        Phase::Unaccepted | Phase::Refused => {}
        Phase::Released => look.settle(&mut pass)?,
        Phase::Planned => look.plan_only(&mut pass)?,
        Phase::Holding => look.hold(&mut pass)?,
        Phase::Releasing => look.release(&mut pass)?,
    }
    size::fit(&mut pass.status);
    Ok(pass)
}

/// `namespace/name`.
pub(crate) fn full_name(metadata: &ObjectMeta) -> String {
    format!("{}/{}", metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
}

pub(crate) fn phase(response: &IncidentResponse, status: &IncidentResponseStatus, now: jiff::Timestamp) -> Phase {
    let Some(accepted) = conditions::find(&status.conditions, "Accepted") else { return Phase::Unaccepted };
    if accepted.status != "True" {
        return Phase::Refused;
    }
    // Decided by what was stored, not by what the spec says now.
    if accepted.reason == "PlanOnly" {
        return Phase::Planned;
    }
    if conditions::is_true(&status.conditions, "Reverted") {
        return Phase::Released;
    }
    let deleted = response.metadata.deletion_timestamp.is_some();
    if deleted || response.spec.release.unwrap_or(false) || expired(response, now) || undo_has_begun(status) {
        return Phase::Releasing;
    }
    Phase::Holding
}

/// Whether nothing more is done about a response, whatever happens to its targets.
pub(crate) fn rests(response: &IncidentResponse) -> bool {
    let conditions = response.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let accepted = conditions::find(conditions, "Accepted");
    let carried_out = accepted.is_none_or(|accepted| accepted.status == "True" && accepted.reason != "PlanOnly");
    !carried_out || conditions::is_true(conditions, "Reverted")
}

/// From here on there is no way back: an `expireAfter` that is made longer now would contain anew what was let go in part.
fn undo_has_begun(status: &IncidentResponseStatus) -> bool {
    conditions::find(&status.conditions, "Reverted").is_some()
}

fn expired(response: &IncidentResponse, now: jiff::Timestamp) -> bool {
    status::expires_at(response).is_some_and(|at| at <= now)
}

/// One response, and what was seen.
struct Look<'a> {
    response: &'a IncidentResponse,
    world: &'a World,
    agents: Option<&'a Agents>,
    may_exec: bool,
    uid: &'a str,
    name: String,
}

fn step(action: &str, target: &PinnedTarget, effect: Effect) -> Step {
    Step { action: action.to_owned(), target: Some(target.uid.clone()), effect }
}

/// From so many targets on, what belongs to them is listed rather than read one by one.
const LISTED_FROM: usize = 8;

impl Look<'_> {
    fn context<'b>(
        &'b self,
        action: &'b Action,
        target: &'b PinnedTarget,
        before: Option<&'b TargetResult>,
        targets: usize,
    ) -> Context<'b> {
        Context {
            world: self.world,
            response_uid: self.uid,
            response_name: &self.name,
            action: Some(action),
            target,
            namespace: None,
            listed: targets >= LISTED_FROM,
            spec: Some(&self.response.spec),
            deleted: self.response.metadata.deletion_timestamp.is_some(),
            outputs: targets * self.response.spec.actions.iter().map(run::outputs).sum::<usize>(),
            may_exec: self.may_exec,
            agents: self.agents,
            before,
            applied_at: before.and_then(|before| before.applied_at.as_ref()).map_or(self.world.now, |at| at.0),
        }
    }

    /// The targets, and what is in them, as far as they are there and could be chosen for removal.
    fn preservable(&self, status: &IncidentResponseStatus) -> Result<Vec<(PinnedTarget, Fields<'_>)>, Unread> {
        let mut found = Vec::new();
        for target in &status.targets {
            found.extend(target::fields(target, self.world)?.map(|fields| (target.clone(), fields)));
            if target.kind == "Namespace" && status::isolates(self.response) {
                let pods = isolate::pods_in(self.world, target)?;
                found.extend(pods.into_iter().map(|(member, pod)| (member, Fields::from(pod))));
            }
        }
        Ok(found)
    }

    /// Everything that is needed beyond doubt, so that it is read together.
    fn prefetch(&self, status: &IncidentResponseStatus, releasing: bool) -> Result<(), Unread> {
        let mut reads = Vec::new();
        for action in &self.response.spec.actions {
            let Some(act) = action.verb().and_then(action::action) else { continue };
            for target in &status.targets {
                reads.extend(act.reads(&self.context(action, target, None, status.targets.len()), releasing));
            }
        }
        self.world.require(reads)
    }
}

/// Whether the finalizer goes on a response while it is still looked at whether it is carried out: that look takes as long as this write, so nothing waits for
/// it afterwards. Where it is refused in the end, the finalizer is taken off again. A dry run touches nothing, not even a finalizer.
#[must_use]
pub fn finalizer_ahead(response: &IncidentResponse, settings: &Settings) -> bool {
    let status = response.status.as_ref();
    let is_new = status.is_none_or(|status| conditions::find(&status.conditions, "Accepted").is_none());
    let has_one = response.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == names::FINALIZER);
    let is_deleted = response.metadata.deletion_timestamp.is_some();
    let is_dry = response.spec.dry_run || settings.blast_radius.plan_only || !settings.blast_radius.accept_new;
    is_new && !has_one && !is_deleted && !is_dry
}

/// What other responses need to know of this one.
#[must_use]
pub fn peer(response: &IncidentResponse, now: jiff::Timestamp) -> PeerResponse {
    let stored = response.status.clone().unwrap_or_default();
    let mut peer = PeerResponse {
        name: full_name(&response.metadata),
        uid: response.metadata.uid.clone().unwrap_or_default(),
        created: response.metadata.creation_timestamp.as_ref().map(|at| at.0),
        ..PeerResponse::default()
    };
    // One whose isolation is skipped is not about to hold anything: nobody's release waits for it.
    let skipped =
        |name: &str| stored.actions.iter().any(|action| action.name == name && action.outcome == Outcome::Skipped);
    let mut isolations = response.spec.actions.iter().filter(|action| action.isolate.is_some());
    if isolations.any(|action| !skipped(action.effective_name())) {
        let target = &response.spec.target;
        peer.isolates_namespace = target.namespace.as_ref().map(|namespace| namespace.name.clone());
        let counted = stored.targets.first().and_then(|target| target.pods);
        peer.namespace_pods = counted.and_then(|pods| usize::try_from(pods.running).ok()).unwrap_or_default();
        let pinned = stored.targets.iter().filter(|target| target.kind == "Pod");
        peer.isolates = pinned
            .map(|target| (target.namespace.clone().unwrap_or_default(), target.name.clone(), Some(target.uid.clone())))
            .collect();
        if stored.targets.is_empty() {
            let pod = target.pod.iter();
            peer.isolates = pod.map(|pod| (pod.namespace.clone(), pod.name.clone(), pod.uid.clone())).collect();
            peer.undecided_in = target.pods.as_ref().map(|pods| pods.namespace.clone());
        }
    }
    let phase = phase(response, &stored, now);
    let ends = response.metadata.deletion_timestamp.is_some()
        || response.spec.release.unwrap_or(false)
        || response.spec.dry_run
        || expired(response, now);
    PeerResponse {
        live: !ends && matches!(phase, Phase::Unaccepted | Phase::Holding),
        contains: conditions::is_true(&stored.conditions, "Contained"),
        decided: phase != Phase::Unaccepted,
        carried_out: !response.spec.dry_run && !matches!(phase, Phase::Refused | Phase::Planned),
        ..peer
    }
}

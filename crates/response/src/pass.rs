//! One look at one response: what to report, what to do, when to look again.

use std::net::SocketAddr;

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use tourniquet_api::{
    Action, ActionStatus, IncidentResponse, IncidentResponseStatus, Outcome, PinnedTarget, PlannedEffect, Residual,
    TargetResult, names,
};

use crate::accept::{self, Decision};
use crate::action::{self, Contained, Context};
use crate::conditions::{self, Is};
use crate::effect::Effect;
use crate::settings::Settings;
use crate::status;
use crate::world::{PeerResponse, Read, Unread, World};

/// How long what others have to undo may take before the undo is said to be blocked. An agent lifts a cut within some 20 ms:
/// each release would be reported as blocked in between.
const LETS_GO: SignedDuration = SignedDuration::from_secs(5);

/// How soon a pod that nobody watches is looked at again. The watch is of pods with our label, and where the cut holds that
/// comes after a minute: a container that restarts meanwhile would be seen as late.
const UNWATCHED: SignedDuration = SignedDuration::from_secs(10);

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
    /// The effect.
    pub effect: Effect,
}

/// Something that did not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The action's name, where one is to blame.
    pub action: Option<String>,
    /// What happened, to which object, and what to do next.
    pub message: String,
}

/// What one look comes to. The order for whoever carries it out: status, finalizer, steps, and look again if there were any.
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
            Decision::Accepted(target) => status::accepted(&mut pass.status, response, world.now, target),
        }
        pass.phase = phase(response, &pass.status, world.now);
    }
    pass.status.observed_generation = response.metadata.generation;
    pass.status.target = Some(status::describe_target(response));
    pass.status.expires_at = status::expires_at(response).map(Time);

    let look = Look {
        response,
        world,
        agent: settings.agent_namespace.as_deref(),
        uid: response.metadata.uid.as_deref().unwrap_or_default(),
        name: full_name(&response.metadata),
    };
    match pass.phase {
        Phase::Unaccepted | Phase::Refused | Phase::Released => {}
        Phase::Planned => look.plan_only(&mut pass)?,
        Phase::Holding => look.hold(&mut pass)?,
        Phase::Releasing => look.release(&mut pass)?,
    }
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
    if deleted || response.spec.release.unwrap_or(false) || expired(response, now) {
        return Phase::Releasing;
    }
    Phase::Holding
}

fn expired(response: &IncidentResponse, now: jiff::Timestamp) -> bool {
    status::expires_at(response).is_some_and(|at| at <= now)
}

/// One response, and what was seen.
struct Look<'a> {
    response: &'a IncidentResponse,
    world: &'a World,
    agent: Option<&'a str>,
    uid: &'a str,
    name: String,
}

impl Look<'_> {
    fn context<'b>(&'b self, target: &'b PinnedTarget, before: Option<&'b TargetResult>) -> Context<'b> {
        Context {
            world: self.world,
            response_uid: self.uid,
            response_name: &self.name,
            target,
            agent: self.agent,
            before,
            applied_at: before.and_then(|before| before.applied_at.as_ref()).map_or(self.world.now, |at| at.0),
        }
    }

    /// Everything that is needed beyond doubt, so that it is read together.
    fn prefetch(&self, status: &IncidentResponseStatus, releasing: bool) -> Result<(), Unread> {
        let mut reads = Vec::new();
        for action in &self.response.spec.actions {
            let Some(act) = action.verb().and_then(action::action) else { continue };
            for target in &status.targets {
                reads.extend(act.reads(&self.context(target, None)));
            }
        }
        if releasing {
            reads.push(Read::Responses);
        }
        self.world.require(reads)
    }

    fn plan_only(&self, pass: &mut Pass) -> Result<(), Unread> {
        if conditions::is_true(&pass.status.conditions, "Ready") {
            return Ok(());
        }
        self.prefetch(&pass.status, false)?;
        // As if it had been tried before: the positive control is a connection, and a dry run makes none.
        let tried = TargetResult::default();
        let mut plan = Vec::new();
        let mut residual = Vec::new();
        for (action, state) in self.response.spec.actions.iter().zip(&pass.status.actions) {
            let Some(act) = action.verb().and_then(action::action) else { continue };
            for target in &pass.status.targets {
                let next = act.plan(&self.context(target, Some(&tried)))?;
                residual.extend(next.residual);
                for effect in next.effects {
                    plan.push(PlannedEffect {
                        action: state.name.clone(),
                        verb: effect.verb().to_owned(),
                        object: effect.object().to_string(),
                        change: effect.change(),
                    });
                }
            }
        }
        pass.status.plan = plan;
        pass.status.residual = worst_first(residual);
        let mut conditions = status::conditions(&mut pass.status, self.response, self.world.now);
        conditions.set("Ready", Is::True, "Planned", "the plan is in status.plan; nothing was touched");
        conditions.set("Contained", Is::False, "Planned", "a dry run contains nothing");
        conditions.remove("Reconciling");
        Ok(())
    }

    fn hold(&self, pass: &mut Pass) -> Result<(), Unread> {
        self.prefetch(&pass.status, false)?;
        pass.finalizer = true;
        let targets = pass.status.targets.clone();
        let mut contained: Option<Contained> = None;
        let mut residual = Vec::new();
        for (action, state) in self.response.spec.actions.iter().zip(&mut pass.status.actions) {
            let Some(act) = action.verb().and_then(action::action) else { continue };
            state.started_at.get_or_insert(Time(self.world.now));
            for target in &targets {
                let before = state.results.iter().find(|result| result.target_uid == target.uid).cloned();
                let cx = self.context(target, before.as_ref());
                let plan = act.plan(&cx)?;
                residual.extend(plan.residual);
                // With something to put in place, what was in force can be in force all the same: the cut, while the label joins.
                let was_done = before.as_ref().is_some_and(|before| before.outcome == Outcome::Done);
                let seen = if plan.effects.is_empty() || was_done { Some(act.assess(&cx)?) } else { None };
                let seen = seen.filter(|seen| plan.effects.is_empty() || seen.contained == Some(Contained::Held));
                let name = state.name.clone();
                pass.steps.extend(plan.effects.into_iter().map(|effect| Step { action: name.clone(), effect }));
                let result = if let Some(seen) = seen {
                    // The least favourable of all targets is what may be said of them together.
                    contained = contained.max(seen.contained);
                    residual.extend(seen.residual);
                    pass.watch.extend(seen.watch);
                    pass.again_after = [pass.again_after, seen.again_after].into_iter().flatten().min();
                    TargetResult {
                        target_uid: target.uid.clone(),
                        outcome: seen.outcome,
                        reason: Some(seen.reason.to_owned()),
                        message: Some(seen.message),
                        assurance: Some(seen.assurance),
                        probes: seen.probes,
                        applied_at: Some(Time(cx.applied_at)),
                        ..before.unwrap_or_default()
                    }
                } else {
                    let result = TargetResult {
                        target_uid: target.uid.clone(),
                        probes: plan.probes,
                        applied_at: None,
                        ..before.unwrap_or_default()
                    };
                    if result.reason.as_deref() == Some(status::EFFECT_FAILED) {
                        // What failed is tried again: until that is done, this is still what is known. Nothing else of
                        // it was looked at.
                        contained = contained.max(Some(Contained::Unseen));
                        result
                    } else {
                        contained = contained.max(action.isolate.is_some().then_some(Contained::Open));
                        TargetResult {
                            outcome: Outcome::Running,
                            reason: Some("Applying".to_owned()),
                            message: Some(format!("being applied to {}", describe(target))),
                            assurance: None,
                            ..result
                        }
                    }
                };
                match state.results.iter_mut().find(|existing| existing.target_uid == target.uid) {
                    Some(existing) => *existing = result,
                    None => state.results.push(result),
                }
            }
            summarize(state, self.world.now);
        }
        if !pass.steps.is_empty() {
            // Not everything was looked at: what was seen before stands, and what can be known beforehand is said.
            residual.append(&mut pass.status.residual);
        }
        pass.status.residual = worst_first(residual);
        status::holding(&mut pass.status, self.response, self.world.now, contained);
        let watched = self.watch_evidence(&mut pass.status)?;
        let expires = status::expires_at(self.response).map(|at| at.duration_since(self.world.now));
        let unwatched = (!watched).then_some(UNWATCHED);
        pass.again_after = [pass.again_after, expires, unwatched].into_iter().flatten().min();
        Ok(())
    }

    /// A container that was restarted is another container: its memory and writable layer are gone. Said for good. False when
    /// the next restart would be no reason to look again.
    fn watch_evidence(&self, status: &mut IncidentResponseStatus) -> Result<bool, Unread> {
        let mut lost = Vec::new();
        let mut watched = true;
        for target in &mut status.targets {
            let pod = self.world.pod(target.namespace.as_deref().unwrap_or_default(), &target.name)?;
            let Some(pod) = pod.filter(|pod| pod.metadata.uid.as_deref() == Some(&target.uid)) else {
                lost.push(format!("{} is gone", describe(target)));
                continue;
            };
            watched &= pod.metadata.labels.iter().flatten().any(|(key, _)| key == names::CONTAINED_LABEL);
            for now in accept::containers(pod) {
                let Some(pinned) = target.containers.iter_mut().find(|pinned| pinned.name == now.name) else {
                    target.containers.push(now);
                    continue;
                };
                if pinned.container_id.is_none() {
                    pinned.container_id = now.container_id;
                    pinned.restart_count = now.restart_count;
                } else if now.restart_count != pinned.restart_count
                    || now.container_id.is_some() && now.container_id != pinned.container_id
                {
                    lost.push(format!("container {} of {} was restarted", now.name, describe(target)));
                }
            }
        }
        let already =
            conditions::find(&status.conditions, "EvidenceIntact").is_some_and(|before| before.status == "False");
        let mut conditions = status::conditions(status, self.response, self.world.now);
        if !lost.is_empty() {
            let message = format!("{}: memory and unsaved files of before are lost", lost.join(", "));
            conditions.set("EvidenceIntact", Is::False, "Lost", message);
        } else if !already {
            conditions.set(
                "EvidenceIntact",
                Is::True,
                "Running",
                "no container was restarted since the response was accepted",
            );
        }
        Ok(watched)
    }

    fn release(&self, pass: &mut Pass) -> Result<(), Unread> {
        self.prefetch(&pass.status, true)?;
        pass.finalizer = true;
        let mut waits = None;
        let mut held_by = None;
        let mut blocked = None;
        let mut contained: Option<Contained> = None;
        // The last action that was applied is the first to be undone.
        let actions: Vec<(&Action, &ActionStatus)> =
            self.response.spec.actions.iter().zip(&pass.status.actions).rev().collect();
        for (action, state) in actions {
            let Some(act) = action.verb().and_then(action::action) else { continue };
            for target in &pass.status.targets {
                let before = state.results.iter().find(|result| result.target_uid == target.uid);
                let cx = self.context(target, before);
                let undo = act.undo(&cx)?;
                held_by = held_by.or(undo.held_by);
                blocked = blocked.or(undo.blocked);
                // What was never applied needs nobody to wait.
                if !undo.effects.is_empty() && undo.waits.is_some() {
                    waits = waits.or(undo.waits);
                    // It goes on holding, so what is said of that goes on following what is seen. An assessment takes it that
                    // everything is in place.
                    let in_place = act.plan(&cx)?.effects.is_empty();
                    let seen = act.assess(&cx)?;
                    contained = contained.max(if in_place { seen.contained } else { Some(Contained::Open) });
                    pass.watch.extend(seen.watch);
                    continue;
                }
                let name = state.name.clone();
                pass.steps.extend(undo.effects.into_iter().map(|effect| Step { action: name.clone(), effect }));
            }
        }
        if let Some((reason, message)) = waits {
            status::releasing(&mut pass.status, self.response, self.world.now, reason, &message, contained);
            pass.again_after = Some(SignedDuration::from_secs(2));
        } else if let (true, Some(message)) = (pass.steps.is_empty(), blocked) {
            let contained = status::isolates(self.response).then_some(Contained::Unseen);
            let began = conditions::find(&pass.status.conditions, "Reverted")
                .map_or(self.world.now, |reverted| reverted.last_transition_time.0);
            let patience = LETS_GO - self.world.now.duration_since(began);
            let reason = if patience.is_positive() { "Releasing" } else { "UndoBlocked" };
            status::releasing(&mut pass.status, self.response, self.world.now, reason, &message, contained);
            pass.again_after = Some(if patience.is_positive() { patience } else { LETS_GO });
        } else if pass.steps.is_empty() {
            let reason = if expired(self.response, self.world.now) { "Expired" } else { "Released" };
            status::released(&mut pass.status, self.response, self.world.now, reason, held_by.as_deref());
            pass.finalizer = false;
            pass.phase = Phase::Released;
        } else if conditions::find(&pass.status.conditions, "Reverted")
            .is_none_or(|reverted| reverted.reason != status::UNDO_FAILED)
        {
            // Before the first effect, not after the last: in between it can be open. What failed and is tried again stays
            // what is said until it is done.
            let contained = status::isolates(self.response).then_some(Contained::Open);
            status::releasing(&mut pass.status, self.response, self.world.now, "Releasing", "being undone", contained);
        }
        Ok(())
    }
}

/// The worst first: this is read at the worst hour.
fn worst_first(mut residual: Vec<Residual>) -> Vec<Residual> {
    let rank = |residual: &Residual| match residual.severity.as_str() {
        "High" => 0,
        "Medium" => 1,
        _ => 2,
    };
    residual.sort_by(|one, other| rank(one).cmp(&rank(other)).then_with(|| one.cmp(other)));
    residual.dedup();
    residual
}

/// A target, as it is called in messages.
pub(crate) fn describe(target: &PinnedTarget) -> String {
    format!("pod {}/{}", target.namespace.as_deref().unwrap_or_default(), target.name)
}

/// An action is what became of its targets: as bad as the worst, and not finished before the last.
pub(crate) fn summarize(state: &mut ActionStatus, now: jiff::Timestamp) {
    let rank = |outcome: Outcome| match outcome {
        Outcome::Pending | Outcome::Running => 5,
        Outcome::Failed => 4,
        Outcome::Unknown => 3,
        Outcome::Partial => 2,
        Outcome::Skipped => 1,
        Outcome::Done | Outcome::Undone => 0,
    };
    let Some(worst) = state.results.iter().max_by_key(|result| rank(result.outcome)) else { return };
    state.outcome = worst.outcome;
    state.reason = worst.reason.clone();
    state.message = worst.message.clone();
    if matches!(worst.outcome, Outcome::Pending | Outcome::Running) {
        state.finished_at = None;
    } else {
        state.finished_at.get_or_insert(Time(now));
    }
}

/// What other responses need to know of this one.
#[must_use]
pub fn peer(response: &IncidentResponse, now: jiff::Timestamp) -> PeerResponse {
    let stored = response.status.clone().unwrap_or_default();
    let pods = if !status::isolates(response) {
        Vec::new()
    } else if stored.targets.is_empty() {
        response.spec.target.pod.iter().map(|pod| (pod.namespace.clone(), pod.name.clone(), pod.uid.clone())).collect()
    } else {
        let pinned = stored.targets.iter();
        pinned
            .map(|target| (target.namespace.clone().unwrap_or_default(), target.name.clone(), Some(target.uid.clone())))
            .collect()
    };
    let phase = phase(response, &stored, now);
    let ends = response.metadata.deletion_timestamp.is_some()
        || response.spec.release.unwrap_or(false)
        || response.spec.dry_run
        || expired(response, now);
    PeerResponse {
        name: full_name(&response.metadata),
        uid: response.metadata.uid.clone().unwrap_or_default(),
        isolates: pods,
        live: !ends && matches!(phase, Phase::Unaccepted | Phase::Holding),
        contains: conditions::is_true(&stored.conditions, "Contained"),
    }
}

//! Holding: what to put in place, what is seen of it, and what a dry run would do.

use std::net::SocketAddr;

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tourniquet_api::{
    Action, ActionStatus, IncidentResponseStatus, OnFailure, Outcome, PodCounts, Residual, TargetResult,
};

use super::planned::Planned;
use super::results::Results;
use super::{Look, Pass, Step, order, step};
use crate::accept;
use crate::action::{self, Act, Contained, Context};
use crate::conditions::{self, Is};
use crate::isolate;
use crate::preserve::{self, PRESERVE, Preserving};
use crate::receipt;
use crate::run;
use crate::status;
use crate::target::describe;
use crate::world::Unread;

impl Look<'_> {
    pub(super) fn plan_only(&self, pass: &mut Pass) -> Result<(), Unread> {
        if conditions::is_true(&pass.status.conditions, "Ready") {
            return Ok(());
        }
        self.prefetch(&pass.status, false)?;
        // As if it had been tried before: the positive control is a connection, and a dry run makes none.
        let tried = TargetResult::default();
        let (mut plan, mut residual, mut missing) = (Planned::default(), Vec::new(), Unread::default());
        let targets = &pass.status.targets;
        for (action, state) in self.response.spec.actions.iter().zip(&pass.status.actions) {
            let Some(act) = action.verb().and_then(action::action) else { continue };
            for target in targets {
                let own = self.context(action, target, Some(&tried), targets.len());
                let members = act.members(&own, false)?;
                let members = members.iter().map(|member| own.of_member(member, Some(&tried)));
                for cx in std::iter::once(own).chain(members) {
                    match plan.add(act, &state.name, cx) {
                        Ok(open) => residual.extend(open),
                        Err(unread) => missing.0.extend(unread.0),
                    }
                }
            }
        }
        if !missing.0.is_empty() {
            return Err(missing);
        }
        // Where nothing is put in place nothing is touched.
        if !plan.is_empty() {
            let preserving = self.preserve(&pass.status, &[])?;
            residual.extend(preserving.iter().filter_map(|one| one.residual.clone()));
            plan.preserve(preserving.into_iter().filter_map(|one| one.step));
        }
        pass.status.plan = plan.publish(self.response, &pass.status);
        if status::isolates(self.response)
            && let Some(made) = receipt::made(self.world, &pass.status.targets)?
        {
            residual.extend(made);
            pass.status.receipt_at = Some(Time(self.world.now));
        }
        pass.status.residual = worst_first(residual);
        let mut conditions = status::conditions(&mut pass.status, self.response, self.world.now);
        conditions.set("Ready", Is::True, "Planned", "the plan is in status.plan; nothing was touched");
        conditions.set("Contained", Is::False, "Planned", "a dry run contains nothing");
        conditions.remove("Reconciling");
        Ok(())
    }

    pub(super) fn hold(&self, pass: &mut Pass) -> Result<(), Unread> {
        self.prefetch(&pass.status, false)?;
        pass.finalizer = true;
        let mut held = Held::default();
        let mut gate: Option<Gate> = None;
        let mut skipped = None;
        let targets = pass.status.targets.clone();
        for (action, state) in self.response.spec.actions.iter().zip(&mut pass.status.actions) {
            let Some(act) = action.verb().and_then(action::action) else { continue };
            // What has begun goes on: it holds, and would be undone by nobody.
            if let Some(gate) = gate.as_ref().filter(|_| state.results.is_empty()) {
                gate.keep(state);
                // By this response nothing holds there, and nobody may take silence for an answer.
                skipped = skipped.max(action.isolate.is_some().then_some(Contained::Open));
                continue;
            }
            state.started_at.get_or_insert(Time(self.world.now));
            let mut results = Results::after(std::mem::take(&mut state.results));
            let mut holds_up = None;
            for target in &targets {
                let before = results.before(&target.uid).cloned();
                let own = self.context(action, target, before.as_ref(), targets.len());
                results.extend(held.look(act, action, state, &own));
                match act.holds_up(&own) {
                    Ok(remaining) => holds_up = holds_up.max(remaining),
                    Err(unread) => held.missing.0.extend(unread.0),
                }
                for member in act.members(&own, false)? {
                    let before = results.before_of_member(&member.uid, own.applied_at);
                    let cx = own.of_member(&member, before.as_ref());
                    results.extend(held.look(act, action, state, &cx));
                }
            }
            status::summarize(state, results, self.world.now);
            if action.on_failure == OnFailure::Stop && gate.is_none() {
                gate = Gate::behind(state);
            }
            if let (Some(remaining), None) = (holds_up, &gate) {
                gate = Some(Gate::for_evidence(state));
                held.again_after = Some(held.again_after.map_or(remaining, |after| after.min(remaining)));
            }
        }
        if !held.missing.0.is_empty() {
            return Err(held.missing);
        }
        // Another action may isolate the same targets.
        held.contained = held.contained.or(skipped);
        let arranged = order::arranged(held.steps, false, self.response, &pass.status);
        pass.steps = arranged.steps;
        for state in pass.status.actions.iter_mut().filter(|state| arranged.waiting.contains(&state.name)) {
            let mut results = std::mem::take(&mut state.results);
            for result in &mut results {
                result.outcome = Outcome::Running;
                result.reason = Some("Applying".to_owned());
            }
            status::summarize(state, Results::of(results), self.world.now);
        }
        let in_place = pass.steps.is_empty();
        // Once something came of the response: nothing of it waits for this, and where nothing did, nothing is touched.
        let came = |state: &ActionStatus| matches!(state.outcome, Outcome::Done | Outcome::Partial);
        let preserving =
            if pass.status.actions.iter().any(came) { self.preserve(&pass.status, &pass.steps)? } else { Vec::new() };
        held.residual.extend(preserving.iter().filter_map(|one| one.residual.clone()));
        pass.steps.extend(preserving.into_iter().filter_map(|one| one.step));
        let receipt_due = self.receipt(&mut pass.status, in_place, &mut held.residual)?;
        if held.is_applying {
            // Not everything was looked at: what was seen before stands, and what can be known beforehand is said.
            held.residual.append(&mut pass.status.residual);
        }
        pass.status.residual = worst_first(held.residual);
        for target in pass.status.targets.iter_mut().filter(|_| status::isolates(self.response)) {
            target.pods = (target.kind == "Namespace").then_some(held.pods);
        }
        status::name_services(&mut pass.status, self.response);
        status::holding(&mut pass.status, self.response, self.world.now, held.contained);
        self.watch_evidence(&mut pass.status)?;
        pass.watch = held.watch;
        let expires = status::expires_at(self.response).map(|at| at.duration_since(self.world.now));
        pass.again_after = [held.again_after, expires, receipt_due].into_iter().flatten().min();
        Ok(())
    }

    /// What keeps the targets from being chosen for removal. Where something else is applied to a target, after that: what one manager applies
    /// to one object is one apply, and this must not make another one fail.
    fn preserve(&self, status: &IncidentResponseStatus, steps: &[Step]) -> Result<Vec<Preserved>, Unread> {
        let mut preserved = Vec::new();
        for (target, fields) in self.preservable(status)? {
            let Preserving { effect, residual } = preserve::plan(&target, &fields, self.uid);
            let failed = status.residual.iter().find(|said| effect.is_some() && preserve::is_said(said, &target));
            let residual = residual.or(failed.cloned());
            let effect = effect.filter(|effect| steps.iter().all(|step| step.effect.object() != effect.object()));
            preserved.push(Preserved { step: effect.map(|effect| step(PRESERVE, &target, effect)), residual });
        }
        Ok(preserved)
    }

    /// A container that was restarted is another container: its memory and writable layer are gone. Said for good. Each is a
    /// change of the pod, and all pods are watched.
    fn watch_evidence(&self, status: &mut IncidentResponseStatus) -> Result<(), Unread> {
        let mut lost = Vec::new();
        for target in status.targets.iter_mut().filter(|target| target.kind == "Pod") {
            let pod = self.world.pod(target.namespace.as_deref().unwrap_or_default(), &target.name)?;
            let Some(pod) = pod.filter(|pod| pod.metadata.uid.as_deref() == Some(&target.uid)) else {
                lost.push(format!("{} is gone", describe(target)));
                continue;
            };
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
        for target in status.targets.iter().filter(|target| target.pods.is_some()) {
            let began =
                conditions::find(&status.conditions, "Accepted").map(|accepted| accepted.last_transition_time.0);
            lost.extend(isolate::lost_in(self.world, target, self.agents, self.uid, began)?);
        }
        if status.targets.iter().all(|target| target.kind != "Pod" && target.pods.is_none()) {
            return Ok(());
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
        Ok(())
    }
}

/// A target that is kept from being chosen for removal.
struct Preserved {
    step: Option<Step>,
    residual: Option<Residual>,
}

/// What a look at all targets of all actions comes to.
#[derive(Default)]
struct Held {
    steps: Vec<Step>,
    /// The least favourable of all targets is what may be said of them together.
    contained: Option<Contained>,
    residual: Vec<Residual>,
    watch: Vec<SocketAddr>,
    again_after: Option<SignedDuration>,
    /// What runs in a namespace that is isolated.
    pods: PodCounts,
    /// Whether anything is still to be put in place.
    is_applying: bool,
    /// What has to be looked at first. Of all targets together: fifty looks one after the other would be as many waits.
    missing: Unread,
}

impl Held {
    /// Looks at an action on one target. `None` when something has to be looked at first.
    fn look(&mut self, act: &dyn Act, action: &Action, state: &ActionStatus, cx: &Context<'_>) -> Option<TargetResult> {
        match self.try_look(act, action, state, cx) {
            Ok(result) => Some(result),
            Err(unread) => {
                self.missing.0.extend(unread.0);
                None
            }
        }
    }

    fn try_look(
        &mut self,
        act: &dyn Act,
        action: &Action,
        state: &ActionStatus,
        cx: &Context<'_>,
    ) -> Result<TargetResult, Unread> {
        let plan = act.plan(cx)?;
        // With something to put in place, what was in force can be in force all the same: the cut, while the label joins.
        let was_done = cx.before.is_some_and(|before| before.outcome == Outcome::Done);
        let in_place = plan.effects.is_empty();
        // What is held by its namespace's policies alone has nothing to put in place, and was tried before these are all the same.
        let tried = TargetResult { probes: plan.probes.clone(), ..TargetResult::default() };
        let before = cx.before.or((!tried.probes.is_empty()).then_some(&tried));
        let cx = &Context { before, ..*cx };
        let seen = if in_place || was_done { Some(act.assess(cx)?) } else { None };
        let seen = seen.filter(|seen| in_place || seen.contained == Some(Contained::Held));
        self.residual.extend(plan.residual);
        self.is_applying |= !in_place;
        let effects = plan.effects.into_iter().chain(plan.tidying);
        self.steps.extend(effects.map(|effect| step(&state.name, cx.target, effect)));
        let before = cx.before.cloned().unwrap_or_default();
        let target_uid = cx.target.uid.clone();
        if cx.namespace.is_some() {
            let contained = seen.as_ref().map_or(Some(Contained::Open), |seen| seen.contained);
            self.pods.running += i32::from(contained.is_some());
            self.pods.contained += i32::from(contained == Some(Contained::Held));
        }
        if let Some(seen) = seen {
            self.contained = self.contained.max(seen.contained);
            self.residual.extend(seen.residual);
            self.watch.extend(seen.watch);
            self.again_after = [self.again_after, seen.again_after].into_iter().flatten().min();
            return Ok(TargetResult {
                target_uid,
                outcome: seen.outcome,
                reason: Some(seen.reason.to_owned()),
                message: Some(seen.message),
                // How far an isolation is in force; of anything else there is nothing to say.
                assurance: action.isolate.is_some().then_some(seen.assurance),
                probes: seen.probes,
                connections: seen.connections.or(before.connections.clone()),
                run: seen.run.or(before.run.clone()),
                evidence: seen.evidence.or(before.evidence.clone()),
                applied_at: Some(Time(cx.applied_at)),
                ..before
            });
        }
        let result =
            TargetResult { target_uid, probes: plan.probes, changes: plan.changes, applied_at: None, ..before };
        if result.reason.as_deref() == Some(status::EFFECT_FAILED) {
            // What failed is tried again: until that is done, this is still what is known. Nothing else of
            // it was looked at.
            self.contained = self.contained.max(action.isolate.is_some().then_some(Contained::Unseen));
            return Ok(result);
        }
        self.contained = self.contained.max(action.isolate.is_some().then_some(Contained::Open));
        Ok(TargetResult {
            outcome: Outcome::Running,
            reason: Some("Applying".to_owned()),
            message: Some(format!("being applied to {}", describe(cx.target))),
            assurance: None,
            ..result
        })
    }
}

/// What keeps the actions after one with `onFailure: Stop` from being begun.
struct Gate {
    /// Undecided: they wait.
    failed: bool,
    waits: &'static str,
    why: String,
}

impl Gate {
    fn behind(state: &ActionStatus) -> Option<Self> {
        let reason = state.reason.as_deref().unwrap_or("no reason");
        match state.outcome {
            Outcome::Failed | Outcome::Unknown => {
                let why = format!("action {} failed ({reason}), and its onFailure is Stop", state.name);
                Some(Self { failed: true, waits: "", why })
            }
            // What its commands wrote may still be on its way into the store.
            Outcome::Pending | Outcome::Running if !run::have_ended(state) => {
                let why = format!("waits for action {}, whose onFailure is Stop", state.name);
                Some(Self { failed: false, waits: "WaitsForAction", why })
            }
            _ => None,
        }
    }

    /// Behind one that collects what would be lost.
    fn for_evidence(state: &ActionStatus) -> Self {
        let why = format!("waits for what action {} collects first, for its headStart at most", state.name);
        Self { failed: false, waits: "WaitsForEvidence", why }
    }

    fn keep(&self, state: &mut ActionStatus) {
        (state.outcome, state.reason) = if self.failed {
            (Outcome::Skipped, Some("ActionFailed".to_owned()))
        } else {
            (Outcome::Pending, Some(self.waits.to_owned()))
        };
        state.message = Some(self.why.clone());
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

//! Holding: what to put in place, what is seen of it, and what a dry run would do.

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tourniquet_api::{ActionStatus, IncidentResponseStatus, OnFailure, Outcome, Residual, TargetResult, names};

use super::planned::Planned;
use super::{Look, Pass, Step, order};
use crate::accept;
use crate::action::{self, Contained};
use crate::conditions::{self, Is};
use crate::receipt;
use crate::status;
use crate::target::describe;
use crate::world::Unread;

/// How soon a pod that nobody watches is looked at again. The watch is of pods with our label, and where the cut holds that
/// comes after a minute: a container that restarts meanwhile would be seen as late.
const UNWATCHED: SignedDuration = SignedDuration::from_secs(10);

impl Look<'_> {
    pub(super) fn plan_only(&self, pass: &mut Pass) -> Result<(), Unread> {
        if conditions::is_true(&pass.status.conditions, "Ready") {
            return Ok(());
        }
        self.prefetch(&pass.status, false)?;
        // As if it had been tried before: the positive control is a connection, and a dry run makes none.
        let tried = TargetResult::default();
        let mut plan = Planned::default();
        let mut residual = Vec::new();
        for (action, state) in self.response.spec.actions.iter().zip(&pass.status.actions) {
            let Some(act) = action.verb().and_then(action::action) else { continue };
            for target in &pass.status.targets {
                let mut cx = self.context(action, target, Some(&tried));
                residual.extend(plan.add(act, &state.name, &mut cx)?);
            }
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
        let targets = pass.status.targets.clone();
        let mut contained: Option<Contained> = None;
        let mut residual = Vec::new();
        let mut gate: Option<Gate> = None;
        for (action, state) in self.response.spec.actions.iter().zip(&mut pass.status.actions) {
            let Some(act) = action.verb().and_then(action::action) else { continue };
            // What has begun goes on: it holds, and would be undone by nobody.
            if let Some(gate) = gate.as_ref().filter(|_| state.results.is_empty()) {
                gate.keep(state);
                continue;
            }
            state.started_at.get_or_insert(Time(self.world.now));
            for target in &targets {
                let before = state.results.iter().find(|result| result.target_uid == target.uid).cloned();
                let cx = self.context(action, target, before.as_ref());
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
                        // How far an isolation is in force; of anything else there is nothing to say.
                        assurance: action.isolate.is_some().then_some(seen.assurance),
                        probes: seen.probes,
                        connections: seen.connections.or(before.as_ref().and_then(|before| before.connections.clone())),
                        applied_at: Some(Time(cx.applied_at)),
                        ..before.unwrap_or_default()
                    }
                } else {
                    let result = TargetResult {
                        target_uid: target.uid.clone(),
                        probes: plan.probes,
                        changes: plan.changes,
                        applied_at: None,
                        ..before.unwrap_or_default()
                    };
                    if result.reason.as_deref() == Some(status::EFFECT_FAILED) {
                        // What failed is tried again: until that is done, this is still what is known. Nothing else of
                        // it was looked at.
                        contained = contained.max(action.isolate.is_some().then_some(Contained::Unseen));
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
            status::summarize(state, self.world.now);
            if action.on_failure == OnFailure::Stop && gate.is_none() {
                gate = Gate::behind(state);
            }
        }
        let arranged = order::arranged(std::mem::take(&mut pass.steps), false, self.response, &pass.status);
        pass.steps = arranged.steps;
        for state in pass.status.actions.iter_mut().filter(|state| arranged.waiting.contains(&state.name)) {
            for result in &mut state.results {
                result.outcome = Outcome::Running;
                result.reason = Some("Applying".to_owned());
            }
            status::summarize(state, self.world.now);
        }
        let receipt_due = self.receipt(&mut pass.status, pass.steps.is_empty(), &mut residual)?;
        if !pass.steps.is_empty() {
            // Not everything was looked at: what was seen before stands, and what can be known beforehand is said.
            residual.append(&mut pass.status.residual);
        }
        pass.status.residual = worst_first(residual);
        status::holding(&mut pass.status, self.response, self.world.now, contained);
        let watched = self.watch_evidence(&mut pass.status)?;
        let expires = status::expires_at(self.response).map(|at| at.duration_since(self.world.now));
        let unwatched = (!watched).then_some(UNWATCHED);
        pass.again_after = [pass.again_after, expires, unwatched, receipt_due].into_iter().flatten().min();
        Ok(())
    }

    /// A container that was restarted is another container: its memory and writable layer are gone. Said for good. False when
    /// the next restart would be no reason to look again.
    fn watch_evidence(&self, status: &mut IncidentResponseStatus) -> Result<bool, Unread> {
        let mut lost = Vec::new();
        let mut watched = true;
        for target in status.targets.iter_mut().filter(|target| target.kind == "Pod") {
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
        if status.targets.iter().all(|target| target.kind != "Pod") {
            return Ok(true);
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
}

/// What keeps the actions after one with `onFailure: Stop` from being begun.
struct Gate {
    /// Undecided: they wait.
    failed: bool,
    why: String,
}

impl Gate {
    fn behind(state: &ActionStatus) -> Option<Self> {
        let reason = state.reason.as_deref().unwrap_or("no reason");
        match state.outcome {
            Outcome::Failed | Outcome::Unknown => {
                let why = format!("action {} failed ({reason}), and its onFailure is Stop", state.name);
                Some(Self { failed: true, why })
            }
            Outcome::Pending | Outcome::Running => {
                Some(Self { failed: false, why: format!("waits for action {}, whose onFailure is Stop", state.name) })
            }
            _ => None,
        }
    }

    fn keep(&self, state: &mut ActionStatus) {
        (state.outcome, state.reason) = if self.failed {
            (Outcome::Skipped, Some("ActionFailed".to_owned()))
        } else {
            (Outcome::Pending, Some("WaitsForAction".to_owned()))
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

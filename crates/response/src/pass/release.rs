//! Releasing: what to undo, and what it waits for.

use jiff::{SignedDuration, Timestamp};
use tourniquet_api::{Action, ActionStatus, Change, IncidentResponseStatus, Outcome, TargetResult};

use super::{Look, Pass, Phase, Results, expired, order, step};
use crate::action::{self, Assessment, Contained};
use crate::conditions;
use crate::preserve::{self, PRESERVE};
use crate::run;
use crate::status;
use crate::world::Unread;

/// How long what others have to undo may take before the undo is said to be blocked. An agent lifts a cut within some 20 ms:
/// each release would be reported as blocked in between.
const LETS_GO: SignedDuration = SignedDuration::from_secs(5);

/// Writes down what became of an action while it is released, and what is begun for that.
fn settle(
    status: &mut IncidentResponseStatus,
    now: Timestamp,
    action: &str,
    target: &str,
    seen: Option<Assessment>,
    changes: Vec<Change>,
) {
    let Some(state) = status.actions.iter_mut().find(|state| state.name == action) else { return };
    let Some(result) = state.results.iter_mut().find(|result| result.target_uid == target) else { return };
    result.changes.extend(changes);
    let Some(seen) = seen else { return };
    result.outcome = seen.outcome;
    result.reason = Some(seen.reason.to_owned());
    result.message = Some(seen.message);
    result.run = seen.run.or(result.run.take());
    result.evidence = seen.evidence.or(result.evidence.take());
    let results = std::mem::take(&mut state.results);
    status::summarize(state, Results::of(results), now);
}

impl Look<'_> {
    /// Whether everything that it isolates is still held. An assessment takes it that everything is in place.
    fn still_contained(&self, pass: &mut Pass, missing: &mut Unread) -> Result<Option<Contained>, Unread> {
        let mut contained = None;
        let unreported = TargetResult::default();
        for (action, state) in self.response.spec.actions.iter().zip(&pass.status.actions) {
            let Some(act) = action.verb().filter(|_| action.isolate.is_some()).and_then(action::action) else {
                continue;
            };
            for target in &pass.status.targets {
                let before = |uid: &str| {
                    let mut results = state.results.iter();
                    Some(results.find(|result| result.target_uid == uid).unwrap_or(&unreported))
                };
                let own = self.context(action, target, before(&target.uid), pass.status.targets.len());
                let members = act.members(&own, false)?;
                let members = members.iter().map(|member| own.of_member(member, before(&member.uid)));
                for cx in std::iter::once(own).chain(members) {
                    match act.plan(&cx).and_then(|plan| Ok((plan.effects.is_empty(), act.assess(&cx)?))) {
                        Ok((in_place, seen)) => {
                            contained = contained.max(if in_place { seen.contained } else { Some(Contained::Open) });
                            pass.watch.extend(seen.watch);
                        }
                        Err(unread) => missing.0.extend(unread.0),
                    }
                }
            }
        }
        Ok(contained)
    }

    pub(super) fn release(&self, pass: &mut Pass) -> Result<(), Unread> {
        self.prefetch(&pass.status, true)?;
        pass.finalizer = true;
        let mut missing = Unread::default();
        let mut waits = None;
        let mut held_by = None;
        let mut blocked = None;
        let mut contained: Option<Contained> = None;
        let mut settled = Vec::new();
        // The last action that was applied is the first to be undone.
        let actions: Vec<(&Action, &ActionStatus)> =
            self.response.spec.actions.iter().zip(&pass.status.actions).rev().collect();
        for (action, state) in actions {
            let Some(act) = action.verb().and_then(action::action) else { continue };
            for target in &pass.status.targets {
                let before = |uid: &str| state.results.iter().find(|result| result.target_uid == uid);
                let own = self.context(action, target, before(&target.uid), pass.status.targets.len());
                let members = act.members(&own, true)?;
                let members = members.iter().map(|member| own.of_member(member, before(&member.uid)));
                for cx in std::iter::once(own).chain(members) {
                    let undo = match act.undo(&cx) {
                        Ok(undo) => undo,
                        Err(unread) => {
                            missing.0.extend(unread.0);
                            continue;
                        }
                    };
                    held_by = held_by.or(undo.held_by);
                    settled.push((state.name.clone(), cx.target.uid.clone(), undo.settled, undo.changes));
                    blocked = blocked.or(undo.blocked);
                    // What was never applied needs nobody to wait.
                    if !undo.effects.is_empty() && undo.waits.is_some() {
                        waits = waits.or(undo.waits);
                        continue;
                    }
                    let effects = undo.effects.into_iter();
                    pass.steps.extend(effects.map(|effect| step(&state.name, cx.target, effect)));
                }
            }
        }
        for (action, target, seen, changes) in settled {
            // What waits is not begun, and not said to be.
            let changes = if waits.is_some() { Vec::new() } else { changes };
            settle(&mut pass.status, self.world.now, &action, &target, seen, changes);
        }
        if waits.is_some() {
            // It goes on holding, so what is said of that goes on following what is seen: of every target, not of the one that waits.
            contained = self.still_contained(pass, &mut missing)?;
        }
        if !missing.0.is_empty() {
            return Err(missing);
        }
        pass.steps = order::arranged(std::mem::take(&mut pass.steps), true, self.response, &pass.status).steps;
        // Last, and only what nothing else withdraws: the cut does not wait for it.
        for (target, fields) in self.preservable(&pass.status)? {
            let effect = preserve::undo(&target, &fields, self.uid);
            let effect = effect.filter(|effect| pass.steps.iter().all(|step| step.effect != *effect));
            pass.steps.extend(effect.map(|effect| step(PRESERVE, &target, effect)));
        }
        if let Some((reason, message)) = waits {
            // One that waits holds on, and so does what the others did to the same target: it is one manager's.
            pass.steps.clear();
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
            let asked = self.response.metadata.deletion_timestamp.is_some() || self.response.spec.release == Some(true);
            // Also when it was made to last longer after the undo had begun.
            let reason = if !asked || expired(self.response, self.world.now) { "Expired" } else { "Released" };
            status::released(&mut pass.status, self.response, self.world.now, reason, held_by.as_deref());
            pass.phase = Phase::Released;
            // Now, not at the next look: what another instance had begun before this release goes on by nobody, so nothing would give cause to one.
            self.settle(pass)?;
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

    /// What goes on beside a release: evidence is collected to its end, and sealed, and outputs are stored. A deletion ends it. After that its folders get to
    /// know of the release.
    pub(super) fn settle(&self, pass: &mut Pass) -> Result<(), Unread> {
        let mut missing = Unread::default();
        let mut settled = Vec::new();
        for (action, state) in self.response.spec.actions.iter().zip(&pass.status.actions) {
            let Some(act) = action.verb().and_then(action::action) else { continue };
            for result in state.results.iter().filter(|result| goes_on(state, result)) {
                let Some(target) = pass.status.targets.iter().find(|target| target.uid == result.target_uid) else {
                    continue;
                };
                let cx = self.context(action, target, Some(result), pass.status.targets.len());
                let looked = if cx.deleted {
                    act.undo(&cx).map(|undo| (undo.effects, undo.changes, undo.settled))
                } else {
                    act.plan(&cx).and_then(|plan| {
                        let seen = if plan.effects.is_empty() { Some(act.assess(&cx)?) } else { None };
                        Ok((plan.effects, Vec::new(), seen))
                    })
                };
                match looked {
                    Ok((effects, changes, seen)) => {
                        pass.steps.extend(effects.into_iter().map(|effect| step(&state.name, target, effect)));
                        settled.push((state.name.clone(), target.uid.clone(), seen, changes));
                    }
                    Err(unread) => missing.0.extend(unread.0),
                }
            }
        }
        if !missing.0.is_empty() {
            return Err(missing);
        }
        for (action, target, seen, changes) in settled {
            settle(&mut pass.status, self.world.now, &action, &target, seen, changes);
        }
        pass.finalizer = is_under_way(&pass.status);
        self.record_release(pass)
    }
}

/// Whether something goes on that a release does not wait for.
pub(super) fn is_under_way(status: &IncidentResponseStatus) -> bool {
    status.actions.iter().any(|action| action.results.iter().any(|result| goes_on(action, result)))
}

/// Evidence that is being collected, or outputs that are being stored. The results of what is undone stay what they were.
fn goes_on(action: &ActionStatus, result: &TargetResult) -> bool {
    action.outcome == Outcome::Running && result.outcome == Outcome::Running || run::is_storing(Some(result))
}

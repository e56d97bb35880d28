//! What becomes of the outputs that are to be stored, beside what became of the command.
//!
//! What an instance of the operator was storing when it ended, the next one seals, with what of it has come to the store.

use tourniquet_api::{Outputs, PinnedTarget, Run, RunResult, TargetResult};

use super::report::{by_record, lost};
use super::{BEGUN, Pinned, command};
use crate::action::{Assessment, Context, Undo, is_decided};
use crate::effect::{Effect, Kind};
use crate::target::{self, describe};
use crate::task::{self, CommandReport, Progress, Seal, TaskReport, TaskState, Work};
use crate::world::Unread;

const ON_THEIR_WAY: &str = "; its outputs are being stored";

/// What is said of the outputs, at the end of what is said of the command.
pub(super) fn said(report: &CommandReport) -> String {
    let why = report.not_stored.as_deref().unwrap_or("the reason is not known");
    match report.result.outputs {
        None => String::new(),
        Some(Outputs::Storing) => ON_THEIR_WAY.to_owned(),
        Some(Outputs::Stored) => "; its outputs are stored whole".to_owned(),
        Some(Outputs::Incomplete) => format!("; not all of its outputs is stored: {why}"),
        Some(Outputs::NotStored | Outputs::Unknown) => format!("; its outputs are not stored: {why}"),
    }
}

/// Whether the outputs are still on their way, by what was reported last.
pub(crate) fn is_storing(before: Option<&TargetResult>) -> bool {
    before.and_then(|before| before.run.as_ref()).is_some_and(RunResult::is_storing)
}

/// What was decided of the command, with what has become of its outputs since.
pub(super) fn since(cx: &Context<'_>, decided: Assessment) -> Result<Assessment, Unread> {
    let Some(before) = cx.before.and_then(|before| before.run.as_ref()).filter(|run| run.is_storing()) else {
        return Ok(decided);
    };
    let (result, said) = match &cx.world.task(&cx.task(false))?.state {
        // Taken over by this instance, or about to be.
        Some(TaskState::Running { .. }) | None => return Ok(decided),
        Some(TaskState::Ended(TaskReport::Command(report))) => {
            let RunResult { outputs, digest, url, .. } = report.result.clone();
            (RunResult { outputs, digest, url, ..before.clone() }, said(report))
        }
        // No report of a command is none.
        Some(TaskState::Ended(TaskReport::Collection(_) | TaskReport::Release(_))) => return Ok(decided),
    };
    let message = replaced(&decided.message, &said);
    Ok(Assessment { run: Some(result), message, ..decided })
}

/// What is known of a command that another instance of the operator had begun, and whose end nobody has decided.
pub(super) fn left(cx: &Context<'_>, run: &Run) -> CommandReport {
    let mut report = cx.before.map_or_else(|| lost(cx.world.now), |before| by_record(cx.world.now, before));
    report.result.outputs = run.store_ref.as_ref().map(|_| Outputs::Storing);
    report
}

/// What another instance was storing: the folder is sealed by this one. Nothing is run for that.
pub(super) fn taken_over(cx: &Context<'_>, run: &Run) -> Result<Option<Effect>, Unread> {
    let Some(store) = &run.store_ref else { return Ok(None) };
    let key = cx.task(false);
    let seen = cx.world.task(&key)?;
    let by_another = task::begun(cx.before, BEGUN).is_some_and(|by| by != seen.instance);
    let is_open = is_storing(cx.before) || !is_decided(cx.before);
    if !by_another || !is_open || seen.state.is_some() {
        return Ok(None);
    }
    let command = command(cx, pinned(cx.target, run), run, &run.command, None);
    let work = Work::Seal(Box::new(Seal { command, custody: cx.custody(store), report: left(cx, run) }));
    Ok(Some(Effect::Start { object: target::object(cx.target, Kind::Pod), key, work }))
}

/// The container that it was begun in, whatever has become of it.
fn pinned(target: &PinnedTarget, run: &Run) -> Pinned {
    let is_it = |name: &str| run.container.as_deref().is_none_or(|wanted| wanted == name);
    let found = target.containers.iter().find(|container| is_it(&container.name));
    Pinned {
        name: found.map(|container| container.name.clone()).or_else(|| run.container.clone()).unwrap_or_default(),
        id: found.and_then(|container| container.container_id.clone()).unwrap_or_default(),
    }
}

/// Has what was received sealed, and waits for it: a deletion gives it a while.
pub(super) fn end(cx: &Context<'_>, undo: &mut Undo) -> Result<(), Unread> {
    let key = cx.task(false);
    if let Some(TaskState::Running { ending, progress: Some(Progress { command: Some(_), .. }), .. }) =
        &cx.world.task(&key)?.state
    {
        if *ending {
            undo.blocked = Some(format!("the outputs of a command in {} are being sealed", describe(cx.target)));
        } else {
            undo.effects.push(Effect::Stop { object: target::object(cx.target, Kind::Pod), key });
        }
    }
    Ok(())
}

/// The message with this in place of what was said while they were on their way.
fn replaced(message: &str, said: &str) -> String {
    format!("{}{said}", message.strip_suffix(ON_THEIR_WAY).unwrap_or(message))
}

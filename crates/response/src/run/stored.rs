//! What becomes of the outputs that are to be stored, beside what became of the command.

use tourniquet_api::{Outcome, Outputs, RunResult, TargetResult};

use super::report::{NOT_STORED, STORING};
use crate::action::{Assessment, Context, Undo};
use crate::effect::{Effect, Kind};
use crate::target::{self, describe};
use crate::task::{CommandReport, Progress, TaskReport, TaskState};
use crate::world::Unread;

const ON_THEIR_WAY: &str = "; its outputs are being stored";
const LOST: &str = "; the operator was restarted while its outputs were being stored, and their folder says itself that it is unfinished";

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
        Some(TaskState::Running { .. }) => return Ok(decided),
        Some(TaskState::Ended(TaskReport::Command(report))) => {
            let RunResult { outputs, digest, url, .. } = report.result.clone();
            (RunResult { outputs, digest, url, ..before.clone() }, said(report))
        }
        // No report of a command is none.
        Some(TaskState::Ended(TaskReport::Collection(_) | TaskReport::Release(_))) | None => {
            (not_stored(before), LOST.to_owned())
        }
    };
    let message = replaced(&decided.message, &said);
    Ok(Assessment { run: Some(result), message, ..decided })
}

/// Of a command that has ended well, what another instance of the operator was storing.
pub(super) fn lost(cx: &Context<'_>) -> Option<Assessment> {
    let before = cx.before.filter(|before| before.reason.as_deref() == Some(STORING))?;
    Some(Assessment {
        outcome: Outcome::Partial,
        reason: NOT_STORED,
        message: replaced(before.message.as_deref().unwrap_or_default(), LOST),
        run: before.run.as_ref().map(not_stored),
        ..Assessment::default()
    })
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

fn not_stored(before: &RunResult) -> RunResult {
    RunResult { outputs: Some(Outputs::NotStored), ..before.clone() }
}

/// The message with this in place of what was said while they were on their way.
fn replaced(message: &str, said: &str) -> String {
    format!("{}{said}", message.strip_suffix(ON_THEIR_WAY).unwrap_or(message))
}

//! What may be said of a command.

use jiff::Timestamp;
use tourniquet_api::{Outcome, Outputs, PinnedTarget, Run, RunResult, TargetResult};

use super::stored;
use crate::action::{Assessment, kept};
use crate::target::describe;
use crate::task::{CommandReport, Ended};

const SUCCEEDED: &str = "CommandSucceeded";
const FAILED: &str = "CommandFailed";
const NOT_STARTED: &str = "CommandNotBegun";
const TIMED_OUT: &str = "CommandTimedOut";
const CANCELLED: &str = "CommandCancelled";
const UNKNOWN: &str = "CommandUnknown";
const REPLACED: &str = "ContainerReplaced";
/// It has ended well, and its outputs are on their way into the store: nothing that comes after it waits for them.
pub(super) const STORING: &str = "StoringOutputs";
pub(super) const NOT_STORED: &str = "OutputsNotStored";
const UNDO_SUCCEEDED: &str = "UndoCommandSucceeded";
const UNDO_FAILED: &str = "UndoCommandFailed";
const UNDO_UNKNOWN: &str = "UndoCommandUnknown";
const NO_CONTAINER: [&str; 4] = ["TargetGone", "ContainerNotFound", "ContainerNotNamed", "ContainerNotRunning"];

/// The reasons of what was never begun: there is nothing to undo.
pub(super) const NOT_BEGUN: [&str; 5] =
    [NOT_STARTED, NO_CONTAINER[0], NO_CONTAINER[1], NO_CONTAINER[2], NO_CONTAINER[3]];
/// The reasons of what a command has undone, or tried to.
pub(super) const UNDONE: [&str; 3] = [UNDO_SUCCEEDED, UNDO_FAILED, UNDO_UNKNOWN];

/// What was decided before.
pub(super) fn keep(before: Option<&TargetResult>) -> Option<Assessment> {
    let known = [SUCCEEDED, NOT_STORED, FAILED, TIMED_OUT, CANCELLED, UNKNOWN, REPLACED];
    kept(before, known.into_iter().chain(NOT_BEGUN).chain(UNDONE), UNKNOWN)
}

/// What is known of one that another instance of the operator had begun.
pub(super) fn lost(now: Timestamp) -> CommandReport {
    CommandReport {
        at: now,
        ended: Ended::Lost("the operator was restarted".to_owned()),
        result: RunResult::default(),
        not_stored: None,
        replaced: None,
    }
}

/// What is known of one by what was written down of it.
pub(super) fn by_record(now: Timestamp, before: &TargetResult) -> CommandReport {
    let lost = lost(now);
    let result = before.run.clone().unwrap_or_default();
    let ended = match (result.exit_code, before.reason.as_deref()) {
        (Some(code), _) => Ended::Exited(code),
        (None, Some(TIMED_OUT)) => Ended::TimedOut,
        (None, Some(CANCELLED)) => Ended::Cancelled,
        (None, Some(NOT_STARTED)) => Ended::NotBegun("the response's status says why".to_owned()),
        (None, _) => lost.ended.clone(),
    };
    let replaced = before.reason.as_deref() == Some(REPLACED);
    let replaced = replaced.then(|| "the pod or the container was replaced".to_owned());
    CommandReport { ended, result, replaced, ..lost }
}

/// What came of it.
pub(super) fn judge(target: &PinnedTarget, program: &str, run: &Run, report: &CommandReport) -> Assessment {
    let place = describe(target);
    let (outcome, reason, message) = match &report.ended {
        Ended::NotAsked(why) | Ended::NotBegun(why) => {
            (Outcome::Failed, NOT_STARTED, format!("{program} was not begun in {place}: {why}"))
        }
        Ended::Exited(0) => {
            let (outcome, reason) = match report.result.outputs {
                None | Some(Outputs::Stored) => (Outcome::Done, SUCCEEDED),
                Some(Outputs::Storing) => (Outcome::Running, STORING),
                Some(Outputs::Incomplete | Outputs::NotStored | Outputs::Unknown) => (Outcome::Partial, NOT_STORED),
            };
            (outcome, reason, format!("{program} ended in {place} with exit code 0"))
        }
        Ended::Exited(code) => (Outcome::Failed, FAILED, format!("{program} ended in {place} with exit code {code}")),
        Ended::Lost(why) => (
            Outcome::Unknown,
            UNKNOWN,
            format!(
                "the connection to {program} in {place} was lost ({why}): whether it ran, and how it ended, nobody can know, so it is not run again; look there, and create another response if it has to run"
            ),
        ),
        Ended::TimedOut => (
            Outcome::Failed,
            TIMED_OUT,
            format!(
                "{program} did not end in {place} within {}, and was let go of: its process may go on running",
                run.timeout
            ),
        ),
        Ended::Cancelled => (
            Outcome::Failed,
            CANCELLED,
            format!(
                "{program} was still running in {place} when the response was released, and was let go of: its process may go on running"
            ),
        ),
    };
    let result = RunResult { exit_code: code(&report.ended), ..report.result.clone() };
    let message = format!("{message}{}", stored::said(report));
    let assessment = Assessment { outcome, reason, message, run: Some(result), ..Assessment::default() };
    match &report.replaced {
        Some(why) if !NOT_BEGUN.contains(&reason) => Assessment {
            outcome: Outcome::Unknown,
            reason: REPLACED,
            message: format!("{}; but {why} meanwhile: which container it ran in nobody can know", assessment.message),
            ..assessment
        },
        _ => assessment,
    }
}

/// What came of the command that undoes it. The record of the command itself stays.
pub(super) fn judge_undo(target: &PinnedTarget, program: &str, run: &Run, report: &CommandReport) -> Assessment {
    let judged = judge(target, program, run, report);
    let (outcome, reason) = match judged.outcome {
        Outcome::Done => (Outcome::Undone, UNDO_SUCCEEDED),
        Outcome::Unknown => (Outcome::Unknown, UNDO_UNKNOWN),
        _ => (Outcome::Failed, UNDO_FAILED),
    };
    let message = format!("undo: {}", judged.message);
    Assessment { outcome, reason, message, run: None, ..judged }
}

const fn code(ended: &Ended) -> Option<i32> {
    match ended {
        Ended::Exited(code) => Some(*code),
        _ => None,
    }
}

//! Run: a command in a container, at most once.
//!
//! That it is begun is in the journal before it is begun, with the operator's instance: what another instance had begun nobody knows the end
//! of, so that is `Unknown` and not a second run. What a command did is not undone, unless there is a command for that.
//! Its outputs can go on being stored after it has ended, which nothing waits for but a deletion, for a while.

mod report;
mod stored;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::rbac::v1::PolicyRule;
use tourniquet_api::{Action, ActionStatus, Outcome, PinnedTarget, Residual, Run, TargetResult, Verb};

use self::report::{NOT_BEGUN, STORING, UNDONE, judge, judge_undo, keep, lost};
pub(crate) use self::stored::is_storing;
use crate::action::{Act, Assessment, Context, Plan, Undo, is_decided};
use crate::effect::{Effect, Kind};
use crate::rbac::rule;
use crate::target::{self, describe};
use crate::task::{self, Command, Custody, Progress, TaskKey, TaskReport, TaskState, Work};
use crate::world::{Read, Unread};

pub(crate) const RUN: RunCommand = RunCommand;

/// The room that all outputs of a response have in its status, in bytes.
const ROOM: usize = 32 * 1024;
/// The most of one output.
const TAIL: usize = 4 * 1024;
/// The most of one output that is stored, as of a file that is collected.
const STORED: u64 = 16 * 1024 * 1024 * 1024;
/// The journal's entries: that it was begun, by which instance.
const BEGUN: &str = "command";
const UNDO_BEGUN: &str = "undo command";

/// How many outputs an action has on each target.
pub(crate) fn outputs(action: &Action) -> usize {
    if action.run.is_some() { 2 } else { 0 }
}

/// Whether nothing of an action is under way any more but the storing of outputs.
pub(crate) fn have_ended(state: &ActionStatus) -> bool {
    let under_way = |result: &&TargetResult| matches!(result.outcome, Outcome::Pending | Outcome::Running);
    let mut under_way = state.results.iter().filter(under_way).peekable();
    under_way.peek().is_some() && under_way.all(|result| result.reason.as_deref() == Some(STORING))
}

/// The action.
pub(crate) struct RunCommand;

impl Act for RunCommand {
    fn verb(&self) -> Verb {
        Verb::Run
    }

    fn targets(&self) -> &'static [Kind] {
        &[Kind::Pod]
    }

    fn rbac(&self) -> Vec<PolicyRule> {
        // From Kubernetes 1.35 on an exec by WebSocket asks for create; the request itself is a GET.
        vec![rule("", &["pods"], &["get"]), rule("", &["pods/exec"], &["get", "create"])]
    }

    fn reads(&self, cx: &Context<'_>, undoing: bool) -> Vec<Read> {
        let begun = !undoing || task::begun(cx.before, BEGUN).is_some();
        target::read(cx.target).filter(|_| begun).into_iter().collect()
    }

    fn plan(&self, cx: &Context<'_>) -> Result<Plan, Unread> {
        let mut plan = Plan::default();
        let Some(run) = asked(cx) else { return Ok(plan) };
        let begun = task::begun(cx.before, BEGUN);
        if begun.is_none() && is_decided(cx.before) {
            // What was said when it was decided goes on being said.
            let before = cx.before.and_then(|before| Some((before.reason.as_deref()?, before.message.as_deref()?)));
            let never_begun = before.filter(|(reason, _)| NOT_BEGUN.contains(reason));
            plan.residual.extend(never_begun.map(|(reason, message)| cannot(cx, reason, message)));
            return Ok(plan);
        }
        let key = cx.task(false);
        let seen = cx.world.task(&key)?;
        if begun.is_some_and(|by| by != seen.instance) {
            plan.effects.extend(stored::taken_over(cx, run)?);
            return Ok(plan);
        }
        if seen.state.is_some() {
            return Ok(plan);
        }
        match container(cx, run)? {
            Ok(container) => {
                plan.changes.push(task::journal(BEGUN, &seen.instance));
                let custody = run.store_ref.as_ref().map(|store| Box::new(cx.custody(store)));
                plan.effects.push(start(cx, key, command(cx, container, run, &run.command, custody)));
            }
            Err((reason, message)) if begun.is_none() => plan.residual.push(cannot(cx, reason, &message)),
            Err(_) => {}
        }
        Ok(plan)
    }

    fn assess(&self, cx: &Context<'_>) -> Result<Assessment, Unread> {
        let Some(run) = asked(cx) else { return Ok(Assessment::default()) };
        if let Some(kept) = keep(cx.before) {
            return stored::since(cx, kept);
        }
        let seen = cx.world.task(&cx.task(false))?;
        let program = program(&run.command);
        Ok(match &seen.state {
            Some(TaskState::Running { progress: Some(Progress { command: Some(report), .. }), .. }) => {
                judge(cx.target, program, run, report)
            }
            Some(TaskState::Running { since, .. }) => Assessment {
                outcome: Outcome::Running,
                reason: "Running",
                message: format!("{program} runs in {} since {since}", describe(cx.target)),
                ..Assessment::default()
            },
            Some(TaskState::Ended(TaskReport::Command(report))) => judge(cx.target, program, run, report),
            None if task::begun(cx.before, BEGUN).is_none() => match container(cx, run)? {
                Err(why) => {
                    Assessment { outcome: Outcome::Failed, reason: why.0, message: why.1, ..Assessment::default() }
                }
                // It will be planned.
                Ok(_) => Assessment::default(),
            },
            Some(TaskState::Ended(TaskReport::Collection(_) | TaskReport::Release(_))) | None => {
                judge(cx.target, program, run, &stored::left(cx, run))
            }
        })
    }

    fn stays(&self) -> bool {
        true
    }

    fn undo(&self, cx: &Context<'_>) -> Result<Undo, Unread> {
        let mut undo = Undo::default();
        let (Some(run), Some(before)) = (asked(cx), cx.before) else { return Ok(undo) };
        if task::begun(Some(before), BEGUN).is_none() {
            return Ok(undo);
        }
        let program = program(&run.command);
        let object = target::object(cx.target, Kind::Pod);
        let mut reason = before.reason.as_deref().unwrap_or_default();
        if !is_decided(Some(before)) {
            let key = cx.task(false);
            match &cx.world.task(&key)?.state {
                // It has ended; its outputs are being stored.
                Some(TaskState::Running { progress: Some(Progress { command: Some(report), .. }), .. }) => {
                    undo.settled = Some(judge(cx.target, program, run, report));
                }
                Some(TaskState::Running { ending: false, .. }) => {
                    undo.effects.push(Effect::Stop { object, key });
                    return Ok(undo);
                }
                Some(TaskState::Running { .. }) => {
                    undo.blocked = Some(format!("{program} in {} is being ended", describe(cx.target)));
                    return Ok(undo);
                }
                Some(TaskState::Ended(TaskReport::Command(report))) => {
                    undo.settled = Some(judge(cx.target, program, run, report));
                }
                // No report of a command is none.
                Some(TaskState::Ended(TaskReport::Collection(_) | TaskReport::Release(_))) | None => {
                    undo.settled = Some(judge(cx.target, program, run, &stored::left(cx, run)));
                    undo.effects.extend(stored::taken_over(cx, run)?);
                }
            }
            reason = undo.settled.as_ref().map_or(reason, |settled| settled.reason);
        } else if let Some(kept) = keep(cx.before).filter(|_| stored::is_storing(Some(before))) {
            undo.settled = Some(stored::since(cx, kept)?);
            undo.effects.extend(stored::taken_over(cx, run)?);
        }
        if cx.deleted {
            stored::end(cx, &mut undo)?;
        }
        let Some(takes_back) = run.undo.as_ref().filter(|_| !NOT_BEGUN.contains(&reason) && !UNDONE.contains(&reason))
        else {
            return Ok(undo);
        };
        let undoes = self::program(&takes_back.command);
        let key = cx.task(true);
        let seen = cx.world.task(&key)?;
        let begun = task::begun(Some(before), UNDO_BEGUN);
        match &seen.state {
            Some(TaskState::Running { .. }) => {
                undo.blocked = Some(format!("{undoes} runs in {} to undo {program}", describe(cx.target)));
            }
            Some(TaskState::Ended(TaskReport::Command(report))) => {
                undo.settled = with_outputs(judge_undo(cx.target, undoes, run, report), undo.settled);
            }
            // What is not there any more has nothing left to undo.
            None if begun.is_none_or(|by| by == seen.instance) => {
                if let Ok(container) = container(cx, run)? {
                    if begun.is_none() {
                        undo.changes.push(task::journal(UNDO_BEGUN, &seen.instance));
                    }
                    undo.effects.push(start(cx, key, command(cx, container, run, &takes_back.command, None)));
                }
            }
            // No report of a command is none.
            Some(TaskState::Ended(TaskReport::Collection(_) | TaskReport::Release(_))) | None => {
                let lost = judge_undo(cx.target, undoes, run, &lost(cx.world.now));
                undo.settled = with_outputs(lost, undo.settled);
            }
        }
        Ok(undo)
    }
}

fn asked<'a>(cx: &Context<'a>) -> Option<&'a Run> {
    cx.action?.run.as_ref()
}

/// A program, as it is called in messages: its arguments can hold secrets.
fn program(argv: &[String]) -> &str {
    argv.first().map_or("the command", String::as_str)
}

/// What became of the command that undoes it, and what is known of the command itself.
fn with_outputs(undone: Assessment, of_the_command: Option<Assessment>) -> Option<Assessment> {
    Some(Assessment { run: of_the_command.and_then(|settled| settled.run), ..undone })
}

fn start(cx: &Context<'_>, key: TaskKey, command: Command) -> Effect {
    Effect::Start { object: target::object(cx.target, Kind::Pod), key, work: Work::Command(command) }
}

fn command(cx: &Context<'_>, container: Pinned, run: &Run, argv: &[String], custody: Option<Box<Custody>>) -> Command {
    Command {
        container: container.name,
        container_id: container.id,
        argv: argv.to_vec(),
        timeout: run.timeout.get(),
        tail: TAIL.min(ROOM / cx.outputs.max(1)),
        custody,
        limit: STORED,
    }
}

/// A container that was pinned and runs.
struct Pinned {
    name: String,
    id: String,
}

/// A reason, and what is wrong.
type Why = (&'static str, String);

/// The container that is meant, as it was pinned; or why there is none to run anything in.
fn container(cx: &Context<'_>, run: &Run) -> Result<Result<Pinned, Why>, Unread> {
    let Some(pod) = cx.pod()? else {
        return Ok(Err((
            "TargetGone",
            format!("{} is gone: there is nothing to run a command in", describe(cx.target)),
        )));
    };
    Ok(pinned(cx.target, pod, run))
}

fn pinned(target: &PinnedTarget, pod: &Pod, run: &Run) -> Result<Pinned, Why> {
    let of = describe(target);
    let names: Vec<&str> =
        pod.spec.iter().flat_map(|spec| &spec.containers).map(|container| container.name.as_str()).collect();
    let name = match (&run.container, names.as_slice()) {
        (Some(name), _) if names.contains(&name.as_str()) => name.as_str(),
        (Some(name), _) => {
            return Err((
                "ContainerNotFound",
                format!(
                    "{of} has no container {name}, but {}; create another response that names one of them",
                    names.join(", ")
                ),
            ));
        }
        (None, [only]) => only,
        (None, _) => {
            return Err((
                "ContainerNotNamed",
                format!(
                    "{of} has the containers {}: create another response that names one of them in run.container",
                    names.join(", ")
                ),
            ));
        }
    };
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let Some(status) = statuses.into_iter().find(|status| status.name == name) else {
        return Err(not_running(&of, name));
    };
    let runs = status.state.as_ref().is_some_and(|state| state.running.is_some());
    let Some(id) = status.container_id.as_ref().filter(|_| runs) else { return Err(not_running(&of, name)) };
    let known = target.containers.iter().find(|container| container.name == name);
    match known.and_then(|container| container.container_id.as_ref()) {
        Some(pinned) if pinned != id => Err((
            "ContainerReplaced",
            format!(
                "container {name} of {of} was restarted since the response was accepted: it is another container, and nothing was run in it"
            ),
        )),
        _ => Ok(Pinned { name: name.to_owned(), id: id.clone() }),
    }
}

fn not_running(of: &str, name: &str) -> Why {
    (
        "ContainerNotRunning",
        format!(
            "container {name} of {of} does not run: nothing can be run in it; when it does, create another response"
        ),
    )
}

/// What keeps it from being begun.
fn cannot(cx: &Context<'_>, code: &str, message: &str) -> Residual {
    let name = cx.action.map_or("run", Action::effective_name);
    Residual {
        code: code.to_owned(),
        severity: "Medium".to_owned(),
        message: format!("action {name} runs no command: {message}"),
        remedy: None,
    }
}

//! Commands: begun at most once whatever happens, and no more said of them than is known.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests: a panic is a failed test")]

mod fixtures;

use fixtures::stage::Stage;
use fixtures::{condition, noon, says};
use serde_json::{Value, json};
use tourniquet_api::{IncidentResponseStatus, RunResult};
use tourniquet_response::{CommandReport, Ended, TaskKey, TaskReport, TaskState, Work};

/// A pod with one container, and nothing done yet.
fn a_pod() -> Stage {
    let mut stage = Stage::new("Pod");
    stage.containers = vec![("web", "containerd://one")];
    stage
}

fn run(command: &[&str]) -> Value {
    json!([{ "run": { "command": command } }])
}

fn run_with_undo() -> Value {
    json!([{ "run": { "command": ["/bin/stop", "7"], "undo": { "command": ["/bin/start", "7"] } } }])
}

fn report(ended: Ended) -> CommandReport {
    let result = RunResult { stdout_tail: Some("said".to_owned()), ..RunResult::default() };
    CommandReport { at: noon(), ended, result, replaced: None }
}

/// Everything that is under way ends so.
fn ends(stage: &mut Stage, name: &str, ended: &Ended) {
    for task in stage.tasks.values_mut().filter(|task| matches!(task, TaskState::Running { .. })) {
        *task = TaskState::Ended(TaskReport::Command(report(ended.clone())));
    }
    // Killed on the way, the operator is started again.
    if stage.settle(name).is_err() {
        stage.settle(name).expect("it is killed once");
    }
}

fn argv(begun: &(TaskKey, Work)) -> Vec<String> {
    let Work::Command(command) = &begun.1 else { panic!("no command: {begun:?}") };
    command.argv.clone()
}

fn message(status: &IncidentResponseStatus, type_: &str) -> String {
    condition(status, type_).expect("it is said").message.clone()
}

#[test]
fn a_command_is_begun_once_and_its_exit_code_is_what_became_of_it() {
    for (code, says) in [(0, "Done/CommandSucceeded"), (3, "Failed/CommandFailed")] {
        let mut stage = a_pod();
        stage.respond("alert", run(&["/bin/kill", "7"]));
        assert_eq!(stage.outcome("alert", "run"), "Running/Running");
        ends(&mut stage, "alert", &Ended::Exited(code));
        assert_eq!(stage.outcome("alert", "run"), says);
        let result = stage.action("alert", "run").results.remove(0).run.expect("it wrote something");
        assert_eq!((result.exit_code, result.stdout_tail.as_deref()), (Some(code), Some("said")));
        stage.settle("alert").unwrap();
        assert_eq!(stage.begun.len(), 1, "and never again");
        assert_eq!(argv(&stage.begun[0]), ["/bin/kill", "7"]);
    }
}

#[test]
fn with_stop_what_follows_waits_for_the_command_and_is_skipped_when_it_fails() {
    let mut stage = a_pod();
    let actions = json!([
        { "run": { "command": ["/bin/check"] }, "onFailure": "Stop" }, { "label": { "set": { "incident": "4711" } } },
    ]);
    stage.respond("alert", actions);
    assert_eq!(stage.outcome("alert", "label"), "Pending/WaitsForAction");
    ends(&mut stage, "alert", &Ended::Exited(1));
    assert_eq!(stage.outcome("alert", "label"), "Skipped/ActionFailed");
}

#[test]
fn a_command_that_hangs_holds_nothing_up() {
    let mut stage = a_pod();
    stage.respond(
        "alert",
        json!([{ "run": { "command": ["/bin/hang"] } }, { "label": { "set": { "incident": "4711" } } }]),
    );
    assert_eq!(stage.outcome("alert", "run"), "Running/Running");
    assert_eq!(stage.outcome("alert", "label"), "Done/Labelled");
}

#[test]
fn killed_at_any_write_the_operator_never_runs_it_twice_and_says_unknown_only_where_it_began() {
    for write in 0..6 {
        for after in [false, true] {
            let mut stage = a_pod();
            stage.create("alert", run(&["/bin/kill", "7"]));
            stage.crash = Some((write, after));
            if stage.settle("alert").is_err() {
                stage.settle("alert").unwrap();
            }
            ends(&mut stage, "alert", &Ended::Exited(0));
            stage.settle("alert").unwrap();
            assert!(stage.begun.len() <= 1, "write {write} {after}: begun {:?}", stage.begun);
            match stage.outcome("alert", "run").as_str() {
                "Done/CommandSucceeded" => assert_eq!(stage.begun.len(), 1, "write {write} {after}"),
                "Unknown/CommandUnknown" => assert!(stage.crash.is_none(), "write {write} {after}: nobody was killed"),
                other => panic!("write {write} {after}: {other}"),
            }
            stage.undo("alert");
            assert!(stage.begun.len() <= 1, "nor when it is released");
        }
    }
}

#[test]
fn what_an_instance_has_written_down_and_not_begun_it_begins() {
    // The status is stored, and the finalizer is not: somebody else has changed the response in between.
    let mut stage = a_pod();
    stage.create("alert", run(&["/bin/kill", "7"]));
    stage.crash = Some((1, false));
    assert!(stage.settle("alert").is_err());
    stage.as_if_not_restarted();
    stage.settle("alert").unwrap();
    assert_eq!(stage.outcome("alert", "run"), "Running/Running");
    assert_eq!(stage.begun.len(), 1);
}

#[test]
fn nothing_is_run_where_the_container_is_not_what_was_meant() {
    let named = |name: &str| json!([{ "run": { "container": name, "command": ["/bin/true"] } }]);
    let both = vec![("web", "containerd://one"), ("sidecar", "containerd://two")];
    for (containers, actions, reason, said) in [
        (both.clone(), run(&["/bin/true"]), "ContainerNotNamed", "web, sidecar"),
        (both, named("db"), "ContainerNotFound", "no container db, but web, sidecar"),
        (vec![("web", "containerd://one")], named("web2"), "ContainerNotFound", "but web"),
    ] {
        let mut stage = a_pod();
        stage.containers = containers;
        stage.respond("alert", actions);
        assert_eq!(stage.outcome("alert", "run"), format!("Failed/{reason}"));
        let message = stage.action("alert", "run").message.unwrap();
        assert!(message.contains(said), "{message}");
        assert!(stage.begun.is_empty());
        stage.undo("alert");
    }
}

#[test]
fn a_container_that_was_restarted_before_it_began_is_another_container() {
    let mut stage = a_pod();
    stage.create("alert", run(&["/bin/true"]));
    stage.crash = Some((0, true));
    assert!(stage.settle("alert").is_err(), "killed after it was accepted, and the container pinned");
    let pinned = stage.status("alert");
    if pinned.actions[0].results.is_empty() {
        stage.containers = vec![("web", "containerd://two")];
        stage.settle("alert").unwrap();
        assert_eq!(stage.outcome("alert", "run"), "Failed/ContainerReplaced");
    } else {
        // Accepted and to be begun in one status: nobody can know.
        stage.settle("alert").unwrap();
        assert_eq!(stage.outcome("alert", "run"), "Unknown/CommandUnknown");
    }
    assert!(stage.begun.is_empty());
}

#[test]
fn what_ended_without_an_exit_code_is_not_said_to_have_one() {
    for (ended, says, exit_code) in [
        (Ended::NotAsked("gone".to_owned()), "Failed/CommandNotBegun", None),
        (Ended::NotBegun("no such file".to_owned()), "Failed/CommandNotBegun", None),
        (Ended::Lost("cut".to_owned()), "Unknown/CommandUnknown", None),
        (Ended::TimedOut, "Failed/CommandTimedOut", None),
    ] {
        let mut stage = a_pod();
        stage.respond("alert", run(&["/bin/true"]));
        ends(&mut stage, "alert", &ended);
        assert_eq!(stage.outcome("alert", "run"), says);
        let result = stage.action("alert", "run").results.remove(0).run.unwrap();
        assert_eq!(result.exit_code, exit_code);
    }
}

#[test]
fn an_exit_code_of_nobody_knows_which_container_is_no_success() {
    let mut stage = a_pod();
    stage.respond("alert", run(&["/bin/true"]));
    for task in stage.tasks.values_mut() {
        let replaced = Some("container web was restarted".to_owned());
        *task = TaskState::Ended(TaskReport::Command(CommandReport { replaced, ..report(Ended::Exited(0)) }));
    }
    stage.settle("alert").unwrap();
    assert_eq!(stage.outcome("alert", "run"), "Unknown/ContainerReplaced");
}

#[test]
fn a_release_ends_a_command_that_runs_and_says_what_became_of_it() {
    let mut stage = a_pod();
    stage.respond("alert", run(&["/bin/hang"]));
    stage.release("alert");
    stage.settle("alert").unwrap();
    assert_eq!(says(&stage.status("alert"), "Reverted"), "False/Releasing");
    ends(&mut stage, "alert", &Ended::Cancelled);
    assert_eq!(stage.outcome("alert", "run"), "Failed/CommandCancelled");
    assert_eq!(says(&stage.status("alert"), "Reverted"), "True/Released");
    let said = message(&stage.status("alert"), "Reverted");
    assert!(said.contains("what action run did stays") && said.contains("may go on running"), "{said}");
}

#[test]
fn what_became_of_a_command_stays_in_the_record_after_the_release() {
    let mut stage = a_pod();
    stage.respond("alert", run(&["/bin/true"]));
    ends(&mut stage, "alert", &Ended::Exited(0));
    stage.release("alert");
    stage.settle("alert").unwrap();
    assert_eq!(stage.outcome("alert", "run"), "Done/CommandSucceeded");
    assert_eq!(says(&stage.status("alert"), "Reverted"), "True/Released");
}

#[test]
fn the_undo_command_is_run_once_when_it_is_released() {
    for (code, says) in [(0, "Undone/UndoCommandSucceeded"), (1, "Failed/UndoCommandFailed")] {
        let mut stage = a_pod();
        stage.respond("alert", run_with_undo());
        ends(&mut stage, "alert", &Ended::Exited(0));
        stage.release("alert");
        stage.settle("alert").unwrap();
        assert_eq!(argv(stage.begun.last().unwrap()), ["/bin/start", "7"]);
        ends(&mut stage, "alert", &Ended::Exited(code));
        assert_eq!(stage.outcome("alert", "run"), says);
        assert_eq!(fixtures::says(&stage.status("alert"), "Reverted"), "True/Released");
        let record = stage.action("alert", "run").results.remove(0).run.unwrap();
        assert_eq!(record.exit_code, Some(0), "of the command, not of the one that undoes it");
        stage.settle("alert").unwrap();
        assert_eq!(stage.begun.len(), 2);
    }
}

#[test]
fn what_was_never_begun_is_not_undone() {
    let mut stage = a_pod();
    stage.respond("alert", run_with_undo());
    ends(&mut stage, "alert", &Ended::NotBegun("no such file".to_owned()));
    stage.undo("alert");
    assert_eq!(stage.begun.len(), 1);
}

#[test]
fn killed_at_any_write_of_the_release_the_undo_command_runs_at_most_once() {
    for write in 0..5 {
        for after in [false, true] {
            let mut stage = a_pod();
            stage.respond("alert", run_with_undo());
            ends(&mut stage, "alert", &Ended::Exited(0));
            stage.delete("alert");
            stage.crash = Some((write, after));
            drop(stage.settle("alert"));
            for _ in 0..3 {
                if stage.responses.contains_key("alert") {
                    stage.settle("alert").unwrap();
                    ends(&mut stage, "alert", &Ended::Exited(0));
                }
            }
            assert!(!stage.responses.contains_key("alert"), "write {write} {after}: the release ends");
            assert!(stage.begun.len() <= 2, "write {write} {after}: {:?}", stage.begun);
        }
    }
}

#[test]
fn a_dry_run_says_what_would_be_run_and_runs_nothing() {
    let mut stage = a_pod();
    stage.create("alert", run(&["/bin/kill", "7"]));
    stage.responses.get_mut("alert").unwrap().spec.dry_run = true;
    stage.settle("alert").unwrap();
    assert!(stage.begun.is_empty());
    let plan = stage.status("alert").plan;
    let step = plan.iter().find(|step| step.verb == "Run").expect("it is planned");
    assert!(step.change.contains("/bin/kill") && step.object.contains("web"), "{step:?}");
}

#[test]
fn one_whose_outputs_are_to_be_stored_is_refused_and_nothing_is_run() {
    let mut stage = a_pod();
    stage.respond("alert", json!([{ "run": { "command": ["/bin/true"], "storeRef": { "name": "soc" } } }]));
    assert_eq!(says(&stage.status("alert"), "Accepted"), "False/StoreNotSupported");
    assert!(stage.begun.is_empty());
}

#[test]
fn outputs_share_the_room_of_a_status() {
    let mut stage = a_pod();
    let command = |name: usize| json!({ "name": format!("run-{name}"), "run": { "command": ["/bin/true"] } });
    stage.respond("alert", (0..16).map(command).collect());
    let tails: usize = stage
        .begun
        .iter()
        .map(|(_, work)| match work {
            Work::Command(command) => 2 * command.tail,
            other => panic!("no command: {other:?}"),
        })
        .sum();
    assert!(tails <= 32 * 1024, "{tails}");
    let mut stage = a_pod();
    stage.respond("alert", run(&["/bin/true"]));
    assert!(matches!(&stage.begun[0].1, Work::Command(command) if command.tail == 4096));
}

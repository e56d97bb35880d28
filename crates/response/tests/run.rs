//! Commands: begun at most once whatever happens, and no more said of them than is known.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests: a panic is a failed test")]

mod fixtures;

use fixtures::stage::Stage;
use fixtures::{condition, noon, says};
use serde_json::{Value, json};
use tourniquet_api::{IncidentResponseStatus, Outputs, RunResult};
use tourniquet_response::{CommandReport, Ended, Progress, TaskKey, TaskReport, TaskState, Work};

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
    CommandReport { at: noon(), ended, result, not_stored: None, replaced: None }
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
    // The status is stored, and it did not come to the effect: somebody else has changed the response in between.
    let mut stage = a_pod();
    stage.create("alert", run(&["/bin/kill", "7"]));
    stage.crash = Some((2, false));
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
    stage.crash = Some((1, true));
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

fn run_and_store() -> Value {
    json!([{ "run": { "command": ["/bin/kill", "7"], "storeRef": { "name": "soc" } } }])
}

/// A report of a command whose outputs are to be stored.
fn storing(ended: Ended, outputs: Outputs) -> CommandReport {
    let before = report(ended);
    let not_stored =
        matches!(outputs, Outputs::Incomplete | Outputs::NotStored).then(|| "the store is down".to_owned());
    let digest = matches!(outputs, Outputs::Stored | Outputs::Incomplete).then(|| "abcd".to_owned());
    let result = RunResult { outputs: Some(outputs), digest, ..before.result };
    CommandReport { result, not_stored, ..before }
}

/// It has ended so, and its outputs are on their way.
fn is_storing(stage: &mut Stage, ended: &Ended) {
    for task in stage.tasks.values_mut() {
        if let TaskState::Running { progress, .. } = task {
            let command = Some(Box::new(storing(ended.clone(), Outputs::Storing)));
            *progress = Some(Progress { command, ..Progress::default() });
        }
    }
    stage.settle("alert").unwrap();
}

/// And that is what became of them.
fn are(stage: &mut Stage, ended: &Ended, outputs: Outputs) {
    for task in stage.tasks.values_mut().filter(|task| matches!(task, TaskState::Running { .. })) {
        *task = TaskState::Ended(TaskReport::Command(storing(ended.clone(), outputs)));
    }
    stage.settle("alert").unwrap();
}

fn outputs(stage: &Stage) -> Option<Outputs> {
    stage.action("alert", "run").results.remove(0).run.unwrap().outputs
}

#[test]
fn a_command_whose_outputs_are_stored_is_done_when_they_are() {
    for (becomes, says) in [
        (Outputs::Stored, "Done/CommandSucceeded"),
        (Outputs::Incomplete, "Partial/OutputsNotStored"),
        (Outputs::NotStored, "Partial/OutputsNotStored"),
    ] {
        let mut stage = a_pod();
        stage.respond("alert", run_and_store());
        assert_eq!(stage.outcome("alert", "run"), "Running/Running");
        is_storing(&mut stage, &Ended::Exited(0));
        assert_eq!(stage.outcome("alert", "run"), "Running/StoringOutputs");
        let result = stage.action("alert", "run").results.remove(0).run.unwrap();
        assert_eq!((result.exit_code, result.outputs), (Some(0), Some(Outputs::Storing)), "that is known by now");
        are(&mut stage, &Ended::Exited(0), becomes);
        assert_eq!(stage.outcome("alert", "run"), says);
        assert_eq!(outputs(&stage), Some(becomes));
        let said = stage.action("alert", "run").message.unwrap();
        assert_eq!(said.contains("the store is down"), becomes != Outputs::Stored, "{said}");
        stage.settle("alert").unwrap();
        assert_eq!(stage.begun.len(), 1, "and never again");
    }
}

#[test]
fn a_command_that_failed_has_failed_whatever_becomes_of_its_outputs() {
    let mut stage = a_pod();
    stage.respond("alert", run_and_store());
    is_storing(&mut stage, &Ended::Exited(3));
    assert_eq!(stage.outcome("alert", "run"), "Failed/CommandFailed");
    are(&mut stage, &Ended::Exited(3), Outputs::NotStored);
    assert_eq!(stage.outcome("alert", "run"), "Failed/CommandFailed");
    assert_eq!(outputs(&stage), Some(Outputs::NotStored));
    let said = stage.action("alert", "run").message.unwrap();
    assert!(said.ends_with("exit code 3; its outputs are not stored: the store is down"), "{said}");
}

#[test]
fn with_stop_what_follows_waits_for_the_command_and_not_for_its_outputs() {
    for (code, label) in [(0, "Done/Labelled"), (1, "Skipped/ActionFailed")] {
        let mut stage = a_pod();
        let mut actions = run_and_store();
        actions[0]["onFailure"] = json!("Stop");
        actions.as_array_mut().unwrap().push(json!({ "label": { "set": { "incident": "4711" } } }));
        stage.respond("alert", actions);
        assert_eq!(stage.outcome("alert", "label"), "Pending/WaitsForAction");
        is_storing(&mut stage, &Ended::Exited(code));
        assert_eq!(stage.outcome("alert", "label"), label);
    }
}

#[test]
fn a_release_waits_for_no_outputs_and_is_not_forgotten_before_they_are_stored() {
    for becomes in [Outputs::Stored, Outputs::NotStored] {
        let mut stage = a_pod();
        stage.respond("alert", run_and_store());
        is_storing(&mut stage, &Ended::Exited(0));
        stage.release("alert");
        stage.settle("alert").unwrap();
        assert_eq!(says(&stage.status("alert"), "Reverted"), "True/Released");
        assert!(stage.responses["alert"].metadata.finalizers.is_some());
        are(&mut stage, &Ended::Exited(0), becomes);
        assert_eq!(outputs(&stage), Some(becomes));
    }
}

#[test]
fn what_a_release_ends_is_stored_as_far_as_it_came() {
    let mut stage = a_pod();
    stage.respond("alert", run_and_store());
    stage.release("alert");
    stage.settle("alert").unwrap();
    is_storing(&mut stage, &Ended::Cancelled);
    assert_eq!(stage.outcome("alert", "run"), "Failed/CommandCancelled");
    assert_eq!(says(&stage.status("alert"), "Reverted"), "True/Released");
    are(&mut stage, &Ended::Cancelled, Outputs::Incomplete);
    assert_eq!(stage.outcome("alert", "run"), "Failed/CommandCancelled");
    assert_eq!(outputs(&stage), Some(Outputs::Incomplete));
}

#[test]
fn a_deletion_has_the_outputs_sealed_and_goes_on_then() {
    for released_before in [false, true] {
        let mut stage = a_pod();
        stage.respond("alert", run_and_store());
        is_storing(&mut stage, &Ended::Exited(0));
        if released_before {
            stage.release("alert");
            stage.settle("alert").unwrap();
        }
        stage.delete("alert");
        stage.settle("alert").unwrap();
        let mut tasks = stage.tasks.values();
        assert!(tasks.all(|task| matches!(task, TaskState::Running { ending: true, .. })), "they are told to end");
        assert!(stage.responses.contains_key("alert"));
        are(&mut stage, &Ended::Exited(0), Outputs::NotStored);
        assert!(!stage.responses.contains_key("alert"), "released before: {released_before}");
    }
}

#[test]
fn the_undo_command_waits_for_no_outputs_and_what_became_of_them_is_said_beside_it() {
    let mut stage = a_pod();
    let mut actions = run_and_store();
    actions[0]["run"]["undo"] = json!({ "command": ["/bin/start", "7"] });
    stage.respond("alert", actions);
    is_storing(&mut stage, &Ended::Exited(0));
    stage.release("alert");
    stage.settle("alert").unwrap();
    assert_eq!(stage.begun.len(), 2);
    let Work::Command(undo) = &stage.begun[1].1 else { panic!("{:?}", stage.begun) };
    assert!(undo.custody.is_none(), "its outputs are not stored");
    let (of_undo, _) = stage.begun[1].clone();
    stage.tasks.insert(of_undo, TaskState::Ended(TaskReport::Command(report(Ended::Exited(0)))));
    stage.settle("alert").unwrap();
    assert_eq!(stage.outcome("alert", "run"), "Undone/UndoCommandSucceeded");
    assert_eq!(outputs(&stage), Some(Outputs::Storing));
    are(&mut stage, &Ended::Exited(0), Outputs::Stored);
    assert_eq!(stage.outcome("alert", "run"), "Undone/UndoCommandSucceeded");
    assert_eq!(outputs(&stage), Some(Outputs::Stored));
}

#[test]
fn the_operator_killed_while_it_stores_outputs_its_next_instance_seals_them_and_runs_nothing_again() {
    // Also one that was released while no operator was there.
    for (released, looked) in [(false, false), (true, true), (true, false)] {
        for (code, becomes, says) in [
            (0, Outputs::Incomplete, "Partial/OutputsNotStored"),
            (0, Outputs::Stored, "Done/CommandSucceeded"),
            (3, Outputs::NotStored, "Failed/CommandFailed"),
        ] {
            let mut stage = a_pod();
            stage.respond("alert", run_and_store());
            is_storing(&mut stage, &Ended::Exited(code));
            if released {
                stage.release("alert");
            }
            if looked {
                stage.settle("alert").unwrap();
            }
            stage.restart();
            stage.settle("alert").unwrap();
            let (of, Work::Seal(seal)) = &stage.begun[1] else { panic!("{:?}", stage.begun) };
            assert_eq!((of, seal.command.container_id.as_str()), (&stage.begun[0].0, "containerd://one"));
            assert_eq!(seal.report.ended, Ended::Exited(code), "that was known");
            assert_eq!(outputs(&stage), Some(Outputs::Storing));
            are(&mut stage, &Ended::Exited(code), becomes);
            assert_eq!(stage.outcome("alert", "run"), says);
            let result = stage.action("alert", "run").results.remove(0).run.unwrap();
            assert_eq!((result.exit_code, result.outputs), (Some(code), Some(becomes)));
            stage.restart();
            stage.settle("alert").unwrap();
            assert_eq!(stage.begun.len(), 2, "and that is that");
        }
    }
}

#[test]
fn of_a_command_that_was_under_way_when_the_operator_was_killed_the_folder_is_sealed_too() {
    for deleted in [false, true] {
        let mut stage = a_pod();
        stage.respond("alert", run_and_store());
        stage.restart();
        if deleted {
            stage.delete("alert");
        }
        stage.settle("alert").unwrap();
        let Work::Seal(seal) = &stage.begun[1].1 else { panic!("{:?}", stage.begun) };
        assert!(matches!(seal.report.ended, Ended::Lost(_)), "{seal:?}");
        assert!(stage.responses.contains_key("alert"), "a deletion waits for it");
        assert_eq!(
            (stage.outcome("alert", "run").as_str(), outputs(&stage)),
            ("Unknown/CommandUnknown", Some(Outputs::Storing))
        );
        let ended = seal.report.ended.clone();
        are(&mut stage, &ended, Outputs::Incomplete);
        assert_eq!(stage.responses.contains_key("alert"), !deleted);
        if !deleted {
            assert_eq!(
                (stage.outcome("alert", "run").as_str(), outputs(&stage)),
                ("Unknown/CommandUnknown", Some(Outputs::Incomplete))
            );
        }
    }
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

//! Commands in the containers of real pods, by the real kubelet's exec.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tourniquet_api::{ActionStatus, Outcome, RunResult};
use tourniquet_e2e::{RESPONSE_NAMESPACE, Scenario, Spec, TestResponse, scenario, until};

const SOON: Duration = Duration::from_secs(60);

fn run(s: &Scenario, run: Value) -> Spec {
    Spec(json!({ "target": { "pod": { "namespace": s.namespace, "name": "web" } }, "actions": [{ "run": run }] }))
}

/// A line of shell: the tests' image has a busybox.
fn shell(line: &str) -> Value {
    json!(["/bin/sh", "-c", line])
}

/// What is said of the command; `None` before anything is said.
async fn said(response: &TestResponse) -> Result<Option<ActionStatus>> {
    Ok(response.get().await?.status.and_then(|status| status.actions.into_iter().next()))
}

async fn ended(response: &TestResponse, outcome: Outcome, reason: &str) -> Result<(ActionStatus, RunResult)> {
    let mut last = None;
    let found = until(&format!("the command is {outcome:?} {reason}"), SOON, async || {
        last = said(response).await?;
        let is_it = |action: &ActionStatus| action.outcome == outcome && action.reason.as_deref() == Some(reason);
        Ok(last.clone().filter(is_it))
    })
    .await;
    let action = found.with_context(|| format!("the last was {last:?}"))?;
    let run = action.results.first().and_then(|result| result.run.clone());
    Ok((action, run.unwrap_or_default()))
}

#[test]
fn a_command_is_run_and_what_it_wrote_and_how_it_ended_is_said() {
    scenario("run", |s| async move {
        let pod = s.pod("web").await?;
        let line = "echo x >> /tmp/count; echo to-stdout; echo to-stderr >&2; exit 0";
        let response = s.respond("r", run(&s, json!({ "command": shell(line) }))).await?;
        response.becomes_because("Ready", "CommandSucceeded", SOON).await?;
        let (_, run) = ended(&response, Outcome::Done, "CommandSucceeded").await?;
        ensure!(run.exit_code == Some(0), "{run:?}");
        ensure!(run.stdout_tail.as_deref() == Some("to-stdout\n"), "{run:?}");
        ensure!(run.stderr_tail.as_deref() == Some("to-stderr\n"), "{run:?}");
        ensure!(s.exec(&pod, &["/bin/cat", "/tmp/count"]).await? == "x\n");
        // What it wrote is for who may read the response, not for everybody who may read events.
        let events = s.response_events(&response, &["Normal Accepted"]).await?;
        ensure!(!format!("{events:?}").contains("to-stdout"), "{events:?}");
        response.delete().await?;
        response.gone(SOON).await?;
        ensure!(s.exec(&pod, &["/bin/cat", "/tmp/count"]).await? == "x\n", "and never again");
        Ok(())
    });
}

#[test]
fn an_exit_code_other_than_0_is_a_failure() {
    scenario("run-exit", |s| async move {
        s.pod("web").await?;
        let response = s.respond("r", run(&s, json!({ "command": shell("exit 7") }))).await?;
        let (action, run) = ended(&response, Outcome::Failed, "CommandFailed").await?;
        ensure!(run.exit_code == Some(7), "{run:?}");
        ensure!(action.message.context("no message")?.contains("exit code 7"));
        Ok(())
    });
}

#[test]
fn what_cannot_be_begun_is_said_to_be_not_begun() {
    scenario("run-missing", |s| async move {
        s.pod("web").await?;
        let missing = s.respond("program", run(&s, json!({ "command": ["/no/such/program"] }))).await?;
        let (action, result) = ended(&missing, Outcome::Failed, "CommandNotBegun").await?;
        ensure!(result.exit_code.is_none(), "{result:?}");
        ensure!(action.message.context("no message")?.contains("no such file"));
        let container = json!({ "container": "db", "command": ["/bin/true"] });
        let container = s.respond("container", run(&s, container)).await?;
        let (action, _) = ended(&container, Outcome::Failed, "ContainerNotFound").await?;
        ensure!(action.message.context("no message")?.contains("but main"));
        Ok(())
    });
}

#[test]
fn outputs_without_end_and_of_any_bytes_leave_their_tails() {
    scenario("run-output", |s| async move {
        s.pod("web").await?;
        // 1 GiB, and behind it what has to be seen.
        let line = "head -c 1073741824 /dev/zero; echo the-end; printf '\\377\\376bytes' >&2";
        let response = s.respond("r", run(&s, json!({ "command": shell(line), "timeout": "5m" }))).await?;
        until("the command has ended", Duration::from_secs(300), async || {
            let decided = said(&response).await?;
            Ok(decided.filter(|action| !matches!(action.outcome, Outcome::Pending | Outcome::Running)).map(drop))
        })
        .await?;
        let (_, run) = ended(&response, Outcome::Done, "CommandSucceeded").await?;
        let tail = run.stdout_tail.context("no output")?;
        ensure!(tail.ends_with("the-end\n"), "{tail:?}");
        ensure!(serde_json::to_string(&tail)?.len() <= 4098, "{} bytes", tail.len());
        ensure!(run.stderr_tail.as_deref() == Some("\u{fffd}\u{fffd}bytes"), "{:?}", run.stderr_tail);
        Ok(())
    });
}

#[test]
fn a_command_that_ignores_signals_is_let_go_of_in_time_and_delays_nobody() {
    scenario("run-hang", |s| async move {
        s.pod("web").await?;
        let line = "trap '' TERM INT HUP PIPE; while :; do sleep 1; done";
        let response = s.respond("r", run(&s, json!({ "command": shell(line), "timeout": "3s" }))).await?;
        let (action, result) = ended(&response, Outcome::Failed, "CommandTimedOut").await?;
        ensure!(result.exit_code.is_none(), "{result:?}");
        ensure!(action.message.context("no message")?.contains("may go on running"));
        response.delete().await?;
        response.gone(SOON).await?;
        Ok(())
    });
}

#[test]
fn a_release_ends_the_command_and_says_what_became_of_it() {
    scenario("run-release", |s| async move {
        s.pod("web").await?;
        let response = s.respond("r", run(&s, json!({ "command": shell("sleep 600"), "timeout": "10m" }))).await?;
        until("it runs", SOON, async || {
            Ok(said(&response).await?.filter(|action| action.reason.as_deref() == Some("Running")).map(drop))
        })
        .await?;
        response.change(json!({ "release": true })).await?;
        ended(&response, Outcome::Failed, "CommandCancelled").await?;
        let reverted = response.becomes("Reverted", "True", SOON).await?;
        ensure!(reverted.message.contains("what action run did stays"), "{reverted:?}");
        Ok(())
    });
}

#[test]
fn a_release_runs_the_command_that_undoes_it() {
    scenario("run-undo", |s| async move {
        let pod = s.pod("web").await?;
        let command = shell("echo done >> /tmp/log");
        let undo = json!({ "command": shell("echo undone >> /tmp/log") });
        let response = s.respond("r", run(&s, json!({ "command": command, "undo": undo }))).await?;
        ended(&response, Outcome::Done, "CommandSucceeded").await?;
        response.change(json!({ "release": true })).await?;
        ended(&response, Outcome::Undone, "UndoCommandSucceeded").await?;
        response.becomes("Reverted", "True", SOON).await?;
        response.delete().await?;
        response.gone(SOON).await?;
        ensure!(s.exec(&pod, &["/bin/cat", "/tmp/log"]).await? == "done\nundone\n");
        Ok(())
    });
}

#[test]
fn a_command_is_run_beside_an_isolation() {
    scenario("run-isolated", |s| async move {
        let pod = s.pod("web").await?;
        let mut spec = Spec::isolate(&pod);
        spec.0["actions"] = json!([{ "run": { "command": ["/bin/true"] } }, { "isolate": {} }]);
        let response = s.respond("r", spec).await?;
        ended(&response, Outcome::Done, "CommandSucceeded").await?;
        // There is no engine here, and the pod still answers: the command's success does not hide that.
        response.becomes_because("Contained", "NotEnforced", SOON).await?;
        Ok(())
    });
}

#[test]
fn the_example_is_carried_out_and_undone() {
    scenario("run-example", |s| async move {
        let pod = s.pod("web").await?;
        let example = include_str!("../../../examples/run-command.yaml");
        ensure!(example.contains("namespace: shop") && example.contains("name: sentinel-4716"));
        let name = format!("{}-example", s.namespace);
        let manifest = example.replace("namespace: shop", &format!("namespace: {}", s.namespace));
        s.apply_text(&manifest.replace("name: sentinel-4716", &format!("name: {name}"))).await?;
        let response = s.known(RESPONSE_NAMESPACE, &name).await?;
        ended(&response, Outcome::Done, "CommandSucceeded").await?;
        ensure!(s.exec(&pod, &["/bin/ls", "/tmp"]).await?.contains("stopped-by-soc"));
        response.delete().await?;
        response.gone(SOON).await?;
        ensure!(!s.exec(&pod, &["/bin/ls", "/tmp"]).await?.contains("stopped-by-soc"));
        Ok(())
    });
}

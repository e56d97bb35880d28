//! The outputs of commands in real pods, stored in Azurite's container and verified with plain tools; and a store that is down.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tourniquet_api::{EvidenceResult, Outcome, Outputs, RunResult};
use tourniquet_e2e::evidence::Bag;
use tourniquet_e2e::{Scenario, Spec, TestPod, TestResponse, TestStore, azurite, scenario, until};

const SOON: Duration = Duration::from_secs(60);
/// For longer than that nobody goes on storing after a command has ended.
const GIVEN_UP: Duration = Duration::from_secs(180);

/// A line of shell in a pod, whose outputs are stored. The tests' image has a busybox.
async fn run(s: &Scenario, pod: &TestPod, store: &TestStore, line: &str) -> Result<TestResponse> {
    let run = json!({ "command": ["/bin/sh", "-c", line], "storeRef": { "name": store.name }, "timeout": "2m" });
    let target = json!({ "pod": { "namespace": pod.namespace, "name": pod.name } });
    s.respond("r", Spec(json!({ "target": target, "actions": [{ "run": run }] }))).await
}

/// What is said of the command, once that is what became of it and of its outputs.
async fn ended(
    response: &TestResponse,
    wanted: (Outcome, &str, Outputs),
    limit: Duration,
) -> Result<(String, RunResult)> {
    let mut last = None;
    let found = until(&format!("the command is {wanted:?}"), limit, async || {
        last = response.get().await?.status.and_then(|status| status.actions.into_iter().next());
        let Some(action) = &last else { return Ok(None) };
        let run = action.results.first().and_then(|result| result.run.clone()).unwrap_or_default();
        let is_it =
            (action.outcome, action.reason.as_deref(), run.outputs) == (wanted.0, Some(wanted.1), Some(wanted.2));
        Ok(is_it.then(|| (action.message.clone().unwrap_or_default(), run)))
    })
    .await;
    found.with_context(|| format!("the last was {last:?}"))
}

/// The folder, downloaded and verified by the digest in the status.
async fn verified(store: &TestStore, run: &RunResult) -> Result<Bag> {
    let evidence =
        EvidenceResult { url: run.url.clone(), record_digest: run.digest.clone(), ..EvidenceResult::default() };
    Bag::verified(azurite().await?, store, &evidence).await
}

async fn count(s: &Scenario, pod: &TestPod) -> Result<String> {
    s.exec(pod, &["/bin/cat", "/tmp/count"]).await
}

#[test]
fn both_outputs_are_stored_apart_and_verify_with_plain_tools_and_the_release_is_added() {
    scenario("run-store", |s| async move {
        let (store, pod) = (s.store("soc").await?, s.pod("web").await?);
        let line = "echo x >> /tmp/count; head -c 3000000 /dev/zero | tr '\\0' a; echo to-stderr >&2";
        let response = run(&s, &pod, &store, line).await?;
        let (_, result) = ended(&response, (Outcome::Done, "CommandSucceeded", Outputs::Stored), SOON).await?;
        ensure!(result.exit_code == Some(0) && result.stderr_tail.as_deref() == Some("to-stderr\n"), "{result:?}");
        let bag = verified(&store, &result).await?;
        bag.is_whole("stdout", "ContainerTools")?;
        bag.is_whole("stderr", "ContainerTools")?;
        let stdout = bag.bytes("stdout")?;
        ensure!(stdout.len() == 3_000_000 && stdout.iter().all(|byte| *byte == b'a'), "{} bytes", stdout.len());
        ensure!(bag.text("stderr")? == "to-stderr\n");
        let command = &bag.record["command"];
        ensure!(command["exitCode"] == 0 && command["argv"][2] == line, "{command}");
        ensure!(bag.record["target"]["uid"] == pod.uid.as_str() && bag.record["complete"] == true, "{}", bag.record);
        ensure!(count(&s, &pod).await? == "x\n");

        // The digest is kept outside of the store as well, and no signature is told.
        let events = s.response_events(&response, &["Normal Accepted", "Normal EvidenceSealed"]).await?;
        let said = format!("{events:?}");
        ensure!(said.contains(result.digest.as_deref().context("no digest")?) && !said.contains("sig="), "{said}");

        response.change(json!({ "release": true })).await?;
        response.becomes("ReleaseRecorded", "True", SOON).await?;
        let url = result.url.clone().context("no folder")?;
        let (_, folder) = url.split_once(&format!("/{}/", store.container)).context("another container")?;
        let release = azurite().await?.blob(&store.container, &format!("{folder}/release.json")).await;
        let release: Value = serde_json::from_slice(&release.context("no release.json")?)?;
        ensure!(release["reason"] == "Released", "{release}");
        ensure!(release["releasedBy"].as_str().is_some_and(|by| by.starts_with("field manager ")), "{release}");
        verified(&store, &result).await?;
        Ok(())
    });
}

#[test]
fn a_store_that_is_down_holds_up_no_command_and_has_its_outputs_when_it_comes_back() {
    scenario("run-gate", |s| async move {
        let ((store, mut gate), pod) = (s.store_behind_a_gate("soc").await?, s.pod("web").await?);
        let response = run(&s, &pod, &store, "echo x >> /tmp/count; echo out").await?;
        let (_, result) = ended(&response, (Outcome::Running, "StoringOutputs", Outputs::Storing), SOON).await?;
        ensure!(result.exit_code == Some(0) && result.stdout_tail.as_deref() == Some("out\n"), "{result:?}");
        ensure!(count(&s, &pod).await? == "x\n");
        gate.open().await?;
        let (_, result) = ended(&response, (Outcome::Done, "CommandSucceeded", Outputs::Stored), SOON * 2).await?;
        ensure!(verified(&store, &result).await?.text("stdout")? == "out\n");
        ensure!(count(&s, &pod).await? == "x\n", "and it ran once");
        Ok(())
    });
}

#[test]
fn of_a_store_that_stays_down_it_is_said_that_no_outputs_are_stored() {
    scenario("run-down", |s| async move {
        let ((store, _gate), pod) = (s.store_behind_a_gate("soc").await?, s.pod("web").await?);
        let response = run(&s, &pod, &store, "echo x >> /tmp/count; echo out").await?;
        let wanted = (Outcome::Partial, "OutputsNotStored", Outputs::NotStored);
        let (message, result) = ended(&response, wanted, GIVEN_UP).await?;
        ensure!(message.contains("exit code 0") && message.contains("its outputs are not stored"), "{message}");
        ensure!(result.stdout_tail.as_deref() == Some("out\n") && result.digest.is_none(), "{result:?}");
        ensure!(count(&s, &pod).await? == "x\n", "and it ran once");
        Ok(())
    });
}

#[test]
fn a_release_and_a_deletion_are_not_held_up_by_outputs_that_no_store_takes() {
    scenario("run-delete", |s| async move {
        let ((store, _gate), pod) = (s.store_behind_a_gate("soc").await?, s.pod("web").await?);
        let response = run(&s, &pod, &store, "echo x >> /tmp/count; sleep 100").await?;
        until("it runs", SOON, async || Ok(count(&s, &pod).await.is_ok_and(|count| count == "x\n").then_some(())))
            .await?;
        response.change(json!({ "release": true })).await?;
        response.becomes("Reverted", "True", SOON).await?;
        response.delete().await?;
        response.gone(SOON).await?;
        Ok(())
    });
}

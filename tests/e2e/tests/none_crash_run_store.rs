//! An operator that is killed while the outputs of a command are on their way into the store: the next one seals their folder, and runs nothing.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tourniquet_api::{EvidenceResult, Outcome, Outputs, RunResult};
use tourniquet_e2e::crash::{Exclusive, Operator};
use tourniquet_e2e::evidence::Bag;
use tourniquet_e2e::{Scenario, Spec, TestPod, TestResponse, TestStore, azurite, scenario, until};

const SOON: Duration = Duration::from_secs(60);

#[test]
fn the_next_operator_seals_what_the_killed_one_was_storing() {
    scenario("crash-run-store", |s: Scenario| async move {
        Exclusive::during(
            &s,
            Box::pin(async {
                let seat = s.pod("operator-seat").await?;
                while_it_runs(&s, &seat).await?;
                after_its_end(&s, &seat).await
            }),
        )
        .await
    });
}

async fn run(s: &Scenario, name: &str, store: &TestStore, line: &str) -> Result<(TestPod, TestResponse)> {
    let pod = s.pod(&format!("web-{name}")).await?;
    let run = json!({ "command": ["/bin/sh", "-c", line], "storeRef": { "name": store.name } });
    let target = json!({ "pod": { "namespace": pod.namespace, "name": pod.name } });
    let response = s.respond(name, Spec(json!({ "target": target, "actions": [{ "run": run }] }))).await?;
    Ok((pod, response))
}

/// What became of it, once that is known of its outputs.
async fn becomes(response: &TestResponse, wanted: (Outcome, &str, Outputs)) -> Result<RunResult> {
    until(&format!("{} is {wanted:?}", response.name), SOON * 3, async || {
        let Some(action) = response.first_action().await? else { return Ok(None) };
        let run = action.results.first().and_then(|result| result.run.clone()).unwrap_or_default();
        let now = (action.outcome, action.reason.as_deref().unwrap_or_default(), run.outputs);
        Ok((now == (wanted.0, wanted.1, Some(wanted.2))).then_some(run))
    })
    .await
    .with_context(|| format!("wanted of {}", response.name))
}

async fn verified(store: &TestStore, run: RunResult) -> Result<Bag> {
    let evidence = EvidenceResult { url: run.url, record_digest: run.digest, ..EvidenceResult::default() };
    let bag = Bag::verified(azurite().await?, store, &evidence).await?;
    ensure!(bag.record["complete"] == false, "{}", bag.record);
    Ok(bag)
}

async fn once(s: &Scenario, pod: &TestPod) -> Result<()> {
    let count = s.exec(pod, &["/bin/cat", "/tmp/count"]).await?;
    ensure!(count == "x\n", "it ran {} times", count.lines().count());
    Ok(())
}

async fn while_it_runs(s: &Scenario, seat: &TestPod) -> Result<()> {
    let operator = Operator::start(s, seat, None).await?;
    let store = s.store("under-way").await?;
    let (pod, response) = run(s, "under-way", &store, "echo x >> /tmp/count; echo out; sleep 1000").await?;
    let folder = format!("{}-{}/run/opened.json", pod.name, pod.uid.get(..8).context("a short UID")?);
    until("its folder is open", SOON, async || {
        let found = azurite().await?.list(&store.container, "").await;
        Ok(found.iter().any(|path| path.ends_with(&folder)).then_some(()))
    })
    .await?;
    operator.kill().await?;

    let operator = Operator::start(s, seat, None).await?;
    let result = becomes(&response, (Outcome::Unknown, "CommandUnknown", Outputs::Incomplete)).await?;
    let bag = verified(&store, result).await?;
    let ended = &bag.record["command"]["ended"];
    ensure!(ended.as_str().is_some_and(|ended| ended.contains("the operator was restarted")), "{ended}");
    once(s, &pod).await?;
    response.delete().await?;
    response.gone(SOON).await?;
    operator.stop().await
}

async fn after_its_end(s: &Scenario, seat: &TestPod) -> Result<()> {
    let operator = Operator::start(s, seat, None).await?;
    let (store, mut gate) = s.store_behind_a_gate("ended").await?;
    let (pod, response) = run(s, "ended", &store, "echo x >> /tmp/count; echo out").await?;
    becomes(&response, (Outcome::Running, "StoringOutputs", Outputs::Storing)).await?;
    operator.kill().await?;

    gate.open().await?;
    let operator = Operator::start(s, seat, None).await?;
    let result = becomes(&response, (Outcome::Partial, "OutputsNotStored", Outputs::Incomplete)).await?;
    ensure!(result.stdout_tail.as_deref() == Some("out\n") && result.exit_code == Some(0), "{result:?}");
    let bag = verified(&store, result).await?;
    ensure!(bag.record["command"]["exitCode"] == 0, "{}", bag.record["command"]);
    once(s, &pod).await?;
    response.delete().await?;
    response.gone(SOON).await?;
    operator.stop().await
}

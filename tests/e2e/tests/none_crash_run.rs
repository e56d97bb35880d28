//! The operator is killed at each step of a command, before and after it: the command's own counter never shows 2 (law 5).

#![allow(clippy::print_stdout, reason = "at which steps it was killed is what a reader of the test wants to know")]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tourniquet_api::Outcome;
use tourniquet_e2e::crash::{CrashAt, Exclusive, Operator, Side};
use tourniquet_e2e::{Scenario, Spec, TestPod, TestResponse, scenario, until};

/// No command needs more steps than this; the test ends by itself before.
const MOST: u32 = 16;
const SOON: Duration = Duration::from_secs(60);

struct Step {
    name: String,
    response: TestResponse,
    counters: [String; 2],
}

#[test]
fn killed_at_any_step_the_operator_runs_no_command_twice() {
    scenario("crash-run", |s: Scenario| async move { Exclusive::during(&s, Box::pin(all_steps(&s))).await });
}

async fn all_steps(s: &Scenario) -> Result<()> {
    let seat = s.pod("operator-seat").await?;
    let pod = s.pod("web").await?;
    let mut steps: Vec<Step> = Vec::new();
    let mut died_at = Vec::new();
    for write in 1..=MOST {
        let mut died = false;
        for side in [Side::Before, Side::After] {
            let step = begin(s, &pod, write, side).await?;
            let paths =
                vec![format!("/{}", step.response.name), format!("/{}/exec", pod.name), format!("/{}?", pod.name)];
            let operator = Operator::start(s, &seat, Some(CrashAt { write, side, paths })).await?;
            until(&format!("{}: ended or dead", step.name), SOON, async || {
                Ok((operator.crashed() || is_decided(&step.response).await?).then_some(()))
            })
            .await?;
            died |= operator.crashed();
            operator.kill().await?;
            steps.push(step);
        }
        if !died {
            break;
        }
        died_at.push(write);
    }
    // Accepted, finalizer, the exec, its result at least.
    ensure!(died_at.len() >= 4 && died_at.len() < MOST as usize, "only died at {died_at:?}");

    let operator = Operator::start(s, &seat, None).await?;
    let mut unknown = 0;
    for step in &steps {
        until(&format!("{}: decided", step.name), SOON, async || Ok(is_decided(&step.response).await?.then_some(())))
            .await?;
        let action = step.response.action("run").await?;
        let count = count(s, &pod, &step.counters[0]).await?;
        match action.outcome {
            Outcome::Done => ensure!(count == 1, "{}: done, and it ran {count} times", step.name),
            Outcome::Unknown => {
                unknown += 1;
                ensure!(count <= 1, "{}: it ran {count} times", step.name);
            }
            _ => ensure!(false, "{}: {action:?}", step.name),
        }
    }
    ensure!(unknown > 0, "killed while it ran, nobody can know");
    operator.stop().await?;

    // Each is released under an operator that dies at the same step of it.
    for (index, step) in steps.iter().enumerate() {
        let (write, side) = (1 + u32::try_from(index)? / 2, if index % 2 == 0 { Side::Before } else { Side::After });
        let paths = vec![format!("/{}", step.response.name), format!("/{}/exec", pod.name)];
        step.response.delete().await?;
        let operator = Operator::start(s, &seat, Some(CrashAt { write, side, paths })).await?;
        until(&format!("{}: undone or dead", step.name), SOON, async || {
            let gone = step.response.api().get_metadata_opt(&step.response.name).await?.is_none();
            Ok((gone || operator.crashed()).then_some(()))
        })
        .await?;
        operator.kill().await?;
    }
    let operator = Operator::start(s, &seat, None).await?;
    for step in &steps {
        step.response.gone(SOON).await.with_context(|| step.name.clone())?;
        let counts = (count(s, &pod, &step.counters[0]).await?, count(s, &pod, &step.counters[1]).await?);
        ensure!(counts.0 <= 1 && counts.1 <= 1, "{}: run {} times, undone {} times", step.name, counts.0, counts.1);
    }
    operator.stop().await?;
    println!("died at steps {died_at:?} on both sides of each; {unknown} of {} nobody can know", steps.len());
    Ok(())
}

/// A response whose command counts in a file of its own.
async fn begin(s: &Scenario, pod: &TestPod, write: u32, side: Side) -> Result<Step> {
    let name = format!("step-{write}-{side:?}").to_lowercase();
    let counters = [format!("/tmp/{name}"), format!("/tmp/{name}-undone")];
    let [counts, undo] = counters.each_ref().map(|file| json!(["/bin/sh", "-c", format!("echo x >> {file}")]));
    let spec = json!({
        "target": { "pod": { "namespace": pod.namespace, "name": pod.name } },
        "actions": [{ "run": { "command": counts, "undo": { "command": undo } } }],
    });
    let response = s.respond(&name, Spec(spec)).await?;
    Ok(Step { name, response, counters })
}

async fn is_decided(response: &TestResponse) -> Result<bool> {
    let status = response.get().await?.status.unwrap_or_default();
    Ok(status.actions.iter().any(|action| !matches!(action.outcome, Outcome::Pending | Outcome::Running)))
}

async fn count(s: &Scenario, pod: &TestPod, file: &str) -> Result<usize> {
    let line = format!("cat {file} 2>/dev/null || true");
    Ok(s.exec(pod, &["/bin/sh", "-c", &line]).await?.lines().count())
}

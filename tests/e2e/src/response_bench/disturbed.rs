//! A hundred responses at once while something goes wrong: a command of another response hangs, or the operator is killed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::FutureExt;
use futures::future::{select_all, try_join_all};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;

use super::at_once::MANY;
use super::figures::Figures;
use super::paper::PaperPods;
use super::points::Bench;
use super::usage::Process;
use super::verbs::Verb;
use crate::{Spec, TestResponse};

/// Everything is to be in force by then, however bad it goes.
const LIMIT: Duration = Duration::from_secs(120);
/// Commands that hang at the same time.
const HANGING: usize = 10;

/// What goes wrong meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Trouble {
    /// Nothing: what the others are compared with.
    None,
    /// Ten responses have a command in a pod that does not end.
    CommandsHang,
    /// The operator is killed (SIGKILL) when the first of them is in force; its kubelet starts it again.
    OperatorKilled,
}

impl Trouble {
    /// All of them, the undisturbed one first.
    pub const ALL: [Self; 3] = [Self::None, Self::CommandsHang, Self::OperatorKilled];

    /// As it is printed.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "nothing",
            Self::CommandsHang => "ten commands hang",
            Self::OperatorKilled => "the operator is killed when the first is in force",
        }
    }
}

/// What became of them.
#[derive(Debug, Serialize)]
pub struct Disturbed {
    pub trouble: Trouble,
    /// Responses that came into force.
    pub count: usize,
    pub figures: Figures,
}

impl Bench<'_> {
    /// Measures a hundred isolations.
    pub async fn disturbed(&self, pods: &PaperPods<'_>, trouble: Trouble, run: usize) -> Result<Disturbed> {
        Process::operator()?.rests().await?;
        let hanging = if trouble == Trouble::CommandsHang { self.commands_that_hang(run).await? } else { Vec::new() };
        let mut figures = Figures::default();
        let began = Timestamp::now();
        let responses = try_join_all((0..MANY).map(async |index| {
            let key = format!("disturbed-{trouble:?}-{run}-{index}").to_lowercase();
            let spec = Verb::Isolate.spec(self.scenario, pods.name(index)?, &key);
            anyhow::Ok((self.scenario.respond(&key, Spec(spec)).await?, key))
        }))
        .await?;
        let marks: Vec<String> =
            responses.iter().map(|(response, key)| Verb::Isolate.mark(&response.uid, key)).collect();
        if trouble == Trouble::OperatorKilled {
            let (first, ..) = select_all(marks.iter().map(|mark| self.effects.of(mark, LIMIT).boxed())).await;
            first?;
            Process::operator()?.kill()?;
        }
        let seen = try_join_all(marks.iter().map(|mark| self.effects.of(mark, LIMIT))).await?;
        for ((response, _), seen) in responses.iter().zip(&seen) {
            figures.add("created -> in force, each", response.asked, *seen);
        }
        figures.add(super::at_once::LAST, began, *seen.iter().max().context("no responses")?);
        let responses: Vec<TestResponse> = responses.into_iter().map(|(response, _)| response).collect();
        self.let_go(&responses).await?;
        for response in &hanging {
            ensure!(is_running(response).await?, "the command of {} ended", response.name);
        }
        self.let_go(&hanging).await?;
        if !hanging.is_empty() {
            self.scenario.delete_pod(&place(run)).await?;
        }
        Ok(Disturbed { trouble, count: seen.len(), figures })
    }

    async fn commands_that_hang(&self, run: usize) -> Result<Vec<TestResponse>> {
        let pod = self.scenario.pod(&place(run)).await?;
        let run_for_ever = json!({ "run": { "command": ["/bin/sleep", "600"], "timeout": "10m" } });
        let target = json!({ "pod": { "namespace": self.scenario.namespace, "name": pod.name } });
        let spec = json!({ "target": target, "actions": [run_for_ever] });
        let responses = try_join_all((0..HANGING).map(|index| {
            let (name, spec) = (format!("hangs-{run}-{index}"), Spec(spec.clone()));
            async move { self.scenario.respond(&name, spec).await }
        }))
        .await?;
        for response in &responses {
            crate::until("its command runs", LIMIT, async || Ok(is_running(response).await?.then_some(()))).await?;
        }
        Ok(responses)
    }
}

fn place(run: usize) -> String {
    format!("hangs-{run}")
}

async fn is_running(response: &TestResponse) -> Result<bool> {
    let status = response.get().await?.status.unwrap_or_default();
    Ok(status.actions.iter().all(|action| action.outcome == tourniquet_api::Outcome::Running)
        && !status.actions.is_empty())
}

//! One response at a time, in a cluster with so many pods, beside so many responses in force.

use std::time::Duration;

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use serde::Serialize;

use super::LIMIT;
use super::effects::Effects;
use super::figures::Figures;
use super::floor::Floor;
use super::paper::{BESIDE, PaperPods};
use super::steps::Steps;
use super::usage::{Process, Usage};
use super::verbs::Verb;
use crate::{PaperNode, Scenario, Spec, TestResponse};

/// From asking for the response to its first effect, by the operator.
pub const OURS: &str = "created -> first effect";
/// The same requests by a bare client.
pub const FLOOR: &str = "floor: the same requests";
/// The effect alone by a bare client.
pub const BARE: &str = "floor: the effect alone";

/// A thousand that are deleted at once take half a minute and more, most of it for lists of each other.
const ALL_GONE: Duration = Duration::from_secs(180);

/// What was measured with so many pods and responses.
#[derive(Debug, Serialize)]
pub struct Point {
    pub pods: usize,
    pub responses: usize,
    pub verbs: Vec<(Verb, Figures)>,
    /// Of the operator, before the rounds.
    pub before: Usage,
    /// And after them.
    pub after: Usage,
    /// CPU time of the operator for one response, applied and undone, in milliseconds.
    pub cpu_each: f64,
}

/// Where it is measured.
pub struct Bench<'a> {
    pub scenario: &'a Scenario,
    pub floor: &'a Floor,
    pub effects: &'a Effects,
    pub steps: &'a Steps,
    pub operator: &'a Process,
    pub node: &'a PaperNode,
}

impl Bench<'_> {
    /// All verbs in turn, so that what else the machine does meanwhile meets them alike.
    pub async fn point(&self, pods: &PaperPods<'_>, counts: (usize, usize), rounds: usize) -> Result<Point> {
        self.operator.rests().await?;
        let before = self.operator.usage()?;
        let mut verbs: Vec<(Verb, Figures)> = Verb::ALL.map(|verb| (verb, Figures::default())).into();
        // The first round is for what only the first has to do, such as connecting.
        for round in 0..=rounds {
            for (verb, figures) in &mut verbs {
                let target = if *verb == Verb::Cordon { &self.node.name } else { pods.name(round)? };
                let key = format!("{}-{}-{}-{round}", verb.name(), counts.0, counts.1);
                let mut measured = Figures::default();
                self.round(*verb, target, &key, if round == 0 { &mut measured } else { figures }).await?;
            }
        }
        let after = self.operator.usage()?;
        let cpu_each = (after.cpu - before.cpu) / ((rounds + 1) * Verb::ALL.len()) as f64;
        Ok(Point { pods: counts.0, responses: counts.1, verbs, before, after, cpu_each })
    }

    async fn round(&self, verb: Verb, target: &str, key: &str, figures: &mut Figures) -> Result<()> {
        let ours = format!("ours-{key}");
        let response = self.scenario.respond(&ours, Spec(verb.spec(self.scenario, target, &ours))).await?;
        let seen = self.effects.of(&verb.mark(&response.uid, &ours), LIMIT).await?;
        figures.add(OURS, response.asked, seen);
        response.becomes_because("Accepted", "Accepted", LIMIT).await?;
        self.steps.add_to(figures, OURS, &response.name, response.asked, seen).await?;
        let stored = serde_json::to_value(response.get().await?.status.context("a response without a status")?)?;
        response.delete().await?;
        response.gone(LIMIT).await?;

        for (kind, all) in [(FLOOR, true), (BARE, false)] {
            let name = format!("{}-{key}", if all { "floor" } else { "bare" });
            let asked = Timestamp::now();
            if all {
                self.floor.respond(&name, &name, verb, target, &stored).await?;
            } else {
                self.floor.effect(&name, verb, target).await?;
            }
            let seen = self.effects.of(&verb.mark_of_floor(&name), LIMIT).await?;
            figures.add(kind, asked, seen);
            if all {
                self.steps.add_to(figures, FLOOR, &name, asked, seen).await?;
            }
            self.floor.undo(&name, &name, verb, target).await?;
        }
        Ok(())
    }

    /// So many responses in force: each a label of its own on one of the pods.
    pub async fn stand(&self, pods: &PaperPods<'_>, count: usize) -> Result<Vec<TestResponse>> {
        let responses: Vec<TestResponse> = stream::iter(0..count)
            .map(|index| async move {
                let key = format!("standing-{index}");
                let spec = Verb::Label.spec(self.scenario, pods.name(index)?, &key);
                self.scenario.respond(&key, Spec(spec)).await
            })
            .buffered(BESIDE)
            .try_collect()
            .await?;
        for response in &responses {
            response.becomes("Ready", "True", LIMIT).await?;
        }
        Ok(responses)
    }

    /// Lets go of them.
    pub async fn let_go(&self, responses: &[TestResponse]) -> Result<()> {
        let deleted = stream::iter(responses).map(async |response| response.delete().await).buffered(BESIDE);
        deleted.try_collect::<Vec<_>>().await?;
        for response in responses {
            response.gone(ALL_GONE).await?;
        }
        Ok(())
    }
}

//! A hundred responses for a hundred pods, created in one go.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use futures::future::try_join_all;
use jiff::Timestamp;
use serde::Serialize;

use super::LIMIT;
use super::figures::Figures;
use super::paper::PaperPods;
use super::points::Bench;
use super::verbs::Verb;
use crate::audit::{Audit, OPERATOR};
use crate::{Spec, TestResponse};

/// Responses that are created at once.
pub const MANY: usize = 100;

/// What became of them.
#[derive(Debug, Serialize)]
pub struct AtOnce {
    pub verb: Verb,
    pub count: usize,
    pub figures: Figures,
    /// CPU time of the operator until the last was in force, in milliseconds.
    pub cpu: f64,
    /// Requests of the operator for each response until the last was in force, by verb and resource.
    pub requests: BTreeMap<String, f64>,
    /// The same until every outcome was stored.
    pub until_reported: BTreeMap<String, f64>,
}

/// First created -> last in force.
pub const LAST: &str = "first created -> last in force";
/// The same requests by a bare client, all responses at the same time.
pub const LAST_OF_FLOOR: &str = "floor: first created -> last in force";

impl Bench<'_> {
    /// Measures it once, and the floor after it.
    pub async fn at_once(&self, pods: &PaperPods<'_>, verb: Verb, run: usize) -> Result<AtOnce> {
        self.operator.rests().await?;
        let audit = Audit::begin(&self.scenario.env)?;
        let before = self.operator.usage()?.cpu;
        let mut figures = Figures::default();
        let began = Timestamp::now();
        let responses = try_join_all((0..MANY).map(async |index| {
            let key = format!("once-{}-{run}-{index}", verb.name());
            let response = self.scenario.respond(&key, Spec(verb.spec(self.scenario, pods.name(index)?, &key))).await?;
            anyhow::Ok((key, response))
        }))
        .await?;
        figures.add("all created", began, Timestamp::now());
        let seen = try_join_all(
            responses
                .iter()
                .map(|(key, response)| async { self.effects.of(&verb.mark(&response.uid, key), LIMIT).await }),
        )
        .await?;
        let cpu = self.operator.usage()?.cpu - before;
        for ((_, response), seen) in responses.iter().zip(&seen) {
            figures.add("created -> in force, each", response.asked, *seen);
        }
        let last = *seen.iter().max().context("no responses")?;
        figures.add(LAST, began, last);
        let mut stored = serde_json::Value::Null;
        for (_, response) in &responses {
            response.becomes_because("Accepted", "Accepted", LIMIT).await?;
            crate::until("its outcome is stored", LIMIT, async || {
                let reconciling = response.condition("Reconciling").await?;
                Ok(reconciling.is_none_or(|reconciling| reconciling.status != "True").then_some(()))
            })
            .await?;
            stored = serde_json::to_value(response.get().await?.status)?;
        }
        figures.add("first created -> last outcome stored and seen", began, Timestamp::now());
        let requests = requests(&audit, |at| at <= last)?;
        let until_reported = self::requests(&audit, |_| true)?;
        let responses: Vec<TestResponse> = responses.into_iter().map(|(_, response)| response).collect();
        let began = Timestamp::now();
        self.let_go(&responses).await?;
        figures.add("first deleted -> last gone", began, Timestamp::now());

        let (stored, names) = (&stored, (0..MANY).map(|index| format!("once-floor-{run}-{index}")));
        let names: Vec<String> = names.collect();
        let began = Timestamp::now();
        let seen = try_join_all(names.iter().enumerate().map(async |(index, name)| {
            self.floor.respond(name, name, verb, pods.name(index)?, stored).await?;
            self.effects.of(&verb.mark_of_floor(name), LIMIT).await
        }))
        .await?;
        figures.add(LAST_OF_FLOOR, began, seen.into_iter().max().context("no responses")?);
        for (index, name) in names.iter().enumerate() {
            self.floor.undo(name, name, verb, pods.name(index)?).await?;
        }
        Ok(AtOnce { verb, count: MANY, figures, cpu, requests, until_reported })
    }
}

/// Requests of the operator for each response.
fn requests(audit: &Audit, wanted: impl Fn(Timestamp) -> bool) -> Result<BTreeMap<String, f64>> {
    let mut counts: BTreeMap<String, f64> = BTreeMap::new();
    for request in audit.requests()? {
        if request.is_by(OPERATOR) && request.verb != "watch" && wanted(request.received()) {
            *counts.entry(format!("{} {}", request.verb, request.resource())).or_default() += 1.0 / MANY as f64;
        }
    }
    Ok(counts)
}

//! What is collected, how long it takes, and what it takes of the operator and the machine.

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use tourniquet_api::Outcome;
use tourniquet_azurite::Azurite;

use super::LIMIT;
use super::cpu::{self, Spent};
use crate::response_bench::usage::Process;
use crate::{Scenario, Spec, TestPod, TestStore, evidence};

/// Where it is collected from, and into.
pub struct Bench<'a> {
    pub scenario: &'a Scenario,
    pub azurite: &'a Azurite,
    pub store: &'a TestStore,
    pub operator: &'a Process,
}

/// What was collected, and what that took.
#[derive(Clone, Debug, Serialize)]
pub struct Collected {
    /// From the opening of the folder to the record that seals it, by the operator's clock.
    pub seconds: f64,
    /// Bytes stored.
    pub bytes: f64,
    pub artifacts: usize,
    /// The most memory of the operator above what it had before, in MiB.
    pub memory: f64,
    /// CPU time of whoever had to do with it, in seconds.
    pub cpu: Spent,
    #[serde(skip)]
    pub record: Value,
}

impl Collected {
    pub fn mebibytes_a_second(&self) -> f64 {
        self.bytes / 1024.0 / 1024.0 / self.seconds
    }
}

impl Bench<'_> {
    /// Collects what these fields of `collect` say, and expects this outcome.
    pub async fn collect(&self, name: &str, pod: &TestPod, fields: Value, expected: Outcome) -> Result<Collected> {
        self.operator.rests().await?;
        self.operator.forget_peak()?;
        let idle = self.operator.usage()?.resident;
        let before = cpu::spent();
        let response = self.scenario.respond(name, Spec::collect(pod, self.store, fields)).await?;
        let (action, result) = response.collected(LIMIT).await?;
        ensure!(action.outcome == expected, "{action:?}");
        let (peak, cpu) = (self.operator.usage()?.peak, cpu::since(&before));
        let folder = evidence::folder(&self.store.container, &result)?;
        let record = self.azurite.blob(&self.store.container, &format!("{folder}/data/record.json")).await;
        let record: Value = serde_json::from_slice(&record.context("there is no record")?)?;
        let at = |field: &str| record[field].as_str().and_then(|text| text.parse::<Timestamp>().ok());
        let (opened, sealed) = at("openedAt").zip(at("sealedAt")).context("the record has no times")?;
        let artifacts = record["artifacts"].as_array().map_or(0, Vec::len);
        response.delete().await?;
        response.gone(LIMIT).await?;
        Ok(Collected {
            seconds: sealed.duration_since(opened).as_secs_f64(),
            bytes: result.bytes as f64,
            artifacts,
            memory: (peak - idle).max(0.0),
            cpu,
            record,
        })
    }
}

/// One file, and nothing else.
pub fn one_file(path: &str) -> Value {
    json!({ "include": [], "files": [{ "path": path }] })
}

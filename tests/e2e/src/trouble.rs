//! Responses come to their end although every fifth request fails.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tourniquet_api::Outcome;

use crate::crash::{Exclusive, Operator};
use crate::faults::Faults;
use crate::snapshot::{Snapshot, traces};
use crate::{Scenario, Spec, TestPod, TestResponse, until};

/// How long one response may take for one step. A request that hangs takes 15 s of it, and so may the next one of the same response.
const SOON: Duration = Duration::from_secs(120);
/// More rounds than this are not needed to meet every fault: each has some hundred requests.
const ROUNDS: usize = 12;

/// An isolation, a label and an overwritten label, put in place, released and deleted again and again, until every fault was met. The end is
/// what it would have been without, each time.
pub async fn is_borne(s: &Scenario) -> Result<()> {
    let (seat, web) = tokio::try_join!(s.pod("operator-seat"), s.pod("web"))?;
    let line = ["--namespace", &s.namespace, "label", "pod", "web", "team=red"];
    s.env.kubectl_output(&line).await?;
    let before = Snapshot::of_namespace(&s.env, &s.namespace).await?;
    Exclusive::during(s, async {
        let faults = Arc::new(Faults::begin()?);
        let operator = Operator::start_with_faults(s, &seat, Arc::clone(&faults)).await?;
        for number in 1.. {
            round(s, &web, number).await.with_context(|| format!("round {number}; faults {:?}", faults.met()))?;
            s.is_what_it_was(&before).await?;
            if faults.were_all_met() {
                break;
            }
            ensure!(number < ROUNDS, "after {number} rounds only these faults were met: {:?}", faults.met());
        }
        println!("borne: {:?}", faults.met());
        // Its watches go on failing, so it may take a moment.
        operator.stop().await?;
        faults.were_heeded()
    })
    .await
}

async fn round(s: &Scenario, web: &TestPod, number: usize) -> Result<()> {
    let on_pod = |actions: Value| {
        Spec(json!({ "target": { "pod": { "namespace": s.namespace, "name": "web" } }, "actions": actions }))
    };
    let label = on_pod(json!([{ "label": { "set": { "incident": "4711" } } }]));
    let overwrite = on_pod(json!([{ "label": { "set": { "team": "blue" }, "overwrite": true } }]));
    let isolated = if s.env.agents { "Cut" } else { "NotEnforced" };
    let cases =
        [("isolate", isolated, Spec::isolate(web)), ("label", "Labelled", label), ("team", "Labelled", overwrite)];
    let mut responses: Vec<(&str, TestResponse)> = Vec::new();
    for (name, ends, spec) in cases {
        responses.push((ends, s.respond(&format!("{name}-{number}"), spec).await?));
    }
    for (ends, response) in &responses {
        response.becomes_because("Ready", ends, SOON).await?;
    }
    let labels = s.get_pod("web").await?.metadata.labels.unwrap_or_default();
    ensure!(labels.get("incident").map(String::as_str) == Some("4711"), "{labels:?}");
    ensure!(labels.get("team").map(String::as_str) == Some("blue"), "{labels:?}");
    // One keeps its record, the others are deleted.
    let (_, released) = responses.swap_remove(number % responses.len());
    released.change(json!({ "release": true })).await?;
    for (_, response) in &responses {
        response.delete().await?;
    }
    let reverted = released.becomes("Reverted", "True", SOON).await?;
    ensure!(reverted.reason == "Released", "{reverted:?}");
    let status = released.get().await?.status.unwrap_or_default();
    ensure!(status.actions.iter().all(|action| action.outcome == Outcome::Undone), "{:?}", status.actions);
    ensure!(traces(&s.env, &released.uid).await?.is_empty(), "{} left traces", released.name);
    until("the record is kept by nothing any more", SOON, async || {
        Ok(released.get().await?.metadata.finalizers.is_none().then_some(()))
    })
    .await?;
    for (_, response) in &responses {
        response.gone(SOON).await?;
        ensure!(traces(&s.env, &response.uid).await?.is_empty(), "{} left traces", response.name);
    }
    released.delete().await?;
    released.gone(SOON).await
}

//! A label and a cut of one pod: the cut first, and neither leaves anything.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;
use tourniquet_api::{Outcome, names};
use tourniquet_e2e::snapshot::{Snapshot, traces};
use tourniquet_e2e::{Spec, scenario};

const SOON: Duration = Duration::from_secs(30);

#[test]
fn a_pod_is_cut_and_labelled_and_is_what_it_was() {
    scenario("cut-label", |s| async move {
        let web = s.pod("web").await?;
        let before = Snapshot::of_namespace(&s.env, &s.namespace).await?;
        let actions = json!([{ "label": { "set": { "incident": "4711" } } }, { "isolate": {} }]);
        let response = s.respond("r", Spec::isolate(&web).with("actions", actions)).await?;

        let contained = response.becomes("Contained", "True", SOON).await?;
        ensure!(contained.reason == "Cut" && contained.message.starts_with("isolate: "), "{contained:?}");
        ensure!(response.action("label").await?.outcome == Outcome::Done);
        let labels = s.get_pod("web").await?.metadata.labels.context("no labels")?;
        ensure!(labels.get("incident").is_some_and(|value| value == "4711"), "{labels:?}");
        ensure!(
            !labels.contains_key(&names::isolation_label(&response.uid)),
            "that one comes after a minute: {labels:?}"
        );

        response.delete().await?;
        response.gone(SOON).await?;
        s.is_what_it_was(&before).await?;
        ensure!(traces(&s.env, &response.uid).await?.is_empty());
        Ok(())
    });
}

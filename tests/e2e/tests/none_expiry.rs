//! A response that releases itself: on time, later than it was meant to, earlier, and while nobody was there.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde_json::json;
use tokio::sync::RwLock;
use tourniquet_api::Outcome;
use tourniquet_e2e::crash::Exclusive;
use tourniquet_e2e::snapshot::traces;
use tourniquet_e2e::{Scenario, Spec, TestResponse, scenario, until};

const SOON: Duration = Duration::from_secs(120);

/// Written by who has the cluster's operator away: what lasts for seconds can be over before it is back.
static OPERATOR: RwLock<()> = RwLock::const_new(());

async fn in_force(s: &Scenario, name: &str, expire_after: &str) -> Result<TestResponse> {
    let pod = s.pod(name).await?;
    let response = s.respond(name, Spec::isolate(&pod).with("expireAfter", json!(expire_after))).await?;
    response.becomes_because("Ready", "NotEnforced", SOON).await?;
    Ok(response)
}

async fn expires_at(response: &TestResponse) -> Result<Timestamp> {
    let at = response.get().await?.status.and_then(|status| status.expires_at);
    Ok(at.context("no status.expiresAt")?.0)
}

async fn created_at(response: &TestResponse) -> Result<Timestamp> {
    Ok(response.get().await?.metadata.creation_timestamp.context("no creationTimestamp")?.0)
}

/// Nothing of it is left but the record.
async fn has_expired(s: &Scenario, response: &TestResponse) -> Result<()> {
    let reverted = response.becomes("Reverted", "True", SOON).await?;
    ensure!(reverted.reason == "Expired", "{reverted:?}");
    let ready = response.becomes("Ready", "True", SOON).await?;
    ensure!(ready.reason == "Expired", "{ready:?}");
    ensure!(response.action("isolate").await?.outcome == Outcome::Undone);
    ensure!(traces(&s.env, &response.uid).await?.is_empty());
    Ok(())
}

#[test]
fn it_expires_also_when_nobody_was_there_at_that_moment() {
    scenario("expiry-away", |s| async move {
        let _alone = OPERATOR.write().await;
        let response = in_force(&s, "web", "20s").await?;
        let at = expires_at(&response).await?;
        ensure!(at.duration_since(created_at(&response).await?).as_secs() == 20, "{at}");
        Exclusive::during(&s, async {
            until("the time has come", SOON, async || Ok((Timestamp::now() > at).then_some(()))).await?;
            ensure!(!traces(&s.env, &response.uid).await?.is_empty(), "nobody is there who could undo it");
            Ok(())
        })
        .await?;
        has_expired(&s, &response).await
    });
}

#[test]
fn it_lasts_as_long_as_it_was_last_told_to() {
    scenario("expiry-moved", |s| async move {
        let _there = OPERATOR.read().await;
        let longer = in_force(&s, "longer", "25s").await?;
        longer.change(json!({ "expireAfter": "1h" })).await?;
        // Whoever sees this one expire knows that the other one's time, which was sooner, has passed.
        let control = in_force(&s, "control", "25s").await?;
        has_expired(&s, &control).await?;
        ensure!(longer.condition("Reverted").await?.is_none(), "it was extended in time");
        ensure!(!traces(&s.env, &longer.uid).await?.is_empty(), "it was extended in time");
        ensure!(expires_at(&longer).await?.duration_since(created_at(&longer).await?).as_secs() == 3600);

        // Shorter than it has lasted already.
        longer.change(json!({ "expireAfter": "1s" })).await?;
        has_expired(&s, &longer).await
    });
}

#[test]
fn an_extension_after_the_end_brings_nothing_back() {
    scenario("expiry-late", |s| async move {
        let _there = OPERATOR.read().await;
        let response = in_force(&s, "web", "20s").await?;
        has_expired(&s, &response).await?;
        let at = expires_at(&response).await?;
        let changed = response.change(json!({ "expireAfter": "1h" })).await?;
        until("the operator has seen the change", SOON, async || {
            let seen = response.get().await?.status.and_then(|status| status.observed_generation);
            Ok((seen == changed.metadata.generation).then_some(()))
        })
        .await?;
        has_expired(&s, &response).await?;
        ensure!(expires_at(&response).await? == at, "the record says when it ended");
        Ok(())
    });
}

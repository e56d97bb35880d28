//! Without a policy engine nothing enforces a policy, and nothing is claimed.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;
use tourniquet_api::Outcome;
use tourniquet_e2e::snapshot::{Snapshot, traces};
use tourniquet_e2e::{OPERATOR_NAMESPACE, Spec, not_enforced, scenario, until};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_policy_that_nothing_enforces_is_partial() {
    scenario("partial", |s| async move { not_enforced::is_said(&s).await });
}

#[test]
fn a_release_undoes_and_keeps_the_record() {
    scenario("release", |s| async move {
        let web = s.pod("web").await?;
        let before = Snapshot::of_namespace(&s.env, &s.namespace).await?;
        let response = s.respond("cut", Spec::isolate(&web)).await?;
        response.becomes_because("Ready", "NotEnforced", SECOND * 60).await?;

        response.change(json!({ "release": true })).await?;

        let reverted = response.becomes("Reverted", "True", SECOND * 30).await?;
        ensure!(reverted.reason == "Released", "{reverted:?}");
        let ready = response.becomes("Ready", "True", SECOND).await?;
        ensure!(ready.reason == "Released", "{ready:?}");
        // The status says so before the finalizer goes: a crash in between must not lose the record.
        until("it can be deleted at once", SECOND * 30, async || {
            Ok(response.get().await?.metadata.finalizers.is_none().then_some(()))
        })
        .await?;
        ensure!(response.action("isolate").await?.outcome == Outcome::Undone);
        let difference = before.diff(&Snapshot::of_namespace(&s.env, &s.namespace).await?);
        ensure!(difference.is_empty(), "{difference}");
        let back = response.change(json!({ "release": false })).await.expect_err("a release is one way").to_string();
        ensure!(back.contains("spec.release is one way"), "{back}");
        Ok(())
    });
}

#[test]
fn a_response_that_expires_releases_itself() {
    scenario("expiry", |s| async move {
        let web = s.pod("web").await?;
        let response = s.respond("cut", Spec::isolate(&web).with("expireAfter", json!("8s"))).await?;
        response.becomes_because("Ready", "NotEnforced", SECOND * 30).await?;

        let reverted = response.becomes("Reverted", "True", SECOND * 30).await?;
        ensure!(reverted.reason == "Expired", "{reverted:?}");
        let late = reverted.last_transition_time.0.duration_since(response.asked).unsigned_abs();
        ensure!(late >= SECOND * 7, "expired {late:?} after its creation");
        ensure!(traces(&s.env, &response.uid).await?.is_empty());
        Ok(())
    });
}

#[test]
fn a_dry_run_touches_nothing() {
    scenario("dry-run", |s| async move {
        let web = s.pod("web").await?;
        let before = s.get_pod("web").await?.metadata.resource_version;
        let response = s.respond("plan", Spec::isolate(&web).with("dryRun", json!(true))).await?;

        let ready = response.becomes("Ready", "True", SECOND * 30).await?;
        ensure!(ready.reason == "Planned", "{ready:?}");
        let planned = response.get().await?;
        ensure!(planned.metadata.finalizers.is_none());
        let plan: Vec<String> = planned
            .status
            .unwrap_or_default()
            .plan
            .iter()
            .map(|step| format!("{} {}", step.verb, step.object))
            .collect();
        ensure!(plan.iter().any(|step| step == &format!("Apply Pod {}/web", s.namespace)), "{plan:?}");
        ensure!(s.get_pod("web").await?.metadata.resource_version == before);
        ensure!(traces(&s.env, &response.uid).await?.is_empty());
        Ok(())
    });
}

#[test]
fn a_deletion_while_the_pod_is_gone_ends() {
    scenario("gone", |s| async move {
        let web = s.pod("web").await?;
        let response = s.respond("cut", Spec::isolate(&web)).await?;
        response.becomes_because("Ready", "NotEnforced", SECOND * 60).await?;
        s.delete_pod("web").await?;

        response.delete().await?;

        response.gone(SECOND * 30).await?;
        ensure!(traces(&s.env, &response.uid).await?.is_empty());
        Ok(())
    });
}

#[test]
fn every_line_of_the_log_about_a_response_names_it() {
    scenario("log", |s| async move {
        let web = s.pod("web").await?;
        let response = s.respond("cut", Spec::isolate(&web)).await?;
        response.becomes_because("Ready", "NotEnforced", SECOND * 60).await?;
        response.delete().await?;
        response.gone(SECOND * 30).await?;

        let log = ["--namespace", OPERATOR_NAMESPACE, "logs", "deployment/tourniquet-operator", "--tail=-1"];
        let log = s.env.kubectl_output(&log).await?;
        let full = format!("{}/{}", response.namespace, response.name);
        let lines: Vec<&str> =
            log.lines().filter(|line| line.contains(&response.uid) || line.contains(&response.name)).collect();
        ensure!(lines.len() >= 6, "reported, three effects done and undone at least: {lines:?}");
        for line in lines {
            let entry: serde_json::Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
            ensure!(entry["span"]["response"] == full && entry["span"]["uid"] == response.uid, "{line}");
            ensure!(
                entry["timestamp"].is_string() && entry["level"].is_string() && entry["message"].is_string(),
                "{line}"
            );
        }
        Ok(())
    });
}

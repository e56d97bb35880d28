//! Without a policy engine nothing enforces a policy, and nothing is claimed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde_json::json;
use tourniquet_api::{Answer as Probed, Assurance, Outcome};
use tourniquet_e2e::snapshot::{Snapshot, traces};
use tourniquet_e2e::{OPERATOR_NAMESPACE, Scenario, Spec, scenario, until};

const SECOND: Duration = Duration::from_secs(1);

/// What has to be said where a policy object exists and enforces nothing.
async fn says_that_nothing_is_enforced(s: &Scenario) -> Result<()> {
    let (web, peer) = tokio::try_join!(s.pod("web"), s.pod("peer"))?;
    let before = Snapshot::of_namespace(&s.env, &s.namespace).await?;
    let inbound = s.attempts(&peer, &web).await?;
    let response = s.respond("cut", Spec::isolate(&web)).await?;

    let ready = response.becomes_because("Ready", "NotEnforced", SECOND * 60).await?;
    ensure!(ready.status == "False" && ready.message.contains("nothing enforces the policy"), "{ready:?}");
    for (type_, status) in [("Contained", "False"), ("Stalled", "True"), ("Accepted", "True")] {
        let condition = response.condition(type_).await?.with_context(|| format!("no {type_}"))?;
        ensure!(condition.status == status, "{condition:?}");
    }
    let status = response.get().await?.status.unwrap_or_default();
    let action = status.actions.first().context("no action")?;
    ensure!(action.outcome == Outcome::Partial, "{action:?}");
    let result = action.results.first().context("no result")?;
    ensure!(result.assurance == Some(Assurance::Accepted), "{result:?}");
    ensure!(result.probes.first().is_some_and(|probe| probe.after == Some(Probed::Answered)), "{result:?}");
    let residual = status.residual.first().context("no residual")?;
    ensure!(residual.code == "NotContained" && residual.severity == "High", "{residual:?}");
    // It is the truth: the pods go on talking.
    inbound.answered(Timestamp::now(), SECOND * 5).await?;

    response.delete().await?;
    response.gone(SECOND * 30).await?;
    s.is_what_it_was(&before).await?;
    ensure!(traces(&s.env, &response.uid).await?.is_empty());
    Ok(())
}

#[test]
fn a_policy_that_nothing_enforces_is_partial() {
    scenario("partial", |s| async move { says_that_nothing_is_enforced(&s).await });
}

#[test]
fn definitions_that_an_uninstalled_engine_left_behind_prove_nothing() {
    scenario("leftover", |s| async move {
        let folder = s.env.cilium_crds.clone().context("TOURNIQUET_CILIUM_CRDS is not set")?;
        let mut files: Vec<String> = std::fs::read_dir(&folder)?
            .filter_map(|entry| Some(entry.ok()?.path().display().to_string()))
            .filter(|path| path.ends_with(".yaml"))
            .collect();
        files.sort();
        ensure!(!files.is_empty(), "no definitions in {}", folder.display());
        let mut arguments = vec!["apply", "--server-side"];
        arguments.extend(files.iter().flat_map(|file| ["--filename", file.as_str()]));
        s.env.kubectl_output(&arguments).await?;
        let established =
            ["wait", "--for=condition=Established", "--timeout=30s", "crd/ciliumclusterwidenetworkpolicies.cilium.io"];
        s.env.kubectl_output(&established).await?;

        says_that_nothing_is_enforced(&s).await
    });
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

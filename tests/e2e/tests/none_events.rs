//! What a responder, and the pod's owner, find under the objects with `kubectl get events`.

use std::time::Duration;

use anyhow::ensure;
use serde_json::json;
use tourniquet_e2e::events::says;
use tourniquet_e2e::{Spec, scenario};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn an_isolation_that_nothing_enforces_and_its_release_are_told_on_the_response_and_on_the_pod() {
    scenario("events", |s| async move {
        let web = s.pod("web").await?;
        let spec = Spec::isolate(&web).with("incident", json!({ "id": "4711" }));
        let response = s.respond("cut", spec).await?;
        response.becomes_because("Ready", "NotEnforced", SECOND * 60).await?;

        let told = s.response_events(&response, &["Normal Accepted", "Warning NotDone"]).await?;
        says(&told, "Accepted", &[&format!("pod {}/web", s.namespace), &web.uid])?;
        says(&told, "NotDone", &["nothing enforces the policy", "What to do: contain it by other means"])?;
        let by = format!("IncidentResponse {}/{} (incident 4711)", response.namespace, response.name);
        let told = s.pod_events(&web, &["Warning NotIsolated"]).await?;
        says(&told, "NotIsolated", &[&by, "nothing enforces the policy"])?;

        response.delete().await?;
        response.gone(SECOND * 30).await?;

        // The response is gone, and what is told of it stays.
        s.response_events(&response, &["Normal Accepted", "Warning NotDone", "Normal Released"]).await?;
        let told = s.pod_events(&web, &["Warning NotIsolated", "Normal Released"]).await?;
        says(&told, "Released", &[&by, "everything that this response put in place is gone"])
    });
}

#[test]
fn a_refusal_is_told_on_the_response() {
    scenario("events-refused", |s| async move {
        let pod = json!({ "pod": { "namespace": s.namespace, "name": "nobody" } });
        let spec = Spec(json!({ "target": pod, "actions": [{ "isolate": {} }] }));
        let response = s.respond("r", spec).await?;
        let told = s.response_events(&response, &["Warning Refused"]).await?;
        says(&told, "Refused", &["TargetNotFound", "there is no pod", "nothing was touched"])
    });
}

/// `kubectl describe` is where most people look.
#[test]
fn kubectl_describe_shows_them() {
    scenario("events-describe", |s| async move {
        let web = s.pod("web").await?;
        let response = s.respond("cut", Spec::isolate(&web)).await?;
        s.response_events(&response, &["Normal Accepted", "Warning NotDone"]).await?;
        let describe = ["--namespace", &response.namespace, "describe", "incidentresponse", &response.name];
        let shown = s.env.kubectl_output(&describe).await?;
        let events: &str = shown.split("\nEvents:").nth(1).unwrap_or_default();
        ensure!(events.contains("Accepted") && events.contains("NotDone"), "{shown}");
        Ok(())
    });
}

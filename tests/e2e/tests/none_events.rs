//! What a responder, and the pod's owner, find under the objects with `kubectl get events`.

use std::time::Duration;

use anyhow::ensure;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams};
use serde_json::json;
use tourniquet_e2e::events::says;
use tourniquet_e2e::{Spec, scenario, until};

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

/// Whoever asks why nothing is scheduled to a node asks the node.
#[test]
fn kubectl_describe_node_shows_who_cordoned_it_and_that_it_was_let_go() {
    scenario("events-node", |s| async move {
        let node = s.paper_node().await?;
        let told = async {
            let target = json!({ "node": { "name": node.name } });
            let spec = Spec(json!({ "target": target, "actions": [{ "cordon": {} }] }));
            let response = s.respond("cordon", spec).await?;
            response.becomes_because("Ready", "Cordoned", SECOND * 60).await?;
            let by = format!("IncidentResponse {}/{}", response.namespace, response.name);
            let told = s.events_of(&node.uid, &["Normal Cordoned"]).await?;
            says(&told, "Cordoned", &[&by, &node.name, "takes no new pods"])?;
            let shown = s.env.kubectl_output(&["describe", "node", &node.name]).await?;
            let events = shown.split("\nEvents:").nth(1).unwrap_or_default();
            ensure!(events.contains("Cordoned by") && events.contains(&response.name), "{shown}");

            s.env.kubectl_output(&["uncordon", &node.name]).await?;
            let told = s.events_of(&node.uid, &["Normal Cordoned", "Warning Drifted"]).await?;
            says(&told, "Drifted", &[&by, "somebody has uncordoned it"])?;

            response.delete().await?;
            response.gone(SECOND * 30).await?;
            let told = s.events_of(&node.uid, &["Normal Cordoned", "Warning Drifted", "Normal Released"]).await?;
            says(&told, "Released", &[&by])
        };
        let told = told.await;
        node.delete().await?;
        told
    });
}

#[test]
fn a_namespace_tells_who_labelled_it_and_that_it_was_let_go() {
    scenario("events-ns", |s| async move {
        let uid = Api::<Namespace>::all(s.env.client.clone()).get(&s.namespace).await?.uid().unwrap_or_default();
        let target = json!({ "namespace": { "name": s.namespace } });
        let label = json!([{ "label": { "set": { "soc.example.com/incident": "4711" } } }]);
        let response = s.respond("label", Spec(json!({ "target": target, "actions": label }))).await?;
        response.becomes_because("Ready", "Labelled", SECOND * 60).await?;
        let told = s.events_of(&uid, &["Normal Labelled"]).await?;
        says(&told, "Labelled", &[&response.name, "soc.example.com/incident=4711"])?;
        response.delete().await?;
        response.gone(SECOND * 30).await?;
        s.events_of(&uid, &["Normal Labelled", "Normal Released"]).await.map(drop)
    });
}

/// An event's name is made of its object's, and has the same limit.
#[test]
fn a_response_with_the_longest_name_there_can_be_is_told_of_as_well() {
    scenario("events-long", |s| async move {
        let pod = json!({ "pod": { "namespace": s.namespace, "name": "nobody" } });
        let spec = Spec(json!({ "target": pod, "actions": [{ "isolate": {} }] }));
        let name = "x".repeat(253 - s.namespace.len() - 1);
        let response = s.respond(&name, spec).await?;
        ensure!(response.name.len() == 253, "{}", response.name);
        s.response_events(&response, &["Warning Refused"]).await.map(drop)
    });
}

/// What is taken away and put back is Partial, then Running, then Partial again.
#[test]
fn what_is_not_done_is_told_once() {
    scenario("events-once", |s| async move {
        let web = s.pod("web").await?;
        let response = s.respond("cut", Spec::isolate(&web)).await?;
        response.becomes_because("Ready", "NotEnforced", SECOND * 60).await?;
        let (policies, name) = (s.api::<NetworkPolicy>(), tourniquet_api::names::policy(&response.uid));
        let before = policies.get(&name).await?.uid();
        policies.delete(&name, &DeleteParams::default()).await?;
        until("the policy is back", SECOND * 30, async || {
            Ok(policies.get_opt(&name).await?.filter(|policy| policy.uid() != before))
        })
        .await?;
        response.becomes_because("Ready", "NotEnforced", SECOND * 60).await?;
        // Told in order: with the release, whatever came before it is there.
        response.delete().await?;
        response.gone(SECOND * 30).await?;
        s.response_events(&response, &["Normal Accepted", "Warning NotDone", "Normal Released"]).await?;
        s.pod_events(&web, &["Warning NotIsolated", "Normal Released"]).await.map(drop)
    });
}

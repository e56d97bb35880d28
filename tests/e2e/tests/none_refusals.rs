//! What the operator refuses: Accepted=False with a reason, and nothing is touched. What needs no look at the target is refused before, at admission:
//! `none_admission_create.rs`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tourniquet_e2e::{Environment, Scenario, Spec, TestResponse, scenario};

/// Expects a refusal with this reason, whose message holds these words.
async fn refused(response: &TestResponse, reason: &str, words: &str) -> Result<()> {
    let accepted = response.refused().await?;
    ensure!(accepted.reason == reason && accepted.message.contains(words), "{accepted:?}");
    let refused = response.get().await?;
    ensure!(refused.metadata.finalizers.is_none(), "{:?}", refused.metadata.finalizers);
    for (type_, status) in [("Ready", "False"), ("Stalled", "True"), ("Contained", "False")] {
        let condition = response.condition(type_).await?.with_context(|| format!("no {type_}"))?;
        ensure!(condition.status == status && condition.reason == reason, "{condition:?}");
    }
    let traces = tourniquet_e2e::snapshot::traces(&Environment::read().await?, &response.uid).await?;
    ensure!(traces.is_empty(), "{traces:?}");
    Ok(())
}

/// A spec that names a pod which need not exist.
fn isolate(namespace: &str, name: &str) -> Spec {
    Spec(json!({ "target": { "pod": { "namespace": namespace, "name": name } }, "actions": [{ "isolate": {} }] }))
}

/// The pod's version, to see that nobody wrote to it.
async fn version(s: &Scenario, pod: &str) -> Result<Option<String>> {
    Ok(s.get_pod(pod).await?.metadata.resource_version)
}

#[test]
fn a_pod_that_does_not_exist() {
    scenario("missing", |s| async move {
        let response = s.respond("r", isolate(&s.namespace, "nobody")).await?;
        refused(&response, "TargetNotFound", "there is no pod").await?;
        // Decided once: a pod of this name that comes later is not the one that was meant.
        s.pod("nobody").await?;
        let before = version(&s, "nobody").await?;
        response.change(json!({ "expireAfter": "1h" })).await?;
        refused(&response, "TargetNotFound", "there is no pod").await?;
        ensure!(version(&s, "nobody").await? == before);
        Ok(())
    });
}

#[test]
fn the_pods_of_a_workload_that_does_not_exist() {
    scenario("no-workload", |s| async move {
        for kind in ["Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "Job"] {
            let owner = json!({ "namespace": s.namespace, "owner": { "kind": kind, "name": "nobody" } });
            let spec = Spec(json!({ "target": { "pods": owner }, "actions": [{ "isolate": {} }] }));
            let response = s.respond(&kind.to_lowercase(), spec).await?;
            refused(&response, "TargetNotFound", &format!("there is no {kind}")).await?;
        }
        Ok(())
    });
}

#[test]
fn a_pod_on_its_nodes_network() {
    scenario("host-network", |s| async move {
        // Not the usual port, which on the node's network belongs to whoever is first.
        let more = json!({ "spec": { "hostNetwork": true, "containers": [{
            "command": ["/traffic/traffic", "serve", "38080"], "ports": [{ "containerPort": 38080 }] }] } });
        s.pod_with("host", more).await?;
        let before = version(&s, "host").await?;
        let response = s.respond("r", isolate(&s.namespace, "host")).await?;
        refused(&response, "HostNetwork", "cordoning").await?;
        ensure!(version(&s, "host").await? == before);
        Ok(())
    });
}

#[test]
fn a_pod_that_has_finished() {
    scenario("finished", |s| async move {
        let more = json!({ "spec": { "restartPolicy": "Never", "containers": [{ "command": ["/traffic/traffic", "nothing"] }] } });
        s.create_pod("done", more).await?;
        tourniquet_e2e::until("the pod has finished", Duration::from_secs(60), async || {
            let phase = s.get_pod("done").await?.status.and_then(|status| status.phase);
            Ok((phase.as_deref() == Some("Failed")).then_some(()))
        })
        .await?;
        let response = s.respond("r", isolate(&s.namespace, "done")).await?;
        refused(&response, "PodFinished", "nothing left to isolate").await
    });
}

#[test]
fn a_pod_of_another_uid() {
    scenario("uid", |s| async move {
        let web = s.pod("web").await?;
        let before = version(&s, "web").await?;
        let spec = Spec::isolate(&web).with_pod("uid", json!("11111111-2222-3333-4444-555555555555"));
        refused(&s.respond("r", spec).await?, "UIDMismatch", "another pod of the same name").await?;
        ensure!(version(&s, "web").await? == before);
        Ok(())
    });
}

#[test]
fn a_pod_created_after_the_alert() {
    scenario("created", |s| async move {
        let web = s.pod("web").await?;
        let before = version(&s, "web").await?;
        let spec = Spec::isolate(&web).with_pod("createdBefore", json!("2020-01-01T00:00:00Z"));
        refused(&s.respond("r", spec).await?, "CreatedAfter", "not the pod that was meant").await?;
        ensure!(version(&s, "web").await? == before);
        Ok(())
    });
}

/// A Service in front of the pod, and something of the API server's that depends on it.
async fn backend(s: &Scenario, depends: Value) -> Result<()> {
    s.apply(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "webhook" },
        "spec": { "selector": { "app": "web" }, "ports": [{ "port": 443, "targetPort": 8080 }] }
    }))
    .await?;
    s.apply(depends).await
}

fn webhook(s: &Scenario, policy: &str) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        // It selects what nobody creates: the cluster of the test must not depend on it for real.
        "metadata": { "name": s.namespace },
        "webhooks": [{
            "name": "never.e2e.tourniquet.dev", "failurePolicy": policy, "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": { "service": { "namespace": s.namespace, "name": "webhook" } },
            "rules": [{ "apiGroups": ["never.e2e.tourniquet.dev"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["nothings"] }]
        }]
    })
}

#[test]
fn a_pod_behind_a_webhook_that_fails_closed() {
    scenario("webhook", |s| async move {
        let web = s.pod("web").await?;
        backend(&s, webhook(&s, "Fail")).await?;
        let before = version(&s, "web").await?;
        let response = s.respond("r", Spec::isolate(&web)).await?;
        let result = async {
            refused(&response, "AdmissionBackend", "ValidatingWebhookConfiguration").await?;
            ensure!(version(&s, "web").await? == before);
            let overridden = s.respond("override", Spec::isolate(&web).with("overrideProtection", json!(true))).await?;
            overridden.becomes("Accepted", "True", Duration::from_secs(30)).await?;
            s.apply(webhook(&s, "Ignore")).await?;
            let ignored = s.respond("ignored", Spec::isolate(&web)).await?;
            ignored.becomes("Accepted", "True", Duration::from_secs(30)).await
        }
        .await;
        s.env.kubectl_output(&["delete", "validatingwebhookconfiguration", &s.namespace]).await?;
        result.map(drop)
    });
}

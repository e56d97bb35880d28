//! Labels on pods, namespaces and nodes: whose they are, what is put back, and what others changed meanwhile.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tourniquet_api::Outcome;
use tourniquet_e2e::snapshot::Snapshot;
use tourniquet_e2e::{RESPONSE_NAMESPACE, Scenario, Spec, TestResponse, scenario, until};

const SOON: Duration = Duration::from_secs(30);

fn on_pod(s: &Scenario, actions: Value) -> Spec {
    Spec(json!({ "target": { "pod": { "namespace": s.namespace, "name": "web" } }, "actions": actions }))
}

fn label(key: &str, value: &str) -> Value {
    json!([{ "label": { "set": { key: value } } }])
}

fn overwrite(key: &str, value: &str) -> Value {
    json!([{ "label": { "set": { key: value }, "overwrite": true } }])
}

async fn value(s: &Scenario, key: &str) -> Result<Option<String>> {
    Ok(s.get_pod("web").await?.metadata.labels.unwrap_or_default().remove(key))
}

async fn kubectl_label(s: &Scenario, label: &str) -> Result<()> {
    let line = ["--namespace", &s.namespace, "label", "pod", "web", label, "--overwrite"];
    s.env.kubectl_output(&line).await.map(drop)
}

async fn undone(s: &Scenario, response: &TestResponse, before: &Snapshot) -> Result<()> {
    response.delete().await?;
    response.gone(SOON).await?;
    s.is_what_it_was(before).await?;
    Ok(())
}

#[test]
fn a_label_is_set_and_taken_off_again() {
    scenario("label", |s| async move {
        s.pod("web").await?;
        let before = Snapshot::of_namespace(&s.env, &s.namespace).await?;
        let response = s.respond("r", on_pod(&s, label("soc.example.com/incident", "4711"))).await?;
        response.becomes_because("Ready", "Labelled", SOON).await?;
        ensure!(value(&s, "soc.example.com/incident").await?.as_deref() == Some("4711"));
        ensure!(response.condition("Contained").await?.is_none(), "a label contains nothing");
        undone(&s, &response, &before).await
    });
}

#[test]
fn a_namespace_is_labelled_and_is_what_it_was() {
    scenario("label-ns", |s| async move {
        let before = Snapshot::of_namespace(&s.env, &s.namespace).await?;
        let target = json!({ "namespace": { "name": s.namespace } });
        let spec = Spec(json!({ "target": target, "actions": label("soc.example.com/incident", "4711") }));
        // Its own namespace, from a response that lives in it.
        let response = s.respond_in(&s.namespace, "r", spec).await?;
        response.becomes_because("Ready", "Labelled", SOON).await?;
        let labelled = s.env.kubectl_output(&["get", "namespace", "-l", "soc.example.com/incident=4711", "-o", "name"]);
        ensure!(labelled.await?.contains(&s.namespace));
        undone(&s, &response, &before).await
    });
}

#[test]
fn a_label_that_somebody_holds_stays_and_he_is_named() {
    scenario("label-held", |s| async move {
        s.pod("web").await?;
        kubectl_label(&s, "team=red").await?;
        let before = Snapshot::of_namespace(&s.env, &s.namespace).await?;
        let response = s.respond("r", on_pod(&s, label("team", "blue"))).await?;
        let ready = response.becomes_because("Ready", "LabelHeld", SOON).await?;
        ensure!(ready.message.contains("label team is \"red\", held by kubectl-label"), "{ready:?}");
        ensure!(response.action("label").await?.outcome == Outcome::Failed);
        ensure!(value(&s, "team").await?.as_deref() == Some("red"));
        undone(&s, &response, &before).await
    });
}

#[test]
fn an_overwritten_label_is_put_back_with_its_writer() {
    scenario("label-over", |s| async move {
        s.pod("web").await?;
        kubectl_label(&s, "team=red").await?;
        let before = Snapshot::of_namespace(&s.env, &s.namespace).await?;
        let held = managers_of(&s, "team").await?;
        ensure!(held == ["kubectl-label"], "{held:?}");

        let response = s.respond("r", on_pod(&s, overwrite("team", "blue"))).await?;
        response.becomes_because("Ready", "Labelled", SOON).await?;
        ensure!(value(&s, "team").await?.as_deref() == Some("blue"));
        let action = response.action("label").await?;
        let change = action.results.first().and_then(|result| result.changes.first()).context("no journal")?;
        ensure!(change.what == "label team" && change.before.as_deref() == Some("red"), "{change:?}");

        // Another one may not replace it, and learns whose it is.
        let other = s.respond("other", on_pod(&s, overwrite("team", "green"))).await?;
        let ready = other.becomes_because("Ready", "LabelHeld", SOON).await?;
        ensure!(ready.message.contains(&format!("response {RESPONSE_NAMESPACE}/{}", response.name)), "{ready:?}");
        other.delete().await?;
        other.gone(SOON).await?;

        undone(&s, &response, &before).await?;
        ensure!(managers_of(&s, "team").await? == held);
        Ok(())
    });
}

async fn managers_of(s: &Scenario, key: &str) -> Result<Vec<String>> {
    let fields = s.get_pod("web").await?.metadata.managed_fields.unwrap_or_default();
    let pointer = format!("/f:metadata/f:labels/f:{key}");
    let holding = fields
        .into_iter()
        .filter(|entry| entry.fields_v1.as_ref().is_some_and(|fields| fields.0.pointer(&pointer).is_some()));
    Ok(holding.filter_map(|entry| entry.manager).collect())
}

#[test]
fn what_somebody_changed_meanwhile_is_kept() {
    scenario("label-drift", |s| async move {
        s.pod("web").await?;
        kubectl_label(&s, "team=red").await?;
        let actions = json!([{ "label": { "set": { "team": "blue", "incident": "4711" }, "overwrite": true } }]);
        let response = s.respond("r", on_pod(&s, actions)).await?;
        response.becomes_because("Ready", "Labelled", SOON).await?;

        kubectl_label(&s, "team=green").await?;
        let ready = response.becomes_because("Ready", "Drifted", SOON).await?;
        ensure!(ready.message.contains("label team is \"green\" now, by kubectl-label"), "{ready:?}");
        response.delete().await?;
        response.gone(SOON).await?;
        ensure!(value(&s, "team").await?.as_deref() == Some("green"));
        ensure!(value(&s, "incident").await?.is_none());
        Ok(())
    });
}

#[test]
fn two_responses_hold_one_label_in_any_order() {
    scenario("label-two", |s| async move {
        s.pod("web").await?;
        let before = Snapshot::of_namespace(&s.env, &s.namespace).await?;
        for [first, second] in [["a", "b"], ["b", "a"]] {
            let a = s.respond("a", on_pod(&s, label("incident", "4711"))).await?;
            a.becomes_because("Ready", "Labelled", SOON).await?;
            let b = s.respond("b", on_pod(&s, label("incident", "4711"))).await?;
            b.becomes_because("Ready", "Labelled", SOON).await?;
            let (one, other) = if first == "a" { (&a, &b) } else { (&b, &a) };
            one.delete().await?;
            one.gone(SOON).await?;
            ensure!(value(&s, "incident").await?.as_deref() == Some("4711"), "{second} holds it");
            undone(&s, other, &before).await?;
        }
        Ok(())
    });
}

#[test]
fn labels_that_mean_something_to_the_cluster_are_refused() {
    scenario("label-reserved", |s| async move {
        s.pod("web").await?;
        s.apply(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": "front" },
            "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80, "targetPort": 8080 }] }
        }))
        .await?;
        let before = s.get_pod("web").await?.metadata.resource_version;
        for (name, actions, reason, words) in [
            ("k8s", label("topology.kubernetes.io/zone", "a"), "ReservedLabel", "kubernetes.io"),
            ("aks", label("kubernetes.azure.com/mode", "a"), "ReservedLabel", "kubernetes.azure.com"),
            ("own", label("isolate.tourniquet.dev/a", "true"), "ReservedLabel", "tourniquet itself"),
            ("service", overwrite("app", "quarantine"), "WouldDetach", "Service front"),
        ] {
            let accepted = s.respond(name, on_pod(&s, actions)).await?.refused().await?;
            ensure!(accepted.reason == reason && accepted.message.contains(words), "{accepted:?}");
        }
        ensure!(s.get_pod("web").await?.metadata.resource_version == before);
        Ok(())
    });
}

#[test]
fn a_pod_of_a_deployment_is_not_taken_from_it() {
    scenario("label-owner", |s| async move {
        s.apply(json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": { "name": "front" },
            "spec": {
                "replicas": 1, "selector": { "matchLabels": { "app": "front" } },
                "template": {
                    "metadata": { "labels": { "app": "front" } },
                    "spec": {
                        "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0,
                        "containers": [{ "name": "main", "image": s.env.image, "command": ["sleep", "3600"] }],
                    },
                },
            },
        }))
        .await?;
        let name = until("the ReplicaSet has a pod", SOON, async || {
            let pods = s.api::<k8s_openapi::api::core::v1::Pod>().list(&kube::api::ListParams::default()).await?;
            Ok(pods.items.into_iter().find_map(|pod| pod.metadata.name))
        })
        .await?;
        let target = json!({ "pod": { "namespace": s.namespace, "name": name } });
        let spec = Spec(json!({ "target": target, "actions": overwrite("app", "quarantine") }));
        let accepted = s.respond("r", spec).await?.refused().await?;
        ensure!(accepted.reason == "WouldDetach" && accepted.message.contains("ReplicaSet front"), "{accepted:?}");
        Ok(())
    });
}

#[test]
fn a_label_and_an_isolation_of_one_pod_are_both_whole_and_both_gone_afterwards() {
    scenario("label-isolate", |s| async move {
        s.pod("web").await?;
        kubectl_label(&s, "team=red").await?;
        let before = Snapshot::of_namespace(&s.env, &s.namespace).await?;
        let both = json!([
            { "label": { "set": { "incident": "4711" } } },
            { "isolate": {} },
            { "name": "team", "label": { "set": { "team": "blue" }, "overwrite": true } },
        ]);
        let response = s.respond("r", on_pod(&s, both)).await?;
        response.becomes("Stalled", "True", Duration::from_secs(60)).await?;
        let contained = response.condition("Contained").await?.context("no Contained")?;
        ensure!(contained.message.starts_with("isolate: ") && contained.reason == "NotEnforced", "{contained:?}");
        for name in ["label", "team"] {
            ensure!(response.action(name).await?.outcome == Outcome::Done, "{name}");
        }
        let isolation = tourniquet_api::names::isolation_label(&response.uid);
        for (key, wanted) in [("incident", "4711"), ("team", "blue"), (isolation.as_str(), "true")] {
            ensure!(value(&s, key).await?.as_deref() == Some(wanted), "{key}");
        }
        undone(&s, &response, &before).await
    });
}

#[test]
fn the_example_is_carried_out_and_undone() {
    scenario("label-example", |s| async move {
        s.pod("web").await?;
        let before = Snapshot::of_namespace(&s.env, &s.namespace).await?;
        let name = format!("{}-example", s.namespace);
        let example = include_str!("../../../examples/label-pod.yaml");
        ensure!(example.contains("namespace: shop") && example.contains("name: sentinel-4712"));
        let manifest = example.replace("namespace: shop", &format!("namespace: {}", s.namespace));
        s.apply_text(&manifest.replace("name: sentinel-4712", &format!("name: {name}"))).await?;
        let response = s.known(RESPONSE_NAMESPACE, &name).await?;
        response.becomes_because("Ready", "Labelled", SOON).await?;
        undone(&s, &response, &before).await
    });
}

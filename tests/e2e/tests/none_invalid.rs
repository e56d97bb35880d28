//! What is stored and invalid is said to be so, and blinds nobody. A program of its own: it loosens the schema for a moment.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};
use tourniquet_api::IncidentResponse;
use tourniquet_e2e::{RESPONSE_NAMESPACE, Scenario, scenario, until};

fn pod() -> Value {
    json!({ "pod": { "namespace": "shop", "name": "web" } })
}

/// Has admission look on, or deny again. It knows the present schema, and denies what it cannot look at.
async fn admission(s: &Scenario, action: &str) -> Result<()> {
    let bindings: kube::Api<ValidatingAdmissionPolicyBinding> = kube::Api::all(s.env.client.clone());
    let patch = Patch::Merge(json!({ "spec": { "validationActions": [action] } }));
    for name in ["create.tourniquet.dev", "targets.tourniquet.dev"] {
        bindings.patch(name, &PatchParams::default(), &patch).await?;
    }
    Ok(())
}

/// Stores what the present schema refuses, as an older or a newer one may have allowed it.
async fn store_invalid(s: &Scenario, name: &str, spec: Value) -> Result<()> {
    let crds: kube::Api<DynamicObject> = kube::Api::all_with(
        s.env.client.clone(),
        &ApiResource::from_gvk(&GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition")),
    );
    let crd = crds.get("incidentresponses.tourniquet.dev").await?;
    let loose = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    let mut patched = crd.data["spec"]["versions"].clone();
    patched[0]["schema"]["openAPIV3Schema"] = loose;
    patched[0]["selectableFields"] = json!([]);
    let parameters = PatchParams::default();
    crds.patch(
        "incidentresponses.tourniquet.dev",
        &parameters,
        &Patch::Merge(json!({ "spec": { "versions": patched } })),
    )
    .await?;
    let responses: kube::Api<DynamicObject> = kube::Api::namespaced_with(
        s.env.client.clone(),
        RESPONSE_NAMESPACE,
        &ApiResource::erase::<IncidentResponse>(&()),
    );
    let object: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "tourniquet.dev/v1alpha1", "kind": "IncidentResponse",
        "metadata": { "name": name, "labels": { "e2e.tourniquet.dev/test": s.namespace } }, "spec": spec,
    }))?;
    admission(s, "Audit").await?;
    // The API server takes up a changed definition a moment later, and a changed policy.
    let stored = until("the invalid object is stored", Duration::from_secs(30), async || {
        Ok(responses.create(&PostParams::default(), &object).await.ok())
    })
    .await;
    let restore = json!({ "spec": { "versions": crd.data["spec"]["versions"] } });
    crds.patch("incidentresponses.tourniquet.dev", &parameters, &Patch::Merge(restore)).await?;
    // And back: while admission looks on, only the schema can refuse an illegal object.
    let back = until("the schema is in force again", Duration::from_secs(30), async || {
        Ok(s.try_response(json!({ "actions": [] }), false).await.err())
    })
    .await;
    admission(s, "Deny").await?;
    stored?;
    back?;
    Ok(())
}

#[test]
fn a_stored_object_that_is_invalid_is_said_to_be_and_blinds_nobody() {
    scenario("invalid", |s| async move {
        let invalid = [
            ("unreadable", json!({ "target": pod(), "actions": [{ "isolate": {}, "onFailure": "AskSomebody" }] })),
            ("bare", json!({})),
            ("no-target", json!({ "actions": [{ "isolate": {} }, { "cordon": {} }, { "run": { "command": ["a"] } }] })),
            ("no-actions", json!({ "target": pod() })),
            (
                "no-command",
                json!({ "target": pod(), "actions": [{ "run": {} }, { "name": "b", "run": { "undo": {} } }] }),
            ),
            ("no-store", json!({ "target": pod(), "actions": [{ "collect": {} }] })),
            (
                "no-operator",
                json!({ "actions": [{ "isolate": {} }], "target": { "pods": {
                "namespace": "shop", "selector": { "matchExpressions": [{ "key": "app" }] } } } }),
            ),
            ("two-verbs", json!({ "target": pod(), "actions": [{ "isolate": {}, "run": { "command": ["a"] } }] })),
            (
                "two-targets",
                json!({ "target": { "pod": pod()["pod"], "node": { "name": "n" } }, "actions": [{ "isolate": {} }] }),
            ),
            ("same-names", json!({ "target": pod(), "actions": [{ "isolate": {} }, { "isolate": {} }] })),
        ];
        let responses: kube::Api<DynamicObject> = kube::Api::namespaced_with(
            s.env.client.clone(),
            RESPONSE_NAMESPACE,
            &ApiResource::erase::<IncidentResponse>(&()),
        );
        // With a field of another type the API server lets nobody write an object, not even its status: the rules of the schema cannot be
        // evaluated. It is no obstacle to the others.
        let mistyped = json!({ "target": { "pod": { "namespace": "shop", "name": 7 } }, "actions": "all of them" });
        store_invalid(&s, &format!("{}-mistyped", s.namespace), mistyped).await.context("mistyped")?;
        for (name, spec) in invalid {
            let name = format!("{}-{name}", s.namespace);
            store_invalid(&s, &name, spec).await.with_context(|| name.clone())?;
            // Everything else that is wrong was wrong before: a label, the status and the finalizer can be written.
            let label = Patch::Merge(json!({ "metadata": { "labels": { "e2e.tourniquet.dev/written": "yes" } } }));
            let written = responses.patch(&name, &PatchParams::default(), &label).await;
            written.with_context(|| format!("{name} is written under the schema that refuses it"))?;
            let accepted = until(&format!("{name} is said to be invalid"), Duration::from_secs(60), async || {
                let object = responses.get(&name).await?;
                let conditions =
                    object.data.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
                Ok(conditions.into_iter().find(|condition| condition["type"] == "Accepted"))
            })
            .await?;
            ensure!(accepted["status"] == "False" && accepted["reason"] == "Invalid", "{name}: {accepted}");
        }
        // Beside them, another one is carried out.
        let web = s.pod("web").await?;
        let good = s.respond("good", tourniquet_e2e::Spec::isolate(&web)).await?;
        good.becomes_because("Ready", "NotEnforced", Duration::from_secs(60)).await?;
        Ok(())
    });
}

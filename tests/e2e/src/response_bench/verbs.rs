//! The verbs that are measured: what asks for them, and what their first effect is.

use anyhow::Result;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde::Serialize;
use serde_json::{Value, json};

use crate::Scenario;

/// Labels of a measurement: `prefix/KEY`.
const PREFIX: &str = "bench.example.com";

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// A label on a pod.
    Label,
    /// A pod isolated by policies: the first of them.
    Isolate,
    /// A node without new pods.
    Cordon,
}

impl Verb {
    pub const ALL: [Self; 3] = [Self::Label, Self::Isolate, Self::Cordon];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Label => "label",
            Self::Isolate => "isolate",
            Self::Cordon => "cordon",
        }
    }

    /// What a responder asks for.
    pub fn spec(self, s: &Scenario, target: &str, key: &str) -> Value {
        let pod = json!({ "pod": { "namespace": s.namespace, "name": target } });
        match self {
            Self::Label => json!({ "target": pod, "actions": [{ "label": { "set": { label(key): "yes" } } }] }),
            Self::Isolate => json!({ "target": pod, "actions": [{ "isolate": {} }] }),
            Self::Cordon => json!({ "target": { "node": { "name": target } }, "actions": [{ "cordon": {} }] }),
        }
    }

    /// Reads the target.
    pub async fn read(self, s: &Scenario, target: &str) -> Result<()> {
        match self {
            Self::Label | Self::Isolate => s.api::<Pod>().get(target).await.map(drop)?,
            Self::Cordon => Api::<Node>::all(s.env.client.clone()).get(target).await.map(drop)?,
        }
        Ok(())
    }

    /// Puts the effect in place with one request, as the operator does, or takes it back.
    pub async fn apply(self, s: &Scenario, target: &str, key: &str, wanted: bool) -> Result<()> {
        let manager = PatchParams::apply(&format!("bench-{key}"));
        match self {
            Self::Label => {
                let labels = if wanted { json!({ label(key): "yes" }) } else { json!({}) };
                let pod =
                    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": target, "labels": labels } });
                s.api::<Pod>().patch(target, &manager, &Patch::Apply(&pod)).await?;
            }
            Self::Isolate if wanted => {
                let policy = json!({
                    "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                    "metadata": { "name": format!("bench-{key}"), "labels": { label(key): "yes" } },
                    "spec": { "podSelector": { "matchLabels": { label(key): "yes" } }, "policyTypes": ["Ingress", "Egress"] },
                });
                s.api::<NetworkPolicy>().patch(&format!("bench-{key}"), &manager, &Patch::Apply(&policy)).await?;
            }
            Self::Isolate => {
                drop(s.api::<NetworkPolicy>().delete(&format!("bench-{key}"), &DeleteParams::default()).await?);
            }
            Self::Cordon => {
                let spec = if wanted { json!({ "unschedulable": true }) } else { json!({}) };
                let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": target }, "spec": spec });
                Api::<Node>::all(s.env.client.clone()).patch(target, &manager, &Patch::Apply(&node)).await?;
            }
        }
        Ok(())
    }

    /// By what the effect is recognised in a watch: of the operator's by the response's UID, of the floor's by the key.
    pub fn mark(self, response_uid: &str, key: &str) -> String {
        match self {
            Self::Label => label(key),
            Self::Isolate => format!("tourniquet-{response_uid}"),
            Self::Cordon => format!("tourniquet-{response_uid}"),
        }
    }

    /// The same of what the floor puts in place.
    pub fn mark_of_floor(self, key: &str) -> String {
        match self {
            Self::Label => label(key),
            Self::Isolate | Self::Cordon => format!("bench-{key}"),
        }
    }
}

fn label(key: &str) -> String {
    format!("{PREFIX}/{key}")
}

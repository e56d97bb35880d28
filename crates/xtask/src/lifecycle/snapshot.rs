//! What a response can change in a cluster, to be compared with what it was.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::cluster::Handle;

/// Kinds that a response writes to, or makes.
const KINDS: &str = "namespaces,nodes,pods,networkpolicies,containments.internal.tourniquet.dev";

/// Objects by kind, namespace and name.
#[derive(Debug, PartialEq)]
pub(super) struct Snapshot(BTreeMap<String, Value>);

impl Snapshot {
    /// Of the whole cluster but for tourniquet's own namespaces.
    pub(super) fn take(cluster: &Handle) -> Result<Self> {
        let all = ["kubectl", "get", KINDS, "--all-namespaces", "--show-managed-fields", "--output=json"];
        let list: Value = serde_json::from_str(&cluster.output(&all)?).context("kubectl printed no JSON")?;
        let objects = list["items"].as_array().into_iter().flatten().filter(|object| {
            let (namespace, name) = (&object["metadata"]["namespace"], &object["metadata"]["name"]);
            // Containments are in the agents' namespace, and are what a response makes.
            let ours = namespace == "tourniquet-system"
                || namespace == "tourniquet-agent" && object["kind"] != "Containment"
                || object["kind"] == "Namespace" && name.as_str().is_some_and(|name| name.starts_with("tourniquet-"));
            !ours
        });
        Ok(Self(objects.map(|object| (key(object), kept(object))).collect()))
    }

    /// Fails with what differs.
    pub(super) fn is_now(&self, cluster: &Handle) -> Result<()> {
        let now = Self::take(cluster)?;
        let keys = self.0.keys().chain(now.0.keys());
        let differ = keys.filter(|key| self.0.get(*key) != now.0.get(*key));
        let differ: BTreeMap<_, _> = differ.map(|key| (key, (self.0.get(key), now.0.get(key)))).collect();
        ensure!(differ.is_empty(), "the cluster is not what it was (before, now): {differ:#?}");
        Ok(())
    }
}

fn key(object: &Value) -> String {
    let of = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    format!("{} {}/{}", of(&object["kind"]), of(&object["metadata"]["namespace"]), of(&object["metadata"]["name"]))
}

/// Everything but what changes by itself; of the field managers those that are tourniquet's.
fn kept(object: &Value) -> Value {
    let mut kept = object.clone();
    let managers = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    let ours = managers.filter_map(|entry| entry["manager"].as_str()).filter(|name| name.starts_with("tourniquet"));
    let ours: Vec<&str> = ours.filter(|name| *name != "tourniquet-install").collect();
    kept["metadata"]["managedFields"] = json!(ours);
    for pointer in ["/metadata", ""] {
        if let Some(fields) = kept.pointer_mut(pointer).and_then(Value::as_object_mut) {
            fields.retain(|key, _| !["resourceVersion", "generation", "status"].contains(&key.as_str()));
        }
    }
    kept
}

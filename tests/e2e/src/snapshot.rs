//! Everything of a cluster that a response could leave something in, to be compared before and after.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use kube::api::{Api, DynamicObject, ListParams};
use kube::discovery::{Discovery, Scope, verbs};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use similar::TextDiff;
use tourniquet_api::Containment;

use crate::scenario::TEST_LABEL;
use crate::{AGENT_NAMESPACE, Environment, OPERATOR_NAMESPACE, Scenario};

/// Kinds that are left out, and why.
pub const LEFT_OUT: [(&str, &str); 8] = [
    ("ComponentStatus", "no object: whether the control plane's parts answer at the moment of the list"),
    ("Event", "a log of what happened; it stays on purpose"),
    ("Lease", "heartbeats of nodes and of daemons"),
    ("EndpointSlice", "derived from pods by their controller"),
    ("Endpoints", "derived from pods by their controller"),
    ("CiliumEndpoint", "Cilium's report on each pod; it follows the pod's labels within half a minute"),
    ("CiliumIdentity", "Cilium collects what nobody uses after some minutes"),
    ("CiliumNode", "Cilium's own"),
];

/// Fields that are left out of every object.
pub const FIELDS_LEFT_OUT: &str = "status, metadata.resourceVersion, metadata.generation, of nodes spec.taints, and of metadata.managedFields all but tourniquet's managers";

/// The objects, by kind, namespace and name.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot(BTreeMap<String, Value>);

impl Snapshot {
    /// Every object of the cluster of which `wanted` says so, by its namespace; the namespaces of operator and agents are left out.
    pub async fn take(client: &Client, wanted: impl Fn(Option<&str>) -> bool) -> Result<Self> {
        let discovery = Discovery::new(client.clone()).run().await.context("cannot discover the cluster's kinds")?;
        let mut objects = BTreeMap::new();
        for group in discovery.groups() {
            for (resource, capabilities) in group.recommended_resources() {
                let left_out = LEFT_OUT.iter().any(|(kind, _)| *kind == resource.kind);
                if left_out || !capabilities.supports_operation(verbs::LIST) || resource.group == "metrics.k8s.io" {
                    continue;
                }
                if capabilities.scope == Scope::Cluster && !wanted(None) {
                    continue;
                }
                let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
                let list = api
                    .list(&ListParams::default())
                    .await
                    .with_context(|| format!("cannot list {}", resource.plural))?;
                for object in list.items {
                    let namespace = object.namespace();
                    let of_operator = [OPERATOR_NAMESPACE, AGENT_NAMESPACE].map(Some).contains(&namespace.as_deref());
                    let is_response = resource.group == tourniquet_api::GROUP;
                    if of_operator || is_response || !wanted(namespace.as_deref()) {
                        continue;
                    }
                    let key = format!("{} {}/{}", resource.kind, namespace.unwrap_or_default(), object.name_any());
                    objects.insert(key, stripped(&object, &resource.kind));
                }
            }
        }
        Ok(Self(objects))
    }

    /// Everything of one namespace, and everything that is in none.
    pub async fn of_namespace(env: &Environment, namespace: &str) -> Result<Self> {
        Self::take(&env.client, |of| of.is_none_or(|of| of == namespace)).await.map(|mut snapshot| {
            // Other tests run beside: theirs are the other namespaces, and the objects that derive from their responses.
            snapshot.0.retain(|key, object| {
                let namespace_object = key.strip_prefix("Namespace /");
                // An IPAddress belongs to the Service of a namespace, and is in none.
                let parent = object.pointer("/spec/parentRef/namespace").and_then(Value::as_str);
                let labels = object.pointer("/metadata/labels");
                let has = |label| labels.and_then(|labels| labels.get(label)).is_some();
                // What a test gives to people goes when it ends.
                let is_given = key.starts_with("ClusterRole") && has(TEST_LABEL);
                namespace_object.is_none_or(|name| name == namespace)
                    && parent.is_none_or(|parent| parent == namespace)
                    && !is_given
                    && !has(tourniquet_api::names::RESPONSE_LABEL)
            });
            snapshot
        })
    }

    /// One node.
    pub async fn of_node(env: &Environment, name: &str) -> Result<Self> {
        let mut snapshot = Self::take(&env.client, |of| of.is_none()).await?;
        snapshot.0.retain(|key, _| key == &format!("Node /{name}"));
        Ok(snapshot)
    }

    /// How many objects are in it.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What differs, as a unified diff; empty when nothing does.
    pub fn diff(&self, after: &Self) -> String {
        let (before, after) = (self.text(), after.text());
        TextDiff::from_lines(&before, &after).unified_diff().context_radius(4).header("before", "after").to_string()
    }

    fn text(&self) -> String {
        let objects = self.0.iter();
        objects
            .map(|(key, object)| format!("{key}\n{}\n", serde_json::to_string_pretty(object).unwrap_or_default()))
            .collect()
    }
}

fn stripped(object: &DynamicObject, kind: &str) -> Value {
    let mut value = json!(object);
    let managers: Vec<&str> = object
        .managed_fields()
        .iter()
        .filter_map(|entry| entry.manager.as_deref())
        .filter(|manager| manager.starts_with(tourniquet_api::names::OPERATOR_MANAGER))
        .collect();
    let managers = json!(managers);
    // A node's taints follow its cordon and its heartbeats, when their controller comes to it.
    if kind == "Node" {
        value["spec"].as_object_mut().map(|spec| spec.remove("taints"));
    }
    if let Some(fields) = value.as_object_mut() {
        fields.remove("status");
    }
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in ["resourceVersion", "generation", "managedFields"] {
            metadata.remove(field);
        }
        metadata.insert("tourniquet's field managers".to_owned(), managers);
    }
    value
}

impl Scenario {
    /// Expects that everything of the test's namespace is as it was in this snapshot.
    pub async fn is_what_it_was(&self, before: &Snapshot) -> Result<()> {
        let difference = before.diff(&Snapshot::of_namespace(&self.env, &self.namespace).await?);
        anyhow::ensure!(difference.is_empty(), "the namespace is not what it was:\n{difference}");
        Ok(())
    }
}

/// Traces of one response: its policies, pods that carry its label, and Containments that it holds.
pub async fn traces(env: &Environment, response_uid: &str) -> Result<Vec<String>> {
    let ours = format!("{}={response_uid}", tourniquet_api::names::RESPONSE_LABEL);
    let label = tourniquet_api::names::isolation_label(response_uid);
    let mut found = Vec::new();
    for (resource, selector) in [
        ("networkpolicies.networking.k8s.io", ours.as_str()),
        ("ciliumclusterwidenetworkpolicies.cilium.io", ours.as_str()),
        ("globalnetworkpolicies.projectcalico.org", ours.as_str()),
        ("tiers.projectcalico.org", ours.as_str()),
        ("pods", label.as_str()),
    ] {
        let output = env
            .kubectl()
            .args(["get", resource, "--all-namespaces", "--selector", selector, "--output", "name"])
            .output()
            .await?;
        let (text, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let not_served = error.contains("doesn't have a resource type");
        anyhow::ensure!(output.status.success() || not_served, "kubectl get {resource}: {error}");
        found.extend(text.lines().map(str::to_owned));
    }
    let containments: Api<Containment> = Api::namespaced(env.client.clone(), AGENT_NAMESPACE);
    for containment in containments.list(&ListParams::default()).await? {
        if containment.spec.holders.contains_key(response_uid) {
            found.push(format!("containment/{}", containment.name_any()));
        }
    }
    Ok(found)
}

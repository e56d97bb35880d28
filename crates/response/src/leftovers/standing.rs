//! The responses, as far as they matter to traces.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::core::DynamicObject;
use serde_json::Value;
use tourniquet_api::{IncidentResponse, PinnedTarget};

use crate::conditions::{self, is_true};
use crate::effect::ObjectRef;
use crate::pass::full_name;
use crate::unreadable::list;

/// One response, as far as it matters to what carries its UID.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    pub(super) uid: String,
    pub(super) name: String,
    pub(super) reverted: bool,
    /// The pods that it isolates, by UID.
    pods: BTreeSet<String>,
    /// The namespaces whose pods it isolates.
    namespaces: BTreeSet<String>,
    /// What it may isolate, while that is not decided: a namespace, and the name of the one pod there, where it is about one.
    undecided: Option<(String, Option<String>)>,
    /// The namespaces in which it isolates something.
    places: BTreeSet<String>,
    /// It is to come into force, and nobody has seen yet that it is or will not be.
    comes: bool,
    /// It was seen in force.
    contains: bool,
}

impl Standing {
    /// What matters of a stored response. Field by field, so that one which this version cannot read stands like any other.
    #[must_use]
    pub fn of(stored: &DynamicObject) -> Self {
        let none = Value::Null;
        let status = stored.data.get("status").unwrap_or(&none);
        let conditions = list::<Condition>(status, "conditions");
        let mut standing = Self {
            uid: stored.metadata.uid.clone().unwrap_or_default(),
            name: full_name(&stored.metadata),
            reverted: is_true(&conditions, "Reverted"),
            contains: is_true(&conditions, "Contained"),
            ..Self::default()
        };
        // Targets are stored before the first effect: one that has none yet has put nothing on a pod.
        let decided = conditions::find(&conditions, "Accepted");
        let carried_out = decided.is_some_and(|accepted| accepted.status == "True" && accepted.reason != "PlanOnly");
        let lets_go =
            stored.metadata.deletion_timestamp.is_some() || conditions::find(&conditions, "Reverted").is_some();
        standing.comes = !lets_go && !is_true(&conditions, "Contained") && !is_true(&conditions, "Stalled");
        if decided.is_none() && may_isolate(&stored.data) {
            let text = |field: &str| Some(stored.data.pointer(field)?.as_str()?.to_owned());
            // Of a set or a namespace any pod may be meant.
            let pod = text("/spec/target/pod/namespace").map(|namespace| (namespace, text("/spec/target/pod/name")));
            let many = text("/spec/target/pods/namespace").or_else(|| text("/spec/target/namespace/name"));
            standing.undecided = pod.or_else(|| many.map(|namespace| (namespace, None)));
        }
        if carried_out && !standing.reverted && may_isolate(&stored.data) {
            for target in list::<PinnedTarget>(status, "targets") {
                if target.kind == "Namespace" {
                    standing.places.insert(target.name.clone());
                    standing.namespaces.insert(target.name);
                } else {
                    standing.places.extend(target.namespace);
                    standing.pods.insert(target.uid);
                }
            }
        }
        standing
    }

    /// One that the operator's own watch has. A list without it contradicts the watch, and nothing is undone on its word.
    #[must_use]
    pub fn watched(uid: &str) -> Self {
        Self { uid: uid.to_owned(), ..Self::default() }
    }

    /// Whether it isolates this pod.
    pub(super) fn isolates(&self, namespace: &str, pod_uid: &str) -> bool {
        self.pods.contains(pod_uid) || self.namespaces.contains(namespace)
    }

    /// Whether this pod is about to be isolated by it, and nobody has seen that it is.
    pub(super) fn comes_to(&self, pod: &ObjectRef) -> bool {
        let namespace = pod.namespace.as_deref().unwrap_or_default();
        let undecided = self
            .undecided
            .as_ref()
            .is_some_and(|(of, name)| of == namespace && name.as_ref().is_none_or(|name| *name == pod.name));
        self.comes && (undecided || self.isolates(namespace, pod.uid.as_deref().unwrap_or_default()))
    }

    /// Whether something in this namespace is about to be isolated by it, and nobody has seen that it is.
    pub(super) fn comes_into(&self, namespace: &str) -> bool {
        let undecided = self.undecided.as_ref().is_some_and(|(of, _)| of == namespace);
        self.comes && (undecided || self.places.contains(namespace))
    }

    /// Whether it was seen to isolate this pod.
    pub(super) fn holds(&self, pod: &ObjectRef) -> bool {
        let namespace = pod.namespace.as_deref().unwrap_or_default();
        self.contains && self.isolates(namespace, pod.uid.as_deref().unwrap_or_default())
    }
}

/// Whether a response that is gone was in force when it was last seen: somebody took its finalizer off before it was undone.
#[must_use]
pub fn vanished_in_force(gone: &IncidentResponse) -> bool {
    let conditions = gone.status.iter().flat_map(|status| &status.conditions);
    let is_true =
        |type_: &str| conditions.clone().find(|condition| condition.type_ == type_ && condition.status == "True");
    is_true("Accepted").is_some_and(|accepted| accepted.reason != "PlanOnly") && is_true("Reverted").is_none()
}

/// Whether one of the actions isolates. What cannot be read may.
fn may_isolate(data: &Value) -> bool {
    let actions = data.pointer("/spec/actions").and_then(Value::as_array);
    actions.is_none_or(|actions| actions.iter().any(|action| action.get("isolate").is_some()))
}

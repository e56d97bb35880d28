//! Fields of somebody else's object that several can hold, and who does, as server-side apply keeps the books.
//!
//! A manager holds the whole of what it applied last: applying less withdraws the rest. Two actions of one response have one
//! manager, so each of them applies what the other one holds as well ([`Fields::apply`]).

use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use serde_json::{Map, Value, json};
use tourniquet_api::names;

use crate::effect::{Effect, ObjectRef};

const APPLY: &str = "Apply";

/// What of an object actions change without owning it.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    pub(crate) metadata: &'a ObjectMeta,
    pub(crate) unschedulable: Option<bool>,
}

/// Who holds a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Holder<'a> {
    pub(crate) manager: &'a str,
    /// By server-side apply, or by a plain write.
    pub(crate) applied: bool,
}

impl Holder<'_> {
    /// The UID of the response whose manager this is.
    pub(crate) fn response(&self) -> Option<&str> {
        names::response_of_field_manager(self.manager)
    }
}

impl<'a> From<&'a Pod> for Fields<'a> {
    fn from(pod: &'a Pod) -> Self {
        Self { metadata: &pod.metadata, unschedulable: None }
    }
}

impl<'a> From<&'a Namespace> for Fields<'a> {
    fn from(namespace: &'a Namespace) -> Self {
        Self { metadata: &namespace.metadata, unschedulable: None }
    }
}

impl<'a> From<&'a Node> for Fields<'a> {
    fn from(node: &'a Node) -> Self {
        Self { metadata: &node.metadata, unschedulable: node.spec.as_ref().and_then(|spec| spec.unschedulable) }
    }
}

impl<'a> Fields<'a> {
    /// The value of a label.
    pub(crate) fn label(&self, key: &str) -> Option<&'a str> {
        self.metadata.labels.as_ref()?.get(key).map(String::as_str)
    }

    /// Who holds a label.
    pub(crate) fn holders_of_label(&self, key: &str) -> Vec<Holder<'a>> {
        self.holders(&["f:metadata", "f:labels", &format!("f:{key}")])
    }

    /// Who holds an annotation.
    pub(crate) fn holders_of_annotation(&self, key: &str) -> Vec<Holder<'a>> {
        self.holders(&["f:metadata", "f:annotations", &format!("f:{key}")])
    }

    /// Who holds `spec.unschedulable`.
    pub(crate) fn holders_of_unschedulable(&self) -> Vec<Holder<'a>> {
        self.holders(&["f:spec", "f:unschedulable"])
    }

    /// The labels that a manager holds by server-side apply.
    pub(crate) fn labels_applied_by(&self, manager: &str) -> Vec<&'a str> {
        let held = self.entry(manager).and_then(|entry| entry.fields_v1.as_ref());
        let labels = held.and_then(|held| held.0.get("f:metadata")?.get("f:labels")?.as_object());
        labels.into_iter().flatten().filter_map(|(key, _)| key.strip_prefix("f:")).collect()
    }

    /// Whether a manager applied anything that is still there.
    pub(crate) fn is_applied_by(&self, manager: &str) -> bool {
        self.entry(manager).is_some()
    }

    /// An apply of these fields, and of everything else that the manager has applied to the object.
    pub(crate) fn apply(&self, object: ObjectRef, manager: &str, fields: &Value) -> Effect {
        let there = json!({
            "metadata": { "labels": self.metadata.labels, "annotations": self.metadata.annotations },
            "spec": { "unschedulable": self.unschedulable },
        });
        let held = self.entry(manager).and_then(|entry| entry.fields_v1.as_ref());
        let mut whole = held.and_then(|held| values(&held.0, &there)).unwrap_or_else(|| json!({}));
        merge(&mut whole, fields);
        Effect::Apply { object, manager: manager.to_owned(), fields: whole }
    }

    fn entry(&self, manager: &str) -> Option<&'a ManagedFieldsEntry> {
        let mut entries = self.metadata.managed_fields.iter().flatten();
        entries.find(|entry| entry.manager.as_deref() == Some(manager) && entry.operation.as_deref() == Some(APPLY))
    }

    fn holders(&self, path: &[&str]) -> Vec<Holder<'a>> {
        let holds = |entry: &&ManagedFieldsEntry| {
            let fields = entry.fields_v1.as_ref().map(|fields| &fields.0);
            path.iter().try_fold(fields?, |fields, name| fields.get(*name)).map(drop)
        };
        let entries = self.metadata.managed_fields.iter().flatten();
        let holding = entries.filter(|entry| holds(entry).is_some());
        let mut holders: Vec<Holder<'a>> = holding
            .map(|entry| Holder {
                manager: entry.manager.as_deref().unwrap_or_default(),
                applied: entry.operation.as_deref() == Some(APPLY),
            })
            .collect();
        // The same message whatever the order of the list.
        holders.sort();
        holders
    }
}

/// Who holds a field, to be put behind what is said of it.
pub(crate) fn named(holders: &[Holder<'_>]) -> String {
    let managers: Vec<&str> = holders.iter().map(|holder| holder.manager).collect();
    if managers.is_empty() { String::new() } else { format!(", by {}", managers.join(", ")) }
}

/// The values at the fields that are listed in `held`, in the form of `fieldsV1`. Of lists nothing: there is none that is ours.
fn values(held: &Value, there: &Value) -> Option<Value> {
    let names = held.as_object()?.iter().filter_map(|(name, below)| Some((name.strip_prefix("f:")?, below)));
    let mut found = Map::new();
    for (name, below) in names {
        let Some(value) = there.get(name).filter(|value| !value.is_null()) else { continue };
        let is_leaf = below.as_object().is_none_or(|below| below.keys().all(|key| !key.starts_with("f:")));
        if let Some(value) = if is_leaf { Some(value.clone()) } else { values(below, value) } {
            found.insert(name.to_owned(), value);
        }
    }
    (!found.is_empty()).then_some(Value::Object(found))
}

/// Puts `fields` into `whole`, objects into objects.
pub fn merge(whole: &mut Value, fields: &Value) {
    match (whole, fields) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests: a panic is a failed test")]

    use super::*;

    fn node() -> Node {
        serde_json::from_value(json!({
            "metadata": {
                "name": "node-1",
                "labels": { "ours": "1", "theirs": "2" },
                "managedFields": [
                    { "manager": "us", "operation": "Apply",
                      "fieldsV1": { "f:metadata": { "f:labels": { "f:ours": {} } }, "f:spec": { "f:unschedulable": {} } } },
                    { "manager": "them", "operation": "Update", "fieldsV1": { "f:metadata": { "f:labels": { ".": {}, "f:theirs": {} } } } },
                ],
            },
            "spec": { "unschedulable": true },
        }))
        .unwrap()
    }

    fn applied(manager: &str, fields: &Value) -> Value {
        let node = node();
        let object = ObjectRef { kind: crate::Kind::Node, namespace: None, name: "node-1".to_owned(), uid: None };
        let Effect::Apply { fields, .. } = Fields::from(&node).apply(object, manager, fields) else { unreachable!() };
        fields
    }

    #[test]
    fn an_apply_keeps_what_its_manager_holds_and_nothing_of_others() {
        let more = json!({ "metadata": { "labels": { "more": "3" } } });
        assert_eq!(
            applied("us", &more),
            json!({ "metadata": { "labels": { "ours": "1", "more": "3" } }, "spec": { "unschedulable": true } })
        );
        assert_eq!(applied("nobody", &more), more);
        assert_eq!(applied("them", &more), more, "what they hold by a plain write is not theirs to apply");
    }

    #[test]
    fn the_holders_of_a_field_are_named() {
        let node = node();
        let fields = Fields::from(&node);
        assert_eq!(fields.holders_of_label("theirs"), [Holder { manager: "them", applied: false }]);
        assert_eq!(fields.holders_of_label("nobodys"), []);
        assert_eq!(fields.holders_of_unschedulable(), [Holder { manager: "us", applied: true }]);
    }
}

//! The labels of a pod and who holds them, as server-side apply keeps the books.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use serde_json::{Value, json};

use crate::fixtures::object;

const APPLY: &str = "Apply";
const UPDATE: &str = "Update";

/// A manager is a name and an operation: the same name can hold fields by both.
type Manager = (String, &'static str);

/// Labels with their holders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Labels {
    pub(crate) values: BTreeMap<String, String>,
    held: BTreeMap<Manager, BTreeSet<String>>,
}

/// Somebody else holds one of the fields with another value.
#[derive(Debug)]
pub(crate) struct Conflict {
    pub(crate) manager: String,
    pub(crate) key: String,
}

impl Labels {
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// The managers whose name begins like this.
    pub(crate) fn managers(&self, prefix: &str) -> Vec<&str> {
        self.held.keys().map(|(name, _)| name.as_str()).filter(|name| name.starts_with(prefix)).collect()
    }

    /// Server-side apply of exactly these labels, not forced. Applying none withdraws all.
    pub(crate) fn apply(&mut self, manager: &str, wanted: &BTreeMap<String, String>) -> Result<(), Conflict> {
        let me = (manager.to_owned(), APPLY);
        for (key, value) in wanted {
            if self.values.get(key).is_none_or(|have| have == value) {
                continue;
            }
            let holder = self.held.iter().find(|(other, keys)| **other != me && keys.contains(key));
            if let Some(((holder, _), _)) = holder {
                return Err(Conflict { manager: holder.clone(), key: key.clone() });
            }
        }
        let before = self.held.remove(&me).unwrap_or_default();
        for key in before.iter().filter(|key| !wanted.contains_key(*key)) {
            if !self.held.values().any(|keys| keys.contains(key)) {
                self.values.remove(key);
            }
        }
        self.values.extend(wanted.clone());
        if !wanted.is_empty() {
            self.held.insert(me, wanted.keys().cloned().collect());
        }
        Ok(())
    }

    /// A write of the kind of `kubectl label --overwrite`: takes the field from everybody. A write that changes nothing
    /// leaves no trace.
    pub(crate) fn set(&mut self, manager: &str, key: &str, value: &str) {
        if self.get(key) == Some(value) {
            return;
        }
        self.remove(key);
        self.values.insert(key.to_owned(), value.to_owned());
        self.held.entry((manager.to_owned(), UPDATE)).or_default().insert(key.to_owned());
    }

    /// Removes a label, whoever holds it.
    pub(crate) fn remove(&mut self, key: &str) {
        self.values.remove(key);
        for keys in self.held.values_mut() {
            keys.remove(key);
        }
        self.held.retain(|_, keys| !keys.is_empty());
    }

    /// As the API shows it.
    pub(crate) fn managed_fields(&self) -> Vec<ManagedFieldsEntry> {
        let entry = |((manager, operation), keys): (&Manager, &BTreeSet<String>)| {
            let keys: serde_json::Map<String, Value> = keys.iter().map(|key| (format!("f:{key}"), json!({}))).collect();
            ManagedFieldsEntry {
                manager: Some(manager.clone()),
                operation: Some((*operation).to_owned()),
                fields_v1: Some(object(json!({ "f:metadata": { "f:labels": keys } }))),
                ..ManagedFieldsEntry::default()
            }
        };
        self.held.iter().map(entry).collect()
    }
}

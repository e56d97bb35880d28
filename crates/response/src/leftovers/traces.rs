//! What responses leave on objects, and whose it is.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use tourniquet_api::{Containment, names};

use crate::effect::{Kind, ObjectRef};
use crate::isolate::containment;

/// Everything in the cluster that may be a trace, listed between two lists of the responses.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Traces {
    /// Policies with our label.
    pub policies: Vec<(Kind, ObjectMeta)>,
    /// Objects of others that carry a trace ([`carries_trace`]), and the pods of the Containments, as far as they exist.
    pub marked: Vec<(Kind, ObjectMeta)>,
    /// All Containments.
    pub containments: Vec<Containment>,
    /// Those of the Containments' nodes that exist.
    pub nodes: BTreeSet<String>,
    /// Cuts that agents report and that have no Containment.
    pub orphans: Vec<Orphan>,
}

/// A cut without a Containment.
#[derive(Clone, Debug, PartialEq)]
pub struct Orphan {
    /// The node whose agent reports it.
    pub node: String,
    /// The pod's UID as the node has it.
    pub pod_uid: String,
    /// The pod; `None` when the API has no such pod.
    pub pod: Option<Box<Pod>>,
}

/// Whether an object of somebody else's carries what a response puts there.
#[must_use]
pub fn carries_trace(metadata: &ObjectMeta) -> bool {
    responses_on(metadata).next().is_some() || overwritten(metadata).next().is_some()
}

/// What the node calls a pod: its UID, or what stands for it where the pod was made from a file there.
#[must_use]
pub fn name_on_node(metadata: &ObjectMeta) -> Option<&str> {
    containment::config_hash(metadata).or(metadata.uid.as_deref())
}

pub(super) fn reference(kind: Kind, metadata: &ObjectMeta) -> ObjectRef {
    ObjectRef {
        kind,
        namespace: metadata.namespace.clone(),
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone(),
    }
}

pub(super) fn pod_of(containment: &Containment) -> ObjectRef {
    let pod = &containment.spec.pod;
    ObjectRef {
        kind: Kind::Pod,
        namespace: Some(pod.namespace.clone()),
        name: pod.name.clone(),
        uid: Some(pod.uid.clone()),
    }
}

/// Whether a Containment is about what its node calls by this name.
pub(super) fn is_of(containment: &Containment, name_on_node: &str) -> bool {
    let pod = &containment.spec.pod;
    pod.uid == name_on_node || pod.config_hash.as_deref() == Some(name_on_node)
}

/// The UIDs of the responses whose label is on an object, or who hold fields of it.
pub(super) fn responses_on(metadata: &ObjectMeta) -> impl Iterator<Item = &str> {
    let labels = metadata.labels.iter().flat_map(BTreeMap::keys);
    let labels = labels.filter_map(|key| names::response_of_isolation_label(key));
    let managers = metadata.managed_fields.iter().flatten().filter(|entry| is_applied(entry));
    let managers = managers.filter_map(|entry| names::response_of_field_manager(entry.manager.as_deref()?));
    // Others of the project's programs have names that begin like ours.
    labels.chain(managers).filter(|uid| is_uid(uid))
}

pub(super) fn is_held(metadata: &ObjectMeta, manager: &str) -> bool {
    let mut entries = metadata.managed_fields.iter().flatten();
    entries.any(|entry| is_applied(entry) && entry.manager.as_deref() == Some(manager))
}

/// Whether a manager keeps a node cordoned.
pub(super) fn is_cordoned_by(metadata: &ObjectMeta, manager: &str) -> bool {
    let mut entries = metadata.managed_fields.iter().flatten();
    entries.any(|entry| {
        entry.manager.as_deref() == Some(manager)
            && entry.fields_v1.as_ref().is_some_and(|fields| fields.0.pointer("/f:spec/f:unschedulable").is_some())
    })
}

/// The labels that responses have put in somebody's place by a plain write, by the response's UID.
pub(super) fn overwritten(metadata: &ObjectMeta) -> impl Iterator<Item = (&str, Vec<&str>)> {
    let entries = metadata.managed_fields.iter().flatten().filter(|entry| !is_applied(entry));
    entries.filter_map(|entry| {
        let uid = names::response_of_field_manager(entry.manager.as_deref()?).filter(|uid| is_uid(uid))?;
        let labels = entry.fields_v1.as_ref()?.0.pointer("/f:metadata/f:labels")?.as_object()?;
        Some((uid, labels.keys().filter_map(|key| key.strip_prefix("f:")).collect()))
    })
}

/// Only what was applied can be withdrawn.
fn is_applied(entry: &ManagedFieldsEntry) -> bool {
    entry.operation.as_deref() == Some("Apply")
}

/// As the API server gives them (RFC 9562, in lower case).
fn is_uid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
        })
}

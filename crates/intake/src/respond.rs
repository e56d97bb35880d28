//! What is done about a message. Pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use kube::api::ObjectMeta;
use serde_json::json;
use sha2::{Digest, Sha256};
use tourniquet_api::{Cordon, IncidentResponse, IncidentResponseSpec, Isolate, OnFailure, Run, StoreRef, Target};

use crate::mapping::{self, ClusterId, Identity, Limits, Refused, quoted};
use crate::message::{Action, Message};

/// Label on the responses of an intake: which incident, as [`incident_label`] has it. By it they are found and released.
pub const INCIDENT_LABEL: &str = "intake.tourniquet.dev/incident";

/// Label and value by which the responses of an intake are told from those of people: an intake releases only its own.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "tourniquet-intake");

/// What this intake is for.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The cluster that it runs in.
    pub cluster: ClusterId,
    /// Where its responses are.
    pub namespace: String,
    /// The verbs that it is allowed.
    pub verbs: BTreeSet<String>,
    /// The approved commands: program and arguments by name.
    pub commands: BTreeMap<String, Vec<String>>,
    /// The evidence store that is collected into.
    pub store: Option<String>,
    /// The most targets of one message.
    pub targets: usize,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// Create these.
    Create {
        /// One response for each target.
        responses: Vec<IncidentResponse>,
        /// What is not acted on.
        refused: Vec<Refused>,
    },
    /// Release what has this value of [`INCIDENT_LABEL`].
    Release {
        /// The value.
        incident: String,
    },
}

/// Decides what is done.
///
/// # Errors
/// When nothing is, for whoever reads the playbook's comment.
pub fn decide(message: &Message, policy: &Policy, now: Timestamp) -> Result<Order, Refused> {
    let verb = message.action.verb();
    if !policy.verbs.contains(verb) {
        return Err(Refused::new(
            verb,
            format!("the intake of this cluster does not {verb} (chart value intake.verbs)"),
        ));
    }
    let refused = |why| Refused::new("the message", why);
    let identity = mapping::identify(message.event()).map_err(refused)?;
    let Some(scope) = message.action.scope() else {
        return Ok(Order::Release { incident: incident_label(&identity) });
    };
    let action = action(message, policy)?;
    let limits = Limits { cluster: &policy.cluster, targets: policy.targets, now };
    let mapped = mapping::map(message.event(), scope, &limits).map_err(refused)?;
    let response = |target: Target| IncidentResponse {
        metadata: ObjectMeta {
            name: Some(name(&identity, message, &target)),
            namespace: Some(policy.namespace.clone()),
            labels: Some(BTreeMap::from([
                (MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned()),
                (INCIDENT_LABEL.to_owned(), incident_label(&identity)),
            ])),
            ..ObjectMeta::default()
        },
        // No expireAfter: what was contained stays so until somebody lets it go.
        spec: IncidentResponseSpec {
            incident: Some(identity.facts.clone()),
            requested_by: None,
            target,
            actions: vec![action.clone()],
            expire_after: None,
            release: None,
            override_protection: false,
            dry_run: false,
        },
        status: None,
    };
    Ok(Order::Create { responses: mapped.targets.into_iter().map(response).collect(), refused: mapped.refused })
}

fn action(message: &Message, policy: &Policy) -> Result<tourniquet_api::Action, Refused> {
    let none = tourniquet_api::Action {
        name: None,
        on_failure: OnFailure::default(),
        label: None,
        isolate: None,
        cordon: None,
        collect: None,
        run: None,
    };
    Ok(match message.action {
        Action::IsolatePod | Action::IsolateNamespace => tourniquet_api::Action { isolate: Some(Isolate {}), ..none },
        Action::CordonNode => tourniquet_api::Action { cordon: Some(Cordon {}), ..none },
        Action::Collect => {
            let store = policy.store.clone().ok_or_else(|| {
                Refused::new(
                    "collect",
                    "the intake of this cluster knows no evidence store (chart value intake.evidenceStore)",
                )
            })?;
            tourniquet_api::Action { collect: Some(collect(store)?), ..none }
        }
        Action::Run => {
            let name = message.command.as_deref().unwrap_or_default();
            let command = policy.commands.get(name).ok_or_else(|| {
                Refused::new(
                    format!("command {}", quoted(name)),
                    "it is none of the approved commands of this cluster (chart value intake.commands)",
                )
            })?;
            tourniquet_api::Action { run: Some(run(command.clone(), policy.store.clone())?), ..none }
        }
        Action::Release => none,
    })
}

/// With the API's own defaults, wherever they are written.
fn collect(store: String) -> Result<tourniquet_api::Collect, Refused> {
    serde_json::from_value(json!({"storeRef": StoreRef { name: store }}))
        .map_err(|error| Refused::new("collect", error.to_string()))
}

fn run(command: Vec<String>, store: Option<String>) -> Result<Run, Refused> {
    let mut run: Run =
        serde_json::from_value(json!({"command": command})).map_err(|error| Refused::new("run", error.to_string()))?;
    run.store_ref = store.map(|name| StoreRef { name });
    Ok(run)
}

/// The value of [`INCIDENT_LABEL`]: the same for every message of an incident.
#[must_use]
pub fn incident_label(identity: &Identity) -> String {
    digest(&[identity.facts.source.as_deref().unwrap_or_default(), &identity.key])
}

/// A response's name: the same for the same incident, action and target, so that asking twice is asking once.
#[must_use]
pub fn name(identity: &Identity, message: &Message, target: &Target) -> String {
    let (kind, namespace, object) = match target {
        Target { pod: Some(pod), .. } => ("pod", pod.namespace.as_str(), pod.name.as_str()),
        Target { namespace: Some(namespace), .. } => ("namespace", "", namespace.name.as_str()),
        Target { node: Some(node), .. } => ("node", "", node.name.as_str()),
        // The mapping makes no others.
        _ => ("", "", ""),
    };
    let (facts, verb) = (&identity.facts, message.action.verb());
    let source = facts.source.as_deref().unwrap_or_default();
    let command = message.command.as_deref().unwrap_or_default();
    let hash = digest(&[source, &identity.key, verb, command, kind, namespace, object]);
    let short = if source == "MicrosoftSentinel" { "sentinel" } else { "defender" };
    // 63 characters at most, all in all.
    let parts = [short, &slug(facts.id.as_deref().unwrap_or_default(), 10), verb, &slug(object, 14), &hash];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
}

/// For people to recognise it by; the hash tells it from others.
fn slug(text: &str, most: usize) -> String {
    let lower = text.to_ascii_lowercase();
    let kept: String = lower.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(most).collect();
    kept.trim_matches('-').to_owned()
}

/// 64 bits of SHA-256, in hexadecimal. As a list in JSON, in which no two lists are written alike.
fn digest(parts: &[&str]) -> String {
    let bytes = Sha256::digest(json!(parts).to_string());
    bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a response that is there already is the one that was to be created.
///
/// The incident's title, severity and link change while people work on it, and a later alert on the same pod moves `createdBefore`: the one that is there holds
/// the same object all the same.
///
/// # Errors
/// Why not, and what to do.
pub fn same(there: &IncidentResponse, wanted: &IncidentResponse) -> Result<(), String> {
    let name = wanted.metadata.name.as_deref().unwrap_or_default();
    let release = there.spec.release.unwrap_or_default();
    if there.metadata.labels.as_ref().map(ours) != wanted.metadata.labels.as_ref().map(ours) {
        return Err(format!("there is an IncidentResponse {name} already, which no intake created: see who did"));
    }
    if there.metadata.deletion_timestamp.is_some() {
        return Err(format!(
            "its IncidentResponse {name} is being deleted, and undone: run the playbook again when it is gone"
        ));
    }
    if release {
        return Err(format!(
            "its IncidentResponse {name} was released: to act again, delete it, and run the playbook again"
        ));
    }
    let act = |response: &IncidentResponse| {
        let mut spec = response.spec.clone();
        (spec.incident, spec.requested_by, spec.expire_after) = (None, None, None);
        if let Some(pod) = &mut spec.target.pod {
            pod.created_before = None;
        }
        spec
    };
    if act(there) == act(wanted) {
        Ok(())
    } else {
        Err(format!(
            "there is an IncidentResponse {name} already that does something else: delete it, and run the playbook again"
        ))
    }
}

fn ours(labels: &BTreeMap<String, String>) -> [Option<&String>; 2] {
    [MANAGED_BY.0, INCIDENT_LABEL].map(|key| labels.get(key))
}

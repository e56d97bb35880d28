//! Whether a response is carried out at all. Decided once, stored, and final.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;
use tourniquet_api::{IncidentResponse, IncidentResponseSpec, PinnedContainer, PinnedTarget, PodTarget};

use crate::action;
use crate::settings::Settings;
use crate::world::{Read, Unread, World};

/// The decision.
#[derive(Debug)]
pub(crate) enum Decision {
    /// Carried out, on these and only these.
    Accepted(PinnedTarget),
    /// Not carried out; nothing is touched.
    Refused {
        /// The condition's reason.
        reason: &'static str,
        /// What is wrong, and what to do instead.
        message: String,
    },
}

fn refuse(reason: &'static str, message: impl Into<String>) -> Decision {
    Decision::Refused { reason, message: message.into() }
}

/// Decides. A chain of reasons to refuse; the first that holds is the one reported.
pub(crate) fn decide(response: &IncidentResponse, world: &World, settings: &Settings) -> Result<Decision, Unread> {
    let spec = &response.spec;
    if let Some(message) = misshapen(spec) {
        return Ok(refuse("Invalid", message));
    }
    for each in &spec.actions {
        match each.verb() {
            Some(verb) if action::action(verb).is_some() => {}
            Some(verb) => {
                return Ok(refuse(
                    "VerbNotSupported",
                    format!(
                        "this version of tourniquet does not carry out {verb}; delete this response and create one without it"
                    ),
                ));
            }
            None => return Ok(refuse("Invalid", format!("action {} has no verb", each.effective_name()))),
        }
    }
    let Some(target) = &spec.target.pod else {
        let kind = if spec.target.pods.is_some() {
            "pods"
        } else if spec.target.namespace.is_some() {
            "a namespace"
        } else {
            "a node"
        };
        return Ok(refuse(
            "TargetNotSupported",
            format!("this version of tourniquet acts on single pods, not yet on {kind}; name one in target.pod"),
        ));
    };

    let own = response.metadata.namespace.as_deref().unwrap_or_default();
    let namespace = target.namespace.as_str();
    if own != settings.response_namespace && own != namespace {
        return Ok(refuse(
            "OutsideResponseNamespace",
            format!(
                "a response in namespace {own} acts on its own namespace only; to act on {namespace}, create it in {} (or in {namespace})",
                settings.response_namespace
            ),
        ));
    }
    if namespace == settings.own_namespace {
        return Ok(refuse(
            "ProtectedNamespace",
            format!(
                "namespace {namespace} is the operator's own: cut off, it could not undo what it did; this cannot be overridden"
            ),
        ));
    }
    if settings.agents.as_ref().is_some_and(|agents| agents.namespace == namespace) {
        return Ok(refuse(
            "ProtectedNamespace",
            format!(
                "namespace {namespace} is the agents' own: cut off, an agent could not let go of what it has cut; this cannot be \
                 overridden"
            ),
        ));
    }
    if settings.protected_namespaces.contains(namespace) && !spec.override_protection {
        return Ok(refuse(
            "ProtectedNamespace",
            format!(
                "namespace {namespace} is protected; who has the right override-protection sets overrideProtection: true"
            ),
        ));
    }

    world.require([
        Read::Pod { namespace: namespace.to_owned(), name: target.name.clone() },
        Read::AdmissionBackends { namespace: namespace.to_owned() },
    ])?;
    let Some(pod) = world.pod(namespace, &target.name)? else {
        return Ok(refuse("TargetNotFound", format!("there is no pod {namespace}/{}", target.name)));
    };
    if let Some(refusal) = refuse_pod(target, pod) {
        return Ok(refusal);
    }
    if !spec.override_protection {
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        let backends = world.admission_backends(namespace)?.iter().filter(|backend| {
            !backend.selector.is_empty() && backend.selector.iter().all(|(key, value)| labels.get(key) == Some(value))
        });
        // The same one is named whatever the order of the list.
        if let Some(backend) = backends.min_by_key(|backend| (&backend.service, &backend.used_by)) {
            return Ok(refuse(
                "AdmissionBackend",
                format!(
                    "pod {namespace}/{} is behind Service {}, on which {} depends: cut off, it can lock the API server, the undo of this \
                     response included; who has the right override-protection sets overrideProtection: true",
                    target.name, backend.service, backend.used_by
                ),
            ));
        }
    }
    Ok(Decision::Accepted(pin(namespace, pod)))
}

/// What the API server refuses today, of an object that was stored under another schema. Carried out in part, it would not be
/// what was asked for.
fn misshapen(spec: &IncidentResponseSpec) -> Option<String> {
    let target = &spec.target;
    let targets = [target.pod.is_some(), target.pods.is_some(), target.namespace.is_some(), target.node.is_some()];
    if targets.iter().filter(|there| **there).count() != 1 {
        return Some("a target is exactly one of pod, pods, namespace and node".to_owned());
    }
    if spec.actions.is_empty() {
        return Some("there is no action".to_owned());
    }
    let mut names = BTreeSet::new();
    for action in &spec.actions {
        let name = action.effective_name();
        let verbs = [
            action.label.is_some(),
            action.isolate.is_some(),
            action.cordon.is_some(),
            action.collect.is_some(),
            action.run.is_some(),
        ];
        if verbs.iter().filter(|there| **there).count() != 1 {
            return Some(format!("action {name} does not have exactly one verb"));
        }
        if !names.insert(name) {
            return Some(format!("two actions are called {name}"));
        }
    }
    None
}

fn refuse_pod(target: &PodTarget, pod: &Pod) -> Option<Decision> {
    let name = format!("{}/{}", target.namespace, target.name);
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    if let Some(wanted) = target.uid.as_deref().filter(|wanted| *wanted != uid) {
        return Some(refuse(
            "UIDMismatch",
            format!("pod {name} has UID {uid}, not {wanted}: it is another pod of the same name"),
        ));
    }
    let created = pod.metadata.creation_timestamp.as_ref();
    if let (Some(limit), Some(created)) = (&target.created_before, created)
        && created.0 >= limit.0
    {
        return Some(refuse(
            "CreatedAfter",
            format!(
                "pod {name} was created at {}, not before {}: it is not the pod that was meant",
                created.0, limit.0
            ),
        ));
    }
    let spec = pod.spec.as_ref();
    if spec.is_some_and(|spec| spec.host_network.unwrap_or(false)) {
        return Some(refuse(
            "HostNetwork",
            format!(
                "pod {name} uses its node's network, which no policy reaches; cordoning node {} stops new pods from coming there, and \
                 contains nothing",
                spec.and_then(|spec| spec.node_name.as_deref()).unwrap_or("(none yet)")
            ),
        ));
    }
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    matches!(phase, "Succeeded" | "Failed")
        .then(|| refuse("PodFinished", format!("pod {name} has finished ({phase}): there is nothing left to isolate")))
}

fn pin(namespace: &str, pod: &Pod) -> PinnedTarget {
    PinnedTarget {
        kind: "Pod".to_owned(),
        namespace: Some(namespace.to_owned()),
        name: pod.metadata.name.clone().unwrap_or_default(),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        containers: containers(pod),
    }
}

/// The containers of a pod as they run now, by name.
pub(crate) fn containers(pod: &Pod) -> Vec<PinnedContainer> {
    let Some(status) = &pod.status else { return Vec::new() };
    let mut containers: Vec<PinnedContainer> = status
        .container_statuses
        .iter()
        .flatten()
        .map(|status| PinnedContainer {
            name: status.name.clone(),
            container_id: status.container_id.clone(),
            restart_count: status.restart_count,
        })
        .collect();
    containers.sort_by(|one, other| one.name.cmp(&other.name));
    containers
}

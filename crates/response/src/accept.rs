//! Whether a response is carried out at all. Decided once, stored, and final.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tourniquet_api::{
    IncidentResponse, IncidentResponseSpec, NamespaceTarget, NodeTarget, PinnedContainer, PinnedTarget, PodTarget,
    Target,
};

use crate::action::{self, Asked, Refusal};
use crate::effect::Kind;
use crate::settings::Settings;
use crate::status;
use crate::world::{Read, Unread, World, service_selects};

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
    let asked = match &spec.target {
        Target { pod: Some(target), .. } => Wanted::Pod(target),
        Target { namespace: Some(target), .. } => Wanted::Namespace(target),
        Target { node: Some(target), .. } => Wanted::Node(target),
        _ => {
            return Ok(refuse(
                "TargetNotSupported",
                "this version of tourniquet acts on single pods, on namespaces and on nodes, not yet on sets of pods; name one in target.pod",
            ));
        }
    };
    if let Some(refusal) = unsupported(spec, asked.kind()) {
        return Ok(refusal);
    }
    if let Some(refusal) = refuse_place(response, &asked, settings) {
        return Ok(refusal);
    }
    let target = match asked {
        Wanted::Pod(wanted) => {
            let (namespace, name) = (&wanted.namespace, &wanted.name);
            let isolates = status::isolates(response);
            let mut reads = vec![Read::Pod { namespace: namespace.clone(), name: name.clone() }];
            if isolates {
                reads.push(Read::AdmissionBackends { namespace: namespace.clone() });
            }
            world.require(reads)?;
            let Some(pod) = world.pod(namespace, name)? else {
                return Ok(refuse("TargetNotFound", format!("there is no pod {namespace}/{name}")));
            };
            if let Some(refusal) = refuse_pod(wanted, pod) {
                return Ok(refusal);
            }
            if isolates && let Some(refusal) = refuse_isolation(spec, wanted, pod, world)? {
                return Ok(refusal);
            }
            pin(namespace, pod)
        }
        Wanted::Namespace(wanted) => {
            let found = world.namespace(&wanted.name)?.map(|namespace| &namespace.metadata);
            match pin_object(Kind::Namespace, &wanted.name, wanted.uid.as_deref(), found) {
                Decision::Accepted(pinned) => pinned,
                refusal => return Ok(refusal),
            }
        }
        Wanted::Node(wanted) => {
            let found = world.node(&wanted.name)?.map(|node| &node.metadata);
            match pin_object(Kind::Node, &wanted.name, wanted.uid.as_deref(), found) {
                Decision::Accepted(pinned) => pinned,
                refusal => return Ok(refusal),
            }
        }
    };
    for action in &spec.actions {
        let Some(act) = action.verb().and_then(action::action) else { continue };
        if let Some(Refusal { reason, message }) = act.refuses(&Asked { world, spec, action, target: &target })? {
            return Ok(refuse(reason, message));
        }
    }
    Ok(Decision::Accepted(target))
}

/// What is asked for.
#[derive(Clone, Copy)]
enum Wanted<'a> {
    Pod(&'a PodTarget),
    Namespace(&'a NamespaceTarget),
    Node(&'a NodeTarget),
}

impl Wanted<'_> {
    const fn kind(&self) -> Kind {
        match self {
            Self::Pod(_) => Kind::Pod,
            Self::Namespace(_) => Kind::Namespace,
            Self::Node(_) => Kind::Node,
        }
    }
}

/// The first verb that is not built, or not for this kind of target.
fn unsupported(spec: &IncidentResponseSpec, kind: Kind) -> Option<Decision> {
    for each in &spec.actions {
        let Some(verb) = each.verb() else {
            return Some(refuse("Invalid", format!("action {} has no verb", each.effective_name())));
        };
        let Some(act) = action::action(verb) else {
            return Some(refuse(
                "VerbNotSupported",
                format!(
                    "this version of tourniquet does not carry out {verb}; delete this response and create one without it"
                ),
            ));
        };
        if !act.targets().contains(&kind) {
            let list = |kinds: Vec<String>| kinds.join(" or ");
            let of_verb =
                list(act.targets().iter().map(|kind| format!("a {}", kind.as_str().to_lowercase())).collect());
            let of_kind = action::ACTIONS.iter().filter(|act| act.targets().contains(&kind));
            let of_kind = list(of_kind.map(|act| act.verb().to_string()).collect());
            let kind = kind.as_str().to_lowercase();
            return Some(refuse(
                "VerbNotSupported",
                format!(
                    "this version of tourniquet carries out {verb} on {of_verb}, and on a {kind} only {of_kind}; delete this response and \
                     create one with these"
                ),
            ));
        }
    }
    None
}

/// Where a response may act, by where it is itself, and by what is protected.
fn refuse_place(response: &IncidentResponse, wanted: &Wanted<'_>, settings: &Settings) -> Option<Decision> {
    let own = response.metadata.namespace.as_deref().unwrap_or_default();
    let privileged = own == settings.response_namespace;
    let namespace = match wanted {
        Wanted::Pod(pod) => pod.namespace.as_str(),
        Wanted::Namespace(namespace) => namespace.name.as_str(),
        Wanted::Node(_) if privileged => return None,
        Wanted::Node(node) => {
            return Some(refuse(
                "OutsideResponseNamespace",
                format!(
                    "a response in namespace {own} acts on its own namespace only, and nodes are in none; to act on node {}, create it in {}",
                    node.name, settings.response_namespace
                ),
            ));
        }
    };
    if !privileged && own != namespace {
        return Some(refuse(
            "OutsideResponseNamespace",
            format!(
                "a response in namespace {own} acts on its own namespace only; to act on {namespace}, create it in {} (or in {namespace})",
                settings.response_namespace
            ),
        ));
    }
    if namespace == settings.own_namespace {
        return Some(refuse(
            "ProtectedNamespace",
            format!(
                "namespace {namespace} is the operator's own: cut off, it could not undo what it did; this cannot be overridden"
            ),
        ));
    }
    if settings.agents.as_ref().is_some_and(|agents| agents.namespace == namespace) {
        return Some(refuse(
            "ProtectedNamespace",
            format!(
                "namespace {namespace} is the agents' own: cut off, an agent could not let go of what it has cut; this cannot be \
                 overridden"
            ),
        ));
    }
    (settings.protected_namespaces.contains(namespace) && !response.spec.override_protection).then(|| {
        refuse(
            "ProtectedNamespace",
            format!(
                "namespace {namespace} is protected; who has the right override-protection sets overrideProtection: true"
            ),
        )
    })
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
    None
}

/// What is against cutting a pod off.
fn refuse_isolation(
    response: &IncidentResponseSpec,
    target: &PodTarget,
    pod: &Pod,
    world: &World,
) -> Result<Option<Decision>, Unread> {
    let name = format!("{}/{}", target.namespace, target.name);
    let spec = pod.spec.as_ref();
    if spec.is_some_and(|spec| spec.host_network.unwrap_or(false)) {
        return Ok(Some(refuse(
            "HostNetwork",
            format!(
                "pod {name} uses its node's network, which no policy reaches; cordoning node {} stops new pods from coming there, and \
                 contains nothing",
                spec.and_then(|spec| spec.node_name.as_deref()).unwrap_or("(none yet)")
            ),
        )));
    }
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed") {
        let message = format!("pod {name} has finished ({phase}): there is nothing left to isolate");
        return Ok(Some(refuse("PodFinished", message)));
    }
    if response.override_protection {
        return Ok(None);
    }
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    let backends = world.admission_backends(&target.namespace)?.iter();
    let backends = backends.filter(|backend| service_selects(&backend.selector, &labels));
    // The same one is named whatever the order of the list.
    Ok(backends.min_by_key(|backend| (&backend.service, &backend.used_by)).map(|backend| {
        refuse(
            "AdmissionBackend",
            format!(
                "pod {name} is behind Service {}, on which {} depends: cut off, it can lock the API server, the undo of this response \
                 included; who has the right override-protection sets overrideProtection: true",
                backend.service, backend.used_by
            ),
        )
    }))
}

/// An object that is in no namespace, and has nothing but its UID to be known by.
fn pin_object(kind: Kind, name: &str, wanted: Option<&str>, found: Option<&ObjectMeta>) -> Decision {
    let called = format!("{} {name}", kind.as_str().to_lowercase());
    let Some(found) = found else { return refuse("TargetNotFound", format!("there is no {called}")) };
    let uid = found.uid.clone().unwrap_or_default();
    if let Some(wanted) = wanted.filter(|wanted| *wanted != uid) {
        return refuse(
            "UIDMismatch",
            format!("{called} has UID {uid}, not {wanted}: it is another one of the same name"),
        );
    }
    Decision::Accepted(PinnedTarget {
        kind: kind.as_str().to_owned(),
        name: name.to_owned(),
        uid,
        ..PinnedTarget::default()
    })
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

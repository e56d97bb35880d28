//! What a response asks to act on, and what is found of it.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::{Expression, Selector};
use tourniquet_api::{
    NamespaceTarget, NodeTarget, Operator, OwnerKind, PinnedContainer, PinnedTarget, PodTarget, PodsTarget, Target,
};

use crate::action::Refusal;
use crate::effect::Kind;
use crate::world::{Read, Unread, World};

/// What is asked for.
#[derive(Clone, Copy)]
pub(super) enum Wanted<'a> {
    Pod(&'a PodTarget),
    Pods(&'a PodsTarget),
    Namespace(&'a NamespaceTarget),
    Node(&'a NodeTarget),
}

/// The targets, and their pods where they are pods.
type Found<'a> = Vec<(PinnedTarget, Option<&'a Pod>)>;

impl<'a> Wanted<'a> {
    pub(super) fn of(target: &'a Target) -> Option<Self> {
        let pod = target.pod.as_ref().map(Self::Pod);
        pod.or(target.pods.as_ref().map(Self::Pods))
            .or(target.namespace.as_ref().map(Self::Namespace))
            .or(target.node.as_ref().map(Self::Node))
    }

    pub(super) const fn kind(&self) -> Kind {
        match self {
            Self::Pod(_) | Self::Pods(_) => Kind::Pod,
            Self::Namespace(_) => Kind::Namespace,
            Self::Node(_) => Kind::Node,
        }
    }

    /// The namespace that it is in, or is.
    pub(super) fn namespace(&self) -> Option<&'a str> {
        match self {
            Self::Pod(pod) => Some(&pod.namespace),
            Self::Pods(pods) => Some(&pods.namespace),
            Self::Namespace(namespace) => Some(&namespace.name),
            Self::Node(_) => None,
        }
    }

    /// The look at it.
    pub(super) fn read(&self) -> Read {
        match self {
            Self::Pod(pod) => Read::Pod { namespace: pod.namespace.clone(), name: pod.name.clone() },
            Self::Pods(PodsTarget { namespace, owner: Some(owner), .. }) => Read::OwnedPods {
                namespace: namespace.clone(),
                kind: kind_of(owner.kind).to_owned(),
                name: owner.name.clone(),
            },
            Self::Pods(pods) => Read::SelectedPods { namespace: pods.namespace.clone(), selector: selector(pods) },
            Self::Namespace(namespace) => Read::Namespace { name: namespace.name.clone() },
            Self::Node(node) => Read::Node { name: node.name.clone() },
        }
    }

    /// What is there of it, or why that is not it.
    pub(super) fn found(&self, world: &'a World) -> Result<Result<Found<'a>, Refusal>, Unread> {
        match self {
            Self::Pod(wanted) => {
                let (namespace, name) = (&wanted.namespace, &wanted.name);
                let Some(pod) = world.pod(namespace, name)? else {
                    return refuse("TargetNotFound", format!("there is no pod {namespace}/{name}"));
                };
                Ok(mistaken(wanted, pod).map_or_else(|| Ok(vec![pin(namespace, pod)]), Err))
            }
            Self::Pods(wanted) => several(wanted, world),
            Self::Namespace(wanted) => {
                let found = world.namespace(&wanted.name)?.map(|namespace| &namespace.metadata);
                pin_object(Kind::Namespace, &wanted.name, wanted.uid.as_deref(), found)
            }
            Self::Node(wanted) => {
                let found = world.node(&wanted.name)?.map(|node| &node.metadata);
                pin_object(Kind::Node, &wanted.name, wanted.uid.as_deref(), found)
            }
        }
    }
}

fn refuse<T>(reason: &'static str, message: String) -> Result<Result<T, Refusal>, Unread> {
    Ok(Err(Refusal { reason, message }))
}

/// What `pods` asks for, in words.
pub(crate) fn describe(pods: &PodsTarget) -> String {
    match &pods.owner {
        Some(owner) => format!("pods of {} {}/{}", kind_of(owner.kind), pods.namespace, owner.name),
        None => format!("pods {} ({})", pods.namespace, selector(pods)),
    }
}

fn several<'a>(wanted: &PodsTarget, world: &'a World) -> Result<Result<Found<'a>, Refusal>, Unread> {
    let namespace = &wanted.namespace;
    let pods = match &wanted.owner {
        Some(owner) => {
            let kind = kind_of(owner.kind);
            let Some(pods) = world.owned_pods(namespace, kind, &owner.name)? else {
                return refuse("TargetNotFound", format!("there is no {kind} {namespace}/{}", owner.name));
            };
            pods
        }
        None => world.selected_pods(namespace, &selector(wanted))?,
    };
    let asked = describe(wanted);
    if pods.is_empty() {
        return refuse("TargetNotFound", format!("there are no {asked}"));
    }
    let limit = usize::try_from(wanted.limit).unwrap_or_default();
    if pods.len() > limit {
        return refuse(
            "TooManyTargets",
            format!(
                "there are {}{} {asked}, and the limit is {limit}: nothing was touched; ask for fewer, or set target.pods.limit (50 at \
                 most; to isolate all pods of a namespace, name it in target.namespace)",
                if pods.len() >= FOUND_AT_MOST { "at least " } else { "" },
                pods.len(),
            ),
        );
    }
    let mut found: Found<'a> = pods.iter().map(|pod| pin(namespace, pod)).collect();
    found.sort_by(|(one, _), (other, _)| one.name.cmp(&other.name));
    Ok(Ok(found))
}

/// How many pods a look at a set brings.
const FOUND_AT_MOST: usize = 200;

/// The selector, as the API takes it in a list.
fn selector(pods: &PodsTarget) -> String {
    let Some(selector) = &pods.selector else { return String::new() };
    let mut all: Selector = selector.match_labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    for requirement in &selector.match_expressions {
        let key = requirement.key.clone();
        let values = requirement.values.iter().cloned().collect();
        all.extend([match requirement.operator {
            Operator::In => Expression::In(key, values),
            Operator::NotIn => Expression::NotIn(key, values),
            Operator::Exists => Expression::Exists(key),
            Operator::DoesNotExist => Expression::DoesNotExist(key),
        }]);
    }
    all.to_string()
}

const fn kind_of(kind: OwnerKind) -> &'static str {
    match kind {
        OwnerKind::Deployment => "Deployment",
        OwnerKind::StatefulSet => "StatefulSet",
        OwnerKind::DaemonSet => "DaemonSet",
        OwnerKind::ReplicaSet => "ReplicaSet",
        OwnerKind::Job => "Job",
    }
}

/// Why a pod of the right name is not the one that was meant.
fn mistaken(target: &PodTarget, pod: &Pod) -> Option<Refusal> {
    let name = format!("{}/{}", target.namespace, target.name);
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    if let Some(wanted) = target.uid.as_deref().filter(|wanted| *wanted != uid) {
        return Some(Refusal {
            reason: "UIDMismatch",
            message: format!("pod {name} has UID {uid}, not {wanted}: it is another pod of the same name"),
        });
    }
    let created = pod.metadata.creation_timestamp.as_ref();
    if let (Some(limit), Some(created)) = (&target.created_before, created)
        && created.0 >= limit.0
    {
        return Some(Refusal {
            reason: "CreatedAfter",
            message: format!(
                "pod {name} was created at {}, not before {}: it is not the pod that was meant",
                created.0, limit.0
            ),
        });
    }
    None
}

/// An object that is in no namespace, and has nothing but its UID to be known by.
fn pin_object<'a>(
    kind: Kind,
    name: &str,
    wanted: Option<&str>,
    found: Option<&ObjectMeta>,
) -> Result<Result<Found<'a>, Refusal>, Unread> {
    let called = format!("{} {name}", kind.as_str().to_lowercase());
    let Some(found) = found else { return refuse("TargetNotFound", format!("there is no {called}")) };
    let uid = found.uid.clone().unwrap_or_default();
    if let Some(wanted) = wanted.filter(|wanted| *wanted != uid) {
        return refuse(
            "UIDMismatch",
            format!("{called} has UID {uid}, not {wanted}: it is another one of the same name"),
        );
    }
    let kind = kind.as_str().to_owned();
    Ok(Ok(vec![(PinnedTarget { kind, name: name.to_owned(), uid, ..PinnedTarget::default() }, None)]))
}

fn pin<'a>(namespace: &str, pod: &'a Pod) -> (PinnedTarget, Option<&'a Pod>) {
    let pinned = PinnedTarget {
        kind: "Pod".to_owned(),
        namespace: Some(namespace.to_owned()),
        name: pod.metadata.name.clone().unwrap_or_default(),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        containers: containers(pod),
        ..PinnedTarget::default()
    };
    (pinned, Some(pod))
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

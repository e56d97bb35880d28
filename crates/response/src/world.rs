//! What was seen of the cluster, and what has to be seen before deciding.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::Value;
use tourniquet_api::{Answer, Containment};

use crate::receipt::{Grants, Looked, Neighbours};
use crate::task::{TaskKey, TaskSeen};

/// Something to look at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the fields name the object")]
pub enum Read {
    /// A pod.
    Pod { namespace: String, name: String },
    /// The pods of a namespace that a selector selects, in the form of the API's `labelSelector`; at most 200.
    SelectedPods { namespace: String, selector: String },
    /// The pods of a workload: Deployment, StatefulSet, DaemonSet, ReplicaSet or Job; at most 200.
    OwnedPods { namespace: String, kind: String, name: String },
    /// All pods of a namespace, without what isolating them does not depend on.
    NamespacePods { namespace: String },
    /// What Cilium reports of all pods of a namespace.
    NamespaceEndpoints { namespace: String },
    /// The Containments of the pods of a namespace.
    NamespaceContainments { namespace: String, agents: String },
    /// Which policy engines' kinds are served, as it was a moment ago at the latest.
    Engines,
    /// A network policy of ours.
    NetworkPolicy { namespace: String, name: String },
    /// The network policies of a namespace, as they were a moment ago at the latest.
    NetworkPolicies { namespace: String },
    /// What Cilium reports of a pod.
    CiliumEndpoint { namespace: String, name: String },
    /// A cluster-wide policy of Cilium.
    ClusterwidePolicy { name: String },
    /// Calico's tier and policy of a response, by the tier's name, and the other tiers.
    Calico { tier: String },
    /// What the agent on a pod's node is asked for, and what it says.
    Containment { namespace: String, name: String },
    /// A node.
    Node { name: String },
    /// All nodes, as they were a moment ago at the latest.
    Nodes,
    /// A namespace.
    Namespace { name: String },
    /// The Services of a namespace that select pods.
    ServiceSelectors { namespace: String },
    /// How the workload that owns a pod knows its pods. Kinds other than ReplicaSet, StatefulSet, DaemonSet and Job are not looked for.
    OwnerSelector { kind: String, namespace: String, name: String, uid: String },
    /// The Services in a namespace that the API server itself depends on.
    AdmissionBackends { namespace: String },
    /// A service account, for the receipt.
    ServiceAccount { namespace: String, name: String },
    /// What RBAC grants a service account, for the receipt.
    Grants { namespace: String, account: String },
    /// The pods of a namespace, of a node, and as many others as a limit allows, for the receipt.
    Neighbours { namespace: String, node: String },
    /// The Services of a namespace, for the receipt.
    Services { namespace: String },
    /// All responses, as they are stored.
    Responses,
    /// Those whose target can have to do with the pods of a namespace: the namespace, pods of it, and a pod of it, whichever or of this name. Read
    /// afresh: a release must not miss one that was created a moment ago. The others are not in the way of it, however many there are.
    ResponsesOn { namespace: String, pod: Option<String> },
    /// What this operator remembers to have carried out of late ([`Recent`](crate::Recent)).
    Recent,
    /// One connection attempt, now, for at most 50 ms: the positive control before a cut.
    Control { address: SocketAddr },
    /// The latest of the attempts that go on since the effects are in place.
    Reach { address: SocketAddr },
    /// How a task stands.
    Task(TaskKey),
}

/// What was seen. An object that does not exist was seen as `None`; what was not looked at is not in the [`World`].
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "each belongs to the read of its name")]
pub enum Observation {
    Pod(Option<Box<Pod>>),
    SelectedPods(Vec<Pod>),
    /// None: there is no such workload.
    OwnedPods(Option<Vec<Pod>>),
    /// By name.
    NamespacePods(BTreeMap<String, Pod>),
    /// By the pod's name.
    NamespaceEndpoints(BTreeMap<String, CiliumEndpoint>),
    /// By the pod's UID.
    NamespaceContainments(BTreeMap<String, Containment>),
    Engines(Engines),
    NetworkPolicy(Option<Box<NetworkPolicy>>),
    /// Shared by all that look at one time, as is what else can be large.
    NetworkPolicies(Arc<Vec<NetworkPolicy>>),
    CiliumEndpoint(Option<CiliumEndpoint>),
    ClusterwidePolicy(Option<ClusterwidePolicy>),
    Calico(Calico),
    Containment(Option<Box<Containment>>),
    Node(Option<Box<Node>>),
    Nodes(Vec<Node>),
    Namespace(Option<Box<Namespace>>),
    ServiceSelectors(Vec<ServiceSelector>),
    OwnerSelector(Option<LabelSelector>),
    AdmissionBackends(Vec<AdmissionBackend>),
    ServiceAccount(Looked<Option<Box<ServiceAccount>>>),
    Grants(Looked<Grants>),
    Neighbours(Looked<Arc<Neighbours>>),
    Services(Looked<Vec<Service>>),
    Responses(Vec<PeerResponse>),
    /// When each was created, by UID.
    Recent(BTreeMap<String, Timestamp>),
    Control(Answer),
    Reach(Option<Reach>),
    Task(TaskSeen),
}

/// What matters of a `CiliumEndpoint`, which Cilium's agent writes for each pod that it serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CiliumEndpoint {
    /// The UID of the pod that owns it. A new pod of the same name can still have the endpoint of the former one.
    pub pod_uid: Option<String>,
    /// The labels of the identity that is in force in the data path, such as `k8s:app=web`. The endpoint's own metadata
    /// labels change before the identity does (Cilium 1.19, `pkg/endpoint`), so they prove nothing.
    pub identity_labels: BTreeSet<String>,
    /// `ready` when what is reported is also programmed.
    pub state: String,
}

/// What matters of a `CiliumClusterwideNetworkPolicy`, or of Calico's tier or policy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterwidePolicy {
    /// Its UID.
    pub uid: String,
    /// Its version.
    pub resource_version: Option<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Its spec.
    pub spec: Value,
    /// Whether Cilium took it (`Valid=True`). Calico says nothing of the kind.
    pub valid: bool,
    /// Whether it is being deleted.
    pub terminating: bool,
    /// Who has to let go of it before it is gone.
    pub finalizers: Vec<String>,
}

/// What is there of Calico's kinds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Calico {
    /// The response's tier.
    pub tier: Option<ClusterwidePolicy>,
    /// The response's policy in it.
    pub policy: Option<ClusterwidePolicy>,
    /// All other tiers.
    pub others: Vec<CalicoTier>,
}

/// What matters of somebody else's tier.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CalicoTier {
    /// Its name.
    pub name: String,
    /// The lower, the earlier it is asked; none is last.
    pub order: Option<f64>,
    /// The UID of the response that it says it belongs to.
    pub response_uid: Option<String>,
}

/// Which kinds of policy are served. That proves nothing about a running engine: CRDs survive an uninstall.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Engines {
    /// `cilium.io/v2` has cluster-wide policies.
    pub cilium: bool,
    /// `projectcalico.org/v3` has tiers and cluster-wide policies.
    pub calico: bool,
}

/// A Service that the API server cannot do without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdmissionBackend {
    /// What uses it, such as `ValidatingWebhookConfiguration gatekeeper`.
    pub used_by: String,
    /// The Service's name.
    pub service: String,
    /// The labels of the pods behind it.
    pub selector: BTreeMap<String, String>,
}

/// What matters of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceSelector {
    /// The Service's name.
    pub name: String,
    /// The labels of the pods behind it.
    pub selector: BTreeMap<String, String>,
}

/// What matters of another response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerResponse {
    /// `namespace/name`.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// The pods that it isolates or may be about to isolate, as `(namespace, name, UID if pinned)`.
    pub isolates: Vec<(String, String, Option<String>)>,
    /// The namespace that it isolates, or may be about to isolate.
    pub isolates_namespace: Option<String>,
    /// How many pods ran in that namespace when it was last looked at.
    pub namespace_pods: usize,
    /// The namespace of which it is about to isolate some pods: which is not decided.
    pub undecided_in: Option<String>,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// Whether it was decided upon.
    pub decided: bool,
    /// Neither refused nor a plan only; not decided yet, it may come to be.
    pub carried_out: bool,
    /// Neither deleted, released, expired nor refused.
    pub live: bool,
    /// Whether it was seen in force when it was last looked at.
    pub contains: bool,
}

/// Whether a Service with this selector sends to a pod with these labels. One without a selector finds its pods by other means.
pub(crate) fn service_selects(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// The answer to a connection attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// The answer.
    pub answer: Answer,
    /// When the first of the attempts that had this answer in a row was made.
    pub since: Timestamp,
}

/// What has to be looked at before anything can be decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unread(pub BTreeSet<Read>);

impl From<Read> for Unread {
    fn from(read: Read) -> Self {
        Self([read].into())
    }
}

/// Everything that was seen, and when.
#[derive(Clone, Debug, PartialEq)]
pub struct World {
    /// The time of this look.
    pub now: Timestamp,
    /// What was seen.
    pub observed: BTreeMap<Read, Observation>,
}

/// One accessor per kind of observation: what was not looked at is an error, so it is never mistaken for absent.
macro_rules! accessor {
    ($(#[$doc:meta])* $name:ident($($field:ident: $type:ty),*) -> $variant:ident as $result:ty: $value:ident => $out:expr) => {
        $(#[$doc])*
        pub(crate) fn $name(&self, $($field: $type),*) -> Result<$result, Unread> {
            let read = Read::$variant { $($field: $field.to_owned()),* };
            match self.observed.get(&read) {
                Some(Observation::$variant($value)) => Ok($out),
                _ => Err(read.into()),
            }
        }
    };
}

impl World {
    /// A world of which nothing was seen yet.
    #[must_use]
    pub const fn new(now: Timestamp) -> Self {
        Self { now, observed: BTreeMap::new() }
    }

    accessor!(pod(namespace: &str, name: &str) -> Pod as Option<&Pod>: value => value.as_deref());
    accessor!(selected_pods(namespace: &str, selector: &str) -> SelectedPods as &[Pod]: value => value);
    accessor!(owned_pods(namespace: &str, kind: &str, name: &str) -> OwnedPods as Option<&[Pod]>: value => value.as_deref());
    accessor!(namespace_pods(namespace: &str) -> NamespacePods as &BTreeMap<String, Pod>: value => value);
    accessor!(namespace_endpoints(namespace: &str) -> NamespaceEndpoints as &BTreeMap<String, CiliumEndpoint>: value => value);
    accessor!(namespace_containments(namespace: &str, agents: &str) -> NamespaceContainments as &BTreeMap<String, Containment>: value => value);
    accessor!(network_policy(namespace: &str, name: &str) -> NetworkPolicy as Option<&NetworkPolicy>: value => value.as_deref());
    accessor!(network_policies(namespace: &str) -> NetworkPolicies as &[NetworkPolicy]: value => value);
    accessor!(cilium_endpoint(namespace: &str, name: &str) -> CiliumEndpoint as Option<&CiliumEndpoint>: value => value.as_ref());
    accessor!(clusterwide_policy(name: &str) -> ClusterwidePolicy as Option<&ClusterwidePolicy>: value => value.as_ref());
    accessor!(calico(tier: &str) -> Calico as &Calico: value => value);
    accessor!(containment(namespace: &str, name: &str) -> Containment as Option<&Containment>: value => value.as_deref());
    accessor!(node(name: &str) -> Node as Option<&Node>: value => value.as_deref());
    accessor!(namespace(name: &str) -> Namespace as Option<&Namespace>: value => value.as_deref());
    accessor!(service_selectors(namespace: &str) -> ServiceSelectors as &[ServiceSelector]: value => value);
    accessor!(owner_selector(kind: &str, namespace: &str, name: &str, uid: &str) -> OwnerSelector as Option<&LabelSelector>: value => value.as_ref());
    accessor!(admission_backends(namespace: &str) -> AdmissionBackends as &[AdmissionBackend]: value => value);
    accessor!(service_account(namespace: &str, name: &str) -> ServiceAccount as &Looked<Option<Box<ServiceAccount>>>: value => value);
    accessor!(grants(namespace: &str, account: &str) -> Grants as &Looked<Grants>: value => value);
    accessor!(neighbours(namespace: &str, node: &str) -> Neighbours as &Looked<Arc<Neighbours>>: value => value);
    accessor!(services(namespace: &str) -> Services as &Looked<Vec<Service>>: value => value);
    accessor!(control(address: &SocketAddr) -> Control as Answer: value => *value);
    accessor!(reach(address: &SocketAddr) -> Reach as Option<Reach>: value => *value);

    pub(crate) fn responses(&self) -> Result<&[PeerResponse], Unread> {
        match self.observed.get(&Read::Responses) {
            Some(Observation::Responses(responses)) => Ok(responses),
            _ => Err(Read::Responses.into()),
        }
    }

    pub(crate) fn responses_on(&self, namespace: &str, pod: Option<&str>) -> Result<&[PeerResponse], Unread> {
        let read = Read::ResponsesOn { namespace: namespace.to_owned(), pod: pod.map(str::to_owned) };
        match self.observed.get(&read) {
            Some(Observation::Responses(responses)) => Ok(responses),
            _ => Err(read.into()),
        }
    }

    pub(crate) fn recent(&self) -> Result<&BTreeMap<String, Timestamp>, Unread> {
        match self.observed.get(&Read::Recent) {
            Some(Observation::Recent(recent)) => Ok(recent),
            _ => Err(Read::Recent.into()),
        }
    }

    pub(crate) fn task(&self, key: &TaskKey) -> Result<&TaskSeen, Unread> {
        let read = Read::Task(key.clone());
        match self.observed.get(&read) {
            Some(Observation::Task(seen)) => Ok(seen),
            _ => Err(read.into()),
        }
    }

    pub(crate) fn engines(&self) -> Result<Engines, Unread> {
        match self.observed.get(&Read::Engines) {
            Some(Observation::Engines(engines)) => Ok(*engines),
            _ => Err(Read::Engines.into()),
        }
    }

    pub(crate) fn nodes(&self) -> Result<&[Node], Unread> {
        match self.observed.get(&Read::Nodes) {
            Some(Observation::Nodes(nodes)) => Ok(nodes),
            _ => Err(Read::Nodes.into()),
        }
    }

    /// Fails with everything of `reads` that was not looked at, so that it can be looked at together.
    pub(crate) fn require(&self, reads: impl IntoIterator<Item = Read>) -> Result<(), Unread> {
        let missing: BTreeSet<Read> = reads.into_iter().filter(|read| !self.observed.contains_key(read)).collect();
        if missing.is_empty() { Ok(()) } else { Err(Unread(missing)) }
    }
}

//! The data path: what really lets a pod talk, which is not what the API says.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::core::{Selector, SelectorExt};
use serde_json::Value;
use tourniquet_response::CiliumEndpoint;

use crate::fixtures::NAMESPACE;

/// Who enforces policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    /// Identities that follow labels late, and a deny tier.
    Cilium,
    /// Network policies at once, and nothing that reports.
    Additive,
    /// Nobody.
    None,
}

/// What policies there are, of both kinds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Policies {
    pub(crate) network: BTreeMap<String, NetworkPolicy>,
    pub(crate) clusterwide: BTreeMap<String, Clusterwide>,
}

/// A cluster-wide policy of Cilium.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Clusterwide {
    pub(crate) manifest: Value,
    /// Cilium takes it a moment after it was created.
    pub(crate) valid: bool,
}

/// Whether the two directions are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    pub(crate) ingress: bool,
    pub(crate) egress: bool,
}

impl Path {
    pub(crate) const OPEN: Self = Self { ingress: true, egress: true };

    pub(crate) const fn open(self) -> bool {
        self.ingress || self.egress
    }

    const fn and(self, other: Self) -> Self {
        Self { ingress: self.ingress && other.ingress, egress: self.egress && other.egress }
    }
}

/// How long a new identity takes, near the worst case; a further change of labels starts it again.
const IDENTITY_DELAY: SignedDuration = SignedDuration::from_secs(31);

/// What Cilium's agent keeps for one pod.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pod_uid: String,
    /// There is no object that reports it, yet or any more; the agent writes it a moment later, and enforces all the while.
    pub(crate) unreported: bool,
    /// What is reported under the pod's name as long as it is not: its predecessor.
    pub(crate) former: Option<CiliumEndpoint>,
    /// Somebody took a label of ours off. That opens nothing before the next identity is there.
    pub(crate) tampered: bool,
    identity: BTreeMap<String, String>,
    /// The labels of the next identity, and when it comes.
    next: Option<(BTreeMap<String, String>, Timestamp)>,
    /// The policies in the data path. While an identity is awaited, changes of policies are skipped; here new ones are and
    /// deletions are not, which is the worse of the two for a containment.
    programmed: Policies,
}

impl Endpoint {
    /// A new pod has its identity from the start.
    pub(crate) fn new(pod_uid: &str, labels: &BTreeMap<String, String>, former: Option<CiliumEndpoint>) -> Self {
        let (identity, programmed) = (labels.clone(), Policies::default());
        let pod_uid = pod_uid.to_owned();
        Self { pod_uid, unreported: true, former, tampered: false, identity, next: None, programmed }
    }

    /// What is reported under the pod's name.
    pub(crate) fn reported(&self) -> Option<CiliumEndpoint> {
        if self.unreported { self.former.clone() } else { Some(self.report()) }
    }

    /// The agent writes its report; true when there was none.
    pub(crate) fn is_reported_at_last(&mut self) -> bool {
        self.former = None;
        std::mem::take(&mut self.unreported)
    }

    /// Whether it belongs to this pod.
    pub(crate) fn serves(&self, pod_uid: &str) -> bool {
        self.pod_uid == pod_uid
    }

    /// The agent sees the pod's labels and the policies. True when what somebody took off comes to have its effect.
    pub(crate) fn follow(&mut self, labels: &BTreeMap<String, String>, policies: &Policies, now: Timestamp) -> bool {
        let awaited = self.next.as_ref().map_or(&self.identity, |(next, _)| next);
        if awaited != labels {
            self.next = Some((labels.clone(), now + IDENTITY_DELAY));
        }
        let mut opened = false;
        if let Some((next, _)) = self.next.take_if(|(_, at)| *at <= now) {
            self.identity = next;
            opened = std::mem::take(&mut self.tampered);
        }
        if self.next.is_none() {
            if self.programmed != *policies {
                self.programmed = policies.clone();
            }
        } else {
            self.programmed.network.retain(|name, _| policies.network.contains_key(name));
            self.programmed.clusterwide.retain(|name, _| policies.clusterwide.contains_key(name));
        }
        opened
    }

    fn report(&self) -> CiliumEndpoint {
        let state = if self.next.is_some() { "waiting-for-identity" } else { "ready" };
        CiliumEndpoint {
            pod_uid: Some(self.pod_uid.clone()),
            identity_labels: cilium_labels(&self.identity)
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect(),
            state: state.to_owned(),
        }
    }

    pub(crate) fn path(&self) -> Path {
        let identity = cilium_labels(&self.identity);
        let denied = self.programmed.clusterwide.values().map(|policy| denied(&policy.manifest["spec"], &identity));
        denied.fold(additive(&self.identity, &self.programmed.network), Path::and)
    }
}

fn cilium_labels(labels: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let namespace = ("k8s:io.kubernetes.pod.namespace".to_owned(), NAMESPACE.to_owned());
    labels.iter().map(|(key, value)| (format!("k8s:{key}"), value.clone())).chain([namespace]).collect()
}

/// What a cluster-wide policy leaves open. Only what denies everybody but the pod's own node counts.
fn denied(spec: &Value, identity: &BTreeMap<String, String>) -> Path {
    let selector: BTreeMap<String, String> =
        serde_json::from_value(spec["endpointSelector"]["matchLabels"].clone()).unwrap_or_default();
    if selector.is_empty() || selector.iter().any(|(key, value)| identity.get(key) != Some(value)) {
        return Path::OPEN;
    }
    let rules = |direction: &str| spec[direction].as_array().cloned().unwrap_or_default();
    let entities: BTreeSet<String> = rules("ingressDeny")
        .iter()
        .flat_map(|rule| rule["fromEntities"].as_array().cloned().unwrap_or_default())
        .filter_map(|entity| entity.as_str().map(str::to_owned))
        .collect();
    let pods = rules("ingressDeny").iter().any(|rule| {
        rule.pointer("/fromEndpoints/0/matchExpressions/0/operator").and_then(Value::as_str) == Some("Exists")
    });
    let outside = ["world", "remote-node", "unmanaged", "health", "ingress", "init"];
    let ingress = !(pods && outside.iter().all(|entity| entities.contains(*entity)));
    let egress = !rules("egressDeny").iter().any(|rule| rule["toEntities"] == serde_json::json!(["all"]));
    Path { ingress, egress }
}

/// What network policies leave open: they only add up.
pub(crate) fn additive(labels: &BTreeMap<String, String>, policies: &BTreeMap<String, NetworkPolicy>) -> Path {
    let mut selected = Path { ingress: false, egress: false };
    let mut allowed = selected;
    for spec in policies.values().filter_map(|policy| policy.spec.as_ref()) {
        let selector = Selector::try_from(spec.pod_selector.clone().unwrap_or_default());
        if !selector.is_ok_and(|selector| selector.matches(labels)) {
            continue;
        }
        let types = spec.policy_types.clone().unwrap_or_default();
        let of_type = |wanted: &str| types.iter().any(|have| have == wanted);
        selected.ingress |= of_type("Ingress");
        selected.egress |= of_type("Egress");
        allowed.ingress |= spec.ingress.as_ref().is_some_and(|rules| !rules.is_empty());
        allowed.egress |= spec.egress.as_ref().is_some_and(|rules| !rules.is_empty());
    }
    Path { ingress: !selected.ingress || allowed.ingress, egress: !selected.egress || allowed.egress }
}

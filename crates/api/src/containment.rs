//! What the operator asks of the agent on a node, and what the agent says: one [`Containment`] for each contained pod.
//!
//! Internal: nobody creates one by hand, and its shape may change with any version. It is named by the pod's UID and lives in the
//! agent's namespace.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Connections, Probe, schema};

/// A pod that is to be cut off in its own network namespace, as long as anybody holds it.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[kube(
    group = "internal.tourniquet.dev",
    version = "v1alpha1",
    kind = "Containment",
    plural = "containments",
    namespaced,
    derive = "PartialEq",
    status = "ContainmentStatus",
    doc = "A pod that the agent of its node cuts off. Made and removed by the operator; not for people.",
    selectable = ".spec.nodeName",
    printcolumn(name = "Pod", type_ = "string", json_path = ".spec.pod.name"),
    printcolumn(name = "Namespace", type_ = "string", json_path = ".spec.pod.namespace"),
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.nodeName"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(
        "has(self.pod) == has(oldSelf.pod) && (!has(self.pod) || self.pod == oldSelf.pod) && \
         has(self.nodeName) == has(oldSelf.nodeName) && (!has(self.nodeName) || self.nodeName == oldSelf.nodeName)")
        .message("a containment is of one pod on one node: make another one")
)]
pub struct ContainmentSpec {
    /// The pod.
    pub pod: ContainedPod,
    /// The node that it runs on: only that node's agent acts.
    #[schemars(schema_with = "schema::subdomain")]
    pub node_name: String,
    /// The node's own addresses, from which the kubelet's probes come.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 45)))]
    pub node_addresses: Vec<String>,
    /// The pod's ports that its probes use; nothing else is let in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(range(min = 1, max = 65535)))]
    pub probe_ports: Vec<u16>,
    /// What the agent tries to reach from inside before and after, as `address:port`: the first that answers before is tried
    /// again after. Several, since a policy of somebody else's may already deny one of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), inner(length(max = 64)))]
    pub egress_targets: Vec<String>,
    /// Who holds it, by the UID of the response. Each holder applies and withdraws its own entry, so the API server counts them.
    /// Only a containment without any lifts the cut.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::holders")]
    pub holders: BTreeMap<String, Holder>,
}

/// The pod of a [`Containment`].
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainedPod {
    /// The pod's namespace.
    #[schemars(schema_with = "schema::dns_label")]
    pub namespace: String,
    /// The pod's name.
    #[schemars(schema_with = "schema::subdomain")]
    pub name: String,
    /// The pod's UID, by which the agent finds it.
    #[schemars(schema_with = "schema::uid")]
    pub uid: String,
    /// What the node calls the pod instead of its UID, where it was made from a file on the node: the annotation
    /// `kubernetes.io/config.hash` (Kubernetes, `pkg/kubelet/types/constants.go`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::uid")]
    pub config_hash: Option<String>,
}

/// One response that holds a pod.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Holder {
    /// `namespace/name` of the response, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::text_1024")]
    pub response: Option<String>,
}

/// What the agent has done and seen.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainmentStatus {
    /// The generation of the spec that this status is about. `Lifted` of an older one says nothing: it may have been cut since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where it is.
    #[serde(default)]
    pub state: ContainmentState,
    /// Why, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When the agent heard that the pod is held, where it has cut it since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received_at: Option<MicroTime>,
    /// When the agent had found the pod and looked at it, and told the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told_at: Option<MicroTime>,
    /// Since when the cut has been in force without a gap, as read back from the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut_at: Option<MicroTime>,
    /// The inode of the network namespace that is cut; another one means that the sandbox was made anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_namespace: Option<u64>,
    /// How it is cut: `Netdev`, or `Inet` on a kernel without egress hooks, which leaves raw sockets open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hooks: Option<String>,
    /// How often the cut was found changed from inside, and put back.
    #[serde(default)]
    pub restored: i32,
    /// What was tried from inside the pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<Probe>,
    /// The pod's connections to others at the moment of the cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<Connections>,
}

/// Where a [`Containment`] is. A string without an enum in the schema: see [`crate::Outcome`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum ContainmentState {
    /// The agent has not said anything yet.
    #[default]
    Pending,
    /// Cut, and read back from the kernel.
    Cut,
    /// Nobody holds it, and nothing of the cut is left.
    Lifted,
    /// The node has no such pod any more.
    PodGone,
    /// It cannot be done; the message says why.
    Failed,
    /// What a newer agent may say.
    #[serde(other)]
    Unknown,
}

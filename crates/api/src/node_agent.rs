//! What the agent of a node says of itself and of what it finds there: one [`NodeAgent`] for each node.
//!
//! Internal, like [`crate::Containment`]: the agent writes it, people and the operator read it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// The agent of one node, named by the node.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[kube(
    group = "internal.tourniquet.dev",
    version = "v1alpha1",
    kind = "NodeAgent",
    plural = "nodeagents",
    namespaced,
    derive = "PartialEq",
    status = "NodeAgentStatus",
    doc = "What the agent of a node found there. Made by the agent; not for people to change.",
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version"),
    printcolumn(name = "Cut", type_ = "integer", json_path = ".status.cut"),
    printcolumn(name = "Orphans", type_ = "string", json_path = ".status.orphans[*].podUID"),
    printcolumn(name = "Started", type_ = "date", json_path = ".status.startedAt")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "has(self.nodeName) == has(oldSelf.nodeName) && (!has(self.nodeName) || self.nodeName == oldSelf.nodeName)")
    .message("it is of one node"))]
pub struct NodeAgentSpec {
    /// The node.
    #[schemars(schema_with = "schema::subdomain")]
    pub node_name: String,
}

/// What the agent found on its node.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeAgentStatus {
    /// The agent's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// When this agent began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<MicroTime>,
    /// How many pods of the node it holds cut.
    #[serde(default)]
    pub cut: i32,
    /// Pods that are cut off and that nobody asks for any more; the first 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub orphans: Vec<OrphanedCut>,
}

/// A pod that is cut off without a [`crate::Containment`]. Only one without holders lifts a cut, so this pod stays cut until
/// somebody decides: whoever takes Containments away by force must not set pods free.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OrphanedCut {
    /// The pod's UID, as the node has it.
    #[serde(rename = "podUID")]
    pub pod_uid: String,
    /// The inode of the network namespace that is cut.
    pub network_namespace: u64,
}

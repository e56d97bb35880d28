//! Cuts on this node that nobody asks for: found and said, never lifted.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use tourniquet_agent::cut;
use tourniquet_api::{NodeAgent, NodeAgentStatus, OrphanedCut};
use tracing::warn;

use crate::scans::Scans;

/// Orphans that are named.
const NAMED: usize = 32;
const MANAGER: &str = "tourniquet-agent";

/// The pods of the node that are cut, without those that somebody asks for.
pub(crate) async fn find(scans: &Scans, asked_for: BTreeSet<String>) -> Option<Vec<OrphanedCut>> {
    let pods = match scans.all().await {
        Ok(pods) => pods,
        Err(error) => {
            warn!(%error, "cannot look for cuts that nobody asks for; it is tried again");
            return None;
        }
    };
    let search = tokio::task::spawn_blocking(move || {
        let others = pods.into_iter().filter(|(uid, _)| !asked_for.contains(uid));
        let networks = others.filter_map(|(uid, found)| Some((uid, found.ok()?.netns)));
        let cut = networks.filter(|(_, network)| cut::is_cut(network).unwrap_or(false));
        cut.map(|(pod_uid, network)| OrphanedCut { pod_uid, network_namespace: network.id().inode() })
            .take(NAMED)
            .collect()
    });
    search.await.ok()
}

/// The token that the API server knows the agent by. In it is the UID of the node (KEP-4193).
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// The node's own resource.
pub(crate) struct Report {
    api: Api<NodeAgent>,
    node: String,
    stored: Option<NodeAgentStatus>,
}

/// The node's UID, by which the report goes when the node goes: nodes come and go with the autoscaler.
fn node_uid() -> Option<String> {
    claim(&std::fs::read_to_string(TOKEN).ok()?)
}

fn claim(token: &str) -> Option<String> {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&payload).ok()?;
    claims["kubernetes.io"]["node"]["uid"].as_str().map(str::to_owned)
}

impl Report {
    pub(crate) fn new(client: Client, namespace: &str, node: &str) -> Self {
        Self { api: Api::namespaced(client, namespace), node: node.to_owned(), stored: None }
    }

    /// Writes what is so, when it is not what was written last.
    pub(crate) async fn write(&mut self, status: NodeAgentStatus) {
        if self.stored.as_ref() == Some(&status) {
            return;
        }
        let parameters = PatchParams::apply(MANAGER).force();
        let head = json!({
            "apiVersion": "internal.tourniquet.dev/v1alpha1",
            "kind": "NodeAgent",
            "metadata": { "name": self.node },
        });
        let (mut whole, mut about) = (head.clone(), head);
        whole["spec"] = json!({ "nodeName": self.node });
        if let Some(uid) = node_uid() {
            let owner = json!({ "apiVersion": "v1", "kind": "Node", "name": self.node, "uid": uid });
            whole["metadata"]["ownerReferences"] = json!([owner]);
        }
        about["status"] = json!(status);
        let written = async {
            self.api.patch(&self.node, &parameters, &Patch::Apply(&whole)).await?;
            self.api.patch_status(&self.node, &parameters, &Patch::Apply(&about)).await
        };
        match written.await {
            Ok(_) => self.stored = Some(status),
            Err(error) => warn!(%error, "the report on this node is not written; it is tried again"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_uid_is_in_the_token() {
        let token = |claims: serde_json::Value| format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let claims =
            json!({ "sub": "system:serviceaccount:a:b", "kubernetes.io": { "node": { "name": "n", "uid": "4711" } } });
        assert_eq!(claim(&token(claims)).as_deref(), Some("4711"));
        assert_eq!(claim(&token(json!({ "kubernetes.io": {} }))), None);
        for text in ["", "e30", "e30.###.x", "e30.e30.x"] {
            assert_eq!(claim(text), None, "{text:?}");
        }
    }
}

//! What whoever installs tourniquet decides.

use std::collections::BTreeSet;

/// Settings of the operator that gate acceptance. They never gate undo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// A response in this namespace may target anything unprotected; elsewhere only what is in its own namespace.
    pub response_namespace: String,
    /// Namespaces whose pods are not acted on unless the response overrides the protection.
    pub protected_namespaces: BTreeSet<String>,
    /// Where the operator itself runs. Never acted on, whatever is overridden: cut off, it could not undo.
    pub own_namespace: String,
    /// The agents. None: there are none, and policies are all there is.
    pub agents: Option<Agents>,
}

/// The agents on the nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Agents {
    /// Where operator and agents meet.
    pub namespace: String,
    /// What an agent tries to reach from inside a pod before and after it cuts it, as `address:port`; at most 4 are used. Something
    /// that answers nearly every pod: the API server's Service, the cluster's DNS, the operator itself.
    pub egress_targets: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            response_namespace: "incident-response".to_owned(),
            protected_namespaces: ["kube-system", "tourniquet-system"].map(String::from).into(),
            own_namespace: "tourniquet-system".to_owned(),
            agents: None,
        }
    }
}

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
    /// Where operator and agents meet. None: there are no agents, and policies are all there is.
    pub agent_namespace: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            response_namespace: "incident-response".to_owned(),
            protected_namespaces: ["kube-system", "tourniquet-system"].map(String::from).into(),
            own_namespace: "tourniquet-system".to_owned(),
            agent_namespace: None,
        }
    }
}

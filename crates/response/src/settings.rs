//! What whoever installs tourniquet decides.

use std::collections::BTreeSet;

use crate::power::Power;

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
    /// What the operator was not given.
    pub powers_off: BTreeSet<Power>,
    /// Whether new responses are carried out, and how many.
    pub blast_radius: BlastRadius,
}

/// What keeps responses from doing more harm than the incident: a playbook that runs away contains a cluster as well as an attacker's pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlastRadius {
    /// Every response is a dry run: the plan, and nothing is touched.
    pub plan_only: bool,
    /// Whether new responses are carried out. Those that were accepted go on, and end, as ever.
    pub accept_new: bool,
    /// How much may be done at once.
    pub budget: Budget,
}

/// How much may be done at once; None of it is unlimited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// Pods that are isolated at the same time, by all responses together.
    pub contained_pods: Option<usize>,
    /// Percent of the pods of one workload. A single pod of it is always within.
    pub workload_share: Option<usize>,
    /// Responses that were created within a minute and are carried out.
    pub responses_per_minute: Option<usize>,
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
            powers_off: BTreeSet::new(),
            blast_radius: BlastRadius { plan_only: false, accept_new: true, budget: Budget::default() },
        }
    }
}

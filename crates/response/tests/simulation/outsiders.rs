//! Everybody else: users, GitOps, workload controllers, and who tampers with what is ours.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::json;
use tourniquet_api::names;

use super::Sim;
use super::network::{Engine, additive};
use crate::fixtures::{POD, object};

/// What is done to objects of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tampering {
    DeletesNetworkPolicy,
    AllowsInNetworkPolicy,
    NarrowsNetworkPolicy,
    DeletesDenyPolicy,
    EmptiesDenyPolicy,
    NarrowsDenyPolicy,
    RemovesIsolationLabel,
    RemovesContainedLabel,
    DeletesContainment,
    RemovesHolder,
}

impl Sim {
    /// `kubectl label --overwrite`. A write that changes nothing here and would have changed something without us leaves no
    /// trace in the API, so nobody can keep it: it is not made.
    pub(crate) fn user_labels(&mut self, key: &str, value: &str) {
        let untouched = self.untouched.pods.get_mut(POD);
        let (Some(pod), Some(untouched)) = (self.pods.get_mut(POD), untouched) else { return };
        if pod.labels.get(key) == Some(value) && untouched.labels.get(key) != Some(value) {
            return;
        }
        pod.labels.set("kubectl-label", key, value);
        untouched.labels.set("kubectl-label", key, value);
        self.others_changed();
    }

    pub(crate) fn user_unlabels(&mut self, key: &str) {
        for pods in [&mut self.pods, &mut self.untouched.pods] {
            if let Some(pod) = pods.get_mut(POD) {
                pod.labels.remove(key);
            }
        }
        self.others_changed();
    }

    /// A GitOps controller applies these labels and no others. What conflicts with somebody is not applied at all.
    pub(crate) fn gitops_applies(&mut self, labels: &[(&str, &str)]) {
        let labels: BTreeMap<String, String> =
            labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let untouched = self.untouched.pods.get_mut(POD);
        let (Some(pod), Some(untouched)) = (self.pods.get_mut(POD), untouched) else { return };
        if pod.labels.apply("argocd", &labels).is_ok() {
            untouched.labels.apply("argocd", &labels).expect("without us there are fewer conflicts");
        }
        self.others_changed();
    }

    pub(crate) fn user_adds(&mut self, policy: NetworkPolicy) {
        let name = policy.metadata.name.clone().expect("a policy has a name");
        self.untouched.policies.network.insert(name.clone(), policy.clone());
        self.policies.network.insert(name, policy);
        self.others_changed();
    }

    pub(crate) fn user_removes(&mut self, name: &str) {
        // It may be what kept the pod silent.
        if self.policies.network.contains_key(name) && !self.firm() {
            self.laws.disturbed();
        }
        self.untouched.policies.network.remove(name);
        self.policies.network.remove(name);
        self.others_changed();
    }

    /// The workload's controller replaces the pod by one of the same name.
    pub(crate) fn pod_is_replaced(&mut self) {
        self.start_pod(POD);
        self.changed();
    }

    pub(crate) fn pod_vanishes(&mut self) {
        self.pods.remove(POD);
        self.untouched.pods.remove(POD);
        self.changed();
    }

    pub(crate) fn pod_finishes(&mut self) {
        for pods in [&mut self.pods, &mut self.untouched.pods] {
            if let Some(pod) = pods.get_mut(POD) {
                pod.finished = true;
            }
        }
        self.changed();
    }

    /// The endpoint's object vanishes; the agent writes it again when it comes to it.
    pub(crate) fn endpoint_vanishes(&mut self) {
        if let Some(endpoint) = self.endpoints.get_mut(POD) {
            endpoint.unreported = true;
        }
        self.changed();
    }

    /// Somebody changes what a response put in place.
    pub(crate) fn tampered(&mut self, how: Tampering, response: &str) {
        let uid = self.responses.get(response).and_then(|response| response.metadata.uid.clone());
        let Some(uid) = uid else { return };
        self.laws.disturbed();
        let name = names::policy(&uid);
        let network = self.policies.network.get_mut(&name).and_then(|policy| policy.spec.as_mut());
        let deny = self.policies.clusterwide.get_mut(&name);
        match how {
            Tampering::DeletesNetworkPolicy => drop(self.policies.network.remove(&name)),
            Tampering::AllowsInNetworkPolicy => {
                if let Some(spec) = network {
                    spec.ingress = object(json!([{}]));
                    spec.egress = object(json!([{}]));
                }
            }
            Tampering::NarrowsNetworkPolicy => {
                if let Some(spec) = network {
                    spec.pod_selector
                        .get_or_insert_default()
                        .match_labels
                        .get_or_insert_default()
                        .insert("app".to_owned(), "nothing".to_owned());
                }
            }
            Tampering::DeletesDenyPolicy => drop(self.policies.clusterwide.remove(&name)),
            Tampering::EmptiesDenyPolicy => {
                if let Some(policy) = deny {
                    policy.manifest["spec"]["ingressDeny"] = json!([{}]);
                }
            }
            Tampering::NarrowsDenyPolicy => {
                if let Some(policy) = deny {
                    policy.manifest["spec"]["endpointSelector"]["matchLabels"]["k8s:app"] = json!("nothing");
                }
            }
            Tampering::RemovesIsolationLabel => self.take_label(&names::isolation_label(&uid)),
            Tampering::RemovesContainedLabel => self.user_unlabels(names::CONTAINED_LABEL),
            Tampering::DeletesContainment => self.take_containment(),
            Tampering::RemovesHolder => self.take_holder(&uid),
        }
        self.changed();
    }

    fn take_label(&mut self, key: &str) {
        if let Some(pod) = self.pods.get_mut(POD) {
            pod.labels.remove(key);
        }
    }

    /// Where nothing denies, what others change can open the pod at once; that is theirs, and reported after the next look.
    fn others_changed(&mut self) {
        let opened = self.pods.get(POD).is_some_and(|pod| additive(&pod.labels.values, &self.policies.network).open());
        if opened && !self.firm() {
            self.laws.disturbed();
        }
        self.changed();
    }

    /// Whether what holds the pod holds it against whatever others do to policies and labels.
    fn firm(&self) -> bool {
        let uid = self.pods.get(POD).map(|pod| pod.uid.as_str()).unwrap_or_default();
        let serves = self.engine == Engine::Cilium
            && self.endpoints.get(POD).is_some_and(|endpoint| endpoint.serves(uid) && !endpoint.unreported);
        serves || self.agents.cut(uid)
    }
}

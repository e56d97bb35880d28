//! Everybody else: users, GitOps, workload controllers, and who tampers with what is ours.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::json;
use tourniquet_api::names;

use super::Sim;
use super::network::{Engine, additive};
use super::objects::Thing;
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
    pub(crate) fn user_labels(&mut self, thing: Thing, key: &str, value: &str) {
        let Some((now, untouched)) = self.both(thing) else { return };
        if now.get(key) != Some(value) {
            now.set("kubectl-label", key, value);
            // Also where it is what would be there without us: he wrote it, and the API recorded that.
            untouched.take("kubectl-label", key, value);
        }
        self.others_changed(thing);
    }

    pub(crate) fn user_unlabels(&mut self, thing: Thing, key: &str) {
        let Some((now, untouched)) = self.both(thing) else { return };
        now.remove(key);
        untouched.remove(key);
        self.others_changed(thing);
    }

    /// A GitOps controller applies these labels and no others. What conflicts with somebody is not applied at all.
    ///
    /// Nor is the very value that a response has put in somebody's place: as its further holder the controller would keep it from
    /// nobody, since on release that somebody gets his own back. That is a limit, and not played here.
    pub(crate) fn gitops_applies(&mut self, thing: Thing, labels: &[(&str, &str)]) {
        let labels: BTreeMap<String, String> =
            labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let Some((now, untouched)) = self.both(thing) else { return };
        let replaced = |key: &String| now.is_written_by(&names::field_manager(""), key);
        if !labels.keys().any(replaced) && now.apply("argocd", &labels).is_ok() {
            untouched.apply("argocd", &labels).expect("without us there are fewer conflicts");
        }
        self.others_changed(thing);
    }

    pub(crate) fn user_adds(&mut self, policy: NetworkPolicy) {
        let name = policy.metadata.name.clone().expect("a policy has a name");
        self.untouched.policies.network.insert(name.clone(), policy.clone());
        self.policies.network.insert(name, policy);
        self.policies_changed();
    }

    pub(crate) fn user_removes(&mut self, name: &str) {
        // It may be what kept the pod silent.
        if self.policies.network.contains_key(name) && !self.pods.keys().all(|pod| self.firm(pod)) {
            self.laws.disturbed();
        }
        self.untouched.policies.network.remove(name);
        self.policies.network.remove(name);
        self.policies_changed();
    }

    /// Another one of the same name comes in its place: a pod by its workload's controller, a node that is registered anew, a namespace
    /// that is created again, with everything in it.
    pub(crate) fn is_replaced(&mut self, thing: Thing) {
        match thing {
            Thing::Pod(name) => self.start_pod(name),
            Thing::Node => self.register(thing),
            Thing::Namespace => {
                self.register(thing);
                for policies in [&mut self.policies, &mut self.untouched.policies] {
                    policies.network.clear();
                }
                for name in self.pods.keys().cloned().collect::<Vec<_>>() {
                    self.start_pod(&name);
                }
            }
        }
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
            endpoint.former = None;
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
            Tampering::RemovesContainedLabel => self.user_unlabels(Thing::Pod(POD), names::CONTAINED_LABEL),
            Tampering::DeletesContainment => self.take_containment(),
            Tampering::RemovesHolder => self.take_holder(&uid),
        }
        self.changed();
    }

    fn take_label(&mut self, key: &str) {
        if let Some(pod) = self.pods.get_mut(POD) {
            pod.labels.remove(key);
        }
        if let Some(endpoint) = self.endpoints.get_mut(POD) {
            endpoint.tampered = true;
        }
    }

    /// Where nothing denies, what others change can open the pod at once; that is theirs, and reported after the next look.
    fn others_changed(&mut self, thing: Thing) {
        if let Thing::Pod(name) = thing {
            self.may_open(name);
        }
        self.changed();
    }

    fn policies_changed(&mut self) {
        for name in self.pods.keys().cloned().collect::<Vec<_>>() {
            self.may_open(&name);
        }
        self.changed();
    }

    fn may_open(&mut self, name: &str) {
        let opened =
            self.pods.get(name).is_some_and(|pod| additive(&pod.labels.labels(), &self.policies.network).open());
        if opened && !self.firm(name) {
            self.laws.disturbed();
        }
    }

    /// Whether what holds the pod holds it against whatever others do to policies and labels.
    pub(super) fn firm(&self, name: &str) -> bool {
        let uid = self.pods.get(name).map(|pod| pod.uid.as_str()).unwrap_or_default();
        let serves = self.engine == Engine::Cilium
            && self.endpoints.get(name).is_some_and(|endpoint| endpoint.serves(uid) && !endpoint.unreported);
        serves || self.agents.cut(uid)
    }
}

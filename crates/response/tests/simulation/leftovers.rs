//! The operator's sweep for what is left of responses that no longer live, and how responses vanish.

use serde_json::json;
use tourniquet_api::names;
use tourniquet_response::{Kind, Orphan, Standing, Traces, carries_trace, leftovers};

use super::Sim;
use crate::fixtures::object;

impl Sim {
    /// Somebody takes the finalizer off, and the response is gone.
    pub(crate) fn response_vanishes(&mut self, name: &str) {
        self.responses.remove(name);
        self.changed();
    }

    /// One sweep. Returns how much was found.
    pub(crate) fn sweep(&mut self) -> usize {
        let standings: Vec<Standing> =
            self.responses.values().map(|response| Standing::of(&object(json!(response)))).collect();
        let settings = self.settings();
        let found = leftovers(&self.listed(), &standings, &standings, settings.agents.as_ref());
        for remnant in &found.undo {
            // One that fails is found again.
            let _ = self.carry_out(&remnant.effect);
        }
        found.undo.len()
    }

    fn listed(&self) -> Traces {
        let network = self.policies.network.values().map(|policy| (Kind::NetworkPolicy, policy.metadata.clone()));
        let clusterwide = self.policies.clusterwide.values();
        let clusterwide = clusterwide
            .map(|policy| (Kind::CiliumClusterwideNetworkPolicy, object(policy.manifest["metadata"].clone())));
        let containments = self.agents.listed();
        let pods = self.pods.iter().map(|(name, pod)| self.shown_pod(name, pod));
        let marked = pods.clone().filter(|pod| {
            let contained = |uid: &String| containments.iter().any(|containment| containment.spec.pod.uid == *uid);
            carries_trace(&pod.metadata) || pod.metadata.uid.as_ref().is_some_and(contained)
        });
        let orphans = self.agents.reported().filter_map(|uid| {
            let pod = pods.clone().find(|pod| pod.metadata.uid.as_ref() == Some(uid))?;
            let node = pod.spec.as_ref()?.node_name.clone()?;
            Some(Orphan { node, pod_uid: uid.clone(), pod: Some(Box::new(pod)) })
        });
        let ours = |(_, metadata): &(Kind, k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta)| {
            metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(names::RESPONSE_LABEL))
        };
        Traces {
            policies: network.chain(clusterwide).filter(ours).collect(),
            marked: marked.map(|pod| (Kind::Pod, pod.metadata)).chain(self.marked_objects()).collect(),
            orphans: orphans.collect(),
            nodes: self.agents.nodes.clone(),
            containments,
        }
    }
}

//! A cluster in memory: what the API stores, what the network really does, and everybody who changes either.
//!
//! It is as unkind as the real one where that was seen to matter: identities follow labels late, policies that change
//! meanwhile are skipped, apply conflicts, a forced apply removes nothing that it did not bring, a write can be stale.

#![allow(dead_code, reason = "each test binary uses its own part of the simulation")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests: a panic is a failed test"
)]

pub(crate) mod agents;
mod api;
pub(crate) mod asked;
mod laws;
mod leftovers;
pub(crate) mod network;
pub(crate) mod objects;
pub(crate) mod operator;
pub(crate) mod outsiders;
pub(crate) mod story;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;
use tourniquet_api::{Answer, IncidentResponse, names};
use tourniquet_response::{
    Calico, ClusterwidePolicy, Engines, Grants, Observation, Pass, Reach, Read, Settings, World, pass, peer,
};

use self::agents::{AGENTS, Agents};
use self::laws::Laws;
use self::network::{Clusterwide, Endpoint, Engine, Path, Policies, additive};
use self::objects::{NEIGHBOUR, SimObject, Thing, Versions};
use crate::fixtures::labels::Labels;
use crate::fixtures::{self, NAMESPACE, NODE, POD, noon, object};

/// Another pod of the same workload, which is only reached with others: by their label, or in their namespace.
pub(crate) const BYSTANDER: &str = "web-2";
/// One more, which starts later, if it does.
pub(crate) const LATE: &str = "web-3";

/// A pod as the API stores it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SimPod {
    pub(crate) uid: String,
    pub(crate) labels: Labels,
    pub(crate) finished: bool,
    node: String,
    ip: String,
}

/// What there would be without tourniquet: only other people's changes are made to it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Untouched {
    pub(crate) pods: BTreeMap<String, SimPod>,
    pub(crate) objects: BTreeMap<Thing, SimObject>,
    pub(crate) policies: Policies,
}

/// The cluster.
#[derive(Clone)]
pub(crate) struct Sim {
    pub(crate) now: Timestamp,
    pub(crate) engine: Engine,
    pub(crate) pods: BTreeMap<String, SimPod>,
    pub(crate) objects: BTreeMap<Thing, SimObject>,
    pub(crate) policies: Policies,
    pub(crate) untouched: Untouched,
    pub(crate) responses: BTreeMap<String, IncidentResponse>,
    /// The next effect is refused by the API server.
    pub(crate) fail_next: bool,
    pub(crate) agents: Agents,
    endpoints: BTreeMap<String, Endpoint>,
    attempts: BTreeMap<(String, SocketAddr), Option<Reach>>,
    versions_of: Versions,
    laws: Laws,
    uids: u64,
    versions: u64,
}

impl Sim {
    /// The same, and an agent on each node.
    pub(crate) fn with_agents(engine: Engine) -> Self {
        let mut sim = Self::new(engine);
        sim.agents.installed = true;
        sim
    }

    /// A namespace with two pods of one workload, a third pod, and a node.
    pub(crate) fn new(engine: Engine) -> Self {
        let mut sim = Self {
            now: noon(),
            engine,
            pods: BTreeMap::new(),
            objects: BTreeMap::new(),
            policies: Policies::default(),
            untouched: Untouched::default(),
            responses: BTreeMap::new(),
            fail_next: false,
            agents: Agents::default(),
            endpoints: BTreeMap::new(),
            attempts: BTreeMap::new(),
            versions_of: Versions::default(),
            laws: Laws::default(),
            uids: 0,
            versions: 0,
        };
        sim.register(Thing::Namespace);
        sim.register(Thing::Node);
        for name in [POD, BYSTANDER, NEIGHBOUR] {
            sim.start_pod(name);
        }
        sim.wait(fixtures::seconds(1));
        sim
    }

    fn issue_uid(&mut self) -> String {
        self.uids += 1;
        format!("00000000-0000-4000-8000-{:012}", self.uids)
    }

    pub(crate) fn start_pod(&mut self, name: &str) {
        let uid = self.issue_uid();
        let mut labels = Labels::default();
        labels.set("kube-controller-manager", "app", if name == NEIGHBOUR { NEIGHBOUR } else { "web" });
        let ip = format!("10.1.{}.{}", self.uids / 250, self.uids % 250);
        let node = format!("node-of-{name}-{}", self.uids);
        self.agents.nodes.insert(node.clone());
        let pod = SimPod { uid, labels, finished: false, node, ip };
        if self.engine == Engine::Cilium {
            // What selects it is in force from its first packet; the report on it comes later.
            let former = self.endpoints.get(name).and_then(Endpoint::reported);
            self.endpoints.insert(name.to_owned(), Endpoint::new(&pod.uid, &pod.labels.labels(), former));
        }
        if let Some(namespace) = self.objects.get(&Thing::Namespace) {
            self.laws.started(&pod.uid, &namespace.uid);
        }
        self.untouched.pods.insert(name.to_owned(), pod.clone());
        self.pods.insert(name.to_owned(), pod);
    }

    /// Time passes, and whoever works in the background works.
    pub(crate) fn wait(&mut self, by: SignedDuration) {
        self.now += by;
        if self.engine == Engine::Cilium {
            self.endpoints.retain(|name, _| self.pods.contains_key(name));
            for endpoint in self.endpoints.values_mut() {
                if endpoint.is_reported_at_last() {
                    // What was seen while nobody reported on the pod says nothing about what Cilium enforces.
                    self.laws.disturbed();
                }
            }
            for policy in self.policies.clusterwide.values_mut() {
                policy.valid = true;
            }
        }
        self.agents_act();
        self.changed();
    }

    /// Something changed: the engine follows, the attempts find out, and no law is broken.
    pub(crate) fn changed(&mut self) {
        self.forget_cuts();
        self.follow_versions();
        for (name, endpoint) in &mut self.endpoints {
            let pod = self.pods.get(name).filter(|pod| endpoint.serves(&pod.uid));
            if let Some(pod) = pod
                && endpoint.follow(&pod.labels.labels(), &self.policies, self.now)
            {
                self.laws.disturbed();
            }
        }
        let answers: Vec<_> = self.attempts.keys().map(|key| (key.clone(), self.attempt(key.1))).collect();
        for (key, answer) in answers {
            let reach = self.attempts.entry(key).or_default();
            if reach.is_none_or(|before| before.answer != answer) {
                *reach = Some(Reach { answer, since: self.now });
            }
        }
        self.check_laws();
    }

    /// What the network really lets through.
    pub(crate) fn path(&self, name: &str) -> Path {
        let Some(pod) = self.pods.get(name) else { return Path { ingress: false, egress: false } };
        if self.agents.cut(&pod.uid) {
            return Path { ingress: false, egress: false };
        }
        match self.engine {
            Engine::None => Path::OPEN,
            Engine::Additive => additive(&pod.labels.labels(), &self.policies.network),
            Engine::Cilium => {
                self.endpoints.get(name).filter(|endpoint| endpoint.serves(&pod.uid)).map_or(Path::OPEN, Endpoint::path)
            }
        }
    }

    fn attempt(&self, address: SocketAddr) -> Answer {
        let pod = self.pods.iter().find(|(_, pod)| pod.ip == address.ip().to_string() && !pod.finished);
        match pod {
            Some((name, _)) if self.path(name).ingress => Answer::Answered,
            _ => Answer::TimedOut,
        }
    }

    /// Goes on trying these addresses for a response, and no others. The first answer comes later.
    pub(crate) fn watch(&mut self, uid: &str, addresses: &[SocketAddr]) {
        self.attempts.retain(|(of, address), _| of != uid || addresses.contains(address));
        for address in addresses {
            self.attempts.entry((uid.to_owned(), *address)).or_default();
        }
    }

    /// What a process knew and no object holds is gone.
    pub(crate) fn forget_attempts(&mut self) {
        self.attempts.clear();
    }

    /// Where agents run, the operator is told where to meet them.
    pub(crate) fn settings(&self) -> Settings {
        let agents = self
            .agents
            .installed
            .then(|| tourniquet_response::Agents { namespace: AGENTS.to_owned(), ..Default::default() });
        Settings { agents, ..Settings::default() }
    }

    /// Decides about a response as it was read, looking at the cluster as it is.
    pub(crate) fn decide(&self, response: &IncidentResponse) -> Pass {
        let world = self.world_for(response);
        pass(response, &world, &self.settings()).expect("everything was looked at")
    }

    /// Everything that has to be seen to decide about a response.
    pub(crate) fn world_for(&self, response: &IncidentResponse) -> World {
        let mut world = World::new(self.now);
        while let Err(unread) = pass(response, &world, &self.settings()) {
            assert!(!unread.0.is_empty(), "nothing is asked for, and nothing decided");
            for read in unread.0 {
                let seen = self.see(&read, response.metadata.uid.as_deref().unwrap_or_default());
                assert!(world.observed.insert(read.clone(), seen).is_none(), "{read:?} is asked for again");
            }
        }
        world
    }

    fn see(&self, read: &Read, uid: &str) -> Observation {
        match read {
            Read::Pod { namespace, name } => Observation::Pod(
                self.pods.get(name).filter(|_| namespace == NAMESPACE).map(|pod| Box::new(self.shown_pod(name, pod))),
            ),
            Read::NetworkPolicy { name, .. } => {
                Observation::NetworkPolicy(self.policies.network.get(name).cloned().map(Box::new))
            }
            Read::NetworkPolicies { .. } => {
                Observation::NetworkPolicies(Arc::new(self.policies.network.values().cloned().collect()))
            }
            Read::CiliumEndpoint { name, .. } => {
                Observation::CiliumEndpoint(self.endpoints.get(name).and_then(Endpoint::reported))
            }
            Read::ClusterwidePolicy { name } => {
                Observation::ClusterwidePolicy(self.policies.clusterwide.get(name).map(Clusterwide::shown))
            }
            Read::Namespace { name } => {
                let namespace = (name == NAMESPACE).then(|| Box::new(object(self.shown(Thing::Namespace))));
                Observation::Namespace(namespace)
            }
            Read::SelectedPods { selector, .. } => {
                let (key, value) = selector.split_once('=').expect("one label is selected by");
                let selected = |pod: &Pod| pod.metadata.labels.iter().flatten().any(|(k, v)| k == key && v == value);
                Observation::SelectedPods(self.shown_pods().into_values().filter(selected).collect())
            }
            Read::OwnedPods { .. } => Observation::OwnedPods(Some(self.shown_pods().into_values().collect())),
            Read::NamespacePods { .. } => Observation::NamespacePods(self.shown_pods()),
            Read::NamespaceEndpoints { .. } => {
                let all = self.endpoints.iter();
                Observation::NamespaceEndpoints(
                    all.filter_map(|(name, endpoint)| Some((name.clone(), endpoint.reported()?))).collect(),
                )
            }
            Read::NamespaceContainments { .. } => {
                let all = self.agents.containments.iter();
                Observation::NamespaceContainments(
                    all.map(|(uid, stored)| (uid.clone(), stored.containment.clone())).collect(),
                )
            }
            Read::Engines => {
                Observation::Engines(Engines { cilium: self.engine == Engine::Cilium, ..Engines::default() })
            }
            Read::Calico { .. } => Observation::Calico(Calico::default()),
            Read::Nodes => {
                let other = json!({ "metadata": { "name": "another" }, "status": { "conditions": [{ "type": "Ready", "status": "True" }] } });
                Observation::Nodes(vec![object(self.shown(Thing::Node)), object(other)])
            }
            Read::ServiceSelectors { .. } => Observation::ServiceSelectors(Vec::new()),
            Read::OwnerSelector { .. } => Observation::OwnerSelector(None),
            Read::AdmissionBackends { .. } => Observation::AdmissionBackends(Vec::new()),
            Read::Containment { namespace, name } => {
                let stored = self.agents.containments.get(name).filter(|_| namespace == AGENTS);
                Observation::Containment(stored.map(|stored| Box::new(stored.containment.clone())))
            }
            Read::Node { name } if name == NODE => Observation::Node(Some(Box::new(object(self.shown(Thing::Node))))),
            Read::Node { name } => {
                let node = self.agents.nodes.get(name).map(|name| json!({ "metadata": { "name": name } }));
                Observation::Node(node.map(|node| Box::new(object::<Node>(node))))
            }
            Read::ServiceAccount { .. } => Observation::ServiceAccount(Ok(None)),
            Read::Grants { .. } => Observation::Grants(Ok(Grants::default())),
            Read::Neighbours { .. } => Observation::Neighbours(Ok(Arc::default())),
            Read::Services { .. } => Observation::Services(Ok(Vec::new())),
            Read::ResponsesOn { .. } => {
                let on = self.responses.values().filter(|response| fixtures::is_on(response, read));
                Observation::Responses(on.map(|response| peer(response, self.now)).collect())
            }
            Read::Responses => {
                Observation::Responses(self.responses.values().map(|response| peer(response, self.now)).collect())
            }
            Read::Control { address } => Observation::Control(self.attempt(*address)),
            Read::Reach { address } => {
                Observation::Reach(self.attempts.get(&(uid.to_owned(), *address)).copied().flatten())
            }
            Read::Recent => panic!("no operator of these stories has a budget"),
            Read::Task(_) => panic!("no response of these stories runs a command"),
        }
    }

    /// As the API shows it.
    fn shown_pods(&self) -> BTreeMap<String, Pod> {
        self.pods.iter().map(|(name, pod)| (name.clone(), self.shown_pod(name, pod))).collect()
    }

    fn shown_pod(&self, name: &str, of: &SimPod) -> Pod {
        let mut pod = fixtures::pod();
        pod.metadata.name = Some(name.to_owned());
        pod.metadata.uid = Some(of.uid.clone());
        pod.metadata.resource_version = Some(self.versions_of.of(&of.uid));
        pod.metadata.creation_timestamp = Some(Time(noon()));
        pod.metadata.labels = Some(of.labels.labels());
        pod.metadata.annotations = Some(of.labels.annotations());
        pod.metadata.managed_fields = Some(of.labels.managed_fields());
        pod.spec.get_or_insert_default().node_name = Some(of.node.clone());
        let status = pod.status.get_or_insert_default();
        status.pod_ip = Some(of.ip.clone());
        status.phase = Some(if of.finished { "Succeeded" } else { "Running" }.to_owned());
        pod
    }

    /// Whatever of ours is left in the cluster.
    pub(crate) fn traces(&self) -> Vec<String> {
        let ours = |name: &&String| name.starts_with(names::OPERATOR_MANAGER);
        let policies = self.policies.network.keys().chain(self.policies.clusterwide.keys()).filter(ours);
        let fields =
            self.pods.values().map(|pod| &pod.labels).chain(self.objects.values().map(|object| &object.fields));
        let managers = fields.flat_map(|fields| fields.managers(names::OPERATOR_MANAGER));
        // A value that somebody had applied is put back under the operator's own name.
        let managers = managers.filter(|manager| *manager != names::OPERATOR_MANAGER);
        policies.map(String::as_str).chain(managers).map(str::to_owned).chain(self.agents.traces()).collect()
    }
}

impl Clusterwide {
    fn shown(&self) -> ClusterwidePolicy {
        let metadata = &self.manifest["metadata"];
        ClusterwidePolicy {
            uid: object(metadata["uid"].clone()),
            labels: object(metadata["labels"].clone()),
            annotations: object(metadata["annotations"].clone()),
            spec: self.manifest["spec"].clone(),
            valid: self.valid,
            resource_version: Some("1".to_owned()),
            ..ClusterwidePolicy::default()
        }
    }
}

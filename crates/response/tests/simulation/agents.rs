//! The agents on the nodes, and the Containments in which operator and agents meet.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};
use tourniquet_api::{Answer, Containment, ContainmentState, ContainmentStatus, Direction, Holder, Probe, names};
use tourniquet_response::ObjectRef;

use super::Sim;
use crate::fixtures::{POD, object};

/// Where operator and agents meet.
pub(crate) const AGENTS: &str = "tourniquet-agent";

/// What the agents do when it is their turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mood {
    /// What they are asked for.
    #[default]
    Works,
    /// Nothing: none runs at the moment. What is cut stays cut.
    Away,
    /// They say that it cannot be done. What is cut stays cut, and what is not stays open.
    Fails,
}

/// A Containment, with who holds which entry of `spec.holders`.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) containment: Containment,
    held: BTreeMap<String, BTreeSet<String>>,
}

/// What the agents have to do with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Agents {
    /// Whether there are any in this cluster.
    pub(crate) installed: bool,
    pub(crate) mood: Mood,
    pub(crate) nodes: BTreeSet<String>,
    /// By the UID of the pod.
    pub(crate) containments: BTreeMap<String, Stored>,
    /// The pods that are cut, by UID: what the kernels hold. It ends with the pod's network namespace.
    cuts: BTreeSet<String>,
    /// Cuts whose Containment was taken away by force. They stay, and nobody of us knows of them any more.
    orphans: BTreeSet<String>,
    /// What was done and not said yet, with the version of the Containment that asked for it.
    unsaid: BTreeMap<String, (Option<String>, ContainmentState)>,
}

impl Agents {
    pub(crate) fn cut(&self, pod_uid: &str) -> bool {
        self.cuts.contains(pod_uid)
    }

    /// What is left of us: Containments, and cuts that nobody is asked to lift.
    pub(crate) fn traces(&self) -> impl Iterator<Item = String> {
        let containments = self.containments.keys().map(|uid| format!("Containment {uid}"));
        containments.chain(self.cuts.difference(&self.orphans).map(|uid| format!("cut of {uid}")))
    }

    /// As they are listed, with who holds what.
    pub(super) fn listed(&self) -> Vec<Containment> {
        let listed = self.containments.values().map(|stored| {
            let mut containment = stored.containment.clone();
            let managers = stored.held.keys().map(|manager| json!({ "manager": manager, "operation": "Apply" }));
            containment.metadata.managed_fields = Some(object(managers.collect()));
            containment
        });
        listed.collect()
    }

    /// What the agents report: pods that are cut, and that nobody asks for.
    pub(super) fn reported(&self) -> impl Iterator<Item = &String> {
        self.cuts.iter().filter(|uid| !self.containments.contains_key(*uid))
    }

    /// As the store shows it, without what the API server issues.
    pub(crate) fn shown(&self) -> Vec<Value> {
        self.containments.values().map(|stored| json!(stored.containment)).collect()
    }
}

impl Sim {
    /// Server-side apply of the spec by our fixed manager, or of its holders by a response's own. `fields` without any is a
    /// withdrawal.
    pub(super) fn apply_containment(&mut self, of: &ObjectRef, manager: &str, fields: &Value) -> Result<(), String> {
        let spec = &fields["spec"];
        if let Some(existing) = self.agents.containments.get(&of.name) {
            let metadata = &existing.containment.metadata;
            let version = fields["metadata"]["resourceVersion"].as_str();
            if of.uid.is_some() && metadata.uid != of.uid
                || version.is_some() && metadata.resource_version.as_deref() != version
            {
                return Ok(());
            }
        } else {
            if of.uid.is_some() {
                return Ok(());
            }
            if spec["pod"].is_null() || spec["nodeName"].is_null() {
                return Err(format!("{of} is invalid: spec.pod: Required value"));
            }
            let containment: Containment = object(json!({
                "apiVersion": "internal.tourniquet.dev/v1alpha1", "kind": "Containment",
                "metadata": { "name": of.name, "namespace": AGENTS, "uid": self.issue_uid() },
                "spec": spec,
            }));
            self.agents.containments.insert(of.name.clone(), Stored { containment, held: BTreeMap::new() });
        }
        let version = self.next_version();
        let stored = self.agents.containments.get_mut(&of.name).expect("it is there by now");
        let metadata = &mut stored.containment.metadata;
        metadata.resource_version = Some(version);
        metadata.generation = Some(metadata.generation.unwrap_or_default() + 1);
        if manager == names::OPERATOR_MANAGER {
            let (wanted, now) = (&spec, &mut stored.containment.spec);
            assert!(json!(now.pod) == wanted["pod"] && json!(now.node_name) == wanted["nodeName"], "{of} is immutable");
            now.probe_ports = object(wanted["probePorts"].clone());
            return Ok(());
        }
        let wanted: BTreeMap<String, Holder> =
            if spec["holders"].is_null() { BTreeMap::new() } else { object(spec["holders"].clone()) };
        let before = stored.held.remove(manager).unwrap_or_default();
        for key in before.iter().filter(|key| !wanted.contains_key(*key)) {
            if !stored.held.values().any(|keys| keys.contains(key)) {
                stored.containment.spec.holders.remove(key);
            }
        }
        if !wanted.is_empty() {
            stored.held.insert(manager.to_owned(), wanted.keys().cloned().collect());
        }
        stored.containment.spec.holders.extend(wanted);
        Ok(())
    }

    /// Another object, or another version of it, is looked at again: nothing happens.
    pub(super) fn delete_containment(&mut self, of: &ObjectRef, version: Option<&str>) {
        self.agents.containments.retain(|name, stored| {
            let metadata = &stored.containment.metadata;
            let meant = metadata.uid == of.uid && metadata.resource_version.as_deref() == version;
            *name != of.name || !meant
        });
    }

    /// Each agent looks at every Containment of its node, does what it asks for, and says what it saw.
    pub(crate) fn agents_act(&mut self) {
        self.agents_say();
        self.agents_do();
        self.agents_say();
    }

    /// They do it, and what they did is not written down yet.
    pub(crate) fn agents_do(&mut self) {
        if self.agents.mood == Mood::Away {
            return;
        }
        for uid in self.agents.containments.keys().cloned().collect::<Vec<_>>() {
            self.agent_does(&uid);
        }
        self.changed();
    }

    fn agents_say(&mut self) {
        for (uid, (version, state)) in std::mem::take(&mut self.agents.unsaid) {
            let next = self.next_version();
            let Some(stored) = self.agents.containments.get_mut(&uid) else { continue };
            let metadata = &mut stored.containment.metadata;
            // Of another version by now: it is looked at again, and then said.
            if metadata.resource_version == version {
                metadata.resource_version = Some(next);
                let observed_generation = metadata.generation;
                let probes = if state == ContainmentState::Cut { vec![silent_egress(self.now)] } else { Vec::new() };
                stored.containment.status =
                    Some(ContainmentStatus { observed_generation, state, probes, ..ContainmentStatus::default() });
            }
        }
        self.changed();
    }

    fn agent_does(&mut self, uid: &str) {
        let runs = self.pods.values().any(|pod| pod.uid == uid && !pod.finished);
        let stored = &self.agents.containments[uid];
        if !self.agents.nodes.contains(&stored.containment.spec.node_name) {
            return;
        }
        let held = !stored.containment.spec.holders.is_empty();
        let state = match (runs, held) {
            (false, true) => ContainmentState::PodGone,
            (false, false) => ContainmentState::Lifted,
            _ if self.agents.mood == Mood::Fails => ContainmentState::Failed,
            (true, true) => {
                self.agents.cuts.insert(uid.to_owned());
                self.agents.orphans.remove(uid);
                ContainmentState::Cut
            }
            (true, false) => {
                self.agents.cuts.remove(uid);
                self.agents.orphans.remove(uid);
                ContainmentState::Lifted
            }
        };
        let generation = stored.containment.metadata.generation;
        let said = |status: &ContainmentStatus| status.state == state && status.observed_generation == generation;
        if stored.containment.status.as_ref().is_some_and(said) {
            return;
        }
        let version = stored.containment.metadata.resource_version.clone();
        self.agents.unsaid.insert(uid.to_owned(), (version, state));
    }

    /// The agents go, come back, or begin to fail.
    pub(crate) fn agents_become(&mut self, mood: Mood) {
        if mood == Mood::Away {
            // What they have not said yet is lost with them.
            self.agents.unsaid.clear();
        }
        self.agents.mood = mood;
        self.changed();
    }

    /// Network namespaces that are gone take their cuts with them.
    pub(super) fn forget_cuts(&mut self) {
        let running: BTreeSet<&String> = self.pods.values().filter(|pod| !pod.finished).map(|pod| &pod.uid).collect();
        self.agents.cuts.retain(|uid| running.contains(uid));
        self.agents.orphans.retain(|uid| running.contains(uid));
    }

    /// Something in the pod, with the power to do so, takes the cut away. Its agent hears of it, and puts it back or cannot. Where
    /// none works nobody can know: that is a limit, and not played here.
    pub(crate) fn cut_is_tampered(&mut self, then: Mood) {
        let Some(uid) = self.pods.get(POD).map(|pod| pod.uid.clone()) else { return };
        if self.agents.mood != Mood::Works || !self.agents.containments.contains_key(&uid) {
            return;
        }
        self.laws.disturbed();
        self.agents.cuts.remove(&uid);
        self.agents.mood = then;
        self.agents_act();
    }

    /// Somebody with the right to do so takes the pod's Containment away. That lifts nothing.
    pub(super) fn take_containment(&mut self) {
        let Some(uid) = self.pods.get(POD).map(|pod| pod.uid.clone()) else { return };
        if self.agents.containments.remove(&uid).is_some() && self.agents.cut(&uid) {
            self.agents.orphans.insert(uid);
        }
    }

    /// Somebody takes a response out of the holders of the pod's Containment.
    pub(super) fn take_holder(&mut self, response_uid: &str) {
        let version = self.next_version();
        let uid = self.pods.get(POD).map(|pod| pod.uid.clone()).unwrap_or_default();
        let Some(stored) = self.agents.containments.get_mut(&uid) else { return };
        let metadata = &mut stored.containment.metadata;
        metadata.resource_version = Some(version);
        metadata.generation = Some(metadata.generation.unwrap_or_default() + 1);
        stored.containment.spec.holders.remove(response_uid);
        stored.held.remove(&names::field_manager(response_uid));
    }

    /// The pod's node is gone for good, and its pods with it.
    pub(crate) fn node_vanishes(&mut self) {
        let Some(node) = self.pods.get(POD).map(|pod| pod.node.clone()) else { return };
        self.agents.nodes.remove(&node);
        self.pod_vanishes();
    }
}

/// What an agent that cuts has tried from inside.
fn silent_egress(now: jiff::Timestamp) -> Probe {
    Probe {
        direction: Direction::Egress,
        peer: "10.96.0.1:443".to_owned(),
        before: Answer::Answered,
        before_at: Time(now),
        after: Some(Answer::TimedOut),
        at: Some(Time(now)),
    }
}

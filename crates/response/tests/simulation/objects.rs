//! What responses are about: pods, their namespace and a node, each with fields that others hold as well.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};
use tourniquet_api::names;
use tourniquet_response::{Kind, ObjectRef};

use super::network::{Engine, additive};
use super::{BYSTANDER, LATE, Sim};
use crate::fixtures::labels::{Labels, UNSCHEDULABLE, flat};
use crate::fixtures::{NAMESPACE, NODE, POD, object};

/// The second pod that responses are about, of another workload.
pub(crate) const NEIGHBOUR: &str = "db";

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Thing {
    Pod(&'static str),
    Namespace,
    Node,
}

/// All of them.
pub(crate) const THINGS: [Thing; 6] =
    [Thing::Pod(POD), Thing::Pod(NEIGHBOUR), Thing::Pod(BYSTANDER), Thing::Pod(LATE), Thing::Namespace, Thing::Node];

/// A namespace or a node as the API stores it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SimObject {
    pub(crate) uid: String,
    pub(crate) fields: Labels,
}

/// The versions of everything that is patched by version: one more after each change, also after one back to what was before.
#[derive(Clone, Default)]
pub(super) struct Versions(BTreeMap<String, (Labels, u64)>);

impl Versions {
    pub(super) fn of(&self, uid: &str) -> String {
        self.0.get(uid).map_or(0, |(_, version)| *version).to_string()
    }

    pub(super) fn follow(&mut self, uid: &str, now: &Labels) {
        let (seen, version) = self.0.entry(uid.to_owned()).or_default();
        if seen != now {
            *seen = now.clone();
            *version += 1;
        }
    }
}

impl Thing {
    /// As `spec.target` names it.
    pub(crate) fn target(self) -> Value {
        match self {
            Self::Pod(name) => json!({ "pod": { "namespace": NAMESPACE, "name": name } }),
            Self::Namespace => json!({ "namespace": { "name": NAMESPACE } }),
            Self::Node => json!({ "node": { "name": NODE } }),
        }
    }

    /// The thing that an effect is about; `None` for objects of ours.
    pub(super) fn of(object: &ObjectRef) -> Option<Self> {
        let named = |thing: &Self| match (thing, object.kind) {
            (Self::Pod(name), Kind::Pod) => object.name == *name && object.namespace.as_deref() == Some(NAMESPACE),
            (Self::Namespace, Kind::Namespace) => object.name == NAMESPACE,
            (Self::Node, Kind::Node) => object.name == NODE,
            _ => false,
        };
        THINGS.into_iter().find(named)
    }
}

impl Sim {
    pub(super) fn register(&mut self, thing: Thing) {
        let mut fields = Labels::default();
        fields.set("kube-apiserver", "app", "platform");
        let made = SimObject { uid: self.issue_uid(), fields };
        self.untouched.objects.insert(thing, made.clone());
        self.objects.insert(thing, made);
    }

    /// The thing as it is now.
    pub(crate) fn fields(&self, thing: Thing) -> Option<(&str, &Labels)> {
        match thing {
            Thing::Pod(name) => self.pods.get(name).map(|pod| (pod.uid.as_str(), &pod.labels)),
            _ => self.objects.get(&thing).map(|object| (object.uid.as_str(), &object.fields)),
        }
    }

    fn fields_mut(&mut self, thing: Thing) -> Option<&mut Labels> {
        match thing {
            Thing::Pod(name) => self.pods.get_mut(name).map(|pod| &mut pod.labels),
            _ => self.objects.get_mut(&thing).map(|object| &mut object.fields),
        }
    }

    /// What is there now, and what there would be without us.
    pub(super) fn both(&mut self, thing: Thing) -> Option<(&mut Labels, &mut Labels)> {
        match thing {
            Thing::Pod(name) => {
                let (now, untouched) = (self.pods.get_mut(name)?, self.untouched.pods.get_mut(name)?);
                Some((&mut now.labels, &mut untouched.labels))
            }
            _ => {
                let (now, untouched) = (self.objects.get_mut(&thing)?, self.untouched.objects.get_mut(&thing)?);
                Some((&mut now.fields, &mut untouched.fields))
            }
        }
    }

    pub(super) fn follow_versions(&mut self) {
        for pod in self.pods.values() {
            self.versions_of.follow(&pod.uid, &pod.labels);
        }
        for object in self.objects.values() {
            self.versions_of.follow(&object.uid, &object.fields);
        }
    }

    /// As the API shows a namespace or a node.
    pub(super) fn shown(&self, thing: Thing) -> Value {
        let Some((uid, fields)) = self.fields(thing) else { return Value::Null };
        let (labels, annotations) = (fields.labels(), fields.annotations());
        let unschedulable = fields.get(UNSCHEDULABLE).map(|_| true);
        json!({
            "metadata": {
                "name": if thing == Thing::Namespace { NAMESPACE } else { NODE },
                "uid": uid, "resourceVersion": self.versions_of.of(uid), "labels": labels, "annotations": annotations,
                "managedFields": fields.managed_fields(),
            },
            "spec": { "unschedulable": unschedulable },
            "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
        })
    }

    /// Those of them that carry a trace of a response, as a sweep lists them.
    pub(super) fn marked_objects(&self) -> impl Iterator<Item = (Kind, ObjectMeta)> {
        let metadata = |thing: Thing| object::<ObjectMeta>(self.shown(thing)["metadata"].clone());
        let all = [(Kind::Namespace, metadata(Thing::Namespace)), (Kind::Node, metadata(Thing::Node))];
        all.into_iter().filter(|(_, metadata)| tourniquet_response::carries_trace(metadata))
    }

    /// Server-side apply of fields of somebody else's object. Another object of the name is not the one that is meant.
    pub(super) fn apply(&mut self, of: &ObjectRef, manager: &str, fields: &Value) -> Result<(), String> {
        let Some(thing) = self.meant(of) else { return Ok(()) };
        let before = self.fields(thing).map(|(_, fields)| fields.labels()).unwrap_or_default();
        let Some(now) = self.fields_mut(thing) else { return Ok(()) };
        let applied = now.apply(manager, &flat(fields)).map_err(|conflict| {
            format!("cannot apply: {} holds {} with another value", conflict.manager, conflict.key)
        });
        self.labelled(thing, &before);
        applied
    }

    /// A merge patch of the version that was seen.
    pub(super) fn patch(&mut self, of: &ObjectRef, manager: &str, version: Option<&str>, fields: &Value) {
        let Some(thing) = self.meant(of) else { return };
        let Some((uid, now)) = self.fields(thing) else { return };
        let before = now.labels();
        if version != Some(self.versions_of.of(uid).as_str()) {
            return;
        }
        let Some((now, untouched)) = self.both(thing) else { return };
        for (key, value) in flat(fields) {
            // A limit that is written down: what was applied does not go back to whoever applied it, but to nobody in
            // particular. From here on he holds it in neither of the two.
            if manager == names::OPERATOR_MANAGER {
                untouched.take(manager, &key, &value);
            } else {
                untouched.unapply(&key);
            }
            now.set(manager, &key, &value);
        }
        self.labelled(thing, &before);
    }

    fn meant(&self, of: &ObjectRef) -> Option<Thing> {
        let thing = Thing::of(of)?;
        let (uid, _) = self.fields(thing)?;
        (of.uid.as_deref() == Some(uid)).then_some(thing)
    }

    /// Where nothing denies, a label that one response sets can open what another one holds, as anybody's label can: by a policy of
    /// somebody's that selects it. What isolations put there themselves is no excuse.
    fn labelled(&mut self, thing: Thing, before: &BTreeMap<String, String>) {
        let Thing::Pod(name) = thing else { return };
        let Some(pod) = self.pods.get(name).filter(|_| self.engine != Engine::None) else { return };
        let ours = |key: &&String| key.contains(tourniquet_api::GROUP);
        let now = pod.labels.labels();
        let mut otherwise: BTreeMap<String, String> = now.into_iter().filter(|(key, _)| ours(&key)).collect();
        let theirs = before.iter().filter(|(key, _)| !ours(key));
        otherwise.extend(theirs.map(|(key, value)| (key.clone(), value.clone())));
        let open = |labels: &BTreeMap<String, String>| additive(labels, &self.policies.network).open();
        if open(&pod.labels.labels()) && !open(&otherwise) && !self.firm(name) {
            self.laws.disturbed();
        }
    }
}

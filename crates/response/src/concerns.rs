//! Which responses a change of some object concerns: those that it is a target or a trace of.
//!
//! All pods of a cluster are watched, and each of their changes is asked about, so it is an index. Measured with 1,000 responses of 50
//! targets each (`tests/concerns_speed.rs`, 2 cores): 1 µs a change. Going through the bare list of their targets takes 180 µs.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tourniquet_api::{IncidentResponse, names};

use crate::{pass, status};

/// Namespace and name.
type Name = (String, String);

/// The responses that hold something or are to, by what they depend on. Those that are refused, undone or only planned depend on nothing.
#[derive(Clone, Debug, Default)]
pub struct Concerns {
    /// By UID.
    responses: BTreeMap<Arc<str>, Known>,
    /// What responses depend on, and who does. Keys are hashes, or the names of 50,000 targets would be here a second time: two that
    /// have the same one come to a look too many, and nothing else.
    by_key: BTreeSet<(u64, Arc<str>)>,
    /// The UIDs that a list has shown so far, while one is read.
    listed: Option<BTreeSet<String>>,
}

#[derive(Clone, Debug, Default)]
struct Known {
    name: Name,
    keys: BTreeSet<u64>,
    rests: bool,
}

/// Something that a response depends on.
#[derive(Hash)]
enum Key<'a> {
    /// An object, by kind, namespace and name.
    Object(&'a str, Option<&'a str>, &'a str),
    /// A pod, by its UID: what its Containment is called.
    PodUid(&'a str),
    /// The network policies of a namespace.
    Policies(&'a str),
    /// The pods of a namespace, whichever there are.
    Pods(&'a str),
    /// Calico's tiers: one that comes before ours can allow what ours denies.
    Tiers,
}

impl Key<'_> {
    fn hashed(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

impl Concerns {
    /// Takes in a response as it is stored. Called with what was just written as well as with what a watch brings: targets are in the
    /// index before anything is done to them, so no change of theirs falls between the two.
    pub fn know(&mut self, response: &IncidentResponse) {
        let Some(uid) = response.metadata.uid.as_deref() else { return };
        if let Some(listed) = &mut self.listed {
            listed.insert(uid.to_owned());
        }
        let rests = pass::rests(response);
        let keys = if rests { BTreeSet::new() } else { keys(response) };
        // Targets are pinned once: what has none is older than what is known.
        if !rests && keys.is_empty() && self.responses.get(uid).is_some_and(|known| !known.keys.is_empty()) {
            return;
        }
        self.forget(uid);
        let uid: Arc<str> = uid.into();
        self.by_key.extend(keys.iter().map(|key| (*key, Arc::clone(&uid))));
        let metadata = &response.metadata;
        let name = (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default());
        self.responses.insert(uid, Known { name, keys, rests });
    }

    /// The same of one that was just written: only while the watch has it. One that has gone meanwhile would stay here for good.
    pub fn learn(&mut self, response: &IncidentResponse) {
        if response.metadata.uid.as_deref().is_some_and(|uid| self.responses.contains_key(uid)) {
            self.know(response);
        }
    }

    /// A response that is gone, or that this version cannot read.
    pub fn forget(&mut self, uid: &str) {
        let Some((uid, known)) = self.responses.remove_entry(uid) else { return };
        for key in known.keys {
            self.by_key.remove(&(key, Arc::clone(&uid)));
        }
    }

    /// All responses are about to be listed.
    pub fn list_begins(&mut self) {
        self.listed = Some(BTreeSet::new());
    }

    /// All responses were listed: the others went while nobody watched.
    pub fn list_ends(&mut self) {
        let Some(listed) = self.listed.take() else { return };
        let gone: Vec<Arc<str>> = self.responses.keys().filter(|uid| !listed.contains(&***uid)).cloned().collect();
        for uid in gone {
            self.forget(&uid);
        }
    }

    /// The responses that a change of this object concerns.
    #[must_use]
    pub fn of(&self, kind: &str, object: &ObjectMeta) -> BTreeSet<Name> {
        let namespace = object.namespace.as_deref().unwrap_or_default();
        let name = object.name.as_deref().unwrap_or_default();
        let keys = match kind {
            // Ours is the matter of its own response: where fifty pods of one namespace are isolated at once, each policy would be a
            // reason to look at all of them. Somebody else's can open what we closed.
            "NetworkPolicy" if self.is_of_its_response(object) => Vec::new(),
            "NetworkPolicy" => vec![Key::Policies(namespace)],
            // Those of responses only deny.
            "Tier" if self.is_tier_of_a_response(object) => Vec::new(),
            "Tier" => vec![Key::Tiers],
            "Containment" => {
                // Of a namespace's pods the UIDs are nowhere.
                let labels = object.labels.iter();
                let of = labels.filter_map(|labels| labels.get(names::POD_NAMESPACE_LABEL));
                std::iter::once(Key::PodUid(name)).chain(of.map(|namespace| Key::Pods(namespace))).collect()
            }
            "CiliumEndpoint" | "Pod" => vec![Key::Object("Pod", Some(namespace), name), Key::Pods(namespace)],
            _ => vec![Key::Object(kind, object.namespace.as_deref(), name)],
        };
        let dependent = keys.iter().flat_map(|key| self.dependent(key.hashed()));
        // Whoever made it or holds fields of it. Never instead of the others: anybody can write a label.
        let labels = object.labels.iter().filter_map(|labels| labels.get(names::RESPONSE_LABEL));
        let managers = object.managed_fields.iter().flatten().filter(|_| kind == "Containment");
        let holders = managers.filter_map(|entry| names::response_of_field_manager(entry.manager.as_deref()?));
        let uids = dependent.chain(labels.map(String::as_str)).chain(holders);
        let known = uids.filter_map(|uid| self.responses.get(uid));
        known.filter(|known| !known.rests).map(|known| known.name.clone()).collect()
    }

    /// Whether it carries a trace of a response that holds nothing: what somebody wrote who led before and did not notice that he no longer
    /// does, or what came back from a backup. As far as this knows: a sweep looks closer.
    #[must_use]
    pub fn is_stray(&self, object: &ObjectMeta) -> bool {
        // Until the list is complete nobody knows which responses there are.
        if self.listed.is_some() {
            return false;
        }
        let labels = object.labels.iter().filter_map(|labels| labels.get(names::RESPONSE_LABEL));
        let managers = object.managed_fields.iter().flatten();
        let managers = managers.filter_map(|entry| names::response_of_field_manager(entry.manager.as_deref()?));
        labels.map(String::as_str).chain(managers).any(|uid| self.responses.get(uid).is_none_or(|known| known.rests))
    }

    fn dependent(&self, key: u64) -> impl Iterator<Item = &str> {
        let first: Arc<str> = "".into();
        self.by_key.range((key, first)..).take_while(move |(of, _)| *of == key).map(|(_, uid)| &**uid)
    }

    fn is_tier_of_a_response(&self, tier: &ObjectMeta) -> bool {
        let labels = tier.labels.as_ref();
        let uid = labels.and_then(|labels| labels.get(names::RESPONSE_LABEL));
        uid.is_some_and(|uid| {
            tier.name.as_ref() == Some(&names::policy(uid)) && self.responses.contains_key(uid.as_str())
        })
    }

    /// Whether a network policy is the one that a response has in this namespace, and so one that this response keeps in shape.
    fn is_of_its_response(&self, policy: &ObjectMeta) -> bool {
        let labels = policy.labels.as_ref();
        let Some(uid) = labels.and_then(|labels| labels.get(names::RESPONSE_LABEL)) else { return false };
        let place = Key::Policies(policy.namespace.as_deref().unwrap_or_default()).hashed();
        policy.name.as_ref() == Some(&names::policy(uid))
            && self.responses.get(uid.as_str()).is_some_and(|known| known.keys.contains(&place))
    }
}

fn keys(response: &IncidentResponse) -> BTreeSet<u64> {
    let isolates = status::isolates(response);
    let mut keys = BTreeSet::new();
    if isolates && response.status.as_ref().is_some_and(|status| !status.targets.is_empty()) {
        keys.insert(Key::Tiers.hashed());
    }
    for target in response.status.iter().flat_map(|status| &status.targets) {
        let namespace = target.namespace.as_deref();
        keys.insert(Key::Object(&target.kind, namespace, &target.name).hashed());
        match target.kind.as_str() {
            "Pod" if isolates => {
                keys.insert(Key::PodUid(&target.uid).hashed());
                keys.insert(Key::Policies(namespace.unwrap_or_default()).hashed());
            }
            "Namespace" if isolates => {
                keys.insert(Key::Pods(&target.name).hashed());
                keys.insert(Key::Policies(&target.name).hashed());
            }
            _ => {}
        }
    }
    keys
}

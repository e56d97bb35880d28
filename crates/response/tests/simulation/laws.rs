//! The laws that hold at every moment, checked after every change of anything.

use std::collections::{BTreeMap, BTreeSet};

use tourniquet_api::{Action, IncidentResponse, Outcome, PinnedTarget, names};
use tourniquet_response::{About, Effect, Kind, notes};

use super::Sim;
use super::agents::AGENTS;
use super::network::{Engine, Path, additive};
use super::objects::Thing;
use crate::fixtures::says;

/// The moment of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Looked {
    disturbances: u64,
    /// How many pods there had ever been.
    pods: usize,
}

/// What has been claimed, and what must hold because of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Laws {
    /// How often somebody else changed what containment rests on. A claim is as old as the look behind it.
    disturbances: u64,
    /// Responses that say Contained=True, by UID, with the UIDs of their pods: of several, each of them has to be closed.
    claims: BTreeMap<String, BTreeSet<String>>,
    /// The namespace that a pod belongs to, by the UIDs of both: also of those that are gone.
    members: BTreeMap<String, String>,
    /// Pods that were contained, and must stay so as long as a response lives that isolates them.
    contained: BTreeSet<String>,
    /// Objects that some response has pinned, by UID. Nobody of us may touch another one.
    pinned: BTreeSet<String>,
    /// Those of them that are namespaces, and isolated: with them their pods are pinned, those to come as well.
    isolated: BTreeSet<String>,
    /// Responses whose last event about containment says that it is there, by UID.
    noted_contained: BTreeSet<String>,
    /// What a response has once in its life, as `UID reason`.
    noted_once: BTreeSet<String>,
}

impl Laws {
    /// A status was stored: what is noted of that happened, is noted once, and fits into an event.
    pub(crate) fn noted(&mut self, read: &IncidentResponse, now: &IncidentResponse) {
        let uid = now.metadata.uid.clone().unwrap_or_default();
        let (before, after) = (read.status.clone().unwrap_or_default(), now.status.clone().unwrap_or_default());
        assert_eq!(notes(now, &after, &after), Vec::new(), "noted again, and nothing has changed");
        for note in notes(now, &before, &after) {
            assert!(note.note.len() <= 1024 && !note.note.is_empty(), "{note:?}");
            if note.about != About::Response {
                continue;
            }
            match note.reason.as_str() {
                "Contained" => {
                    assert!(says(&after, "Contained").starts_with("True"), "{note:?}: it is not");
                    assert!(self.noted_contained.insert(uid.clone()), "{note:?}: twice, and not lost in between");
                }
                "ContainmentLost" | "ContainmentUnknown" | "TargetGone" => {
                    assert!(says(&before, "Contained").starts_with("True"), "{note:?}: it was not there");
                    self.noted_contained.remove(&uid);
                }
                "Accepted" | "Planned" | "Refused" | "Released" | "Expired" => {
                    assert!(self.noted_once.insert(format!("{uid} {}", note.reason)), "{note:?}: twice");
                }
                _ => {}
            }
        }
    }

    /// Somebody else may have opened what we had closed. What was claimed before is no lie.
    pub(crate) fn disturbed(&mut self) {
        self.disturbances += 1;
        self.claims.clear();
        self.contained.clear();
    }

    /// A pod starts.
    pub(crate) fn started(&mut self, pod: &str, namespace: &str) {
        self.members.insert(pod.to_owned(), namespace.to_owned());
    }

    fn looked(&self) -> Looked {
        Looked { disturbances: self.disturbances, pods: self.members.len() }
    }

    /// A status was stored.
    pub(crate) fn claimed(&mut self, response: &IncidentResponse, looked: Looked) {
        let uid = response.metadata.uid.clone().unwrap_or_default();
        let status = response.status.clone().unwrap_or_default();
        let is_held = response.metadata.finalizers.iter().flatten().next().is_some();
        assert!(!is_held || !says(&status, "Accepted").starts_with("False"), "said to be refused with its finalizer");
        self.pinned.extend(status.targets.iter().map(|target| target.uid.clone()));
        if isolates(response) {
            let namespaces = status.targets.iter().filter(|target| target.kind == Kind::Namespace.as_str());
            self.isolated.extend(namespaces.map(|target| target.uid.clone()));
        }
        if !says(&status, "Contained").starts_with("True") {
            self.claims.remove(&uid);
        } else if looked.disturbances == self.disturbances {
            // UIDs are issued in order, so the first of them are those that were there. One that started since is no lie.
            let seen = self.members.iter().take(looked.pods);
            let pods = seen.filter(|(pod, namespace)| targets(&status.targets, pod, Some(namespace)));
            self.claims.insert(uid, pods.map(|(pod, _)| pod.clone()).collect());
        }
    }

    /// Whether some response has pinned it, or the namespace that it is in to isolate that.
    fn is_pinned(&self, pod: &str) -> bool {
        self.pinned.contains(pod) || self.members.get(pod).is_some_and(|namespace| self.isolated.contains(namespace))
    }
}

impl Sim {
    /// The moment of a look, to be handed in with what is written because of it.
    pub(crate) fn looked(&self) -> Looked {
        self.laws.looked()
    }

    /// What is stored was found to be so: as good as if it had been written now.
    pub(crate) fn says_so_again(&mut self, response: &IncidentResponse, looked: Looked) {
        if self.is_fresh(response) {
            self.laws.claimed(response, looked);
            self.check_laws();
        }
    }

    pub(crate) fn check_laws(&mut self) {
        self.laws
            .claims
            .retain(|uid, _| self.responses.values().any(|response| response.metadata.uid.as_deref() == Some(uid)));
        for name in self.pods.keys().cloned().collect::<Vec<_>>() {
            self.check_pod(&name);
        }
        for thing in [Thing::Namespace, Thing::Node] {
            let (now, untouched) = (self.objects.get(&thing), self.untouched.objects.get(&thing));
            let pinned = now.is_some_and(|now| self.laws.pinned.contains(&now.uid));
            assert!(pinned || now == untouched, "law 3: {thing:?}, which no response targets, was touched");
        }
    }

    fn check_pod(&mut self, name: &str) {
        let Some(pod) = self.pods.get(name).filter(|pod| !pod.finished) else { return };
        let open = self.path(name).open();
        let claims = |response: &IncidentResponse| {
            let claimed = response.metadata.uid.as_ref().and_then(|uid| self.laws.claims.get(uid));
            claimed.is_some_and(|pods| pods.contains(&pod.uid))
        };
        let claimants: Vec<&str> =
            self.responses.iter().filter(|(_, response)| claims(response)).map(|(name, _)| name.as_str()).collect();
        assert!(!open || claimants.is_empty(), "law 4: {claimants:?} say Contained=True, and pod {name} is open");

        // A response that ends when no other one lives may open the pod, also when another is created a moment later.
        let living: Vec<&String> = self
            .responses
            .iter()
            .filter(|(_, response)| self.isolates_now(response, name))
            .map(|(name, _)| name)
            .collect();
        if living.is_empty() {
            self.laws.contained.remove(&pod.uid);
        } else if living.iter().any(|name| claimants.contains(&name.as_str())) {
            self.laws.contained.insert(pod.uid.clone());
        }
        assert!(
            !open || !self.laws.contained.contains(&pod.uid),
            "law 2: pod {name} was contained, {living:?} that isolate it live, and it is open"
        );
        if !self.laws.is_pinned(&pod.uid) {
            let untouched = self.untouched.pods.get(name).map(|pod| &pod.labels);
            assert_eq!(Some(&pod.labels), untouched, "law 3: pod {name}, which no response targets, was touched");
            assert!(!self.agents.cut(&pod.uid), "law 3: pod {name}, which no response targets, was cut");
        }
    }

    /// Neither deleted, released, expired, refused nor a dry run, and about the isolation of this pod, which has been or can still be
    /// begun.
    pub(crate) fn isolates_now(&self, response: &IncidentResponse, pod: &str) -> bool {
        let Some(pod_uid) = self.pods.get(pod).map(|pod| &pod.uid) else { return false };
        let status = response.status.clone().unwrap_or_default();
        let created = response.metadata.creation_timestamp.as_ref().expect("created by the simulation").0;
        let expired = response.spec.expire_after.is_some_and(|after| created + after.get() <= self.now);
        let ended = response.metadata.deletion_timestamp.is_some()
            || response.spec.release == Some(true)
            || response.spec.dry_run
            || expired
            || says(&status, "Reverted").starts_with("True")
            || says(&status, "Accepted").starts_with("False");
        let isolations = response.spec.actions.iter().filter(|action| action.isolate.is_some());
        let skipped = |action: &Action| {
            let state = status.actions.iter().find(|state| state.name == action.effective_name());
            state.is_some_and(|state| state.outcome == Outcome::Skipped)
        };
        let isolates = isolations.into_iter().any(|action| !skipped(action));
        // Not accepted yet, it may become one of those that do.
        let target = &response.spec.target;
        let selects = |selector: &tourniquet_api::Selector| {
            selector.match_labels.iter().all(|(key, value)| self.pods[pod].labels.get(key) == Some(value))
        };
        let asked = || {
            target.pod.as_ref().is_some_and(|target| target.name == pod)
                || target.pods.as_ref().and_then(|target| target.selector.as_ref()).is_some_and(selects)
                || target.namespace.is_some()
        };
        let pinned = || targets(&status.targets, pod_uid, self.laws.members.get(pod_uid));
        !ended && isolates && if status.targets.is_empty() { asked() } else { pinned() }
    }

    /// Where nothing has a say any more that was put in place for others: of pods that no response was ever about, not even with their
    /// namespace, just what is allowed that is allowed without us. Once everything is at rest, since what selects a namespace by its name
    /// does so until it is seen that it is another one.
    pub(crate) fn check_others(&self) {
        for (name, pod) in self.pods.iter().filter(|(_, pod)| !pod.finished && !self.laws.is_pinned(&pod.uid)) {
            let without_us = match self.engine {
                Engine::None => Path::OPEN,
                _ => additive(&pod.labels.labels(), &self.untouched.policies.network),
            };
            assert_eq!(self.path(name), without_us, "law 3: pod {name}, which no response targets");
        }
    }

    /// Law 3 and law 7: an effect is on what was pinned, or on our own object, and a crash after it would find the
    /// finalizer.
    pub(crate) fn check_authorized(&self, effect: &Effect, response: &str) {
        let stored = self.responses.get(response).expect("an effect of a response that is gone");
        let finalizers = stored.metadata.finalizers.clone().unwrap_or_default();
        assert!(!stored.spec.dry_run, "{effect}: of a dry run");
        assert!(finalizers.iter().any(|have| have == names::FINALIZER), "{effect}: without a finalizer");
        let uid = stored.metadata.uid.as_deref().unwrap_or_default();
        let object = effect.object();
        let pinned = |of: &str| {
            let namespace = self.laws.members.get(of).filter(|_| isolates(stored));
            targets(&self.status(response).targets, of, namespace)
        };
        if matches!(object.kind, Kind::Pod | Kind::Namespace | Kind::Node) {
            assert!(object.uid.as_deref().is_some_and(pinned), "{effect}: not what was pinned");
        } else if object.kind == Kind::Containment {
            // One that nobody holds, of a pod that is gone, says nothing any more: whoever isolates a namespace of that name tidies it up.
            let runs = self.pods.values().any(|pod| pod.uid == object.name);
            let is_litter = matches!(effect, Effect::Delete { .. }) && !runs;
            assert!(pinned(&object.name) || is_litter, "{effect} for {response}: not of the pinned pod");
            assert_eq!(object.namespace.as_deref(), Some(AGENTS), "{effect}: nowhere that an agent looks");
            check_containment(effect, uid);
        } else {
            assert_eq!(object.name, names::policy(uid), "{effect}: not an object of this response");
            let unbound = matches!(effect, Effect::Delete { .. }) && object.uid.is_none();
            assert!(!unbound, "{effect}: deletes whatever has the name");
        }
    }
}

/// Whether an object is among the targets, or the namespace that it is in.
fn targets(targets: &[PinnedTarget], uid: &str, namespace: Option<&String>) -> bool {
    targets.iter().any(|target| target.uid == uid || Some(&target.uid) == namespace)
}

fn isolates(response: &IncidentResponse) -> bool {
    response.spec.actions.iter().any(|action| action.isolate.is_some())
}

/// A response changes its own entry and no other one's, and takes away only what it has looked at.
fn check_containment(effect: &Effect, uid: &str) {
    match effect {
        Effect::Apply { manager, fields, .. } if manager == names::OPERATOR_MANAGER => {
            assert!(fields["spec"]["holders"].is_null(), "{effect}: the entries are the responses' own");
        }
        Effect::Apply { manager, fields, .. } => {
            assert_eq!(*manager, names::field_manager(uid), "{effect}: by somebody else");
            let holders: Vec<&String> =
                fields["spec"]["holders"].as_object().into_iter().flat_map(|it| it.keys()).collect();
            assert_eq!(holders, [uid], "{effect}: not the response's own entry");
        }
        Effect::Withdraw { object, manager } => {
            assert_eq!(*manager, names::field_manager(uid), "{effect}: of somebody else");
            assert!(object.uid.is_some(), "{effect}: could create one");
        }
        Effect::Delete { object, version } => {
            assert!(object.uid.is_some() && version.is_some(), "{effect}: somebody may have joined meanwhile");
        }
        Effect::Patch { .. } | Effect::Put { .. } => panic!("{effect}: takes other responses' entries away"),
        Effect::Start { .. } | Effect::Stop { .. } => panic!("{effect}: no task is about a Containment"),
    }
}

//! The laws that hold at every moment, checked after every change of anything.

use std::collections::{BTreeMap, BTreeSet};

use tourniquet_api::{Action, IncidentResponse, Outcome, PinnedTarget, names};
use tourniquet_response::{About, Effect, Kind, notes};

use super::Sim;
use super::agents::AGENTS;
use super::objects::Thing;
use crate::fixtures::says;

/// What has been claimed, and what must hold because of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Laws {
    /// How often somebody else changed what containment rests on. A claim is as old as the look behind it.
    disturbances: u64,
    /// Responses that say Contained=True, by UID, with the UIDs of their pods: of a set, each of them has to be closed.
    claims: BTreeMap<String, BTreeSet<String>>,
    /// Pods that were contained, and must stay so as long as a response lives that isolates them.
    contained: BTreeSet<String>,
    /// Objects that some response has pinned, by UID. Nobody of us may touch another one.
    pinned: BTreeSet<String>,
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

    pub(crate) const fn looked(&self) -> u64 {
        self.disturbances
    }

    /// A status was stored.
    pub(crate) fn claimed(&mut self, response: &IncidentResponse, looked: u64) {
        let uid = response.metadata.uid.clone().unwrap_or_default();
        let status = response.status.clone().unwrap_or_default();
        self.pinned.extend(status.targets.iter().map(|target| target.uid.clone()));
        if !says(&status, "Contained").starts_with("True") {
            self.claims.remove(&uid);
        } else if looked == self.disturbances {
            let pods = status.targets.iter().filter(|target| target.kind == Kind::Pod.as_str());
            self.claims.insert(uid, pods.map(|target| target.uid.clone()).collect());
        }
    }
}

impl Sim {
    /// The moment of a look, to be handed in with what is written because of it.
    pub(crate) const fn looked(&self) -> u64 {
        self.laws.looked()
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
        if !self.laws.pinned.contains(&pod.uid) {
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
        let asked = || response.spec.target.pod.as_ref().is_some_and(|target| target.name == pod);
        let pinned = || status.targets.iter().any(|target| target.uid == *pod_uid);
        !ended && isolates && if status.targets.is_empty() { asked() } else { pinned() }
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
        if matches!(object.kind, Kind::Pod | Kind::Namespace | Kind::Node) {
            let pinned = |target: &PinnedTarget| object.uid.as_ref() == Some(&target.uid);
            assert!(self.status(response).targets.iter().any(pinned), "{effect}: not what was pinned");
        } else if object.kind == Kind::Containment {
            let pinned = |target: &PinnedTarget| object.name == target.uid;
            assert!(self.status(response).targets.iter().any(pinned), "{effect}: not of the pinned pod");
            assert_eq!(object.namespace.as_deref(), Some(AGENTS), "{effect}: nowhere that an agent looks");
            check_containment(effect, uid);
        } else {
            assert_eq!(object.name, names::policy(uid), "{effect}: not an object of this response");
            let unbound = matches!(effect, Effect::Delete { .. }) && object.uid.is_none();
            assert!(!unbound, "{effect}: deletes whatever has the name");
        }
    }
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
    }
}

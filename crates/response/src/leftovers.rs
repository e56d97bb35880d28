//! Leftovers: traces whose response no longer lives, and what undoes them.
//!
//! They come from a finalizer that somebody took off by hand, from a late write of an operator that was being replaced, or from a
//! restored backup.
//!
//! **When a trace is a leftover.** Responses are listed twice, each time consistently, and the traces in between, consistently too. No
//! UID is ever given twice, and a response is stored before its first trace is. So:
//!
//! * A response that the second list has lives, however young it is: one that was created after the first list, and left a trace
//!   before the traces were listed, is in the second.
//! * One that neither list has was gone before the first, or came and went in between. It cannot come back, and nobody else will undo
//!   its traces.
//! * One that only the first list has may have undone what was listed while we looked. That is no leftover; it is looked at again.
//! * One that the first list says is undone (`Reverted=True`) had nothing left then, and asks for nothing ever after: what carries
//!   its UID in a list that was read later came late. That it is undone by the second list only proves nothing of the traces.
//!
//! The other order, responses first and only then traces, would take the traces of a response that is created in between for leftovers.
//! A response that cannot be read lives like any other.
//!
//! **What is ours.** A policy whose name derives from the UID in its label. Fields under the manager that derives from a UID. Containments,
//! which nobody else makes. What merely carries a label of ours is somebody else's, and is left and said.

mod standing;
mod traces;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tourniquet_api::{Containment, names};

pub use self::standing::{Standing, vanished_in_force};
pub use self::traces::{Orphan, Traces, carries_trace, name_on_node};
use self::traces::{is_cordoned_by, is_held, is_of, overwritten, pod_of, reference, responses_on};
use crate::effect::{Effect, Kind, ObjectRef};
use crate::events::bounded;
use crate::isolate::containment;
use crate::settings::Agents;

/// The reason of the events about what was undone.
pub const LEFTOVER_UNDONE: &str = "LeftoverUndone";

/// Something to undo.
#[derive(Clone, Debug, PartialEq)]
pub struct Remnant {
    /// What undoes it.
    pub effect: Effect,
    /// What it is, for the log.
    pub what: String,
    /// The object under which it is told, where it is the end of something that people see.
    pub told_on: Option<ObjectRef>,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Leftovers {
    /// In this order. Look again afterwards: what has to go last is only found when the rest has gone.
    pub undo: Vec<Remnant>,
    /// What is left as it is, and why.
    pub left: Vec<String>,
    /// Whether there is more to do as soon as somebody else has done his part.
    pub unfinished: bool,
}

impl Leftovers {
    /// Nothing to do, now or soon.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.undo.is_empty() && !self.unfinished
    }
}

/// What undoes the leftovers among the traces. `before` are the responses that were listed before the traces, `after` those after.
#[must_use]
pub fn leftovers(traces: &Traces, before: &[Standing], after: &[Standing], agents: Option<&Agents>) -> Leftovers {
    let by_uid = |list: &'_ [Standing]| -> BTreeMap<String, Standing> {
        list.iter().map(|standing| (standing.uid.clone(), standing.clone())).collect()
    };
    let mut search = Search {
        before: by_uid(before),
        after: by_uid(after),
        found: Leftovers::default(),
        kept: BTreeSet::new(),
        busy: BTreeSet::new(),
        busy_pods: BTreeSet::new(),
    };
    search.keep(traces);
    // The order of undo: policies, labels, holders, and the cut last. A cut goes only when nothing else of its response is there.
    // Calico lets no tier go before its policies.
    let turn = |kind: Kind| match kind {
        Kind::GlobalNetworkPolicy => 0,
        Kind::Tier | Kind::CiliumClusterwideNetworkPolicy => 1,
        _ => 2,
    };
    let mut policies: Vec<_> = traces.policies.iter().collect();
    policies.sort_by_key(|(kind, _)| turn(*kind));
    for (kind, metadata) in policies {
        search.policy(*kind, metadata);
    }
    for (kind, metadata) in &traces.marked {
        search.marked(*kind, metadata);
    }
    for containment in &traces.containments {
        search.containment(traces, containment);
    }
    if let Some(agents) = agents {
        for orphan in &traces.orphans {
            search.orphan(traces, orphan, agents);
        }
    }
    search.found
}

/// Whether a response lives.
enum Life<'a> {
    Lives,
    /// It was there a moment ago.
    Unsure,
    Gone,
    Undone(&'a str),
}

struct Search {
    before: BTreeMap<String, Standing>,
    after: BTreeMap<String, Standing>,
    found: Leftovers,
    /// Responses that no longer live, and whose traces still hold a pod for one that does.
    kept: BTreeSet<String>,
    /// Responses of which something else has to go before their cuts do.
    busy: BTreeSet<String>,
    /// Pods of which the same is true.
    busy_pods: BTreeSet<String>,
}

impl Search {
    fn life(&self, uid: &str) -> Life<'_> {
        match (self.before.get(uid), self.after.contains_key(uid)) {
            (Some(before), _) if before.reverted => Life::Undone(&before.name),
            (_, true) => Life::Lives,
            (Some(_), false) => Life::Unsure,
            (None, false) => Life::Gone,
        }
    }

    /// Finds what has to stay for a while: where a living response is to isolate the same pod and is not seen in force yet, undoing what
    /// is there would open a gap (law 2). A release waits in the same way.
    fn keep(&mut self, traces: &Traces) {
        let marked = traces.marked.iter().filter(|(kind, _)| *kind == Kind::Pod).flat_map(|(kind, metadata)| {
            responses_on(metadata).map(|uid| (reference(*kind, metadata), uid.to_owned()))
        });
        let held = traces
            .containments
            .iter()
            .flat_map(|containment| containment.spec.holders.keys().map(|uid| (pod_of(containment), uid.clone())));
        let kept = marked.chain(held).filter(|(pod, _)| {
            let is_awaited = self.after.values().any(|standing| standing.comes_to(pod));
            is_awaited && !self.after.values().any(|standing| standing.holds(pod))
        });
        let mut all: BTreeSet<String> = kept.map(|(_, uid)| uid).collect();
        // One that selects no pod by a label may be a whole namespace's: whom it holds is not in its metadata.
        let by_label: BTreeSet<&str> = traces.marked.iter().flat_map(|(_, metadata)| responses_on(metadata)).collect();
        for (_, metadata) in &traces.policies {
            let labels = metadata.labels.as_ref();
            let Some(uid) = labels.and_then(|labels| labels.get(names::RESPONSE_LABEL)) else { continue };
            let Some(namespace) = metadata.namespace.as_deref().filter(|_| !by_label.contains(uid.as_str())) else {
                continue;
            };
            if self.after.values().any(|standing| standing.comes_into(namespace)) {
                all.insert(uid.clone());
            }
        }
        self.kept = all;
    }

    /// Says whose leftover it is; `None` when it is none, as far as can be said now. `name` is what the trace calls its response.
    fn whose(&mut self, uid: &str, name: Option<&str>) -> Option<String> {
        let named = match name {
            Some(name) => format!("IncidentResponse {name} (UID {uid})"),
            None => format!("an IncidentResponse with UID {uid}"),
        };
        match self.life(uid) {
            Life::Lives => None,
            Life::Unsure => {
                self.found.unfinished = true;
                None
            }
            Life::Gone | Life::Undone(_) if self.kept.contains(uid) => {
                self.found.unfinished = true;
                None
            }
            Life::Gone => Some(format!("{named}, which does not exist any more")),
            Life::Undone(name) => Some(format!("IncidentResponse {name} (UID {uid}), which was undone before")),
        }
    }

    fn undo(&mut self, effect: Effect, what: &str, told_on: Option<ObjectRef>) {
        self.found.undo.push(Remnant { effect, what: bounded(what), told_on });
    }

    fn policy(&mut self, kind: Kind, metadata: &ObjectMeta) {
        let labels = metadata.labels.as_ref();
        let Some(uid) = labels.and_then(|labels| labels.get(names::RESPONSE_LABEL)) else { return };
        let annotations = metadata.annotations.as_ref();
        let name = annotations.and_then(|annotations| annotations.get(names::RESPONSE_ANNOTATION));
        let Some(whose) = self.whose(uid, name.map(String::as_str)) else { return };
        let object = reference(kind, metadata);
        let ours = if kind == Kind::GlobalNetworkPolicy { names::calico_policy(uid) } else { names::policy(uid) };
        if object.name != ours {
            self.found.left.push(format!(
                "{object} carries the label {} and is not named as ours are: whoever made it has to remove it",
                names::RESPONSE_LABEL
            ));
            return;
        }
        self.busy.insert(uid.clone());
        if metadata.deletion_timestamp.is_some() {
            let finalizers = metadata.finalizers.as_deref().unwrap_or_default().join(", ");
            self.found.left.push(format!(
                "{object} of {whose}, is deleted and kept by {finalizers}: whoever put that finalizer on it has to take it off"
            ));
            return;
        }
        let what = format!("{object} was left behind by {whose}: deleted");
        self.undo(Effect::Delete { object: object.clone(), version: None }, &what, Some(object));
    }

    fn marked(&mut self, kind: Kind, metadata: &ObjectMeta) {
        let object = reference(kind, metadata);
        let responses: BTreeSet<&str> = responses_on(metadata).collect();
        for uid in responses {
            let Some(whose) = self.whose(uid, None) else { continue };
            let manager = names::field_manager(uid);
            if is_held(metadata, &manager) {
                let what = if is_cordoned_by(metadata, &manager) {
                    format!("{object} was cordoned for {whose}: what that left on it is taken off")
                } else {
                    format!("{object} carried labels or annotations that were left behind by {whose}: taken off")
                };
                self.undo(Effect::Withdraw { object: object.clone(), manager }, &what, Some(object.clone()));
                self.busy.insert(uid.to_owned());
                self.busy_pods.extend(metadata.uid.clone());
            } else {
                // Written by somebody else, from a copy of a manifest or a backup. It selects nothing, and a template that has it
                // would put it back: with it in a selector, taking it off would make a new pod each time.
                self.found.left.push(format!(
                    "{object} carries the label {} of {whose}, which we do not hold: whoever put it there has to remove it",
                    names::isolation_label(uid)
                ));
            }
        }
        for (uid, labels) in overwritten(metadata) {
            // What they were before was in the response's status, and went with it.
            if let Some(whose) = self.whose(uid, None) {
                self.found.left.push(format!(
                    "{object} has labels whose former values {whose}, replaced: {}; nobody knows what they were, so whoever does has to set them",
                    labels.join(", ")
                ));
            }
        }
    }

    fn containment(&mut self, traces: &Traces, containment: &Containment) {
        if containment.metadata.deletion_timestamp.is_some() {
            return;
        }
        let object = reference(Kind::Containment, &containment.metadata);
        let version = containment.metadata.resource_version.clone();
        let pod = pod_of(containment);
        for (uid, holder) in &containment.spec.holders {
            let Some(whose) = self.whose(uid, holder.response.as_deref()) else { continue };
            if self.busy.contains(uid) {
                self.found.unfinished = true;
                continue;
            }
            let manager = names::field_manager(uid);
            if is_held(&containment.metadata, &manager) {
                let what = format!("the cut of {pod} was held for {whose}: it is no longer");
                self.undo(Effect::Withdraw { object: object.clone(), manager }, &what, Some(pod.clone()));
            } else {
                // Nobody can withdraw what is not held under its name. Without this object whoever lives makes it anew, and a cut
                // that nobody wants is an orphan.
                let what = format!("the cut of {pod} was held for {whose}, under another's name: it is asked for anew");
                self.undo(Effect::Delete { object, version }, &what, None);
                self.found.unfinished = true;
                return;
            }
        }
        let pod_uid = &containment.spec.pod.uid;
        if !containment.spec.holders.is_empty() || self.is_isolated(&containment.spec.pod.namespace, pod_uid) {
            return;
        }
        let exists = traces.marked.iter().any(|(kind, pod)| *kind == Kind::Pod && pod.uid.as_ref() == Some(pod_uid));
        let node = &containment.spec.node_name;
        let is_there = exists && traces.nodes.contains(node);
        if is_there && traces.orphans.iter().any(|orphan| is_of(containment, &orphan.pod_uid)) {
            // Without this object the agent's report, as old as it is, would be taken for an orphan, and the cut be lifted once more.
            self.found.unfinished = true;
            return;
        }
        // With the node or the pod went the pod's network namespace, and with that the cut.
        if containment::is_lifted(containment) || !is_there {
            let what = format!("{pod} was cut off, and no response asks for that: the cut is lifted");
            self.undo(Effect::Delete { object, version }, &what, Some(pod));
        } else {
            self.found.unfinished = true;
            self.found.left.push(format!(
                "{pod} is cut off and no response asks for that: the agent on node {node} lifts it as soon as it runs there"
            ));
        }
    }

    fn orphan(&mut self, traces: &Traces, orphan: &Orphan, agents: &Agents) {
        let Orphan { node, pod_uid, pod } = orphan;
        if traces.containments.iter().any(|containment| is_of(containment, pod_uid)) {
            return;
        }
        let Some(pod) = pod else {
            self.found.left.push(format!(
                "the agent on node {node} reports that a pod with UID {pod_uid} is cut off, and there is no such pod in the API: the \
                 cut ends with its processes"
            ));
            return;
        };
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let object = reference(Kind::Pod, &pod.metadata);
        if containment::node(pod) != Some(node) {
            // An agent speaks for its own node only. A Containment for another's would be in the way of the real one.
            self.found
                .left
                .push(format!("the agent on node {node} reports a cut of {object}, which does not run there"));
            return;
        }
        if self.is_isolated(pod.metadata.namespace.as_deref().unwrap_or_default(), &uid) {
            return;
        }
        self.found.unfinished = true;
        if self.busy_pods.contains(&uid) {
            return;
        }
        let asked =
            ObjectRef { kind: Kind::Containment, namespace: Some(agents.namespace.clone()), name: uid, uid: None };
        // The very fields that a response would ask for, under the same manager: one that comes at this moment finds its own.
        let fields = containment::fields(pod, node, agents);
        let manager = names::OPERATOR_MANAGER.to_owned();
        let what =
            format!("{object} is cut off, and nobody asks for that: the agent on node {node} is asked to lift it");
        self.undo(Effect::Apply { object: asked, manager, fields }, &what, None);
    }

    /// Whether a response that lives, or did a moment ago, isolates a pod: what is cut there is its matter.
    fn is_isolated(&self, namespace: &str, pod_uid: &str) -> bool {
        let all = self.before.values().chain(self.after.values());
        all.into_iter().any(|standing| standing.isolates(namespace, pod_uid))
    }
}

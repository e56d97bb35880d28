//! What responders ask for. A verb, or a target, is added here.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::BYSTANDER;
use super::objects::{NEIGHBOUR, Thing};
use crate::fixtures::{NAMESPACE, POD};

/// The labels that responses set, and others too.
pub(crate) const KEYS: [&str; 2] = ["team", "app"];
/// Their values.
pub(crate) const VALUES: [&str; 3] = ["red", "blue", "web"];
/// The label by which sets of pods are selected: workloads have it, and responses and others change it.
pub(crate) const SELECTED: &str = KEYS[1];
/// The workload of the pod that most is about, and of its fellow.
const WEB: usize = 2;

/// One response's target and actions.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) of: Of,
    pub(crate) actions: Vec<Asks>,
}

/// What it is about.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Of {
    One(Thing),
    /// All pods whose label `app` has this value.
    Selected(usize),
}

/// One action.
#[derive(Clone, Debug)]
pub(crate) struct Asks {
    pub(crate) verb: Asking,
    /// Whether what follows is skipped when it fails.
    pub(crate) stop: bool,
}

/// What an action does.
#[derive(Clone, Debug)]
pub(crate) enum Asking {
    Isolate,
    Label { labels: Vec<(usize, usize)>, overwrite: bool },
    Cordon,
}

impl Of {
    /// As `spec.target` has it.
    pub(crate) fn target(self) -> Value {
        match self {
            Self::One(thing) => thing.target(),
            Self::Selected(value) => {
                let selector = json!({ "matchLabels": { SELECTED: VALUES[value] } });
                json!({ "pods": { "namespace": NAMESPACE, "selector": selector } })
            }
        }
    }
}

impl Asked {
    /// As `spec.actions` has them.
    pub(crate) fn actions(&self) -> Value {
        let actions = self.actions.iter().enumerate().map(|(number, action)| {
            let mut manifest = match &action.verb {
                Asking::Isolate => json!({ "isolate": {} }),
                Asking::Label { labels, overwrite } => {
                    let set: serde_json::Map<String, Value> =
                        labels.iter().map(|(key, value)| (KEYS[*key].to_owned(), json!(VALUES[*value]))).collect();
                    json!({ "label": { "set": set, "overwrite": overwrite } })
                }
                Asking::Cordon => json!({ "cordon": {} }),
            };
            manifest["name"] = json!(format!("action-{number}"));
            if action.stop {
                manifest["onFailure"] = json!("Stop");
            }
            manifest
        });
        actions.collect()
    }
}

/// The isolation of one pod and nothing else.
pub(crate) fn isolation() -> BoxedStrategy<Asked> {
    let action = Asks { verb: Asking::Isolate, stop: false };
    Just(Asked { of: Of::One(Thing::Pod(POD)), actions: vec![action] }).boxed()
}

/// The isolation of one pod, of several, or of their namespace, and nothing else.
pub(crate) fn isolations_of_many() -> BoxedStrategy<Asked> {
    let pod = prop_oneof![Just(POD), Just(BYSTANDER)].prop_map(|name| Of::One(Thing::Pod(name)));
    let of = prop_oneof![2 => Just(Of::One(Thing::Namespace)), 2 => Just(Of::Selected(WEB)), 2 => pod];
    of.prop_map(|of| Asked { of, actions: vec![Asks { verb: Asking::Isolate, stop: false }] }).boxed()
}

/// Anything that may be asked for, of anything.
pub(crate) fn anything() -> BoxedStrategy<Asked> {
    mixed(prop_oneof![Just(false), Just(true)].boxed(), proptest::bool::weighted(0.2).boxed())
}

/// Without what is lost together with the journal: the value that was replaced.
pub(crate) fn what_derives() -> BoxedStrategy<Asked> {
    mixed(Just(false).boxed(), proptest::bool::weighted(0.2).boxed())
}

fn mixed(overwrite: BoxedStrategy<bool>, stop: BoxedStrategy<bool>) -> BoxedStrategy<Asked> {
    let labels = proptest::collection::vec((0..KEYS.len(), 0..VALUES.len()), 1..3);
    let label = (labels, overwrite).prop_map(|(labels, overwrite)| Asking::Label { labels, overwrite });
    let label = label.boxed();
    let several = |verb: BoxedStrategy<Asking>| {
        let action = (verb, stop.clone()).prop_map(|(verb, stop)| Asks { verb, stop });
        proptest::collection::vec(action, 1..4)
    };
    let one_pod = prop_oneof![3 => Just(POD), 1 => Just(NEIGHBOUR)].prop_map(|name| Of::One(Thing::Pod(name)));
    let selected = prop_oneof![3 => Just(WEB), 1 => 0..VALUES.len()].prop_map(Of::Selected);
    let pods = prop_oneof![4 => one_pod, 1 => selected];
    let on_pods = several(prop_oneof![1 => Just(Asking::Isolate), 1 => label.clone()].boxed());
    let on_namespace = several(prop_oneof![1 => Just(Asking::Isolate), 1 => label.clone()].boxed());
    let on_node = several(prop_oneof![1 => Just(Asking::Cordon), 1 => label].boxed());
    let asked = |(of, actions)| Asked { of, actions };
    prop_oneof![
        3 => isolation(),
        5 => (pods, on_pods).prop_map(asked),
        2 => (Just(Of::One(Thing::Namespace)), on_namespace).prop_map(asked),
        2 => (Just(Of::One(Thing::Node)), on_node).prop_map(asked),
    ]
    .boxed()
}

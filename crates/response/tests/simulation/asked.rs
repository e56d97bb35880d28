//! What responders ask for. A verb, or a target, is added here.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::objects::{NEIGHBOUR, Thing};
use crate::fixtures::POD;

/// The labels that responses set, and others too.
pub(crate) const KEYS: [&str; 2] = ["team", "app"];
/// Their values.
pub(crate) const VALUES: [&str; 3] = ["red", "blue", "web"];

/// One response's target and actions.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) thing: Thing,
    pub(crate) actions: Vec<Asks>,
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
    Just(Asked { thing: Thing::Pod(POD), actions: vec![action] }).boxed()
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
    let pods = prop_oneof![3 => Just(POD), 1 => Just(NEIGHBOUR)].prop_map(Thing::Pod);
    let on_pods = several(prop_oneof![1 => Just(Asking::Isolate), 1 => label.clone()].boxed());
    let on_node = several(prop_oneof![1 => Just(Asking::Cordon), 1 => label.clone()].boxed());
    let asked = |(thing, actions)| Asked { thing, actions };
    prop_oneof![
        3 => isolation(),
        4 => (pods, on_pods).prop_map(asked),
        1 => (Just(Thing::Namespace), several(label)).prop_map(asked),
        2 => (Just(Thing::Node), on_node).prop_map(asked),
    ]
    .boxed()
}

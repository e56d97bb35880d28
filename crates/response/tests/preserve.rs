//! What keeps nodes and pods from being chosen for removal while a response is on them (law 10).

#![allow(clippy::unwrap_used, reason = "tests: a panic is a failed test")]

mod fixtures;

use fixtures::stage::Stage;
use serde_json::{Value, json};

const SAFE_TO_EVICT: &str = "annotation cluster-autoscaler.kubernetes.io/safe-to-evict";
const DELETION_COST: &str = "annotation controller.kubernetes.io/pod-deletion-cost";
const DO_NOT_DISRUPT: &str = "annotation karpenter.sh/do-not-disrupt";
const SCALE_DOWN: &str = "annotation cluster-autoscaler.kubernetes.io/scale-down-disabled";

fn label() -> Value {
    json!([{ "label": { "set": { "soc.example.com/incident": "4711" } } }])
}

fn not_preserved(stage: &Stage, name: &str) -> Option<String> {
    let residual = stage.status(name).residual;
    residual.into_iter().find(|residual| residual.code == "NotPreserved").map(|residual| residual.message)
}

#[test]
fn a_pod_carries_what_autoscalers_and_replica_sets_know_and_is_what_it_was() {
    let mut stage = Stage::new("Pod");
    let before = stage.fields.clone();
    stage.respond("alert", label());
    assert_eq!(stage.fields.get(SAFE_TO_EVICT), Some("false"));
    assert_eq!(stage.fields.get(DELETION_COST), Some("2147483647"));
    assert_eq!(stage.fields.get(DO_NOT_DISRUPT), Some("true"));
    assert_eq!(not_preserved(&stage, "alert"), None);
    stage.undo("alert");
    assert_eq!(stage.fields, before);
}

#[test]
fn a_node_carries_what_autoscalers_know_and_goes_on_while_another_response_is_on_it() {
    let mut stage = Stage::new("Node");
    let before = stage.fields.clone();
    stage.respond("one", json!([{ "cordon": {} }]));
    stage.respond("two", json!([{ "cordon": {} }]));
    assert_eq!(stage.fields.get(SCALE_DOWN), Some("true"));
    stage.undo("one");
    assert_eq!(stage.fields.get(SCALE_DOWN), Some("true"));
    assert_eq!(stage.fields.get(DO_NOT_DISRUPT), Some("true"));
    stage.undo("two");
    assert_eq!(stage.fields, before);
}

#[test]
fn a_namespace_carries_nothing_of_it() {
    let mut stage = Stage::new("Namespace");
    stage.respond("alert", label());
    assert!(stage.fields.annotations().is_empty());
}

#[test]
fn what_somebody_else_set_is_left_and_said() {
    let mut stage = Stage::new("Pod");
    stage.fields.set("autoscaling-team", SAFE_TO_EVICT, "true");
    let before = stage.fields.clone();
    stage.respond("alert", label());
    assert_eq!(stage.fields.get(SAFE_TO_EVICT), Some("true"));
    assert_eq!(stage.fields.get(DELETION_COST), Some("2147483647"), "the others are set all the same");
    let said = not_preserved(&stage, "alert").unwrap();
    assert!(said.contains("safe-to-evict is \"true\", by autoscaling-team"), "{said}");
    stage.undo("alert");
    assert_eq!(stage.fields, before);
}

#[test]
fn what_somebody_had_set_to_the_same_value_stays() {
    let mut stage = Stage::new("Pod");
    stage.fields.set("owner", SAFE_TO_EVICT, "false");
    let before = stage.fields.clone();
    stage.respond("alert", label());
    stage.undo("alert");
    assert_eq!(stage.fields, before);
}

#[test]
fn that_it_is_refused_is_said_and_takes_nothing_else_along() {
    let mut stage = Stage::new("Pod");
    stage.refuse = Some("do-not-disrupt");
    stage.respond("alert", label());
    assert_eq!(stage.outcome("alert", "label"), "Done/Labelled");
    let said = not_preserved(&stage, "alert").unwrap();
    assert!(said.contains("pod shop/web is not kept from being chosen") && said.contains("refused"), "{said}");
    stage.refuse = None;
    stage.settle("alert").unwrap();
    assert_eq!(stage.fields.get(DO_NOT_DISRUPT), Some("true"), "it was tried again");
    assert_eq!(not_preserved(&stage, "alert"), None);
}

#[test]
fn where_nothing_was_put_in_place_nothing_is_touched() {
    let mut stage = Stage::new("Pod");
    stage.fields.set("somebody", "soc.example.com/incident", "4710");
    let before = stage.fields.clone();
    stage.respond("alert", label());
    assert_eq!(stage.outcome("alert", "label"), "Failed/LabelHeld");
    assert_eq!(stage.fields, before);
}

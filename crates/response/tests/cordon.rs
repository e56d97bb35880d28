//! Cordoning: together with others, and without fighting anybody.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests: a panic is a failed test")]

mod fixtures;

use fixtures::stage::{Crash, Stage};
use fixtures::{condition, says};
use serde_json::{Value, json};

fn cordon() -> Value {
    json!([{ "cordon": {} }])
}

fn codes(stage: &Stage, name: &str) -> Vec<String> {
    stage.status(name).residual.into_iter().map(|residual| residual.code).collect()
}

#[test]
fn a_node_is_cordoned_and_schedulable_again() {
    let mut stage = Stage::new("Node");
    let before = stage.fields.clone();
    stage.respond("alert", cordon());
    assert!(stage.is_cordoned());
    assert_eq!(stage.outcome("alert", "cordon"), "Done/Cordoned");
    assert_eq!(says(&stage.status("alert"), "Ready"), "True/Cordoned");
    assert_eq!(says(&stage.status("alert"), "Contained"), "absent", "cordoning contains nothing");
    assert_eq!(says(&stage.status("alert"), "EvidenceIntact"), "absent", "a node is no evidence of ours");
    assert_eq!(codes(&stage, "alert"), ["CordonContainsNothing"]);
    stage.undo("alert");
    assert_eq!(stage.fields, before);
}

#[test]
fn two_responses_hold_it_whoever_goes_first() {
    for [first, second] in [["one", "two"], ["two", "one"]] {
        let mut stage = Stage::new("Node");
        let before = stage.fields.clone();
        stage.respond("one", cordon());
        stage.respond("two", cordon());
        stage.undo(first);
        assert!(stage.is_cordoned(), "{second} holds it");
        stage.undo(second);
        assert_eq!(stage.fields, before);
    }
}

#[test]
fn a_node_that_was_cordoned_before_stays_so() {
    let mut stage = Stage::new("Node");
    stage.others_cordon(true);
    let before = stage.fields.clone();
    stage.respond("alert", cordon());
    assert_eq!(stage.outcome("alert", "cordon"), "Done/Cordoned");
    stage.undo("alert");
    assert_eq!(stage.fields, before);
}

#[test]
fn who_uncordons_it_meanwhile_is_not_fought() {
    let mut stage = Stage::new("Node");
    stage.respond("alert", cordon());
    stage.others_cordon(false);
    for _ in 0..2 {
        stage.settle("alert").unwrap();
        assert!(!stage.is_cordoned(), "not applied again");
        assert_eq!(stage.outcome("alert", "cordon"), "Partial/Drifted");
        assert_eq!(says(&stage.status("alert"), "Stalled"), "True/Drifted");
    }
    // Cordoned again by him, it is his.
    stage.others_cordon(true);
    stage.settle("alert").unwrap();
    assert_eq!(stage.outcome("alert", "cordon"), "Done/Cordoned");
    stage.undo("alert");
    assert!(stage.is_cordoned());
}

#[test]
fn the_last_place_of_the_operator_is_said_before() {
    let mut stage = Stage::new("Node");
    stage.other_nodes.clear();
    stage.create("alert", cordon());
    // Nothing but the finalizer and the first status is written.
    stage.crash = Some((2, false));
    assert_eq!(stage.settle("alert"), Err(Crash));
    assert_eq!(codes(&stage, "alert"), ["NoPlaceForOperator", "CordonContainsNothing"]);
    stage.settle("alert").unwrap();
    assert_eq!(codes(&stage, "alert"), ["NoPlaceForOperator", "CordonContainsNothing"]);
}

#[test]
fn a_crash_at_any_write_loses_nothing() {
    for (write, after) in (0..5).flat_map(|write| [(write, false), (write, true)]) {
        let mut stage = Stage::new("Node");
        let before = stage.fields.clone();
        stage.create("alert", json!([{ "label": { "set": { "incident": "4711" } } }, { "cordon": {} }]));
        stage.crash = Some((write, after));
        let _ = stage.settle("alert");
        stage.crash = None;
        stage.settle("alert").unwrap();
        assert_eq!((stage.is_cordoned(), stage.fields.get("incident")), (true, Some("4711")), "write {write}");
        stage.delete("alert");
        stage.crash = Some((write, after));
        let _ = stage.settle("alert");
        stage.crash = None;
        stage.settle("alert").unwrap();
        assert_eq!(stage.fields, before, "write {write}");
    }
}

#[test]
fn a_node_with_another_uid_is_another_node() {
    let mut stage = Stage::new("Node");
    stage.respond("alert", cordon());
    stage.fields = Stage::new("Node").fields;
    "another".clone_into(&mut stage.uid);
    stage.settle("alert").unwrap();
    assert!(!stage.is_cordoned());
    assert_eq!(stage.action("alert", "cordon").reason.as_deref(), Some("TargetGone"));
    stage.undo("alert");
}

#[test]
fn nodes_are_acted_on_from_the_response_namespace_only() {
    let mut stage = Stage::new("Node");
    stage.create("alert", cordon());
    stage.responses.get_mut("alert").unwrap().metadata.namespace = Some("shop".to_owned());
    stage.settle("alert").unwrap();
    assert_eq!(says(&stage.status("alert"), "Accepted"), "False/OutsideResponseNamespace");
    assert!(condition(&stage.status("alert"), "Accepted").unwrap().message.contains("nodes are in none"));
}

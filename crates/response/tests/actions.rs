//! Several actions in one response: their order, what a failure means for the others, and undo past it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests: a panic is a failed test")]

mod fixtures;

use fixtures::scene::a_pod_that_answers;
use fixtures::stage::Stage;
use fixtures::{condition, noon, object, says};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};
use tourniquet_response::finalizer_ahead;

/// A label that somebody holds, and after it two that nobody does.
fn held_first(on_failure: &str) -> Value {
    json!([
        { "name": "held", "label": { "set": { "app": "quarantine" } }, "onFailure": on_failure },
        { "name": "free", "label": { "set": { "incident": "4711" } } },
        { "cordon": {} },
    ])
}

#[test]
fn what_follows_a_failure_is_carried_out() {
    let mut stage = Stage::new("Node");
    let before = stage.fields.clone();
    stage.respond("alert", held_first("Continue"));
    assert_eq!(stage.outcome("alert", "held"), "Failed/LabelHeld");
    assert_eq!(stage.outcome("alert", "free"), "Done/Labelled");
    assert_eq!(stage.outcome("alert", "cordon"), "Done/Cordoned");
    assert_eq!(says(&stage.status("alert"), "Ready"), "False/LabelHeld");
    assert_eq!(says(&stage.status("alert"), "Stalled"), "True/LabelHeld");
    stage.undo("alert");
    assert_eq!(stage.fields, before);
}

#[test]
fn with_stop_what_follows_a_failure_is_skipped_and_says_why() {
    let mut stage = Stage::new("Node");
    let before = stage.fields.clone();
    stage.respond("alert", held_first("Stop"));
    for name in ["free", "cordon"] {
        assert_eq!(stage.outcome("alert", name), "Skipped/ActionFailed");
        let message = stage.action("alert", name).message.unwrap();
        assert!(message.contains("action held failed (LabelHeld)"), "{message}");
    }
    assert_eq!(stage.fields, before);
    assert_eq!(says(&stage.status("alert"), "Ready"), "False/LabelHeld", "the failure, not what it led to");
    stage.undo("alert");
    assert_eq!(stage.fields, before);
}

#[test]
fn with_stop_what_follows_waits_for_the_outcome_and_then_comes() {
    let mut stage = Stage::new("Node");
    let actions = json!([{ "label": { "set": { "incident": "4711" } }, "onFailure": "Stop" }, { "cordon": {} }]);
    stage.create("alert", actions);
    // The finalizer and the first status, before anything is done.
    stage.crash = Some((2, false));
    assert!(stage.settle("alert").is_err());
    assert_eq!(stage.outcome("alert", "cordon"), "Pending/WaitsForAction");
    stage.settle("alert").unwrap();
    assert_eq!(
        (stage.outcome("alert", "label"), stage.outcome("alert", "cordon")),
        ("Done/Labelled".to_owned(), "Done/Cordoned".to_owned())
    );
    assert_eq!(says(&stage.status("alert"), "Ready"), "True/Cordoned");
}

#[test]
fn what_has_begun_is_not_skipped_by_a_failure_that_comes_later() {
    let mut stage = Stage::new("Node");
    let actions = json!([{ "label": { "set": { "incident": "4711" } }, "onFailure": "Stop" }, { "cordon": {} }]);
    stage.respond("alert", actions);
    stage.others_label("someone", "incident", Some("none"));
    stage.settle("alert").unwrap();
    assert_eq!(stage.outcome("alert", "label"), "Partial/Drifted");
    assert_eq!(stage.outcome("alert", "cordon"), "Done/Cordoned");
    stage.undo("alert");
    assert!(!stage.is_cordoned());
}

/// The labels of both are one apply; what the API server refuses of one must not take the other along.
#[test]
fn one_action_whose_effect_is_refused_does_not_keep_the_others_from_theirs() {
    let both = |first: Value, second: Value| json!([first, second]);
    let label = json!({ "label": { "set": { "incident": "refused" } } });
    let other = json!({ "name": "other", "label": { "set": { "case": "1" } } });
    for actions in [both(label.clone(), other.clone()), both(other, label)] {
        let mut stage = Stage::new("Pod");
        let before = stage.fields.clone();
        stage.refuse = Some("refused");
        stage.respond("alert", actions);
        assert_eq!(stage.outcome("alert", "other"), "Done/Labelled");
        assert_eq!(stage.outcome("alert", "label"), "Failed/EffectFailed");
        stage.refuse = None;
        stage.settle("alert").unwrap();
        assert_eq!(stage.outcome("alert", "label"), "Done/Labelled");
        assert_eq!(stage.outcome("alert", "other"), "Done/Labelled", "it kept what it had");
        stage.undo("alert");
        assert_eq!(stage.fields, before);
    }
}

#[test]
fn undo_goes_on_past_what_fails_and_says_what_is_left() {
    let mut stage = Stage::new("Node");
    stage.others_label("kubectl-label", "team", Some("red"));
    let before = stage.fields.clone();
    let actions = json!([{ "label": { "set": { "team": "blue" }, "overwrite": true } }, { "cordon": {} }]);
    stage.respond("alert", actions);
    stage.refuse = Some("red");
    stage.delete("alert");
    stage.settle("alert").unwrap();
    assert!(!stage.is_cordoned(), "the rest is undone");
    let status = stage.status("alert");
    assert_eq!(says(&status, "Reverted"), "False/UndoFailed");
    let message = &condition(&status, "Reverted").unwrap().message;
    assert!(message.contains("not undone yet: label"), "{message}");
    stage.refuse = None;
    stage.undo("alert");
    assert_eq!(stage.fields, before);
}

#[test]
fn contained_is_about_the_isolation_whatever_became_of_the_rest() {
    let scene = a_pod_that_answers()
        .with_spec(|spec| {
            spec.actions = object(json!([{ "label": { "set": { "app": "quarantine" } } }, { "isolate": {} }]));
        })
        .act();
    let status = scene.look().status;
    assert!(says(&status, "Ready").starts_with("False/"));
    let contained = condition(&status, "Contained").unwrap();
    assert!(contained.message.starts_with("isolate: "), "{}", contained.message);
}

#[test]
fn the_finalizer_of_a_new_response_is_there_before_it_is_decided_and_goes_when_it_is_refused() {
    let mut stage = Stage::new("Pod");
    stage.create("alert", json!([{ "cordon": {} }]));
    assert!(finalizer_ahead(&stage.responses["alert"], &stage.settings));
    stage.settle("alert").unwrap();
    assert_eq!(says(&stage.status("alert"), "Accepted"), "False/VerbNotSupported");
    assert!(!finalizer_ahead(&stage.responses["alert"], &stage.settings), "it is decided");
    assert_eq!(stage.responses["alert"].metadata.finalizers, None);
}

#[test]
fn where_nothing_is_to_be_touched_there_is_no_finalizer_ahead() {
    let mut stage = Stage::new("Pod");
    stage.create("alert", json!([{ "label": { "set": { "incident": "4711" } } }]));
    let (new, settings) = (stage.responses["alert"].clone(), stage.settings.clone());
    let mut dry = new.clone();
    dry.spec.dry_run = true;
    assert!(!finalizer_ahead(&dry, &settings));
    let mut deleted = new.clone();
    deleted.metadata.deletion_timestamp = Some(Time(noon()));
    assert!(!finalizer_ahead(&deleted, &settings), "the API server takes none any more");
    let mut plans = settings.clone();
    plans.blast_radius.plan_only = true;
    let mut accepts_none = settings;
    accepts_none.blast_radius.accept_new = false;
    assert!(!finalizer_ahead(&new, &plans) && !finalizer_ahead(&new, &accepts_none));
}

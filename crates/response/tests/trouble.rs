//! What is said and done when something cannot be looked at, read, or undone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests: a panic is a failed test")]

mod fixtures;

use fixtures::scene::{Scene, a_pod_that_answers, a_pod_that_cilium_serves, endpoint, result};
use fixtures::{RESPONSE_UID, noon, says, seconds, stored};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;
use tourniquet_api::{Answer, Outcome, names};
use tourniquet_response::{Effect, World, mark_unreadable, undo_unreadable, unobservable};

/// A response that is in force on Cilium, and reported so.
fn in_force() -> Scene {
    let mut scene = a_pod_that_cilium_serves().act();
    scene.endpoint = Some(endpoint(&[RESPONSE_UID]));
    scene.act()
}

/// A response that is in force by what the operator's own attempts say, and reported so.
fn seen_silent() -> Scene {
    let mut scene = a_pod_that_answers().act();
    scene.reach = Some(Answer::TimedOut);
    scene.act()
}

#[test]
fn what_cannot_be_looked_at_is_said_and_nothing_is_claimed() {
    let status = unobservable(&in_force().response, "cannot list NetworkPolicies of shop: forbidden", noon());
    assert_eq!(says(&status, "Contained"), "Unknown/CannotObserve");
    assert_eq!(says(&status, "Ready"), "False/CannotObserve");
    assert_eq!(says(&status, "Accepted"), "True/Accepted");
    assert_eq!(status.targets.len(), 1, "the pins stay");

    let status = unobservable(&in_force().deleted().response, "cannot read", noon());
    assert_eq!(says(&status, "Reverted"), "False/CannotObserve");

    let status = unobservable(&a_pod_that_answers().response, "cannot read", noon());
    assert_eq!(says(&status, "Ready"), "False/CannotObserve");
    assert_eq!(says(&status, "Accepted"), "absent", "nothing was decided");
}

#[test]
fn a_response_that_can_be_looked_at_again_says_so() {
    let mut scene = in_force();
    scene.response.status = Some(stored(&unobservable(&scene.response, "cannot read", noon())));
    let status = scene.look().status;
    assert_eq!(says(&status, "Contained"), "True/DenyTier");
    assert_eq!(says(&status, "Reconciling"), "absent");
}

#[test]
fn a_policy_that_somebody_keeps_blocks_the_undo_and_is_named() {
    let mut scene = in_force().deleted();
    let policy = scene.clusterwide.get_mut(&names::policy(RESPONSE_UID)).unwrap();
    policy.terminating = true;
    policy.finalizers = vec!["example.com/keep".to_owned()];
    let first = scene.look();
    let verbs: Vec<&str> = first.steps.iter().map(|step| step.effect.verb()).collect();
    assert_eq!(verbs, ["Delete", "Withdraw"], "everything else is undone all the same");

    scene.policies.clear();
    scene.pod.as_mut().unwrap().metadata.managed_fields = None;
    scene.response.status = Some(stored(&first.status));
    let pass = scene.later(seconds(5)).look();
    assert!(pass.steps.is_empty() && pass.finalizer, "it waits");
    assert_eq!(says(&pass.status, "Reverted"), "False/UndoBlocked");
    let message = fixtures::condition(&pass.status, "Reverted").unwrap().message.clone();
    assert!(message.contains("example.com/keep"), "{message}");
    assert!(pass.again_after.is_some());
}

#[test]
fn an_object_that_cannot_be_read_is_refused_when_nothing_was_done() {
    let status = mark_unreadable(&json!(null), "missing field `target`", Some(1), noon());
    let status = fixtures::object(status);
    assert_eq!(says(&status, "Accepted"), "False/Invalid");
    assert_eq!(says(&status, "Contained"), "False/Invalid");
    assert_eq!(mark_unreadable(&json!(status), "missing field `target`", Some(1), noon()), json!(status), "once");
}

#[test]
fn an_object_that_became_unreadable_keeps_its_record() {
    let before = json!(in_force().response.status);
    let after = mark_unreadable(&before, "unknown variant", Some(1), noon());
    assert_eq!(after["targets"], before["targets"]);
    assert_eq!(after["actions"], before["actions"]);
    let status = fixtures::object(after);
    assert_eq!(says(&status, "Accepted"), "True/Accepted");
    assert_eq!(says(&status, "Contained"), "Unknown/Invalid");
}

#[test]
fn an_object_that_cannot_be_read_is_undone_all_the_same() {
    let scene = in_force().deleted();
    let status = json!(scene.response.status);
    let mut world = World::new(noon());
    let effects: Vec<Effect> = loop {
        match undo_unreadable(&scene.response.metadata, &status, &world, &scene.settings) {
            Ok(left) => break left.effects,
            Err(unread) => world.observed.extend(unread.0.into_iter().map(|read| {
                let seen = scene.see(&read);
                (read, seen)
            })),
        }
    };
    let verbs: Vec<&str> = effects.iter().map(Effect::verb).collect();
    assert_eq!(verbs, ["Delete", "Delete", "Withdraw"]);
}

#[test]
fn a_pod_that_got_another_address_is_not_proven_by_the_silence_of_the_old_one() {
    let scene = seen_silent().with_pod(|pod| {
        let status = pod.status.as_mut().unwrap();
        status.pod_ip = Some("10.244.0.99".to_owned());
        status.pod_ips = None;
    });
    let pass = scene.look();
    assert_eq!(says(&pass.status, "Contained"), "Unknown/NotObserved");
    assert!(pass.watch.is_empty());
}

#[test]
fn an_operator_that_has_just_started_does_not_take_back_what_was_seen() {
    let mut scene = seen_silent();
    assert_eq!(result(&scene.look()).outcome, Outcome::Done);
    scene.reach = None;
    let scene = scene.later(seconds(3600));
    let pass = scene.look();
    assert_eq!(result(&pass).outcome, Outcome::Done);
    assert_eq!(says(&pass.status, "Contained"), "True/NetworkPolicy");
}

#[test]
fn an_answer_long_after_a_crash_is_no_verdict_before_the_effects_are_in_place() {
    // The journal was written an hour ago, and the operator died before its effects.
    let scene = a_pod_that_answers();
    let mut scene = Scene {
        response: {
            let mut response = scene.response.clone();
            response.status = Some(stored(&scene.look().status));
            response
        },
        ..scene
    };
    scene = scene.later(seconds(3600));
    scene.reach = Some(Answer::Answered);
    let pass = scene.act().look();
    assert_eq!(result(&pass).reason.as_deref(), Some("Settling"));
}

#[test]
fn a_report_that_outlived_cilium_enforces_nothing() {
    let mut scene = a_pod_that_cilium_serves().act();
    scene.clusterwide.get_mut(&names::policy(RESPONSE_UID)).unwrap().valid = false;
    let pass = scene.later(seconds(15)).look();
    assert_eq!(says(&pass.status, "Ready"), "False/NotEnforced");
    assert_eq!(says(&pass.status, "Contained"), "False/NotEnforced");
}

#[test]
fn a_finalizer_is_not_added_to_what_is_being_deleted() {
    let mut scene = in_force();
    scene.response.metadata.finalizers = None;
    scene.response.metadata.deletion_timestamp = Some(Time(noon()));
    assert!(!scene.look().steps.is_empty(), "undo goes on without it");
}

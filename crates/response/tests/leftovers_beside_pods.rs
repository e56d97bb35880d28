//! What vanished responses left on nodes and namespaces, and what holds for responses on sets and namespaces.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is a failed test")]

mod fixtures;

use fixtures::traces::{applied, marked_pod, policy};
use fixtures::{NAMESPACE, NODE, OTHER_UID, POD, POD_UID, RESPONSE_UID, noon, object};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};
use tourniquet_api::names;
use tourniquet_response::{Kind, Leftovers, Standing, Traces, carries_trace, leftovers};

fn swept(traces: &Traces, lives: &[Standing]) -> Leftovers {
    leftovers(traces, lives, lives, None)
}

fn undone(found: &Leftovers) -> Vec<String> {
    found.undo.iter().map(|remnant| remnant.effect.to_string()).collect()
}

/// An object with these managers' entries.
fn held(name: &str, managers: &[Value]) -> ObjectMeta {
    object(json!({ "name": name, "uid": format!("uid-of-{name}"), "managedFields": managers }))
}

fn by(operation: &str, uid: &str, fields: &Value) -> Value {
    json!({ "manager": names::field_manager(uid), "operation": operation, "fieldsV1": fields })
}

/// What a response that labels and cordons leaves.
fn everything(uid: &str) -> Traces {
    let cordon = by("Apply", uid, &json!({ "f:spec": { "f:unschedulable": {} } }));
    Traces {
        marked: vec![
            (Kind::Namespace, held(NAMESPACE, &[applied(&names::field_manager(uid))])),
            (Kind::Node, held(NODE, &[cordon])),
        ],
        ..Traces::default()
    }
}

/// A stored response with this target that isolates, with these conditions and pinned targets.
fn stored(target: &Value, conditions: &[(&str, &str)], targets: &Value) -> Standing {
    let conditions: Vec<Value> = conditions
        .iter()
        .map(|(type_, status)| json!({ "type": type_, "status": status, "reason": type_, "message": "", "lastTransitionTime": noon() }))
        .collect();
    Standing::of(&object(json!({
        "apiVersion": "tourniquet.dev/v1alpha1", "kind": "IncidentResponse",
        "metadata": { "namespace": "incident-response", "name": "r", "uid": OTHER_UID },
        "spec": { "target": target, "actions": [{ "isolate": {} }] },
        "status": { "conditions": conditions, "targets": targets },
    })))
}

#[test]
fn a_cordon_and_a_label_that_were_left_behind_are_withdrawn_and_told_where_they_were() {
    let found = swept(&everything(RESPONSE_UID), &[]);
    assert_eq!(undone(&found), [format!("Withdraw Namespace {NAMESPACE}"), format!("Withdraw Node {NODE}")]);
    for remnant in &found.undo {
        assert!(remnant.effect.object().uid.is_some(), "{remnant:?}");
        assert_eq!(remnant.told_on.as_ref(), Some(remnant.effect.object()));
        assert!(remnant.what.contains(RESPONSE_UID), "{remnant:?}");
    }
    assert!(found.undo[1].what.contains("was cordoned for"), "{found:?}");
    assert!(!found.unfinished);
}

#[test]
fn those_of_a_response_that_lives_stay() {
    let lives = stored(&json!({ "node": { "name": NODE } }), &[("Accepted", "True")], &json!([]));
    assert_eq!(swept(&everything(OTHER_UID), &[lives]), Leftovers::default());
}

#[test]
fn a_label_that_was_replaced_is_left_and_said_since_nobody_knows_what_it_was() {
    let replaced = by("Update", RESPONSE_UID, &json!({ "f:metadata": { "f:labels": { "f:team": {} } } }));
    let node = held(NODE, &[replaced]);
    assert!(carries_trace(&node));
    let traces = Traces { marked: vec![(Kind::Node, node)], ..Traces::default() };
    let found = swept(&traces, &[]);
    assert_eq!(undone(&found), [""; 0]);
    assert!(found.left[0].contains("replaced: team") && found.left[0].contains(RESPONSE_UID), "{found:?}");
    assert!(!found.unfinished, "there is nothing to wait for");
}

/// The pod and its policy, left by another response.
fn left_on_the_pod() -> Traces {
    let name = names::policy(RESPONSE_UID);
    Traces {
        policies: vec![(Kind::NetworkPolicy, policy(&name, RESPONSE_UID))],
        marked: vec![(Kind::Pod, marked_pod(RESPONSE_UID))],
        ..Traces::default()
    }
}

#[test]
fn what_holds_a_pod_stays_while_a_set_or_its_namespace_is_about_to_be_isolated() {
    let set = json!({ "pods": { "namespace": NAMESPACE, "selector": { "matchLabels": { "app": "web" } } } });
    let namespace = json!({ "namespace": { "name": NAMESPACE } });
    let pod = json!([{ "kind": "Pod", "namespace": NAMESPACE, "name": POD, "uid": POD_UID }]);
    let whole = json!([{ "kind": "Namespace", "name": NAMESPACE, "uid": "n" }]);
    for (target, pinned) in [(&set, pod), (&namespace, whole)] {
        for awaited in [stored(target, &[], &json!([])), stored(target, &[("Accepted", "True")], &pinned)] {
            let found = swept(&left_on_the_pod(), &[awaited]);
            assert_eq!(undone(&found), [""; 0], "{target}");
            assert!(found.unfinished);
        }
        let in_force = stored(target, &[("Accepted", "True"), ("Contained", "True")], &pinned);
        assert_eq!(swept(&left_on_the_pod(), &[in_force]).undo.len(), 2, "{target}");
    }
}

#[test]
fn a_set_of_another_namespace_keeps_nothing() {
    let elsewhere = json!({ "pods": { "namespace": "elsewhere", "selector": {} } });
    assert_eq!(swept(&left_on_the_pod(), &[stored(&elsewhere, &[], &json!([]))]).undo.len(), 2);
}

#[test]
fn a_policy_that_may_hold_a_whole_namespace_stays_while_anything_in_it_is_about_to_be_isolated() {
    let name = names::policy(RESPONSE_UID);
    let clusterwide = ObjectMeta { namespace: None, ..policy(&name, RESPONSE_UID) };
    let left = Traces {
        policies: vec![
            (Kind::CiliumClusterwideNetworkPolicy, clusterwide),
            (Kind::NetworkPolicy, policy(&name, RESPONSE_UID)),
        ],
        ..Traces::default()
    };
    let target = |namespace: &str| json!({ "pod": { "namespace": namespace, "name": "any" } });
    let awaited = swept(&left, &[stored(&target(NAMESPACE), &[], &json!([]))]);
    assert_eq!((undone(&awaited).len(), awaited.unfinished), (0, true));
    let pinned = json!([{ "kind": "Pod", "namespace": NAMESPACE, "name": "any", "uid": "u" }]);
    let awaited = swept(&left, &[stored(&target(NAMESPACE), &[("Accepted", "True")], &pinned)]);
    assert_eq!((undone(&awaited).len(), awaited.unfinished), (0, true));
    assert_eq!(swept(&left, &[stored(&target("elsewhere"), &[], &json!([]))]).undo.len(), 2);
    assert_eq!(swept(&left, &[]).undo.len(), 2);
}

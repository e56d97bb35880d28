//! Which responses a change of some object is a reason to look at.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests: a panic is a failed test")]

mod fixtures;

use fixtures::{NAMESPACE, OTHER_UID, POD, POD_UID, RESPONSE_UID, noon, object};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};
use tourniquet_api::{IncidentResponse, names};
use tourniquet_response::Concerns;

/// A response that is carried out on these targets, by these actions.
fn response(name: &str, uid: &str, actions: Value, targets: Value) -> IncidentResponse {
    let mut response = fixtures::response(name, uid);
    response.spec.actions = object(actions);
    response.status = object(json!({ "targets": targets }));
    with(response, "Accepted", "True", "Accepted")
}

fn with(mut response: IncidentResponse, type_: &str, is: &str, reason: &str) -> IncidentResponse {
    response.status.get_or_insert_default().conditions.push(object(json!({
        "type": type_, "status": is, "reason": reason, "message": "", "lastTransitionTime": noon(),
    })));
    response
}

fn isolates_pod(name: &str, uid: &str, pod: &str) -> IncidentResponse {
    let target = json!([{ "kind": "Pod", "namespace": NAMESPACE, "name": pod, "uid": format!("uid-of-{pod}") }]);
    response(name, uid, json!([{ "isolate": {} }]), target)
}

fn on(kind: &str, name: &str, actions: Value) -> IncidentResponse {
    response("r", RESPONSE_UID, actions, json!([{ "kind": kind, "name": name, "uid": "u" }]))
}

fn label() -> Value {
    json!([{ "label": { "set": { "incident": "4711" } } }])
}

fn knowing(responses: &[&IncidentResponse]) -> Concerns {
    let mut concerns = Concerns::default();
    for response in responses {
        concerns.know(response);
    }
    concerns
}

fn meta(namespace: &str, name: &str) -> ObjectMeta {
    object(json!({ "namespace": namespace, "name": name, "uid": "x" }))
}

fn clusterwide(name: &str) -> ObjectMeta {
    object(json!({ "name": name }))
}

/// The names of those concerned.
fn concerned(concerns: &Concerns, kind: &str, object: &ObjectMeta) -> Vec<String> {
    concerns.of(kind, object).into_iter().map(|(_, name)| name).collect()
}

#[test]
fn a_pod_concerns_whoever_targets_it_with_or_without_our_label_on_it() {
    let isolates = isolates_pod("a", RESPONSE_UID, POD);
    let labels = response("b", OTHER_UID, label(), json!(isolates.status.as_ref().unwrap().targets));
    let concerns = knowing(&[&isolates, &labels]);
    assert_eq!(concerned(&concerns, "Pod", &meta(NAMESPACE, POD)), ["a", "b"]);
    assert_eq!(concerned(&concerns, "CiliumEndpoint", &meta(NAMESPACE, POD)), ["a", "b"]);
    assert_eq!(concerned(&concerns, "Pod", &meta(NAMESPACE, "another")), [""; 0]);
    assert_eq!(concerned(&concerns, "Pod", &meta("elsewhere", POD)), [""; 0]);
}

#[test]
fn a_node_and_a_namespace_concern_whoever_targets_them() {
    let node = knowing(&[&on("Node", "n", json!([{ "cordon": {} }]))]);
    assert_eq!(concerned(&node, "Node", &clusterwide("n")), ["r"]);
    assert_eq!(concerned(&node, "Node", &clusterwide("m")), [""; 0]);
    assert_eq!(concerned(&node, "Namespace", &clusterwide("n")), [""; 0]);
    let namespace = knowing(&[&on("Namespace", NAMESPACE, label())]);
    assert_eq!(concerned(&namespace, "Namespace", &clusterwide(NAMESPACE)), ["r"]);
    assert_eq!(concerned(&namespace, "Pod", &meta(NAMESPACE, POD)), [""; 0], "its pods are left alone");
}

#[test]
fn any_pod_of_an_isolated_namespace_concerns_whoever_isolates_it() {
    let concerns = knowing(&[&on("Namespace", NAMESPACE, json!([{ "isolate": {} }]))]);
    for kind in ["Pod", "CiliumEndpoint"] {
        assert_eq!(concerned(&concerns, kind, &meta(NAMESPACE, "just-created")), ["r"]);
        assert_eq!(concerned(&concerns, kind, &meta("elsewhere", "just-created")), [""; 0]);
    }
    assert_eq!(concerned(&concerns, "NetworkPolicy", &meta(NAMESPACE, "theirs")), ["r"]);
}

#[test]
fn somebody_elses_policy_concerns_whoever_isolates_in_its_namespace() {
    let isolates = isolates_pod("a", RESPONSE_UID, POD);
    let labels = response("b", OTHER_UID, label(), json!(isolates.status.as_ref().unwrap().targets));
    let concerns = knowing(&[&isolates, &labels]);
    assert_eq!(concerned(&concerns, "NetworkPolicy", &meta(NAMESPACE, "allow-all")), ["a"]);
    assert_eq!(concerned(&concerns, "NetworkPolicy", &meta("elsewhere", "allow-all")), [""; 0]);
}

fn policy(namespace: &str, name: &str, uid: &str) -> ObjectMeta {
    ObjectMeta { namespace: Some(namespace.to_owned()), ..fixtures::traces::policy(name, uid) }
}

#[test]
fn our_own_policy_concerns_its_response_alone() {
    let concerns = knowing(&[&isolates_pod("a", RESPONSE_UID, POD), &isolates_pod("b", OTHER_UID, "api")]);
    let ours = policy(NAMESPACE, &names::policy(RESPONSE_UID), RESPONSE_UID);
    assert_eq!(concerned(&concerns, "NetworkPolicy", &ours), ["a"]);
    let unlabelled = ObjectMeta { labels: None, ..ours };
    assert_eq!(concerned(&concerns, "NetworkPolicy", &unlabelled), ["a", "b"], "nobody knows whose it is");
    let cilium = ObjectMeta { namespace: None, ..policy(NAMESPACE, &names::policy(OTHER_UID), OTHER_UID) };
    assert_eq!(concerned(&concerns, "CiliumClusterwideNetworkPolicy", &cilium), ["b"]);
}

#[test]
fn a_tier_of_calico_concerns_whoever_isolates_and_that_of_a_response_that_response() {
    let isolates = isolates_pod("a", RESPONSE_UID, POD);
    let labels = response("b", OTHER_UID, label(), json!(isolates.status.as_ref().unwrap().targets));
    let concerns = knowing(&[&isolates, &labels]);
    assert_eq!(concerned(&concerns, "Tier", &clusterwide("platform")), ["a"]);
    let ours = ObjectMeta { namespace: None, ..policy(NAMESPACE, &names::policy(RESPONSE_UID), RESPONSE_UID) };
    let both = knowing(&[&isolates_pod("a", RESPONSE_UID, POD), &isolates_pod("b", OTHER_UID, "api")]);
    assert_eq!(concerned(&both, "Tier", &ours), ["a"]);
    let claimed = ObjectMeta { namespace: None, ..policy(NAMESPACE, &names::policy("nobodys"), "nobodys") };
    assert_eq!(concerned(&both, "Tier", &claimed), ["a", "b"], "of a response that there is not");
    let in_it = ObjectMeta { name: Some(names::calico_policy(RESPONSE_UID)), ..ours };
    assert_eq!(concerned(&both, "GlobalNetworkPolicy", &in_it), ["a"]);
}

#[test]
fn nobody_escapes_the_watch_by_a_label_of_ours() {
    let concerns = knowing(&[&isolates_pod("a", RESPONSE_UID, POD), &isolates_pod("b", OTHER_UID, "api")]);
    // An allow-all that says it is ours.
    let theirs = policy(NAMESPACE, "allow-all", OTHER_UID);
    assert_eq!(concerned(&concerns, "NetworkPolicy", &theirs), ["a", "b"]);
    let stranger = policy(NAMESPACE, &names::policy("nobody"), "nobody");
    assert_eq!(concerned(&concerns, "NetworkPolicy", &stranger), ["a", "b"]);
    // A pod that says it is somebody else's.
    let mut pod = meta(NAMESPACE, POD);
    pod.labels = object(json!({ names::RESPONSE_LABEL: "nobody" }));
    assert_eq!(concerned(&concerns, "Pod", &pod), ["a"]);
    // A policy named like that of a response which has none here.
    let mut elsewhere = isolates_pod("c", "4713cccc-0000-4000-8000-000000000003", POD);
    elsewhere.status.as_mut().unwrap().targets[0].namespace = Some("elsewhere".to_owned());
    let concerns = knowing(&[&isolates_pod("a", RESPONSE_UID, POD), &elsewhere]);
    let uid = elsewhere.metadata.uid.clone().unwrap();
    assert_eq!(concerned(&concerns, "NetworkPolicy", &policy(NAMESPACE, &names::policy(&uid), &uid)), ["a", "c"]);
}

#[test]
fn a_containment_concerns_those_that_target_its_pod_and_those_that_hold_it() {
    let target = json!([{ "kind": "Pod", "namespace": NAMESPACE, "name": POD, "uid": POD_UID }]);
    let targets = response("a", OTHER_UID, json!([{ "isolate": {} }]), target);
    let holds = on("Namespace", NAMESPACE, json!([{ "isolate": {} }]));
    let concerns = knowing(&[&targets, &holds]);
    let containment = fixtures::traces::containment(&[RESPONSE_UID], "Cut").metadata;
    assert_eq!(concerned(&concerns, "Containment", &containment), ["a", "r"]);
    let unheld = fixtures::traces::containment(&[], "Cut").metadata;
    assert_eq!(concerned(&concerns, "Containment", &unheld), ["a"]);
}

#[test]
fn nothing_concerns_a_response_that_rests() {
    let held = isolates_pod("a", RESPONSE_UID, POD);
    let refused = with(fixtures::response("a", RESPONSE_UID), "Accepted", "False", "TargetNotFound");
    let mut planned = held.clone();
    planned.status.as_mut().unwrap().conditions[0].reason = "PlanOnly".to_owned();
    let undone = with(held.clone(), "Reverted", "True", "Released");
    for rests in [refused, planned, undone] {
        let mut concerns = knowing(&[&held]);
        assert_eq!(concerned(&concerns, "Pod", &meta(NAMESPACE, POD)), ["a"]);
        concerns.know(&rests);
        assert_eq!(concerned(&concerns, "Pod", &meta(NAMESPACE, POD)), [""; 0]);
        let ours = policy(NAMESPACE, &names::policy(RESPONSE_UID), RESPONSE_UID);
        assert_eq!(concerned(&concerns, "NetworkPolicy", &ours), [""; 0]);
    }
    let undoing = with(held, "Reverted", "False", "UndoBlocked");
    assert_eq!(concerned(&knowing(&[&undoing]), "Pod", &meta(NAMESPACE, POD)), ["a"]);
}

#[test]
fn what_was_just_written_counts_although_the_watch_says_something_older() {
    let young = fixtures::response("a", RESPONSE_UID);
    let mut concerns = knowing(&[&young]);
    assert_eq!(concerned(&concerns, "Pod", &meta(NAMESPACE, POD)), [""; 0]);
    concerns.learn(&isolates_pod("a", RESPONSE_UID, POD));
    concerns.know(&young);
    assert_eq!(concerned(&concerns, "Pod", &meta(NAMESPACE, POD)), ["a"]);
}

#[test]
fn a_response_that_is_gone_is_concerned_by_nothing() {
    let held = isolates_pod("a", RESPONSE_UID, POD);
    let other = isolates_pod("b", OTHER_UID, POD);
    let mut concerns = knowing(&[&held, &other]);
    concerns.forget(RESPONSE_UID);
    assert_eq!(concerned(&concerns, "Pod", &meta(NAMESPACE, POD)), ["b"]);
    concerns.learn(&held);
    assert_eq!(concerned(&concerns, "Pod", &meta(NAMESPACE, POD)), ["b"], "the watch has it no longer");

    let mut concerns = knowing(&[&held, &other]);
    concerns.list_begins();
    concerns.know(&held);
    concerns.list_ends();
    assert_eq!(concerned(&concerns, "Pod", &meta(NAMESPACE, POD)), ["a"], "the other one went unseen");
}

#[test]
fn a_trace_of_a_response_that_holds_nothing_is_a_stray() {
    let isolates = isolates_pod("r", RESPONSE_UID, POD);
    let released = with(isolates_pod("other", OTHER_UID, POD), "Reverted", "True", "Released");
    let mut concerns = knowing(&[&isolates, &released]);
    let labelled = |uid: &str| policy(NAMESPACE, &names::policy(uid), uid);
    let managed = |uid: &str| {
        let manager = names::field_manager(uid);
        object(json!({ "name": POD, "managedFields": [{ "manager": "kubelet" }, { "manager": manager }] }))
    };
    for (uid, is_stray) in [(RESPONSE_UID, false), (OTHER_UID, true), ("of-nobody", true)] {
        assert_eq!(concerns.is_stray(&labelled(uid)), is_stray, "a policy of {uid}");
        assert_eq!(concerns.is_stray(&managed(uid)), is_stray, "a pod with fields of {uid}");
    }
    assert!(!concerns.is_stray(&meta(NAMESPACE, POD)), "somebody else's");
    concerns.list_begins();
    assert!(!concerns.is_stray(&labelled("of-nobody")), "who knows, before all are listed");
    concerns.list_ends();
    assert!(concerns.is_stray(&labelled(RESPONSE_UID)), "it was not in the list");
}

//! Traces without a living response are found and undone (law 7), and nothing else is.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is a failed test")]

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::DynamicObject;
use serde_json::{Value, json};
use tourniquet_api::names;
use tourniquet_response::{
    Agents, Effect, Kind, Leftovers, Orphan, Standing, Traces, carries_trace, leftovers, vanished_in_force,
};

mod fixtures;
use fixtures::traces::{AGENTS, applied, bare_pod, containment, marked_pod, policy};
use fixtures::{NAMESPACE, NODE, OTHER_UID, POD, POD_UID, RESPONSE_UID, object};

fn agents() -> Agents {
    Agents { namespace: AGENTS.to_owned(), egress_targets: vec!["10.96.0.1:443".to_owned()] }
}

/// What one sweep finds, when these responses exist before the traces are listed, and those after.
fn swept(traces: &Traces, before: &[Standing], after: &[Standing]) -> Leftovers {
    leftovers(traces, before, after, Some(&agents()))
}

/// What it does, in words.
fn undone(found: &Leftovers) -> Vec<String> {
    found.undo.iter().map(|remnant| remnant.effect.to_string()).collect()
}

/// What it does when no response exists.
fn undone_without_any(traces: &Traces) -> Vec<String> {
    undone(&swept(traces, &[], &[]))
}

fn nothing(found: &Leftovers) {
    assert_eq!(*found, Leftovers::default());
}

/// A stored response of this UID, with these conditions, that isolates the pod.
fn stored(uid: &str, conditions: &[(&str, &str)]) -> DynamicObject {
    let conditions: Vec<Value> = conditions
        .iter()
        .map(|(type_, status)| {
            json!({ "type": type_, "status": status, "reason": type_, "message": "", "lastTransitionTime": fixtures::noon() })
        })
        .collect();
    object(json!({
        "apiVersion": "tourniquet.dev/v1alpha1", "kind": "IncidentResponse",
        "metadata": { "namespace": "incident-response", "name": "r", "uid": uid },
        "spec": { "target": { "pod": { "namespace": NAMESPACE, "name": POD } }, "actions": [{ "isolate": {} }] },
        "status": {
            "conditions": conditions,
            "targets": [{ "kind": "Pod", "namespace": NAMESPACE, "name": POD, "uid": POD_UID }],
        },
    }))
}

fn holding(uid: &str) -> Standing {
    Standing::of(&stored(uid, &[("Accepted", "True")]))
}

fn reverted(uid: &str) -> Standing {
    Standing::of(&stored(uid, &[("Accepted", "True"), ("Reverted", "True")]))
}

/// Everything that a response leaves when its finalizer is taken off.
fn everything(uid: &str) -> Traces {
    Traces {
        policies: vec![
            (Kind::NetworkPolicy, policy(&names::policy(uid), uid)),
            (Kind::CiliumClusterwideNetworkPolicy, ObjectMeta { namespace: None, ..policy(&names::policy(uid), uid) }),
        ],
        marked: vec![(Kind::Pod, marked_pod(uid))],
        containments: vec![containment(&[uid], "Cut")],
        nodes: [NODE.to_owned()].into(),
        orphans: Vec::new(),
    }
}

fn cut(holders: &[&str], state: &str) -> Traces {
    Traces {
        marked: vec![(Kind::Pod, bare_pod())],
        containments: vec![containment(holders, state)],
        nodes: [NODE.to_owned()].into(),
        ..Traces::default()
    }
}

fn orphaned(node: &str) -> Traces {
    let pod: Pod = fixtures::pod();
    let orphan = Orphan { node: node.to_owned(), pod_uid: POD_UID.to_owned(), pod: Some(Box::new(pod)) };
    Traces { orphans: vec![orphan], ..Traces::default() }
}

#[test]
fn policies_go_first_then_labels_and_the_holder_only_when_they_are_gone() {
    let found = swept(&everything(RESPONSE_UID), &[], &[]);
    let name = names::policy(RESPONSE_UID);
    assert_eq!(
        undone(&found),
        [
            format!("Delete CiliumClusterwideNetworkPolicy {name}"),
            format!("Delete NetworkPolicy {NAMESPACE}/{name}"),
            format!("Withdraw Pod {NAMESPACE}/{POD}"),
        ]
    );
    assert!(found.unfinished, "the cut is still there");

    let rest = swept(&cut(&[RESPONSE_UID], "Cut"), &[], &[]);
    assert_eq!(undone(&rest), [format!("Withdraw Containment {AGENTS}/{POD_UID}")]);
}

#[test]
fn every_effect_is_on_the_very_object_that_was_seen() {
    for traces in [everything(RESPONSE_UID), cut(&[RESPONSE_UID], "Cut"), cut(&[], "Lifted")] {
        for remnant in swept(&traces, &[], &[]).undo {
            assert!(remnant.effect.object().uid.is_some(), "{remnant:?}");
        }
    }
}

#[test]
fn what_is_told_names_the_response_as_far_as_it_is_known() {
    for remnant in swept(&everything(RESPONSE_UID), &[], &[]).undo {
        assert!(remnant.what.contains(RESPONSE_UID), "{remnant:?}");
        assert!(remnant.what.contains("does not exist any more"), "{remnant:?}");
        let named = remnant.what.contains("incident-response/r");
        assert_eq!(named, remnant.effect.object().kind != Kind::Pod, "{remnant:?}");
        assert_eq!(remnant.told_on.as_ref(), Some(remnant.effect.object()), "{remnant:?}");
    }
    let held = swept(&cut(&[RESPONSE_UID], "Cut"), &[], &[]).undo.remove(0);
    assert_eq!(held.told_on.unwrap().kind, Kind::Pod, "nobody looks at a Containment");
}

#[test]
fn a_living_response_keeps_everything() {
    for traces in [everything(RESPONSE_UID), cut(&[RESPONSE_UID], "Cut"), cut(&[], "Lifted"), orphaned(NODE)] {
        nothing(&swept(&traces, &[holding(RESPONSE_UID)], &[holding(RESPONSE_UID)]));
    }
}

#[test]
fn a_response_that_was_created_while_we_looked_keeps_everything() {
    for traces in [everything(RESPONSE_UID), cut(&[RESPONSE_UID], "Cut"), cut(&[], "Lifted"), orphaned(NODE)] {
        nothing(&swept(&traces, &[], &[holding(RESPONSE_UID)]));
    }
}

#[test]
fn a_response_that_the_watch_has_keeps_what_carries_its_uid_whatever_a_list_says() {
    nothing(&swept(&everything(RESPONSE_UID), &[], &[Standing::watched(RESPONSE_UID)]));
}

#[test]
fn a_response_that_went_while_we_looked_is_looked_at_again() {
    for traces in [everything(RESPONSE_UID), cut(&[RESPONSE_UID], "Cut")] {
        let found = swept(&traces, &[holding(RESPONSE_UID)], &[]);
        assert_eq!(undone(&found), [""; 0]);
        assert!(found.unfinished);
    }
}

#[test]
fn a_response_in_any_state_lives_also_one_that_cannot_be_read() {
    let states: [&[(&str, &str)]; 3] = [&[], &[("Accepted", "False")], &[("Accepted", "True"), ("Reverted", "False")]];
    let mut all: Vec<DynamicObject> = states.iter().map(|conditions| stored(RESPONSE_UID, conditions)).collect();
    let mut unreadable = stored(RESPONSE_UID, &[]);
    unreadable.data = json!({ "spec": "all of them", "status": 7 });
    all.push(unreadable);
    for response in all {
        let lives = [Standing::of(&response)];
        nothing(&swept(&everything(RESPONSE_UID), &lives, &lives));
    }
}

#[test]
fn the_targets_of_a_response_that_cannot_be_read_are_its_matter() {
    let mut unreadable = stored(OTHER_UID, &[("Accepted", "True")]);
    unreadable.data["spec"] = json!({ "actions": "all of them" });
    let lives = [Standing::of(&unreadable)];
    for traces in [cut(&[], "Lifted"), orphaned(NODE)] {
        nothing(&swept(&traces, &lives, &lives));
    }
}

#[test]
fn what_comes_after_a_response_was_undone_is_a_leftover() {
    let undone_before = [reverted(RESPONSE_UID)];
    let found = swept(&everything(RESPONSE_UID), &undone_before, &undone_before);
    assert_eq!(undone(&found), undone_without_any(&everything(RESPONSE_UID)));
    assert!(found.undo[0].what.contains("incident-response/r"), "{found:?}");
    assert!(found.undo[0].what.contains("which was undone before"), "{found:?}");
}

#[test]
fn what_was_listed_before_a_response_was_undone_is_none() {
    nothing(&swept(&everything(RESPONSE_UID), &[holding(RESPONSE_UID)], &[reverted(RESPONSE_UID)]));
}

#[test]
fn one_that_is_gone_takes_nothing_from_one_that_lives() {
    let lives = [Standing::of(&stored(OTHER_UID, &[("Accepted", "True"), ("Contained", "True")]))];
    let mut both = cut(&[RESPONSE_UID, OTHER_UID], "Cut");
    both.marked = vec![(Kind::Pod, marked_pod(RESPONSE_UID)), (Kind::Pod, marked_pod(OTHER_UID))];
    let found = swept(&both, &lives, &lives);
    assert_eq!(found.undo.len(), 1, "{found:?}");
    let manager = names::field_manager(RESPONSE_UID);
    assert!(matches!(&found.undo[0].effect, Effect::Withdraw { manager: of, .. } if *of == manager), "{found:?}");

    both.marked = vec![(Kind::Pod, marked_pod(OTHER_UID))];
    let found = swept(&both, &lives, &lives);
    assert_eq!(found.undo.len(), 1, "{found:?}");
    assert!(matches!(&found.undo[0].effect, Effect::Withdraw { manager: of, .. } if *of == manager), "{found:?}");
}

#[test]
fn what_still_holds_a_pod_stays_until_a_living_response_is_seen_to_hold_it_or_not_to() {
    let mut both = everything(RESPONSE_UID);
    both.containments = vec![containment(&[RESPONSE_UID], "Cut")];
    let young = stored(OTHER_UID, &[]);
    for not_yet in [&[("Accepted", "True"), ("Contained", "False")][..], &[("Accepted", "True")], &[]] {
        let lives = [Standing::of(&stored(OTHER_UID, not_yet))];
        let found = swept(&both, &lives, &lives);
        assert_eq!(undone(&found), [""; 0], "{not_yet:?}");
        assert!(found.unfinished, "{not_yet:?}");
    }
    let mut elsewhere = young;
    elsewhere.data["spec"]["target"]["pod"]["name"] = json!("another");
    let settled = [
        stored(OTHER_UID, &[("Accepted", "True"), ("Contained", "True")]),
        stored(OTHER_UID, &[("Accepted", "True"), ("Stalled", "True")]),
        stored(OTHER_UID, &[("Accepted", "True"), ("Reverted", "False")]),
        stored(OTHER_UID, &[("Accepted", "False")]),
        elsewhere,
    ];
    for response in settled {
        let lives = [Standing::of(&response)];
        assert_eq!(swept(&both, &lives, &lives).undo.len(), 3, "{response:?}");
    }
}

#[test]
fn a_policy_of_another_name_that_carries_our_label_is_somebody_elses() {
    let traces = Traces { policies: vec![(Kind::NetworkPolicy, policy("theirs", RESPONSE_UID))], ..Traces::default() };
    let found = swept(&traces, &[], &[]);
    assert_eq!(undone(&found), [""; 0]);
    assert!(found.left[0].contains("shop/theirs") && found.left[0].contains("has to remove it"), "{found:?}");
    assert!(!found.unfinished, "there is nothing to wait for");
}

#[test]
fn a_label_that_somebody_else_wrote_is_left_and_said() {
    let mut pod = marked_pod(RESPONSE_UID);
    pod.managed_fields = object(json!([applied("kubectl")]));
    let traces = Traces { marked: vec![(Kind::Pod, pod)], ..Traces::default() };
    let found = swept(&traces, &[], &[]);
    assert_eq!(undone(&found), [""; 0]);
    assert!(found.left[0].contains(&names::isolation_label(RESPONSE_UID)), "{found:?}");
    assert!(!found.unfinished, "there is nothing to wait for");
}

#[test]
fn fields_without_a_label_are_found_by_their_manager() {
    let mut pod = marked_pod(RESPONSE_UID);
    pod.labels = None;
    assert!(carries_trace(&pod));
    let traces = Traces { marked: vec![(Kind::Pod, pod)], ..Traces::default() };
    assert_eq!(undone_without_any(&traces), [format!("Withdraw Pod {NAMESPACE}/{POD}")]);
}

#[test]
fn the_managers_of_other_programs_of_ours_are_no_responses() {
    for manager in
        ["tourniquet", "tourniquet-agent", "tourniquet-install", "tourniquet-4711AAAA-0000-4000-8000-000000000001"]
    {
        let mut pod = bare_pod();
        pod.managed_fields = object(json!([applied(manager)]));
        assert!(!carries_trace(&pod), "{manager}");
    }
    assert!(!carries_trace(&bare_pod()));
}

#[test]
fn a_policy_that_somebody_keeps_is_said_and_keeps_its_cut() {
    let mut traces = everything(RESPONSE_UID);
    traces.marked.clear();
    traces.policies.truncate(1);
    let metadata = &mut traces.policies[0].1;
    metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(fixtures::noon()));
    metadata.finalizers = Some(vec!["example.com/mine".to_owned()]);
    let found = swept(&traces, &[], &[]);
    assert_eq!(undone(&found), [""; 0]);
    assert!(found.unfinished);
    assert!(found.left[0].contains("example.com/mine"), "{found:?}");
}

#[test]
fn a_cut_that_nobody_holds_is_deleted_only_when_the_agent_has_lifted_it() {
    let waits = swept(&cut(&[], "Cut"), &[], &[]);
    assert_eq!(undone(&waits), [""; 0]);
    assert!(waits.unfinished);
    assert!(waits.left[0].contains(NODE), "{waits:?}");

    let found = swept(&cut(&[], "Lifted"), &[], &[]);
    assert!(
        matches!(&found.undo[0].effect, Effect::Delete { version: Some(version), .. } if version == "7"),
        "not when somebody has joined since: {found:?}"
    );
    assert_eq!(found.undo[0].told_on.as_ref().unwrap().kind, Kind::Pod);
}

#[test]
fn what_the_agent_said_of_an_older_spec_is_no_answer() {
    let mut traces = cut(&[], "Lifted");
    traces.containments[0].metadata.generation = Some(4);
    let found = swept(&traces, &[], &[]);
    assert_eq!(undone(&found), [""; 0]);
    assert!(found.unfinished);
}

#[test]
fn with_the_pod_or_its_node_the_cut_is_gone() {
    let without_pod = Traces { marked: Vec::new(), ..cut(&[], "Cut") };
    let without_node = Traces { nodes: [].into(), ..cut(&[], "Cut") };
    for traces in [without_pod, without_node] {
        assert_eq!(undone_without_any(&traces), [format!("Delete Containment {AGENTS}/{POD_UID}")]);
    }
}

#[test]
fn a_holder_that_nobody_can_withdraw_goes_with_its_containment() {
    let mut traces = cut(&[RESPONSE_UID], "Cut");
    traces.containments[0].metadata.managed_fields = object(json!([applied("velero")]));
    let found = swept(&traces, &[], &[]);
    assert_eq!(undone(&found), [format!("Delete Containment {AGENTS}/{POD_UID}")]);
    assert!(found.unfinished, "the cut is an orphan then");
}

#[test]
fn the_agent_is_asked_to_lift_a_cut_that_nobody_asks_for() {
    let found = swept(&orphaned(NODE), &[], &[]);
    let [remnant] = found.undo.as_slice() else { panic!("{found:?}") };
    let Effect::Apply { object, manager, fields } = &remnant.effect else { panic!("{remnant:?}") };
    assert_eq!((object.name.as_str(), manager.as_str()), (POD_UID, names::OPERATOR_MANAGER));
    assert_eq!(fields["spec"]["pod"]["uid"], POD_UID);
    assert_eq!(fields["spec"]["nodeName"], NODE);
    assert!(fields["spec"].get("holders").is_none(), "{fields}");
    assert!(found.unfinished, "it is deleted when it is lifted");
}

#[test]
fn an_orphan_waits_until_the_labels_are_off_its_pod() {
    let traces = Traces { marked: vec![(Kind::Pod, marked_pod(RESPONSE_UID))], ..orphaned(NODE) };
    assert_eq!(undone_without_any(&traces), [format!("Withdraw Pod {NAMESPACE}/{POD}")]);
    assert!(swept(&traces, &[], &[]).unfinished);
}

#[test]
fn an_orphan_with_a_containment_is_being_lifted() {
    let traces = Traces { orphans: orphaned(NODE).orphans, ..cut(&[], "Cut") };
    assert_eq!(undone_without_any(&traces), [""; 0]);
}

#[test]
fn a_lifted_cut_keeps_its_containment_until_the_agent_no_longer_reports_it_as_an_orphan() {
    let mut traces = Traces { orphans: orphaned(NODE).orphans, ..cut(&[], "Lifted") };
    let found = swept(&traces, &[], &[]);
    assert_eq!(undone(&found), [""; 0]);
    assert!(found.unfinished);
    // What the agent of a node that is gone reported is never taken back.
    traces.nodes.clear();
    assert_eq!(undone_without_any(&traces), [format!("Delete Containment {AGENTS}/{POD_UID}")]);
}

#[test]
fn an_agent_speaks_for_the_pods_of_its_own_node_only() {
    let found = swept(&orphaned("another-node"), &[], &[]);
    assert_eq!(undone(&found), [""; 0]);
    assert!(found.left[0].contains("does not run there"), "{found:?}");
}

#[test]
fn a_cut_of_a_pod_that_the_api_does_not_have_is_said() {
    let mut traces = orphaned(NODE);
    traces.orphans[0].pod = None;
    let found = swept(&traces, &[], &[]);
    assert_eq!(undone(&found), [""; 0]);
    assert!(found.left[0].contains(POD_UID), "{found:?}");
}

#[test]
fn without_agents_no_cut_is_asked_for() {
    nothing(&leftovers(&orphaned(NODE), &[], &[], None));
}

#[test]
fn nothing_is_left_of_nothing() {
    nothing(&swept(&Traces::default(), &[], &[]));
    nothing(&swept(&Traces::default(), &[holding(RESPONSE_UID)], &[]));
}

#[test]
fn only_a_response_that_vanished_in_force_is_a_cause_to_look() {
    let vanished = |conditions: &[(&str, &str)]| vanished_in_force(&object(json!(stored(RESPONSE_UID, conditions))));
    assert!(vanished(&[("Accepted", "True")]));
    assert!(vanished(&[("Accepted", "True"), ("Reverted", "False")]));
    assert!(!vanished(&[("Accepted", "True"), ("Reverted", "True")]));
    assert!(!vanished(&[("Accepted", "False")]));
    assert!(!vanished(&[]));
}

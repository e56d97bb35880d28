//! Isolation where there are agents: the cut is asked for first, claimed when it was read back, and given up last.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests: a panic is a failed test")]

mod fixtures;

use fixtures::scene::{Scene, a_pod_that_answers, result};
use fixtures::{NODE, OTHER_UID, POD_UID, RESPONSE_UID, object, says, seconds};
use serde_json::json;
use tourniquet_api::{Answer, Containment, ContainmentState, ContainmentStatus, Outcome, names};
use tourniquet_response::{Effect, Kind};

const AGENTS: &str = "tourniquet-agent";

fn with_agents() -> Scene {
    let mut scene = a_pod_that_answers();
    scene.settings.agent_namespace = Some(AGENTS.to_owned());
    scene.node = Some(object(json!({ "metadata": { "name": NODE } })));
    scene
}

/// A Containment that these responses hold, as its agent reports it.
fn containment(holders: &[&str], state: ContainmentState) -> Containment {
    let holders: serde_json::Map<String, serde_json::Value> =
        holders.iter().map(|uid| ((*uid).to_owned(), json!({}))).collect();
    let mut containment: Containment = object(json!({
        "apiVersion": "internal.tourniquet.dev/v1alpha1", "kind": "Containment",
        "metadata": { "name": POD_UID, "namespace": AGENTS, "uid": "containment", "resourceVersion": "7" },
        "spec": { "pod": { "namespace": "shop", "name": "web", "uid": POD_UID }, "nodeName": NODE, "holders": holders },
    }));
    containment.status = Some(ContainmentStatus { state, ..ContainmentStatus::default() });
    containment
}

/// A response whose effects are in place, and whose cut is in force.
fn cut() -> Scene {
    let mut scene = with_agents().act();
    scene.containment = Some(containment(&[RESPONSE_UID], ContainmentState::Cut));
    scene.act()
}

fn steps(scene: &Scene) -> Vec<String> {
    let steps = scene.look().steps;
    steps.iter().map(|step| format!("{} {}", step.effect.verb(), step.effect.object().kind.as_str())).collect()
}

#[test]
fn the_cut_is_asked_for_first_and_the_label_not_yet() {
    assert_eq!(steps(&with_agents()), ["Apply Containment", "Apply Containment", "Put NetworkPolicy"]);
    let pass = with_agents().look();
    let Effect::Apply { object, manager, fields } = &pass.steps[0].effect else { panic!("{:?}", pass.steps) };
    assert_eq!((object.kind, object.name.as_str()), (Kind::Containment, POD_UID));
    assert_eq!(manager, names::OPERATOR_MANAGER, "what it is about is one manager's");
    assert_eq!(fields["spec"]["pod"]["uid"], POD_UID);
    let Effect::Apply { manager, fields, .. } = &pass.steps[1].effect else { panic!("{:?}", pass.steps) };
    assert_eq!(*manager, names::field_manager(RESPONSE_UID), "each response's entry is its own");
    assert!(fields["spec"]["holders"][RESPONSE_UID].is_object());
}

#[test]
fn a_second_response_joins() {
    let mut scene = with_agents();
    scene.containment = Some(containment(&[OTHER_UID], ContainmentState::Cut));
    assert_eq!(steps(&scene), ["Apply Containment", "Put NetworkPolicy"], "it is there already");
}

#[test]
fn the_ports_of_all_probes_are_let_through() {
    let scene = with_agents().with_pod(|pod| {
        let container = &mut pod.spec.as_mut().unwrap().containers[0];
        container.ports = object(json!([{ "name": "health", "containerPort": 9000 }]));
        container.liveness_probe = object(json!({ "httpGet": { "port": "health" } }));
        container.readiness_probe = object(json!({ "tcpSocket": { "port": 8080 } }));
        container.startup_probe = object(json!({ "grpc": { "port": 7000 } }));
    });
    let Effect::Apply { fields, .. } = &scene.look().steps[0].effect else { panic!("no apply") };
    assert_eq!(fields["spec"]["probePorts"], json!([7000, 8080, 9000]));
}

#[test]
fn a_cut_that_was_read_back_is_done() {
    let pass = cut().look();
    assert_eq!(says(&pass.status, "Contained"), "True/Cut");
    assert_eq!(says(&pass.status, "Ready"), "True/Cut");
    assert_eq!(format!("{:?}", result(&pass).assurance.unwrap()), "KernelVerified");
}

#[test]
fn and_probed_when_what_answered_is_silent() {
    let mut scene = cut();
    scene.reach = Some(Answer::TimedOut);
    assert_eq!(format!("{:?}", result(&scene.look()).assurance.unwrap()), "Probed");
}

#[test]
fn an_answer_from_before_the_cut_is_no_contradiction_and_one_from_long_after_is() {
    let mut scene = cut();
    scene.reach = Some(Answer::Answered);
    assert_eq!(says(&scene.look().status, "Contained"), "True/Cut");
    assert_eq!(says(&scene.later(seconds(5)).look().status, "Contained"), "False/NotInForce");
}

#[test]
fn the_label_is_put_on_when_the_cut_has_held_for_a_minute() {
    let scene = cut();
    assert_eq!(steps(&scene), Vec::<String>::new());
    assert!(scene.look().again_after.unwrap() <= seconds(60));
    let scene = scene.later(seconds(60));
    assert_eq!(steps(&scene), ["Apply Pod"]);
}

#[test]
fn a_pod_that_is_not_labelled_yet_is_looked_at_every_few_seconds() {
    let scene = cut();
    assert_eq!(scene.look().again_after, Some(seconds(5)), "nobody watches it");
    assert_eq!(scene.later(seconds(58)).look().again_after, Some(seconds(2)), "the label is due");
}

#[test]
fn an_agent_that_does_not_answer_is_not_waited_for() {
    let mut scene = with_agents().act();
    scene.containment = Some(containment(&[RESPONSE_UID], ContainmentState::Pending));
    let scene = scene.act();
    assert_eq!(steps(&scene), Vec::<String>::new());
    assert_eq!(says(&scene.look().status, "Contained").split('/').next(), Some("Unknown"));
    assert!(scene.look().again_after.unwrap() <= seconds(5));
    assert_eq!(steps(&scene.later(seconds(5))), ["Apply Pod"], "the policies take over");
}

#[test]
fn a_cut_that_failed_is_said_and_the_policies_are_what_counts() {
    let mut scene = with_agents().act();
    let mut failed = containment(&[RESPONSE_UID], ContainmentState::Failed);
    failed.status.as_mut().unwrap().message = Some("the kernel has no nf_tables".to_owned());
    scene.containment = Some(failed);
    let pass = scene.act().look();
    assert!(result(&pass).message.as_deref().unwrap().contains("the kernel has no nf_tables"));
    assert_ne!(says(&pass.status, "Contained"), "True/Cut");
}

#[test]
fn undo_takes_the_policies_first_and_the_cut_last() {
    let mut scene = cut().deleted();
    assert_eq!(steps(&scene), ["Delete NetworkPolicy"]);
    scene.policies.clear();
    assert_eq!(steps(&scene), ["Withdraw Containment"]);

    scene.containment = Some(containment(&[], ContainmentState::Cut));
    let pass = scene.look();
    assert!(pass.steps.is_empty() && pass.finalizer, "it waits for the agent");
    assert_eq!(says(&pass.status, "Reverted"), "False/UndoBlocked");

    scene.containment = Some(containment(&[], ContainmentState::Lifted));
    let pass = scene.look();
    let [step] = pass.steps.as_slice() else { panic!("{:?}", pass.steps) };
    let Effect::Delete { object, version } = &step.effect else { panic!("{step:?}") };
    assert_eq!((object.kind, version.as_deref()), (Kind::Containment, Some("7")), "not if somebody has joined since");

    scene.containment = None;
    assert_eq!(says(&scene.look().status, "Reverted"), "True/Released");
}

#[test]
fn a_containment_that_others_hold_is_left_to_them() {
    let mut scene = cut().deleted();
    scene.policies.clear();
    scene.containment = Some(containment(&[OTHER_UID], ContainmentState::Cut));
    assert_eq!(says(&scene.look().status, "Reverted"), "True/Released");
}

#[test]
fn a_node_that_is_gone_for_good_does_not_block_the_release() {
    let mut scene = cut().deleted();
    scene.policies.clear();
    scene.pod = None;
    scene.node = None;
    scene.containment = Some(containment(&[], ContainmentState::Cut));
    assert_eq!(steps(&scene), ["Delete Containment"]);
}

#[test]
fn a_response_that_holds_by_the_cut_lets_another_one_go_at_once() {
    let mut scene = cut().held_by_another().deleted().with_pod(|pod| {
        pod.metadata.labels.as_mut().unwrap().remove(&names::isolation_label(OTHER_UID));
    });
    scene.containment = Some(containment(&[RESPONSE_UID, OTHER_UID], ContainmentState::Cut));
    assert_eq!(steps(&scene), ["Delete NetworkPolicy"], "the other one holds");
    scene.containment = Some(containment(&[RESPONSE_UID], ContainmentState::Cut));
    assert_eq!(steps(&scene), Vec::<String>::new());
    assert_eq!(says(&scene.look().status, "Reverted"), "False/WaitingForHolder");
}

#[test]
fn what_the_cut_held_does_not_stand_when_the_cut_failed_and_the_operator_has_just_started() {
    let mut scene = cut();
    scene.reach = None;
    scene.containment = Some(containment(&[RESPONSE_UID], ContainmentState::Failed));
    assert_ne!(says(&scene.look().status, "Contained").split('/').next(), Some("True"));
}

/// As when the pod has an AF_XDP socket: it is silent by the rest of the cut, and sends.
#[test]
fn silence_that_a_cut_which_failed_may_explain_is_not_taken_for_the_policies() {
    let mut scene = cut();
    scene.reach = Some(Answer::TimedOut);
    scene.containment = Some(containment(&[RESPONSE_UID], ContainmentState::Failed));
    let pass = scene.later(seconds(10)).act().look();
    assert_eq!(says(&pass.status, "Contained"), "Unknown/NotObserved");
    assert_eq!(result(&pass).outcome, Outcome::Partial);
}

#[test]
fn a_cut_that_is_being_lifted_is_not_joined_before_the_agent_says_so() {
    let mut scene = with_agents();
    scene.containment = Some(containment(&[], ContainmentState::Cut));
    assert_eq!(steps(&scene), ["Put NetworkPolicy"], "its answer is about those who have left");
    scene.containment = Some(containment(&[], ContainmentState::Lifted));
    assert_eq!(steps(&scene), ["Apply Containment", "Put NetworkPolicy"]);
    let Effect::Apply { fields, .. } = &scene.look().steps[0].effect else { panic!("no apply") };
    assert_eq!(fields["metadata"]["resourceVersion"], "7", "not when the last holder has left since");
}

#[test]
fn silence_under_a_cut_that_is_being_lifted_proves_nothing() {
    let mut scene = with_agents().act();
    scene.containment = Some(containment(&[], ContainmentState::Cut));
    let mut scene = scene.act().later(seconds(10)).act();
    scene.reach = Some(Answer::TimedOut);
    assert_ne!(says(&scene.look().status, "Contained").split('/').next(), Some("True"));
}

#[test]
fn a_policy_that_was_never_seen_to_hold_does_not_stand_in_for_a_cut() {
    let mut scene = cut().held_by_another().deleted();
    // The other one's entry was taken out of the holders, and its policies are in place.
    scene.containment = Some(containment(&[RESPONSE_UID], ContainmentState::Cut));
    scene.clusterwide.clear();
    assert_eq!(steps(&scene), Vec::<String>::new());
    assert_eq!(says(&scene.look().status, "Reverted"), "False/WaitingForHolder");
}

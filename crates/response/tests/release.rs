//! Letting go: when it waits, what is said meanwhile and after, and what ends by itself.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests: a panic is a failed test")]

mod fixtures;
mod simulation;

use fixtures::scene::{Scene, a_pod_that_cilium_serves, endpoint};
use fixtures::{OTHER_UID, POD, RESPONSE_UID, noon, response, says, seconds};
use serde_json::json;
use simulation::Sim;
use simulation::asked::{Asked, Asking, Asks, Of};
use simulation::network::Engine;
use simulation::objects::Thing;
use simulation::operator::Operator;
use simulation::outsiders::Tampering;
use tourniquet_api::{Answer, Duration, Outcome, names};
use tourniquet_response::{Effect, Failure, Phase, mark_unreadable, peer, report_failures};

/// A response that is in force on Cilium, and reported so.
fn in_force() -> Scene {
    let mut scene = a_pod_that_cilium_serves().act();
    scene.endpoint = Some(endpoint(&[RESPONSE_UID]));
    scene.act()
}

/// The effects of undo, in order.
fn undone(scene: &Scene) -> Vec<&'static str> {
    scene.look().steps.iter().map(|step| step.effect.verb()).collect()
}

fn contained(sim: &Sim, name: &str) -> String {
    says(&sim.status(name), "Contained")
}

#[test]
fn undo_takes_the_policies_first_and_the_labels_last() {
    let scene = in_force().deleted();
    let pass = scene.look();
    assert_eq!((pass.phase, pass.finalizer), (Phase::Releasing, true));
    assert_eq!(undone(&scene), ["Delete", "Delete", "Withdraw"]);
    let deny = pass.steps[0].effect.object().clone();
    assert_eq!(deny.uid.as_deref(), Some("our-policy"), "deleted by its UID, not by its name");
}

#[test]
fn nothing_is_claimed_any_more_before_the_first_effect_of_undo() {
    assert_eq!(says(&in_force().look().status, "Contained"), "True/DenyTier");
    let status = in_force().deleted().look().status;
    assert_eq!(says(&status, "Contained"), "False/Releasing");
    assert_eq!(says(&status, "Reverted"), "False/Releasing");
}

#[test]
fn it_waits_for_a_response_that_is_not_in_force_yet() {
    let mut scene = in_force().held_by_another().deleted();
    scene.peers[0].contains = false;
    let pass = scene.look();
    assert_eq!((pass.steps.len(), pass.finalizer), (0, true));
    assert_eq!(says(&pass.status, "Reverted"), "False/WaitingForHolder");
    assert_eq!(says(&pass.status, "Contained"), "True/WaitingForHolder", "it goes on holding");
    assert_eq!(pass.again_after, Some(seconds(2)));
}

#[test]
fn what_is_said_while_it_waits_follows_what_is_seen() {
    let mut scene = in_force().held_by_another().deleted();
    scene.reach = Some(Answer::Answered);
    assert_eq!(says(&scene.look().status, "Contained"), "False/WaitingForHolder");

    scene.reach = Some(Answer::TimedOut);
    scene.clusterwide.get_mut(&names::policy(RESPONSE_UID)).unwrap().spec["ingressDeny"] = json!([{}]);
    assert_eq!(says(&scene.look().status, "Contained"), "False/WaitingForHolder", "what denies was emptied");
}

#[test]
fn it_waits_also_while_its_own_endpoint_is_not_ready() {
    let mut scene = in_force().held_by_another().deleted();
    scene.endpoint.as_mut().unwrap().state = "waiting-for-identity".to_owned();
    assert_eq!(undone(&scene), Vec::<&str>::new());
}

#[test]
fn while_cilium_reports_nothing_of_a_pod_that_it_served_in_place_is_not_in_force() {
    let mut scene = in_force().held_by_another().deleted();
    scene.endpoint = None;
    assert_eq!(undone(&scene), Vec::<&str>::new());
}

#[test]
fn it_goes_when_the_other_is_in_force() {
    let mut scene = in_force().held_by_another().deleted();
    scene.endpoint = Some(endpoint(&[RESPONSE_UID, OTHER_UID]));
    assert_eq!(undone(&scene), ["Delete", "Delete", "Withdraw"]);

    // Also while a change of labels is under way: the present identity has the other's label.
    scene.endpoint.as_mut().unwrap().state = "waiting-for-identity".to_owned();
    assert_eq!(undone(&scene), ["Delete", "Delete", "Withdraw"]);

    scene.peers[0].contains = false;
    assert_eq!(undone(&scene), Vec::<&str>::new(), "what was never seen in force is not, before the endpoint is ready");
}

#[test]
fn nobody_waits_for_what_has_ended_or_is_about_another_pod() {
    let mut ended = in_force().held_by_another().deleted();
    ended.peers[0].live = false;
    assert_eq!(undone(&ended).len(), 3);

    let mut elsewhere = in_force().held_by_another().deleted();
    elsewhere.peers[0].isolates[0].2 = Some("another pod of the name".to_owned());
    assert_eq!(undone(&elsewhere).len(), 3);
}

#[test]
fn a_response_that_was_never_in_force_does_not_wait() {
    let scene = a_pod_that_cilium_serves().act().held_by_another().deleted();
    assert_eq!(undone(&scene), ["Delete", "Delete", "Withdraw"]);
}

#[test]
fn a_release_waits_for_no_response_whose_isolation_is_skipped() {
    let mut sim = Sim::new(Engine::Cilium);
    let mut operator = Operator::default();
    sim.create_response("ir-1", None);
    let somebodys = Asking::Label { labels: vec![(1, 0)], overwrite: false };
    let actions = vec![Asks { verb: somebodys, stop: true }, Asks { verb: Asking::Isolate, stop: false }];
    sim.create_asked("ir-2", &Asked { of: Of::One(Thing::Pod(POD)), actions }, None, false);
    operator.settle(&mut sim);
    assert_eq!(contained(&sim, "ir-1"), "True/DenyTier");
    assert_eq!(contained(&sim, "ir-2"), "False/ActionFailed", "nobody may take silence for an answer");

    sim.delete_response("ir-1");
    operator.settle(&mut sim);
    assert!(!sim.responses.contains_key("ir-1"), "it is undone: {:?}", sim.status("ir-1").conditions);
    assert!(sim.path(POD).open());
}

#[test]
fn two_responses_that_end_together_do_not_wait_for_each_other() {
    let mut sim = Sim::new(Engine::Cilium);
    let mut operator = Operator::default();
    for name in ["ir-1", "ir-2"] {
        sim.create_response(name, None);
    }
    operator.settle(&mut sim);
    for name in ["ir-1", "ir-2"] {
        sim.delete_response(name);
    }
    operator.settle(&mut sim);
    assert!(sim.responses.is_empty());
    assert!(sim.path(POD).open());
}

#[test]
fn a_released_response_names_the_one_that_goes_on_holding() {
    for engine in [Engine::Cilium, Engine::Additive] {
        let mut sim = Sim::new(engine);
        let mut operator = Operator::default();
        for name in ["ir-1", "ir-2"] {
            sim.create_response(name, None);
            operator.settle(&mut sim);
        }
        sim.release_response("ir-1");
        operator.settle(&mut sim);

        assert_eq!(contained(&sim, "ir-1"), "False/HeldByOther", "{engine:?}");
        assert_eq!(says(&sim.status("ir-1"), "Reverted"), "True/Released");
        assert!(!sim.path(POD).open());
    }
}

#[test]
fn the_last_one_released_lets_the_pod_go_and_keeps_its_record() {
    let mut sim = Sim::new(Engine::Cilium);
    let mut operator = Operator::default();
    sim.create_response("ir-1", None);
    operator.settle(&mut sim);
    assert_eq!(contained(&sim, "ir-1"), "True/DenyTier");
    assert!(!sim.path(POD).open());

    sim.release_response("ir-1");
    operator.settle(&mut sim);
    assert_eq!(contained(&sim, "ir-1"), "False/Released");
    assert_eq!(says(&sim.status("ir-1"), "Ready"), "True/Released");
    assert_eq!(sim.status("ir-1").actions[0].outcome, Outcome::Undone);
    assert_eq!(sim.traces(), Vec::<String>::new());
    assert!(sim.path(POD).open());

    sim.delete_response("ir-1");
    assert!(sim.responses.is_empty(), "no finalizer is left to wait for");
}

#[test]
fn an_expired_response_releases_itself() {
    let mut sim = Sim::new(Engine::Cilium);
    let mut operator = Operator::default();
    sim.create_response("ir-1", Some(1));
    operator.work_on(&mut sim, "ir-1");
    assert_eq!(sim.decide(&sim.responses["ir-1"]).again_after, Some(seconds(1)), "it looks again when it expires");

    operator.settle(&mut sim);
    assert_eq!(says(&sim.status("ir-1"), "Reverted"), "True/Expired");
    assert_eq!(sim.traces(), Vec::<String>::new());
}

#[test]
fn a_response_that_is_extended_in_time_goes_on() {
    let scene = in_force().with_spec(|spec| spec.expire_after = Some(Duration::from_secs(60)));
    let scene = scene.later(seconds(59)).with_spec(|spec| spec.expire_after = Some(Duration::from_secs(3600)));
    let pass = scene.later(seconds(2)).look();
    assert_eq!(pass.phase, Phase::Holding);
    assert_eq!(pass.status.expires_at.map(|at| at.0), Some(noon() + seconds(3600)));
}

#[test]
fn a_response_that_is_shortened_to_what_has_passed_is_released_at_once() {
    let scene = in_force().later(seconds(600)).with_spec(|spec| spec.expire_after = Some(Duration::from_secs(60)));
    assert_eq!(scene.look().phase, Phase::Releasing);
}

#[test]
fn an_extension_comes_too_late_when_the_undo_has_begun() {
    let extended = |scene: Scene| scene.with_spec(|spec| spec.expire_after = Some(Duration::from_secs(3600)));
    let at = Some(noon() + seconds(60));
    let expired = in_force().with_spec(|spec| spec.expire_after = Some(Duration::from_secs(60))).later(seconds(61));
    let mut begun = expired;
    begun.response.status = Some(begun.look().status);
    let scene = extended(begun);
    assert_eq!((scene.look().phase, scene.look().steps.is_empty()), (Phase::Releasing, false));
    let mut undone = Scene { now: scene.now, response: scene.response, ..a_pod_that_cilium_serves() };
    assert_eq!(says(&undone.look().status, "Reverted"), "True/Expired", "it ends as it began");
    undone.response.status = Some(undone.look().status);
    let pass = undone.later(seconds(600)).look();
    assert_eq!((pass.phase, pass.steps.len()), (Phase::Released, 0));
    assert_eq!(pass.status.expires_at.map(|at| at.0), at, "the record says when it ended");
}

#[test]
fn what_was_tampered_with_is_put_back() {
    use Tampering::*;
    for how in [
        DeletesNetworkPolicy,
        AllowsInNetworkPolicy,
        NarrowsNetworkPolicy,
        DeletesDenyPolicy,
        EmptiesDenyPolicy,
        NarrowsDenyPolicy,
        RemovesIsolationLabel,
        RemovesContainedLabel,
    ] {
        for engine in [Engine::Cilium, Engine::Additive] {
            let mut sim = Sim::new(engine);
            let mut operator = Operator::default();
            sim.create_response("ir-1", None);
            operator.settle(&mut sim);
            let policies = sim.policies.network.len() + sim.policies.clusterwide.len();

            sim.tampered(how, "ir-1");
            operator.settle(&mut sim);
            assert!(contained(&sim, "ir-1").starts_with("True/"), "{how:?}: {}", contained(&sim, "ir-1"));
            assert!(!sim.path(POD).open(), "{how:?}");
            assert_eq!(sim.policies.network.len() + sim.policies.clusterwide.len(), policies, "{how:?}");
        }
    }
}

#[test]
fn a_label_that_somebody_else_holds_is_not_taken_and_the_failure_is_reported() {
    let mut sim = Sim::new(Engine::Cilium);
    let mut operator = Operator::default();
    sim.create_response("ir-1", None);
    operator.settle(&mut sim);
    let uid = sim.responses["ir-1"].metadata.uid.clone().unwrap();

    sim.user_labels(Thing::Pod(POD), &names::isolation_label(&uid), "false");
    operator.work_on(&mut sim, "ir-1");
    assert_eq!(says(&sim.status("ir-1"), "Ready"), "False/EffectFailed");
    // What else is in place may hold it or not: nobody has looked.
    assert_eq!(contained(&sim, "ir-1"), "Unknown/EffectFailed");

    sim.delete_response("ir-1");
    operator.settle(&mut sim);
    assert!(sim.responses.is_empty(), "undo ends all the same");
    similar_asserts::assert_eq!(sim.pods, sim.untouched.pods);
}

#[test]
fn a_failed_undo_goes_on_with_the_rest_and_is_reported() {
    let scene = in_force().deleted();
    let pass = scene.look();
    let failure = Failure { action: Some("isolate".to_owned()), target: None, message: "cannot delete".to_owned() };
    let status = report_failures(&scene.response, &pass.status, true, &[failure.clone(), failure], noon());
    assert_eq!(says(&status, "Reverted"), "False/UndoFailed");
    assert_eq!(says(&status, "Stalled"), "True/UndoFailed");
    assert_eq!(says(&status, "Contained"), "False/Releasing");
    let message = &fixtures::condition(&status, "Ready").unwrap().message;
    assert_eq!(message, "cannot delete (and 1 more); they are tried again");
}

#[test]
fn a_failed_effect_is_reported_and_the_next_success_takes_it_back() {
    let mut sim = Sim::new(Engine::Cilium);
    let mut operator = Operator::default();
    sim.create_response("ir-1", None);
    sim.fail_next = true;
    operator.work_on(&mut sim, "ir-1");
    assert_eq!(says(&sim.status("ir-1"), "Stalled"), "True/EffectFailed");
    assert_eq!(sim.status("ir-1").actions[0].outcome, Outcome::Failed);
    assert!(!sim.traces().is_empty(), "what follows a failure is done all the same");

    operator.settle(&mut sim);
    assert_eq!(says(&sim.status("ir-1"), "Ready"), "True/DenyTier");
    assert_eq!(says(&sim.status("ir-1"), "Stalled"), "absent");
}

#[test]
fn a_pod_that_was_replaced_is_not_touched_by_undo() {
    let mut sim = Sim::new(Engine::Cilium);
    let mut operator = Operator::default();
    sim.create_response("ir-1", None);
    operator.settle(&mut sim);
    sim.is_replaced(Thing::Pod(POD));
    operator.settle(&mut sim);
    assert_eq!(contained(&sim, "ir-1"), "False/TargetGone");
    assert!(sim.path(POD).open(), "the new pod is another one");

    sim.delete_response("ir-1");
    let pass = sim.decide(&sim.responses["ir-1"]);
    assert!(pass.steps.iter().all(|step| matches!(step.effect, Effect::Delete { .. })), "{:?}", pass.steps);
    operator.settle(&mut sim);
    assert!(sim.responses.is_empty());
    assert_eq!(sim.traces(), Vec::<String>::new());
}

#[test]
fn others_need_not_wait_for_what_is_refused_expired_or_a_dry_run() {
    let live = |change: fn(&mut tourniquet_api::IncidentResponse)| {
        let mut response = response("other", OTHER_UID);
        change(&mut response);
        peer(&response, noon() + seconds(60)).live
    };
    assert!(live(|_| {}), "not accepted yet, it may become a holder");
    assert!(!live(|response| response.spec.dry_run = true));
    assert!(!live(|response| response.spec.release = Some(true)));
    assert!(!live(|response| response.spec.expire_after = Some(Duration::from_secs(60))));
    assert!(!live(|response| {
        response.status = Some(fixtures::object(mark_unreadable(&serde_json::Value::Null, "no", None, noon())));
    }));
}

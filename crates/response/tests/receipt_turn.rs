//! The receipt is made when nobody waits for the containment any more, and stays said.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests: a panic is a failed test")]

mod fixtures;

use fixtures::residuals::{said, says_nothing_of, says_of};
use fixtures::scene::{Scene, a_pod_that_answers};
use fixtures::{object, seconds, stored};
use serde_json::json;
use tourniquet_api::{Answer, Outcome};
use tourniquet_response::{Read, World, pass};

/// What is asked for before a decision, one list for each round of looks.
fn rounds(scene: &Scene) -> Vec<Vec<Read>> {
    let (mut world, mut rounds) = (World::new(scene.now), Vec::new());
    while let Err(unread) = pass(&scene.response, &world, &scene.settings) {
        world.observed.extend(unread.0.iter().map(|read| (read.clone(), scene.see(read))));
        rounds.push(unread.0.into_iter().collect());
    }
    rounds
}

fn is_for_the_receipt(read: &Read) -> bool {
    matches!(read, Read::ServiceAccount { .. } | Read::Grants { .. } | Read::Neighbours { .. } | Read::Services { .. })
}

fn is_asked_for(scene: &Scene) -> bool {
    rounds(scene).iter().flatten().any(is_for_the_receipt)
}

/// Stores what is reported, whatever it is.
fn reported(mut scene: Scene) -> Scene {
    scene.response.status = Some(stored(&scene.look().status));
    scene
}

#[test]
fn nothing_of_it_is_looked_at_at_first_and_then_all_of_it_once() {
    let mut scene = a_pod_that_answers().with_pod(|pod| {
        let spec = pod.spec.as_mut().unwrap();
        spec.host_pid = Some(true);
    });
    assert!(!is_asked_for(&scene), "the first look is the containment's");
    scene = scene.act();
    assert!(!is_asked_for(&scene), "the outcome is not known yet");
    scene = scene.later(seconds(2));
    let asked = rounds(&scene);
    let of_receipt = asked.iter().filter(|round| round.iter().any(is_for_the_receipt)).count();
    assert_eq!(of_receipt, 1, "in one round: {asked:?}");
    scene = reported(scene);
    let status = scene.response.status.clone().unwrap();
    assert_eq!(status.receipt_at.map(|at| at.0), Some(scene.now));
    assert!(!is_asked_for(&scene), "once");

    // And it stays said beside what is seen anew.
    let later = reported(scene.later(seconds(600)));
    says_of(&later, "HostPID", "High", &[]);
    assert!(said(&later.look(), "NodeCanStillReach").is_some(), "{:?}", later.look().status.residual);
    assert!(is_asked_for(&later.later(seconds(3600))), "after an hour it is made again");
}

#[test]
fn an_outcome_is_stored_before_it_is_looked_for() {
    let mut scene = a_pod_that_answers().act().later(seconds(1));
    scene.reach = Some(Answer::TimedOut);
    assert_eq!(scene.look().status.actions[0].outcome, Outcome::Done);
    assert!(!is_asked_for(&scene));
    assert!(scene.look().again_after.is_some_and(|after| after < seconds(1)), "and it is soon");
    assert!(is_asked_for(&reported(scene)));
}

#[test]
fn an_incomplete_one_is_made_again_sooner() {
    let mut scene = a_pod_that_answers().act().later(seconds(60));
    scene.around.services = Err("cannot list Services: forbidden".to_owned());
    scene = reported(scene);
    says_of(&scene, "ReceiptIncomplete", "Medium", &[]);
    assert!(!is_asked_for(&scene));
    scene = scene.later(seconds(300));
    scene.around.services = Ok(Vec::new());
    says_nothing_of(&scene, "ReceiptIncomplete");
}

#[test]
fn the_token_of_a_pod_that_is_gone_works_no_more_and_its_secrets_stay_known() {
    let token = json!([
        { "name": "t", "projected": { "sources": [{ "serviceAccountToken": { "path": "token" } }] } },
        { "name": "s", "secret": { "secretName": "key" } },
    ]);
    let scene = a_pod_that_answers().with_pod(|pod| pod.spec.as_mut().unwrap().volumes = Some(object(token)));
    let mut scene = reported(scene.act().later(seconds(60)));
    says_of(&scene, "TokenUsable", "Low", &[]);
    scene.pod = None;
    let gone = reported(scene.later(seconds(3600)));
    says_nothing_of(&gone, "TokenUsable");
    says_of(&gone, "SecretsMounted", "Medium", &["key"]);
}

#[test]
fn services_that_still_send_clients_are_named_in_the_message() {
    let mut scene = a_pod_that_answers().act().later(seconds(1));
    scene.reach = Some(Answer::TimedOut);
    scene.around.services = Ok(vec![object(json!({
        "metadata": { "namespace": "shop", "name": "front" }, "spec": { "selector": { "app": "web" } },
    }))]);
    let scene = reported(reported(scene));
    for type_ in ["Ready", "Contained"] {
        let status = scene.look().status;
        let message = &fixtures::condition(&status, type_).unwrap().message;
        assert!(message.contains("Service front of namespace shop sends clients to pod shop/web"), "{message}");
    }
}

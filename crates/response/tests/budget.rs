//! How much is carried out at once, and whether anything is: decided with the acceptance, and never asked of a release.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests: a panic is a failed test")]

mod fixtures;

use std::collections::BTreeSet;

use fixtures::scene::{Scene, a_pod_that_answers};
use fixtures::{NAMESPACE, OTHER_UID, RESPONSE_UID, condition, noon, object, pod, response, says, seconds};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;
use serde_json::json;
use tourniquet_response::{BlastRadius, Budget, PeerResponse, Phase, Recent, Settings, peer};

/// Pod `web-NUMBER`, one of ReplicaSet `web`.
fn web(number: usize) -> Pod {
    let mut pod = pod();
    pod.metadata.name = Some(format!("web-{number}"));
    pod.metadata.uid = Some(format!("uid-of-web-{number}"));
    pod.metadata.owner_references = Some(vec![object(json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "uid-of-web", "controller": true,
    }))]);
    pod
}

fn webs(count: usize) -> Vec<Pod> {
    (0..count).map(web).collect()
}

/// A response to one of some pods.
fn to(number: usize, of: usize) -> Scene {
    let scene = a_pod_that_answers().with_spec(|spec| spec.target.pod.as_mut().unwrap().name = format!("web-{number}"));
    Scene { pods: webs(of), pod: None, ..scene }
}

/// A response to all of some pods.
fn to_all(of: usize) -> Scene {
    let target =
        json!({ "pods": { "namespace": NAMESPACE, "selector": { "matchLabels": { "app": "web" } }, "limit": 50 } });
    let scene = a_pod_that_answers().with_spec(|spec| spec.target = object(target));
    Scene { pods: webs(of), pod: None, ..scene }
}

fn within(mut scene: Scene, budget: Budget) -> Scene {
    scene.settings.blast_radius.budget = budget;
    scene
}

fn contained_pods(limit: usize) -> Budget {
    Budget { contained_pods: Some(limit), ..Budget::default() }
}

fn workload_share(percent: usize) -> Budget {
    Budget { workload_share: Some(percent), ..Budget::default() }
}

/// Another response that isolates these pods.
fn holding(numbers: impl IntoIterator<Item = usize>) -> PeerResponse {
    let pods = numbers.into_iter().map(|number| (NAMESPACE.to_owned(), format!("web-{number}"), None));
    PeerResponse {
        uid: OTHER_UID.to_owned(),
        isolates: pods.collect(),
        live: true,
        decided: true,
        carried_out: true,
        created: Some(noon()),
        ..PeerResponse::default()
    }
}

fn beside(mut scene: Scene, peers: impl IntoIterator<Item = PeerResponse>) -> Scene {
    scene.peers.extend(peers);
    scene
}

fn accepted(scene: &Scene) -> String {
    says(&scene.look().status, "Accepted")
}

/// The message of a refusal for the budget.
fn exceeds(scene: &Scene) -> String {
    let pass = scene.look();
    assert_eq!(says(&pass.status, "Accepted"), "False/BudgetExceeded");
    assert!(pass.steps.is_empty() && !pass.finalizer, "nothing is touched");
    condition(&pass.status, "Accepted").unwrap().message.clone()
}

#[test]
fn without_a_budget_nobody_looks_at_other_responses() {
    let world = to(0, 1).looked_at();
    assert!(!world.observed.keys().any(|read| matches!(read, tourniquet_response::Read::OwnedPods { .. })));
    assert_eq!(accepted(&beside(to_all(50), [holding(0..50)])), "True/Accepted");
}

#[test]
fn more_pods_than_the_budget_are_refused_with_the_numbers() {
    let scene = |limit| beside(within(to(5, 6), contained_pods(limit)), [holding(0..3)]);
    assert_eq!(accepted(&scene(4)), "True/Accepted");
    let message = exceeds(&scene(3));
    assert!(
        message.contains("3 pods are isolated, 1 more would be, and the budget is 3 (budget.containedPods)"),
        "{message}"
    );
    let message = exceeds(&within(to_all(4), contained_pods(3)));
    assert!(message.contains("0 pods are isolated, 4 more would be"), "{message}");
}

#[test]
fn who_holds_on_what_is_held_already_needs_no_room() {
    assert_eq!(accepted(&beside(within(to(0, 1), contained_pods(1)), [holding([0])])), "True/Accepted");
    let twice = [holding([0, 1]), PeerResponse { uid: "third".to_owned(), ..holding([1, 2]) }];
    assert_eq!(accepted(&beside(within(to(3, 4), contained_pods(4)), twice.clone())), "True/Accepted", "3 pods, not 4");
    exceeds(&beside(within(to(3, 4), contained_pods(3)), twice));
}

#[test]
fn a_namespace_counts_with_the_pods_that_run_in_it() {
    let mut all = within(to(0, 3), contained_pods(2)).with_spec(|spec| {
        spec.target = object(json!({ "namespace": { "name": NAMESPACE } }));
    });
    all.namespace = Some(object(json!({ "metadata": { "name": NAMESPACE, "uid": "uid-of-shop" } })));
    assert!(exceeds(&all).contains("3 more would be"));
    all.pods[2].status.as_mut().unwrap().phase = Some("Succeeded".to_owned());
    assert_eq!(accepted(&all), "True/Accepted", "what has finished is nothing to isolate");

    let elsewhere = PeerResponse { isolates_namespace: Some("bank".to_owned()), namespace_pods: 7, ..holding([]) };
    let message = exceeds(&beside(within(to(0, 1), contained_pods(7)), [elsewhere.clone()]));
    assert!(message.contains("7 pods are isolated, 1 more would be"), "{message}");
    assert_eq!(accepted(&beside(within(to(0, 1), contained_pods(8)), [elsewhere])), "True/Accepted");
}

#[test]
fn what_was_released_refused_or_planned_takes_no_room() {
    let gone = PeerResponse { live: false, ..holding(0..9) };
    assert_eq!(accepted(&beside(within(to(9, 10), contained_pods(1)), [gone])), "True/Accepted");
}

#[test]
fn a_share_of_a_workload_is_a_share_and_one_pod_in_any_case() {
    assert_eq!(accepted(&within(to(0, 1), workload_share(10))), "True/Accepted");
    assert_eq!(accepted(&beside(within(to(1, 4), workload_share(50)), [holding([0])])), "True/Accepted");
    let message = exceeds(&beside(within(to(2, 4), workload_share(50)), [holding([0, 1])]));
    let told =
        "ReplicaSet shop/web has 4 pods, of which 2 are isolated and 1 more would be, and the budget is 2: 50 percent";
    assert!(message.contains(told), "{message}");
    exceeds(&within(to_all(4), workload_share(50)));
    assert_eq!(accepted(&within(to_all(4), workload_share(100))), "True/Accepted");
}

#[test]
fn a_pod_of_no_workload_is_a_share_of_nothing() {
    let mut scene = within(to_all(4), workload_share(1));
    for pod in &mut scene.pods {
        pod.metadata.owner_references = None;
    }
    assert_eq!(accepted(&scene), "True/Accepted");
}

#[test]
fn responses_that_come_too_fast_are_refused() {
    let budget = Budget { responses_per_minute: Some(2), ..Budget::default() };
    let at = |uid: &str, before: i64, peer: PeerResponse| PeerResponse {
        uid: uid.to_owned(),
        created: Some(noon() - seconds(before)),
        ..peer
    };
    let both = [at("a", 10, holding([0])), at("b", 59, holding([1]))];
    let message = exceeds(&beside(within(to(2, 3), budget.clone()), both));
    assert!(message.contains("2 responses were created within a minute before, and the budget is 2"), "{message}");
    let passed = [at("a", 10, holding([0])), at("b", 60, holding([1]))];
    assert_eq!(accepted(&beside(within(to(2, 3), budget.clone()), passed)), "True/Accepted");
    let refused = [at("a", 10, holding([0])), at("b", 1, PeerResponse { carried_out: false, ..holding([1]) })];
    assert_eq!(accepted(&beside(within(to(2, 3), budget.clone()), refused)), "True/Accepted");
    let planned = [at("a", 10, holding([0])), at("b", 1, holding([1]))];
    let plan = beside(within(to(2, 3), budget), planned).with_spec(|spec| spec.dry_run = true);
    assert_eq!(accepted(&plan), "True/PlanOnly");
}

/// The operator has written what became of it.
fn remembers(mut scene: Scene, uids: &[&str], before: i64) -> Scene {
    for uid in uids {
        let mut gone = a_pod_that_answers().act().response;
        gone.metadata.uid = Some((*uid).to_owned());
        gone.metadata.creation_timestamp = Some(Time(noon() - seconds(before)));
        scene.recent.written(&gone, noon());
    }
    scene
}

#[test]
fn what_was_deleted_since_counts_for_a_minute_as_well() {
    let two = Budget { responses_per_minute: Some(2), ..Budget::default() };
    let scene = || within(to(2, 3), two.clone());
    let message = exceeds(&remembers(scene(), &["a", "b"], 59));
    assert!(message.contains("2 responses were created within a minute before"), "{message}");
    assert_eq!(accepted(&remembers(scene(), &["a", "b"], 60)), "True/Accepted");
    let there = PeerResponse { uid: "a".to_owned(), ..holding([0]) };
    assert_eq!(
        accepted(&beside(remembers(scene(), &["a"], 0), [there])),
        "True/Accepted",
        "one that is there counts once"
    );
    assert_eq!(accepted(&remembers(scene(), &[RESPONSE_UID, "a"], 0)), "True/Accepted", "nobody counts for himself");
}

#[test]
fn what_was_not_carried_out_is_not_remembered() {
    let mut recent = Recent::default();
    recent.written(&response("undecided", OTHER_UID), noon());
    recent.written(&a_pod_that_answers().with_spec(|spec| spec.dry_run = true).act().response, noon());
    let mut refused = a_pod_that_answers();
    refused.settings.blast_radius.accept_new = false;
    recent.written(&refused.act().response, noon());
    assert!(recent.seen().is_empty());
}

#[test]
fn of_two_that_are_decided_at_the_same_moment_only_the_older_one_counts() {
    let undecided = |uid: &str, created| PeerResponse {
        uid: uid.to_owned(),
        decided: false,
        created: Some(created),
        ..holding([0])
    };
    let scene = |peer| beside(within(to(1, 2), contained_pods(1)), [peer]);
    exceeds(&scene(undecided("a", noon() - seconds(1))));
    assert_eq!(accepted(&scene(undecided("a", noon() + seconds(1)))), "True/Accepted");
    // Times of creation have whole seconds: the UID decides then.
    exceeds(&scene(undecided("0", noon())));
    assert_eq!(accepted(&scene(undecided("f", noon()))), "True/Accepted");
}

#[test]
fn who_may_override_is_not_held_up_by_a_budget() {
    let scene = beside(within(to(5, 6), contained_pods(1)), [holding(0..3)]);
    assert_eq!(accepted(&scene.with_spec(|spec| spec.override_protection = true)), "True/Accepted");
}

#[test]
fn what_is_not_isolated_is_not_contained() {
    let label = json!([{ "label": { "set": { "incident": "4711" } } }]);
    let scene = within(to(0, 1), contained_pods(0)).with_spec(|spec| spec.actions = object(label));
    assert_eq!(accepted(&scene), "True/Accepted");
}

#[test]
fn in_mode_plan_only_every_response_is_a_plan_and_says_why() {
    let mut scene = a_pod_that_answers();
    scene.settings.blast_radius.plan_only = true;
    let pass = scene.look();
    assert_eq!((pass.phase, pass.finalizer, pass.steps.len()), (Phase::Planned, false, 0));
    assert_eq!(says(&pass.status, "Accepted"), "True/PlanOnly");
    assert!(condition(&pass.status, "Accepted").unwrap().message.contains("the operator runs in mode PlanOnly"));
    assert!(!pass.status.plan.is_empty());
    // It stays a plan, whatever the mode is later.
    scene.response.status = Some(fixtures::stored(&pass.status));
    scene.settings = Settings::default();
    assert_eq!(scene.look().phase, Phase::Planned);
}

#[test]
fn where_no_new_ones_are_accepted_a_response_is_refused_and_a_plan_is_not() {
    let mut scene = a_pod_that_answers();
    scene.settings.blast_radius.accept_new = false;
    assert_eq!(accepted(&scene), "False/NotAccepting");
    assert_eq!(accepted(&scene.with_spec(|spec| spec.dry_run = true)), "True/PlanOnly");
}

/// Everything that keeps new ones from being carried out.
fn closed() -> BlastRadius {
    let nothing = Some(0);
    BlastRadius {
        plan_only: true,
        accept_new: false,
        budget: Budget { contained_pods: nothing, workload_share: nothing, responses_per_minute: nothing },
    }
}

#[test]
fn a_release_is_never_held_up() {
    let mut scene = a_pod_that_answers().act();
    scene.settings.blast_radius = closed();
    assert_eq!(scene.look().phase, Phase::Holding, "what is in force stays so");
    let released = scene.with_spec(|spec| spec.release = Some(true));
    let pass = released.look();
    assert_eq!(pass.phase, Phase::Releasing);
    assert!(!pass.steps.is_empty());
    assert_eq!(released.deleted().look().steps, pass.steps);
}

#[test]
fn what_others_need_to_know_of_a_response_follows_it() {
    let new = response("sentinel-4711", RESPONSE_UID);
    let seen = peer(&new, noon());
    assert_eq!((seen.decided, seen.carried_out, seen.created), (false, true, Some(noon())));
    let held = peer(&a_pod_that_answers().act().response, noon());
    assert_eq!((held.decided, held.carried_out, held.live), (true, true, true));
    let planned = peer(&a_pod_that_answers().with_spec(|spec| spec.dry_run = true).act().response, noon());
    assert_eq!((planned.decided, planned.carried_out, planned.live), (true, false, false));
}

/// Responses to pods, by their numbers; each is released before the next one or goes on.
fn arrivals() -> impl Strategy<Value = Vec<(BTreeSet<usize>, bool)>> {
    prop::collection::vec((prop::collection::btree_set(0..8usize, 1..4), any::<bool>()), 0..12)
}

proptest! {
    /// Created and deleted in a loop, or left: of one minute no more are carried out than the budget allows, and in none that is within it is anything refused.
    #[test]
    fn no_minute_has_more_than_its_budget(
        limit in 1..4usize,
        arrivals in prop::collection::vec((0..40i64, any::<bool>()), 1..24),
    ) {
        let (mut at, mut peers, mut recent) = (noon(), Vec::new(), Recent::default());
        let mut carried_out = Vec::new();
        for (index, (pause, deleted)) in arrivals.into_iter().enumerate() {
            at += seconds(pause);
            let budget = Budget { responses_per_minute: Some(limit), ..Budget::default() };
            let mut scene = beside(within(a_pod_that_answers(), budget), peers.clone());
            scene.now = at;
            scene.recent = recent.clone();
            scene.response.metadata.uid = Some(format!("uid-{index:02}"));
            scene.response.metadata.creation_timestamp = Some(Time(at));
            let before = carried_out.iter().filter(|one| at.duration_since(**one) < seconds(60)).count();
            let written = scene.act().response;
            let says = says(written.status.as_ref().unwrap(), "Accepted");
            prop_assert_eq!(says, if before < limit { "True/Accepted" } else { "False/BudgetExceeded" });
            recent.written(&written, at);
            if before < limit {
                carried_out.push(at);
            }
            if !deleted {
                peers.push(peer(&written, at));
            }
        }
    }

    /// Whatever comes, no more pods are isolated than the budget allows, and who is refused would have made them more.
    #[test]
    fn a_budget_is_kept_and_not_kept_more_than_that(limit in 0..6usize, arrivals in arrivals()) {
        let mut peers: Vec<PeerResponse> = Vec::new();
        for (index, (numbers, released)) in arrivals.into_iter().enumerate() {
            let mut scene = beside(within(to_all(8), contained_pods(limit)), peers.clone());
            scene.response.metadata.uid = Some(format!("uid-{index:02}"));
            scene.pods.retain(|pod| numbers.iter().any(|number| pod.metadata.name == web(*number).metadata.name));
            let held = |peers: &[PeerResponse], more: &BTreeSet<usize>| {
                let live = peers.iter().filter(|peer| peer.live).flat_map(|peer| &peer.isolates);
                let names = live.map(|(_, name, _)| name.clone()).chain(more.iter().map(|number| format!("web-{number}")));
                names.collect::<BTreeSet<_>>().len()
            };
            let before = held(&peers, &BTreeSet::new());
            if accepted(&scene) == "True/Accepted" {
                let uid = format!("uid-{index:02}");
                peers.push(PeerResponse { uid, live: !released, ..holding(numbers) });
                prop_assert!(held(&peers, &BTreeSet::new()) <= limit.max(before));
            } else {
                let with = held(&peers, &numbers);
                prop_assert!(with > limit && with > before);
            }
        }
    }
}

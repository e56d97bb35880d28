//! The laws, against an in-memory cluster: what is applied is undone exactly, whatever happens in between, and nothing is
//! claimed that is not so.
//!
//! Laws 2, 3 and 4 hold at every moment, so the simulation checks them after every change (`simulation/laws.rs`). The
//! properties here check what holds at the end, or between two looks.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests: a panic is a failed test")]

mod fixtures;
mod simulation;

use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use serde_json::{Value, json};
use simulation::asked::{self, Asked, Asking, Asks, Of, what_derives};
use simulation::network::Engine;
use simulation::objects::{NEIGHBOUR, Thing};
use simulation::operator::{Operator, same};
use simulation::story::{
    Cluster, Event, agents_story, cluster, everybody_lets_go, happen, isolations, isolations_of_many, quiet_story,
    story,
};
use simulation::{LATE, Sim};
use tourniquet_response::{Observation, pass};

use crate::fixtures::{POD, says};

/// A failure leaves its seed beside this file, to be tried again first.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    }
}

const ENGINES: [Engine; 3] = [Engine::Cilium, Engine::Additive, Engine::None];

fn clusters() -> impl Iterator<Item = Cluster> {
    ENGINES.into_iter().flat_map(|engine| [false, true].map(|agents| Cluster { engine, agents }))
}

proptest! {
    #![proptest_config(cases(2048))]

    /// Laws 1 to 4 and 7, in any story: overlapping responses of all verbs, crashes, refused effects, other people's changes.
    #[test]
    fn nothing_is_left_of_us_and_everything_of_others(cluster in cluster(), events in story()) {
        play_to_the_end(cluster.start(), &events)?;
    }
}

proptest! {
    #![proptest_config(cases(256))]

    /// The same of one pod that is isolated and nothing else: more of it overlaps.
    #[test]
    fn nothing_is_left_of_isolations(cluster in cluster(), events in isolations()) {
        play_to_the_end(cluster.start(), &events)?;
    }

    /// The same of pods that are isolated one by one, several together and with their namespace, and of those that start meanwhile.
    #[test]
    fn nothing_is_left_of_isolations_of_many(cluster in cluster(), events in isolations_of_many()) {
        play_to_the_end(cluster.start(), &events)?;
    }

    /// The same where agents run, most of what happens happens to them, and nobody else holds the pod: each engine as often.
    #[test]
    fn nothing_is_left_of_what_agents_did(engine in 0..ENGINES.len(), events in agents_story()) {
        play_to_the_end(Sim::with_agents(ENGINES[engine]), &events)?;
    }

    /// Where the engine reports, every response that lives is in force in the end, and says so.
    #[test]
    fn on_cilium_every_response_that_lives_comes_to_hold(events in quiet_story()) {
        let mut sim = Sim::new(Engine::Cilium);
        let mut operator = Operator::default();
        happen(&mut sim, &mut operator, &events);
        operator.settle(&mut sim);

        prop_assert_eq!(who_does_not_hold(&sim, "DenyTier"), Vec::<String>::new());
    }

    /// Where agents run, the same on every engine and on none.
    #[test]
    fn with_agents_every_response_that_lives_comes_to_hold(engine in 0..ENGINES.len(), events in quiet_story()) {
        let mut sim = Sim::with_agents(ENGINES[engine]);
        let mut operator = Operator::default();
        happen(&mut sim, &mut operator, &events);
        operator.settle(&mut sim);

        prop_assert_eq!(who_does_not_hold(&sim, "Cut"), Vec::<String>::new());
    }

    /// Once at rest, looking again plans nothing, and says the same.
    #[test]
    fn planning_again_yields_nothing(cluster in cluster(), events in story()) {
        let mut sim = cluster.start();
        let mut operator = Operator::default();
        happen(&mut sim, &mut operator, &events);
        operator.settle(&mut sim);

        sim.check_others();
        for (name, response) in &sim.responses {
            let again = sim.decide(response);
            prop_assert_eq!(again.steps, Vec::new(), "{}", name);
            prop_assert!(same(&again.status, response), "{}: {:?}", name, again.status);
        }
    }

    /// In whatever order the API lists policies, responses, managers and containers, the decision is the same to the letter.
    #[test]
    fn the_order_of_lists_does_not_matter(cluster in cluster(), events in story(), turn in 0..8usize) {
        let mut sim = cluster.start();
        let mut operator = Operator::default();
        for event in events {
            happen(&mut sim, &mut operator, &[event]);
            for response in sim.responses.values() {
                let world = sim.world_for(response);
                let mut turned = world.clone();
                turned.observed.values_mut().for_each(|seen| reorder(seen, turn));
                let decide = |world| pass(response, world, &sim.settings());
                similar_asserts::assert_eq!(decide(&world), decide(&turned));
            }
        }
    }

    /// Law 1 for one response, whatever everything looks like: apply, then undo, is the identity. What replaces a value that somebody had
    /// applied is left out: it does not go back to him, but to nobody in particular.
    #[test]
    fn apply_then_undo_is_the_identity(cluster in cluster(), before in story(), asked in what_derives()) {
        let mut sim = cluster.start();
        let mut operator = Operator::default();
        happen(&mut sim, &mut operator, &before);
        everybody_lets_go(&mut sim, &mut operator);
        let (pods, objects, policies) = (sim.pods.clone(), sim.objects.clone(), sim.policies.clone());

        sim.create_asked("ir-1", &asked, None, false);
        operator.settle(&mut sim);
        everybody_lets_go(&mut sim, &mut operator);

        similar_asserts::assert_eq!(sim.pods, pods);
        similar_asserts::assert_eq!(sim.objects, objects);
        similar_asserts::assert_eq!(sim.policies, policies);
    }
}

/// The responses that do not say what is so: of those that isolate a pod, that they hold it, and why; of the others, that they do not.
fn who_does_not_hold(sim: &Sim, because: &str) -> Vec<String> {
    let wrong = sim.responses.iter().filter_map(|(name, response)| {
        let isolates = response.spec.actions.iter().any(|action| action.isolate.is_some());
        let holds = sim.pods.keys().any(|pod| sim.isolates_now(response, pod));
        let contained = says(&sim.status(name), "Contained");
        let right = match (isolates, holds) {
            (true, true) => contained == format!("True/{because}"),
            (true, false) => contained.starts_with("False/"),
            (false, _) => contained == "absent" || contained.starts_with("False/"),
        };
        (!right).then(|| format!("{name}: {contained}, {:?}", response.status))
    });
    wrong.collect()
}

/// Whatever happens, and then everybody lets go.
fn play_to_the_end(mut sim: Sim, events: &[Event]) -> Result<(), TestCaseError> {
    let mut operator = Operator::default();
    happen(&mut sim, &mut operator, events);
    everybody_lets_go(&mut sim, &mut operator);

    prop_assert_eq!(sim.responses.keys().collect::<Vec<_>>(), Vec::<&String>::new(), "undo ends");
    prop_assert_eq!(sim.traces(), Vec::<String>::new());
    similar_asserts::assert_eq!(sim.pods, sim.untouched.pods);
    similar_asserts::assert_eq!(sim.objects, sim.untouched.objects);
    similar_asserts::assert_eq!(sim.policies, sim.untouched.policies);
    Ok(())
}

fn reorder(seen: &mut Observation, turn: usize) {
    fn turned<T>(list: &mut [T], turn: usize) {
        if !list.is_empty() {
            list.rotate_left(turn % list.len());
        }
        if turn.is_multiple_of(2) {
            list.reverse();
        }
    }
    match seen {
        Observation::NetworkPolicies(list) => turned(Arc::make_mut(list).as_mut_slice(), turn),
        Observation::Responses(list) => turned(list, turn),
        Observation::AdmissionBackends(list) => turned(list, turn),
        Observation::Pod(Some(pod)) => {
            pod.metadata.managed_fields.iter_mut().for_each(|list| turned(list, turn));
            let status = pod.status.get_or_insert_default();
            status.container_statuses.iter_mut().for_each(|list| turned(list, turn));
        }
        _ => {}
    }
}

/// Law 7. Two responses overlap, are deleted one after the other, and the operator crashes after its n-th write: for every
/// n, each act of the play ends where it ends without a crash.
#[test]
fn a_crash_after_any_write_ends_in_the_same_state() {
    crash_after_each_write(clusters(), two_isolations);
}

/// The same of labels that are replaced, cordons, and several actions.
#[test]
fn a_crash_after_any_write_of_mixed_responses_ends_in_the_same_state() {
    crash_after_each_write(clusters(), mixed_responses);
}

/// The same of sets and namespaces, and of a pod that starts meanwhile.
#[test]
fn a_crash_after_any_write_of_sets_and_namespaces_ends_in_the_same_state() {
    // Each write means as many crashes more, of as many more writes: where there is no engine it is the agents' part of the same.
    crash_after_each_write(clusters().filter(|cluster| cluster.engine == Engine::Cilium), sets_and_namespaces);
}

fn crash_after_each_write(clusters: impl Iterator<Item = Cluster>, play: fn(Cluster, &mut Operator) -> Vec<Value>) {
    for cluster in clusters {
        let mut undisturbed = Operator::default();
        let expected = play(cluster, &mut undisturbed);
        assert!(undisturbed.writes > 20, "the play has many writes: {}", undisturbed.writes);
        for crash_after in 1..=undisturbed.writes {
            let mut operator = Operator::that_crashes_after(crash_after);
            let acts = play(cluster, &mut operator);
            similar_asserts::assert_eq!(acts, expected, "{:?}, crash after write {}", cluster, crash_after);
        }
    }
}

/// What there is after each act.
fn mixed_responses(cluster: Cluster, operator: &mut Operator) -> Vec<Value> {
    let label = |labels: &[(usize, usize)]| Asking::Label { labels: labels.to_vec(), overwrite: true };
    let asked = |thing, verbs: Vec<Asking>| {
        let actions = verbs.into_iter().map(|verb| Asks { verb, stop: false }).collect();
        Asked { of: Of::One(thing), actions }
    };
    let pod = Thing::Pod(NEIGHBOUR);
    let responses = [
        ("ir-1", asked(pod, vec![label(&[(0, 0), (1, 1)]), Asking::Isolate])),
        ("ir-2", asked(pod, vec![Asking::Isolate, label(&[(0, 1)])])),
        ("ir-3", asked(Thing::Node, vec![Asking::Cordon, label(&[(1, 0)])])),
        ("ir-4", asked(Thing::Node, vec![Asking::Cordon, label(&[(0, 0)])])),
        ("ir-5", asked(Thing::Namespace, vec![label(&[(0, 2), (1, 2)])])),
    ];
    let mut sim = cluster.start();
    sim.user_labels(pod, asked::KEYS[0], asked::VALUES[2]);
    let mut acts = Vec::new();
    let mut act = |sim: &mut Sim, names: &[&str], change: &dyn Fn(&mut Sim, &str)| {
        names.iter().for_each(|name| change(sim, name));
        operator.settle(sim);
        acts.push(timeless(sim));
    };
    act(&mut sim, &responses.each_ref().map(|(name, _)| *name), &|sim, name| {
        let asked = responses.iter().find(|(of, _)| *of == name).map(|(_, asked)| asked);
        sim.create_asked(name, asked.unwrap(), None, false);
    });
    act(&mut sim, &["ir-1", "ir-3"], &|sim, name| sim.release_response(name));
    act(&mut sim, &["ir-2", "ir-5", "ir-1"], &|sim, name| sim.delete_response(name));
    act(&mut sim, &["ir-4", "ir-3"], &|sim, name| sim.delete_response(name));
    assert_eq!((&sim.pods, &sim.objects), (&sim.untouched.pods, &sim.untouched.objects));
    acts
}

/// What there is after each act.
fn sets_and_namespaces(cluster: Cluster, operator: &mut Operator) -> Vec<Value> {
    let isolation = |of| Asked { of, actions: vec![Asks { verb: Asking::Isolate, stop: false }] };
    let mut sim = cluster.start();
    let mut acts = Vec::new();
    let mut act = |sim: &mut Sim, change: &dyn Fn(&mut Sim)| {
        change(sim);
        operator.settle(sim);
        acts.push(timeless(sim));
    };
    act(&mut sim, &|sim| sim.create_asked("ir-1", &isolation(Of::One(Thing::Namespace)), None, false));
    act(&mut sim, &|sim| sim.is_replaced(Thing::Pod(LATE)));
    act(&mut sim, &|sim| sim.create_asked("ir-2", &isolation(Of::Selected(2)), None, false));
    act(&mut sim, &|sim| sim.delete_response("ir-1"));
    act(&mut sim, &|sim| sim.delete_response("ir-2"));
    assert_eq!((&sim.pods, &sim.objects), (&sim.untouched.pods, &sim.untouched.objects));
    acts
}

/// What there is after each act.
fn two_isolations(cluster: Cluster, operator: &mut Operator) -> Vec<Value> {
    let mut sim = cluster.start();
    sim.user_labels(Thing::Pod(POD), "team", "red");
    let mut acts = Vec::new();
    let mut act = |sim: &mut Sim, change: fn(&mut Sim)| {
        change(sim);
        operator.settle(sim);
        acts.push(timeless(sim));
    };
    act(&mut sim, |sim| sim.create_response("ir-1", None));
    act(&mut sim, |sim| sim.create_response("ir-2", None));
    act(&mut sim, |sim| sim.release_response("ir-1"));
    act(&mut sim, |sim| sim.delete_response("ir-1"));
    act(&mut sim, |sim| sim.delete_response("ir-2"));
    acts
}

/// Everything but times and the numbers that the API server issues.
fn timeless(sim: &Sim) -> Value {
    let mut state = json!({
        "labels": sim.pods.iter().map(|(name, pod)| (name, format!("{:?}", pod.labels))).collect::<Vec<_>>(),
        "objects": sim.objects.iter().map(|(thing, object)| format!("{thing:?} {:?}", object.fields)).collect::<Vec<_>>(),
        "open": sim.pods.keys().map(|pod| sim.path(pod).open()).collect::<Vec<_>>(),
        "traces": sim.traces(),
        "containments": sim.agents.shown(),
        "network": sim.policies.network,
        "clusterwide": sim.policies.clusterwide.iter().map(|(name, it)| (name, &it.manifest)).collect::<Vec<_>>(),
        "responses": sim.responses,
    });
    strip(&mut state);
    state
}

fn strip(value: &mut Value) {
    const ISSUED: [&str; 10] = [
        "at",
        "beforeAt",
        "appliedAt",
        "startedAt",
        "finishedAt",
        "receiptAt",
        "lastTransitionTime",
        "creationTimestamp",
        "deletionTimestamp",
        "resourceVersion",
    ];
    match value {
        Value::Object(map) => {
            map.retain(|key, _| !ISSUED.contains(&key.as_str()));
            map.values_mut().for_each(strip);
        }
        Value::Array(list) => list.iter_mut().for_each(strip),
        _ => {}
    }
}

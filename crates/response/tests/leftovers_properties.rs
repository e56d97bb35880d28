//! Law 7, of traces without a living response, against the in-memory cluster.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests: a panic is a failed test")]

mod fixtures;
mod simulation;

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use simulation::Sim;
use simulation::agents::Mood;
use simulation::network::Engine;
use simulation::operator::Operator;
use simulation::story::{Event, RESPONSES, cluster, everybody_lets_go, happen, quiet_story, story_without_journal};

use crate::fixtures::{POD, says, seconds};

/// More sweeps than anything needs: policies, labels, holders, the lifted cut, and agents that answer late.
const SWEEPS: usize = 12;

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    }
}

fn sweep_to_the_end(sim: &mut Sim) {
    sim.agents_become(Mood::Works);
    for _ in 0..SWEEPS {
        sim.sweep();
        sim.wait(seconds(5));
    }
}

proptest! {
    #![proptest_config(cases(96))]

    /// Every response vanishes, wherever it was: sweeps alone come to what undo would have come to.
    #[test]
    fn nothing_is_left_of_responses_that_vanished(cluster in cluster(), events in story_without_journal()) {
        let mut sim = cluster.start();
        happen(&mut sim, &mut Operator::default(), &events);
        for name in RESPONSES {
            sim.response_vanishes(name);
        }
        sweep_to_the_end(&mut sim);

        prop_assert_eq!(sim.traces(), Vec::<String>::new());
        similar_asserts::assert_eq!(sim.pods, sim.untouched.pods);
        similar_asserts::assert_eq!(sim.objects, sim.untouched.objects);
        similar_asserts::assert_eq!(sim.policies, sim.untouched.policies);
    }

    /// One vanishes, the others go on: no law is broken in between, and in the end nothing of any is left.
    #[test]
    fn what_one_left_is_undone_beside_those_that_live(
        cluster in cluster(), events in story_without_journal(), which in 0..RESPONSES.len(), rest in story_without_journal(),
    ) {
        let mut sim = cluster.start();
        let mut operator = Operator::default();
        happen(&mut sim, &mut operator, &events);
        operator.crash(&mut sim);
        sim.response_vanishes(RESPONSES[which]);
        for event in rest {
            happen(&mut sim, &mut operator, &[event]);
            sim.sweep();
        }
        everybody_lets_go(&mut sim, &mut operator);
        sweep_to_the_end(&mut sim);

        prop_assert_eq!(sim.traces(), Vec::<String>::new());
        similar_asserts::assert_eq!(sim.pods, sim.untouched.pods);
        similar_asserts::assert_eq!(sim.objects, sim.untouched.objects);
        similar_asserts::assert_eq!(sim.policies, sim.untouched.policies);
    }

    /// Where nothing but the operator works and crashes, there never is a leftover, whenever somebody looks.
    #[test]
    fn nothing_that_an_operator_does_by_itself_is_a_leftover(cluster in cluster(), events in quiet_story()) {
        let mut sim = cluster.start();
        let mut operator = Operator::default();
        for event in events {
            let event: Event = event;
            happen(&mut sim, &mut operator, std::slice::from_ref(&event));
            prop_assert_eq!(sim.sweep(), 0, "after {:?}", event);
        }
    }
}

/// Law 2, across a response that vanishes: what it left holds the pod until the next one is seen to.
#[test]
fn what_a_vanished_response_left_holds_the_pod_for_the_next_one() {
    for (engine, agents) in [(Engine::Cilium, false), (Engine::Cilium, true), (Engine::None, true)] {
        let mut sim = if agents { Sim::with_agents(engine) } else { Sim::new(engine) };
        let mut operator = Operator::default();
        sim.create_response("ir-1", None);
        operator.settle(&mut sim);
        assert!(says(&sim.status("ir-1"), "Contained").starts_with("True"), "{engine:?}");

        sim.create_response("ir-2", None);
        sim.response_vanishes("ir-1");
        // The laws are checked at each change: the pod must not be open for a moment.
        while !says(&sim.status("ir-2"), "Contained").starts_with("True") {
            assert_eq!(sim.sweep(), 0, "{engine:?}");
            operator.step(&mut sim, "ir-2");
            sim.wait(seconds(5));
        }
        sweep_to_the_end(&mut sim);
        assert!(!sim.path(POD).open(), "{engine:?}");

        sim.delete_response("ir-2");
        operator.settle(&mut sim);
        assert_eq!(sim.traces(), Vec::<String>::new(), "{engine:?}");
        similar_asserts::assert_eq!(sim.pods, sim.untouched.pods);
    }
}

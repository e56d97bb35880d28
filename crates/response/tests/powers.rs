//! Powers that whoever installed tourniquet did not give it: what takes one is refused, in words that name it, and nothing else is.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests: a panic is a failed test")]

mod fixtures;

use fixtures::scene::{Scene, a_pod_that_answers};
use fixtures::stage::Stage;
use fixtures::{condition, object, says};
use proptest::prelude::*;
use serde_json::{Value, json};
use tourniquet_response::{Agents, Phase, Power, Way, Work};

const NODE: &str = "node-0";

fn to_a_pod(actions: &[Value]) -> Scene {
    a_pod_that_answers().with_spec(|spec| spec.actions = actions.iter().cloned().map(object).collect())
}

fn to_a_node(action: Value) -> Scene {
    let target = json!({ "node": { "name": NODE } });
    let node = object(json!({ "metadata": { "name": NODE, "uid": "uid-of-node" }, "spec": {}, "status": {} }));
    let scene = to_a_pod(&[action]).with_spec(|spec| spec.target = object(target));
    Scene { node: Some(node), ..scene }
}

fn without(mut scene: Scene, powers: &[Power]) -> Scene {
    scene.settings.powers_off.extend(powers);
    scene
}

fn with_agents(mut scene: Scene) -> Scene {
    scene.settings.agents = Some(Agents { namespace: "tourniquet-agent".to_owned(), ..Agents::default() });
    scene
}

fn accepted(scene: &Scene) -> String {
    says(&scene.look().status, "Accepted")
}

/// The message of a refusal for want of a power.
fn refused(scene: &Scene) -> String {
    let pass = scene.look();
    assert_eq!(says(&pass.status, "Accepted"), "False/PowerOff");
    assert!(pass.steps.is_empty() && !pass.finalizer, "nothing is touched");
    condition(&pass.status, "Accepted").unwrap().message.clone()
}

fn isolate() -> Value {
    json!({ "isolate": {} })
}

fn run() -> Value {
    json!({ "name": "look", "run": { "command": ["/bin/ps"] } })
}

fn label() -> Value {
    json!({ "label": { "set": { "incident": "4711" } } })
}

fn collect(more: Value) -> Value {
    let mut collect = json!({ "storeRef": { "name": "soc" } });
    collect.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    json!({ "collect": collect })
}

#[test]
fn what_takes_a_power_that_is_off_is_refused_with_the_power_the_action_and_the_value() {
    for (scene, power, words) in [
        (to_a_pod(&[run()]), Power::Exec, ["action look (run)", "the power exec", "powers.exec"]),
        (
            to_a_pod(&[isolate()]),
            Power::Policies,
            ["action isolate (isolate)", "the power policies", "powers.policies"],
        ),
        (
            to_a_node(json!({ "cordon": {} })),
            Power::Nodes,
            ["action cordon (cordon)", "the power nodes", "powers.nodes"],
        ),
        (to_a_node(label()), Power::Nodes, ["action label (label)", "the power nodes", "powers.nodes"]),
    ] {
        let message = refused(&without(scene, &[power]));
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    }
}

#[test]
fn one_action_that_takes_it_refuses_the_whole_response() {
    let message = refused(&without(to_a_pod(&[label(), isolate(), run()]), &[Power::Exec]));
    assert!(message.contains("action look (run)"), "{message}");
}

#[test]
fn what_does_not_take_it_is_carried_out_as_ever() {
    let all_but = |power| Power::ALL.into_iter().filter(|one| *one != power).collect::<Vec<_>>();
    for (scene, power) in [
        (to_a_pod(&[run()]), Power::Exec),
        (to_a_pod(&[isolate()]), Power::Policies),
        (to_a_node(json!({ "cordon": {} })), Power::Nodes),
    ] {
        assert_eq!(accepted(&without(scene, &all_but(power))), "True/Accepted");
    }
    assert_eq!(accepted(&without(to_a_pod(&[label()]), &Power::ALL)), "True/Accepted", "a pod is no node");
}

#[test]
fn a_plan_is_refused_as_well_since_it_says_what_would_be_done() {
    refused(&without(to_a_pod(&[run()]).with_spec(|spec| spec.dry_run = true), &[Power::Exec]));
}

#[test]
fn who_may_override_a_protection_has_no_more_power() {
    refused(&without(to_a_pod(&[run()]).with_spec(|spec| spec.override_protection = true), &[Power::Exec]));
}

#[test]
fn evidence_takes_programs_of_the_container_only_where_no_agent_reads_it() {
    let everything = || to_a_pod(&[collect(json!({}))]);
    let message = refused(&without(everything(), &[Power::Exec]));
    assert!(message.contains("action collect (collect)"), "{message}");
    assert_eq!(accepted(&without(with_agents(everything()), &[Power::Exec])), "True/Accepted");
    let logs = to_a_pod(&[collect(json!({ "include": ["Logs", "Events", "Manifest"] }))]);
    assert_eq!(accepted(&without(logs, &[Power::Exec])), "True/Accepted");
    let file = to_a_pod(&[collect(json!({ "include": ["Logs"], "files": [{ "path": "/etc/passwd" }] }))]);
    refused(&without(file, &[Power::Exec]));
}

#[test]
fn where_an_agent_reads_no_program_of_the_container_is_tried_in_its_place() {
    let ways = |powers: &[Power]| {
        let mut stage = Stage::new("Pod");
        stage.containers = vec![("web", "containerd://one")];
        stage.settings.agents = Some(Agents { namespace: "tourniquet-agent".to_owned(), ..Agents::default() });
        stage.settings.powers_off.extend(powers);
        stage.respond("alert", json!([collect(json!({ "files": [{ "path": "/etc/passwd" }] }))]));
        match &stage.begun[0].1 {
            Work::Collection(collection) => collection.artifacts.iter().flat_map(|one| one.ways.clone()).collect(),
            other => panic!("no collection: {other:?}"),
        }
    };
    let tools = |ways: &[Way]| ways.iter().filter(|way| matches!(way, Way::Tool(_))).count();
    let (with, without): (Vec<Way>, Vec<Way>) = (ways(&[]), ways(&[Power::Exec]));
    assert!(tools(&with) > 0 && tools(&without) == 0, "{without:?}");
    assert_eq!(without.len(), with.len() - tools(&with), "and nothing else is left out");
}

/// What was accepted with a power goes its way without: nothing but the acceptance asks.
#[test]
fn what_is_in_force_is_released_whatever_was_switched_off_since() {
    let mut stage = Stage::new("Pod");
    stage.respond("alert", json!([label()]));
    stage.settings.powers_off.extend(Power::ALL);
    stage.release("alert");
    stage.settle("alert").unwrap();
    assert_eq!(says(&stage.status("alert"), "Reverted"), "True/Released");
}

fn actions() -> impl Strategy<Value = Vec<Value>> {
    let one = prop_oneof![
        Just(isolate()),
        Just(run()),
        Just(label()),
        Just(collect(json!({}))),
        Just(collect(json!({ "include": ["Logs"] }))),
    ];
    proptest::collection::vec(one, 1..4).prop_map(|actions| {
        let named = |(number, mut action): (usize, Value)| {
            action["name"] = format!("action-{number}").into();
            action
        };
        actions.into_iter().enumerate().map(named).collect()
    })
}

proptest! {
    /// Whatever is asked for: more powers that are off never let more through, and what is refused names one that is off.
    #[test]
    fn a_power_more_that_is_off_only_refuses_more(
        actions in actions(),
        agents: bool,
        off in proptest::sample::subsequence(Power::ALL.to_vec(), 0..=4),
        more in proptest::sample::select(Power::ALL.to_vec()),
    ) {
        let scene = || if agents { with_agents(to_a_pod(&actions)) } else { to_a_pod(&actions) };
        let pass = without(scene(), &off).look();
        let fewer = without(without(scene(), &off), &[more]).look();
        let accepted = says(&pass.status, "Accepted");
        if accepted == "False/PowerOff" {
            let message = condition(&pass.status, "Accepted").unwrap().message.clone();
            prop_assert!(off.iter().any(|power| message.contains(&format!("powers.{power}"))), "{message}");
            prop_assert_eq!(says(&fewer.status, "Accepted"), "False/PowerOff");
        } else {
            prop_assert_ne!(pass.phase, Phase::Refused, "{}", accepted);
        }
        if off.is_empty() {
            prop_assert_eq!(accepted, "True/Accepted");
        }
    }
}

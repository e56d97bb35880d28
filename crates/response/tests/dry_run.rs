//! What a dry run says: the plan, what follows it later, and what it would meet.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests: a panic is a failed test")]

mod fixtures;

use fixtures::scene::{Scene, a_pod_that_answers, a_pod_that_cilium_serves};
use fixtures::stage::Stage;
use fixtures::{NODE, object};
use serde_json::{Value, json};
use tourniquet_api::PlannedEffect;
use tourniquet_response::{Agents, PeerResponse};

/// What the actions would do.
fn plan(scene: Scene) -> Vec<PlannedEffect> {
    let plan = scene.with_spec(|spec| spec.dry_run = true).look().status.plan;
    plan.into_iter().filter(|effect| effect.action != "preserve").collect()
}

fn with_agents(mut scene: Scene) -> Scene {
    scene.settings.agents = Some(Agents { namespace: "agents".to_owned(), egress_targets: Vec::new() });
    scene.with_pod(|pod| pod.spec.as_mut().unwrap().node_name = Some(NODE.to_owned()))
}

fn allows_everything(mut scene: Scene) -> Scene {
    scene.policies = vec![object(json!({
        "metadata": { "namespace": "shop", "name": "allow-all" }, "spec": { "podSelector": {}, "ingress": [{}] },
    }))];
    scene
}

fn kinds<'a>(plan: impl IntoIterator<Item = &'a PlannedEffect>) -> Vec<String> {
    plan.into_iter().map(|effect| effect.object.split(' ').next().unwrap().to_owned()).collect()
}

#[test]
fn what_follows_the_cut_is_planned_as_well_and_says_when() {
    let plan = plan(with_agents(a_pod_that_cilium_serves()));
    let (at_once, follows): (Vec<_>, Vec<_>) = plan.iter().partition(|effect| effect.when.is_none());
    assert_eq!(kinds(at_once), ["Containment", "Containment"], "what it is about, and who holds it");
    assert_eq!(kinds(follows.clone()), ["CiliumClusterwideNetworkPolicy", "NetworkPolicy", "Pod"]);
    assert!(follows.iter().all(|effect| effect.when.as_deref().unwrap().contains("held for a minute")));
}

#[test]
fn without_agents_everything_is_done_at_once() {
    assert!(plan(a_pod_that_cilium_serves()).iter().all(|effect| effect.when.is_none()));
}

#[test]
fn a_policy_that_would_defeat_the_isolation_is_named() {
    let plan = plan(allows_everything(a_pod_that_answers()));
    let met = plan.iter().find(|effect| effect.object.starts_with("NetworkPolicy")).unwrap().meets.as_deref();
    assert_eq!(met, Some("defeated by policies that allow some of the traffic, since policies add up: allow-all"));
}

#[test]
fn a_policy_that_the_deny_tier_would_overrule_is_named() {
    let plan = plan(allows_everything(a_pod_that_cilium_serves()));
    let met = |kind: &str| plan.iter().find(|effect| effect.object.starts_with(kind)).unwrap().meets.as_deref();
    assert_eq!(
        met("CiliumClusterwideNetworkPolicy"),
        Some("overrules policies that allow some of the traffic: allow-all")
    );
    assert_eq!(met("NetworkPolicy"), None);
}

#[test]
fn whoever_isolates_the_pod_as_well_is_named() {
    let mut scene = a_pod_that_answers();
    scene.peers = vec![PeerResponse {
        name: "incident-response/other".to_owned(),
        uid: fixtures::OTHER_UID.to_owned(),
        isolates: vec![("shop".to_owned(), "web".to_owned(), Some(fixtures::POD_UID.to_owned()))],
        live: true,
        contains: true,
        ..PeerResponse::default()
    }];
    let plan = plan(scene);
    let met = plan.iter().find(|effect| effect.object == "Pod shop/web").unwrap().meets.clone().unwrap();
    assert!(met.ends_with("go on after a release: incident-response/other"), "{met}");
}

/// What the plan of a dry run meets, effect by effect.
fn meets(stage: &mut Stage, actions: Value) -> Vec<Option<String>> {
    stage.create("dry", actions);
    stage.responses.get_mut("dry").unwrap().spec.dry_run = true;
    stage.settle("dry").unwrap();
    let plan = stage.status("dry").plan.into_iter();
    plan.filter(|effect| effect.action != "preserve").map(|effect| effect.meets).collect()
}

#[test]
fn a_node_that_is_cordoned_already_stays_so_and_the_plan_says_it() {
    let mut stage = Stage::new("Node");
    let cordon = json!([{ "cordon": {} }]);
    assert_eq!(meets(&mut stage, cordon.clone()), [None]);
    stage.others_cordon(true);
    let said = "cordoned already, by kubectl-cordon: it stays so after a release";
    assert_eq!(meets(&mut stage, cordon), [Some(said.to_owned())]);
}

#[test]
fn what_becomes_of_a_label_that_somebody_has_set_is_said() {
    let mut stage = Stage::new("Pod");
    stage.others_label("kubectl-label", "team", Some("red"));
    let label =
        |value: &str, overwrite: bool| json!([{ "label": { "set": { "team": value }, "overwrite": overwrite } }]);
    for (actions, said) in [
        (label("red", false), "label team has the value already, by kubectl-label: it stays after a release"),
        (label("blue", true), "label team is \"red\", by kubectl-label: replaced, and put back on release"),
    ] {
        assert_eq!(meets(&mut stage, actions), [Some(said.to_owned())]);
    }
    assert_eq!(meets(&mut stage, label("blue", false)), [], "held by somebody: a residual says so");
    assert_eq!(stage.status("dry").residual[0].code, "LabelHeld");
}

#[test]
fn what_preserves_the_target_is_planned_as_well() {
    let plan = a_pod_that_answers().with_spec(|spec| spec.dry_run = true).look().status.plan;
    let last = plan.last().unwrap();
    assert_eq!((last.action.as_str(), last.object.as_str()), ("preserve", "Pod shop/web"));
    assert!(last.change.contains("safe-to-evict"), "{last:?}");
    assert_eq!(last.when.as_deref(), Some("once an action has come to something"));
}

//! Calico: what is asked of it, and what may be said where it reports nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests: a panic is a failed test")]

mod fixtures;

use fixtures::scene::{Scene, a_pod_that_answers, a_pod_that_cilium_serves, result};
use fixtures::{OTHER_UID, RESPONSE_UID, allow_all, object, policy, says, seconds, stored};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};
use tourniquet_api::{Answer, names};
use tourniquet_response::{CalicoTier, ClusterwidePolicy, Effect, Engines, Kind, Pass, Traces, leftovers};

fn on_calico(mut scene: Scene) -> Scene {
    scene.engines = Engines { calico: true, ..Engines::default() };
    scene
}

/// Everything is in place, and the pod was tried since.
fn in_place(after: Option<Answer>) -> Scene {
    let mut scene = on_calico(a_pod_that_answers()).act();
    scene.reach = after;
    scene.later(seconds(5))
}

fn effects(pass: &Pass) -> Vec<String> {
    pass.steps.iter().map(|step| format!("{} {}", step.effect.verb(), step.effect.object())).collect()
}

fn spec(pass: &Pass, kind: &str) -> Value {
    let manifest = pass.steps.iter().find_map(|step| match &step.effect {
        Effect::Put { object, manifest, .. } if object.kind.as_str() == kind => Some(manifest["spec"].clone()),
        _ => None,
    });
    manifest.expect("it is put in place")
}

/// Outcome, reason, assurance and Contained, in one line.
fn verdict(scene: &Scene) -> String {
    let pass = scene.look();
    assert_eq!(effects(&pass), [""; 0], "everything is in place");
    let result = result(&pass);
    let contained = says(&pass.status, "Contained");
    format!(
        "{} {} {:?}, Contained={}",
        result.outcome.as_str(),
        result.reason.as_deref().unwrap_or_default(),
        result.assurance.expect("an isolation has an assurance"),
        contained.split_once('/').map_or("absent", |(status, _)| status)
    )
}

fn message(scene: &Scene) -> String {
    result(&scene.look()).message.clone().unwrap_or_default()
}

fn tier(name: &str, order: Option<f64>) -> CalicoTier {
    CalicoTier { name: name.to_owned(), order, response_uid: None }
}

#[test]
fn a_tier_and_a_policy_in_it_come_before_the_network_policy_and_the_label() {
    let pass = on_calico(a_pod_that_answers()).look();
    let kinds: Vec<&str> = pass.steps.iter().map(|step| step.effect.object().kind.as_str()).collect();
    assert_eq!(kinds, ["Tier", "GlobalNetworkPolicy", "NetworkPolicy", "Pod"]);
    assert_eq!(spec(&pass, "Tier"), json!({ "order": -1_000_000, "defaultAction": "Pass" }));
    let tier = names::policy(RESPONSE_UID);
    assert_eq!(
        spec(&pass, "GlobalNetworkPolicy"),
        json!({
            "tier": tier, "order": 0, "namespaceSelector": "projectcalico.org/name == 'shop'",
            "selector": format!("isolate.tourniquet.dev/{RESPONSE_UID} == 'true'"),
            "types": ["Ingress", "Egress"], "ingress": [{ "action": "Deny" }], "egress": [{ "action": "Deny" }],
        })
    );
    let name = &pass.steps[1].effect.object().name;
    assert!(name.starts_with(&format!("{tier}.")), "Calico below 3.32 refuses another: {name}");
}

#[test]
fn of_a_namespace_all_pods_are_denied() {
    let scene = on_calico(a_pod_that_answers()).with_spec(|spec| {
        spec.target = object(json!({ "namespace": { "name": "shop" } }));
    });
    let namespace = Some(object(json!({ "metadata": { "name": "shop", "uid": "uid-of-shop" } })));
    let pass = Scene { pod: None, namespace, ..scene }.look();
    let spec = spec(&pass, "GlobalNetworkPolicy");
    assert_eq!(
        (&spec["namespaceSelector"], &spec["selector"]),
        (&json!("projectcalico.org/name == 'shop'"), &json!("all()"))
    );
}

#[test]
fn where_cilium_reports_on_the_pod_nothing_is_asked_of_calico() {
    let pass = on_calico(a_pod_that_cilium_serves()).look();
    let kinds: Vec<&str> = pass.steps.iter().map(|step| step.effect.object().kind.as_str()).collect();
    assert_eq!(kinds, ["CiliumClusterwideNetworkPolicy", "NetworkPolicy", "Pod"]);
}

#[test]
fn what_calicos_api_server_writes_its_own_way_is_what_was_asked_for() {
    let mut scene = in_place(Some(Answer::TimedOut));
    scene.calico.tier.as_mut().unwrap().spec["order"] = json!(-1_000_000.0);
    let policy = &mut scene.calico.policy.as_mut().unwrap().spec;
    policy["ingress"] = json!([{ "action": "Deny", "source": {}, "destination": {} }]);
    policy["doNotTrack"] = json!(false);
    assert_eq!(effects(&scene.look()), [""; 0]);
}

#[test]
fn what_somebody_changed_is_put_back() {
    let changes: [(&str, Value); 4] = [
        ("ingress", json!([{ "action": "Allow" }])),
        ("egress", json!([{ "action": "Deny", "protocol": "TCP" }])),
        ("order", json!(7)),
        ("doNotTrack", json!(true)),
    ];
    for (field, value) in changes {
        let mut scene = in_place(Some(Answer::TimedOut));
        scene.calico.policy.as_mut().unwrap().spec[field] = value;
        assert_eq!(
            effects(&scene.look()),
            [format!("Put GlobalNetworkPolicy tourniquet-{RESPONSE_UID}.isolate")],
            "{field}"
        );
    }
    let mut scene = in_place(Some(Answer::TimedOut));
    scene.calico.tier = None;
    assert_eq!(effects(&scene.look()), [format!("Put Tier tourniquet-{RESPONSE_UID}")]);
}

#[test]
fn that_its_kinds_are_served_proves_nothing() {
    let mut scene = on_calico(a_pod_that_answers());
    scene.control = Answer::TimedOut;
    let scene = scene.act().later(seconds(5));
    assert_eq!(verdict(&scene), "Partial NotObserved Accepted, Contained=Unknown");
    assert!(message(&scene).contains("Calico reports nothing"), "{}", message(&scene));
}

#[test]
fn a_pod_that_still_answers_is_open() {
    for allowing in [false, true] {
        let mut scene = in_place(Some(Answer::Answered));
        if allowing {
            scene.policies.push(allow_all("allow-all"));
        }
        assert_eq!(verdict(&scene), "Partial NotEnforced Accepted, Contained=False");
        assert!(message(&scene).contains("nothing enforces Calico's tier"), "{}", message(&scene));
        assert_eq!(message(&scene).contains("allow-all"), allowing);
    }
}

#[test]
fn silence_where_nobody_allows_anything_holds_by_whatever_denies() {
    assert_eq!(verdict(&in_place(Some(Answer::TimedOut))), "Done NetworkPolicy Probed, Contained=True");
}

#[test]
fn silence_in_spite_of_a_policy_that_admits_everybody_is_the_tiers_work() {
    let mut scene = in_place(Some(Answer::TimedOut));
    scene.policies.push(allow_all("allow-all"));
    assert_eq!(verdict(&scene), "Done DenyTier Probed, Contained=True");
    assert!(message(&scene).contains("though NetworkPolicy allow-all admits everybody"), "{}", message(&scene));
}

#[test]
fn and_stays_known_while_a_new_operator_has_not_tried_yet() {
    let mut scene = in_place(Some(Answer::TimedOut));
    scene.policies.push(allow_all("allow-all"));
    scene.response.status = Some(stored(&scene.look().status));
    scene.reach = None;
    assert_eq!(verdict(&scene), "Done DenyTier Probed, Contained=True");
}

#[test]
fn silence_beside_a_policy_that_admits_some_does_not_tell_whose_work_it_is() {
    let some = [
        json!({ "podSelector": {}, "ingress": [{ "from": [{ "podSelector": {} }] }] }),
        json!({ "podSelector": {}, "ingress": [{ "ports": [{ "port": 80 }] }] }),
        json!({ "podSelector": {}, "policyTypes": ["Egress"], "egress": [{}] }),
    ];
    for spec in some {
        let mut scene = in_place(Some(Answer::TimedOut));
        scene.policies.push(policy("some", spec));
        assert_eq!(verdict(&scene), "Partial NotObserved Accepted, Contained=Unknown");
        assert!(message(&scene).contains("NetworkPolicy some"), "{}", message(&scene));
    }
}

#[test]
fn a_policy_that_admits_everybody_to_other_pods_proves_nothing_of_this_one() {
    let mut scene = in_place(Some(Answer::TimedOut));
    scene
        .policies
        .push(policy("others", json!({ "podSelector": { "matchLabels": { "app": "db" } }, "ingress": [{}] })));
    scene.policies.push(policy("some", json!({ "podSelector": {}, "egress": [{}] })));
    assert_eq!(verdict(&scene), "Partial NotObserved Accepted, Contained=Unknown");
}

#[test]
fn silence_is_nobodys_where_another_response_isolates_the_pod_too() {
    let mut scene = in_place(Some(Answer::TimedOut)).held_by_another();
    scene.policies.push(allow_all("allow-all"));
    assert_eq!(verdict(&scene), "Partial NotObserved Accepted, Contained=Unknown");
}

#[test]
fn a_tier_of_somebody_else_that_comes_first_can_allow_what_ours_denies() {
    for first in [tier("platform", Some(-1_000_001.0)), tier("a", Some(-1_000_000.0))] {
        let mut scene = in_place(Some(Answer::TimedOut));
        scene.calico.others = vec![first.clone()];
        assert_eq!(verdict(&scene), "Partial EarlierTier Accepted, Contained=Unknown");
        assert!(message(&scene).contains(&format!("asks tier {} before it", first.name)), "{}", message(&scene));
        let residual = scene.look().status.residual;
        assert!(residual.iter().any(|found| found.code == "EarlierTier"), "{residual:?}");
    }
}

#[test]
fn tiers_that_come_later_and_those_of_other_responses_matter_nothing() {
    let mut scene = in_place(Some(Answer::TimedOut));
    let of_another = CalicoTier {
        name: names::policy(OTHER_UID),
        order: Some(-1_000_000.0),
        response_uid: Some(OTHER_UID.to_owned()),
    };
    scene.calico.others =
        vec![tier("kube-admin", Some(1000.0)), tier("a", None), tier("z", Some(-1_000_000.0)), of_another];
    assert_eq!(verdict(&scene), "Done NetworkPolicy Probed, Contained=True");
    assert!(scene.look().status.residual.iter().all(|found| found.code != "EarlierTier"));
}

#[test]
fn a_tier_that_only_says_it_is_a_responses_is_somebody_elses() {
    let mut scene = in_place(Some(Answer::TimedOut));
    scene.calico.others =
        vec![CalicoTier { name: "a".to_owned(), order: Some(-1e9), response_uid: Some(OTHER_UID.to_owned()) }];
    assert_eq!(verdict(&scene), "Partial EarlierTier Accepted, Contained=Unknown");
}

#[test]
fn a_release_takes_the_policy_then_the_tier_and_then_what_says_that_there_is_one() {
    let mut scene = in_place(Some(Answer::TimedOut)).deleted();
    // What answered for the kinds may be away: the network policy remembers.
    scene.engines.calico = false;
    let our_policy = |pass: &Pass| effects(pass).iter().any(|effect| effect.starts_with("Delete NetworkPolicy"));
    let pass = scene.look();
    assert_eq!(effects(&pass)[0], format!("Delete GlobalNetworkPolicy tourniquet-{RESPONSE_UID}.isolate"));
    assert!(!our_policy(&pass));
    scene.calico.policy = None;
    let pass = scene.look();
    assert_eq!(effects(&pass)[0], format!("Delete Tier tourniquet-{RESPONSE_UID}"));
    assert!(!our_policy(&pass));
    scene.calico.tier = None;
    assert!(our_policy(&scene.look()));
}

#[test]
fn a_tier_that_calico_keeps_is_named() {
    let mut scene = in_place(Some(Answer::TimedOut)).deleted();
    scene.calico.policy = None;
    scene.pod = None;
    scene.calico.tier = Some(ClusterwidePolicy {
        terminating: true,
        finalizers: vec!["projectcalico.org/tier-controller".to_owned()],
        ..ClusterwidePolicy::default()
    });
    let ready = scene.look().status.conditions.into_iter().find(|condition| condition.type_ == "Ready").unwrap();
    assert!(ready.message.contains("projectcalico.org/tier-controller"), "{ready:?}");
}

#[test]
fn a_cluster_that_never_had_calico_is_not_asked_about_it() {
    let world = a_pod_that_answers().act().deleted().looked_at();
    assert!(world.observed.keys().all(|read| !format!("{read:?}").starts_with("Calico")));
}

#[test]
fn what_a_vanished_response_left_goes_in_the_same_order() {
    let cluster_wide = |name: String| ObjectMeta { namespace: None, ..fixtures::traces::policy(&name, RESPONSE_UID) };
    let left = Traces {
        policies: vec![
            (Kind::NetworkPolicy, fixtures::traces::policy(&names::policy(RESPONSE_UID), RESPONSE_UID)),
            (Kind::Tier, cluster_wide(names::policy(RESPONSE_UID))),
            (Kind::GlobalNetworkPolicy, cluster_wide(names::calico_policy(RESPONSE_UID))),
            (Kind::GlobalNetworkPolicy, cluster_wide(names::policy(RESPONSE_UID))),
        ],
        ..Traces::default()
    };
    let found = leftovers(&left, &[], &[], None);
    let undone: Vec<&str> = found.undo.iter().map(|remnant| remnant.effect.object().kind.as_str()).collect();
    assert_eq!(undone, ["GlobalNetworkPolicy", "Tier", "NetworkPolicy"]);
    let [left] = found.left.as_slice() else { panic!("{:?}", found.left) };
    assert!(left.contains("is not named as ours are"), "{left}");
}

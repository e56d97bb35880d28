//! A namespace that is isolated: what selects all of it, what is cut, those that come later, and whoever else holds some of it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests: a panic is a failed test")]

mod fixtures;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};
use tourniquet_api::{Answer, Containment, Outcome, names};
use tourniquet_response::{
    Agents, CiliumEndpoint, ClusterwidePolicy, Effect, Engines, Kind, Pass, PeerResponse, Settings,
};

use fixtures::scene::{Scene, a_pod_that_answers};
use fixtures::{NODE, OTHER_UID, RESPONSE_UID, allow_all, noon, object, pod, says, seconds, stored};

const SHOP_UID: &str = "uid-of-shop";

fn numbered(number: usize) -> Pod {
    let mut pod = pod();
    pod.metadata.name = Some(format!("web-{number}"));
    pod.metadata.uid = Some(format!("uid-of-web-{number}"));
    pod.status.get_or_insert_default().pod_ip = Some(format!("10.1.{}.{}", number / 200, 10 + number % 200));
    pod
}

/// A response that isolates namespace `shop`, in which so many pods run. No engine reports on them.
fn shop(pods: usize) -> Scene {
    let scene = a_pod_that_answers().with_spec(|spec| {
        spec.target = object(json!({ "namespace": { "name": "shop" } }));
    });
    Scene {
        pods: (0..pods).map(numbered).collect(),
        pod: None,
        namespace: Some(object(json!({ "metadata": { "name": "shop", "uid": SHOP_UID } }))),
        control: Answer::TimedOut,
        ..scene
    }
}

fn with_agents(scene: Scene) -> Scene {
    let agents = Agents { namespace: "tourniquet-agent".to_owned(), egress_targets: Vec::new() };
    Scene { settings: Settings { agents: Some(agents), ..Settings::default() }, ..scene }
}

fn on_cilium(mut scene: Scene) -> Scene {
    scene.engines = Engines { cilium: true, ..Engines::default() };
    let endpoint = |pod: &Pod| CiliumEndpoint {
        pod_uid: pod.metadata.uid.clone(),
        identity_labels: ["k8s:app=web".to_owned(), "k8s:io.kubernetes.pod.namespace=shop".to_owned()].into(),
        state: "ready".to_owned(),
    };
    let named = |pod: &Pod| (pod.metadata.name.clone().unwrap(), endpoint(pod));
    scene.endpoints = scene.pods.iter().map(named).collect();
    scene
}

fn containment(pod_uid: &str, holders: &[&str], state: &str) -> Containment {
    let holders: BTreeMap<&str, Value> = holders.iter().map(|uid| (*uid, json!({}))).collect();
    object(json!({
        "apiVersion": "internal.tourniquet.dev/v1alpha1", "kind": "Containment",
        "metadata": { "name": pod_uid, "uid": format!("containment-of-{pod_uid}"), "resourceVersion": "7", "generation": 1 },
        "spec": {
            "pod": { "namespace": "shop", "name": pod_uid.trim_start_matches("uid-of-"), "uid": pod_uid },
            "nodeName": NODE, "holders": holders,
        },
        "status": { "observedGeneration": 1, "state": state },
    }))
}

/// The effects on policies and Containments as they would be carried out; the agent cuts what is held.
fn perform(scene: &mut Scene, pass: &Pass) {
    scene.response.status = Some(stored(&pass.status));
    for step in &pass.steps {
        let effect = &step.effect;
        let name = effect.object().name.clone();
        match (effect, effect.object().kind) {
            (Effect::Put { manifest, .. }, Kind::NetworkPolicy) => scene.policies.push(object(manifest.clone())),
            (Effect::Put { manifest, .. }, _) => {
                let policy = ClusterwidePolicy {
                    uid: "our-policy".to_owned(),
                    labels: object(manifest["metadata"]["labels"].clone()),
                    spec: manifest["spec"].clone(),
                    valid: true,
                    ..ClusterwidePolicy::default()
                };
                scene.clusterwide.insert(name, policy);
            }
            (Effect::Apply { .. }, Kind::Containment) => {
                scene.containments.insert(name.clone(), containment(&name, &[RESPONSE_UID], "Cut"));
            }
            (Effect::Withdraw { .. }, Kind::Containment) => {
                scene.containments.insert(name.clone(), containment(&name, &[], "Lifted"));
            }
            (Effect::Delete { .. }, Kind::Containment) => drop(scene.containments.remove(&name)),
            (Effect::Delete { .. }, Kind::NetworkPolicy) => {
                scene.policies.retain(|policy| policy.metadata.name.as_ref() != Some(&name));
            }
            (Effect::Delete { .. }, _) => drop(scene.clusterwide.remove(&name)),
            (other, _) => panic!("{other} was not expected"),
        }
    }
}

fn settled(mut scene: Scene) -> (Scene, Pass) {
    for _ in 0..6 {
        let pass = scene.look();
        perform(&mut scene, &pass);
        if pass.steps.is_empty() {
            return (scene, pass);
        }
    }
    panic!("it comes to no end");
}

fn effects(pass: &Pass) -> Vec<String> {
    pass.steps.iter().map(|step| format!("{} {}", step.effect.verb(), step.effect.object().kind.as_str())).collect()
}

#[test]
fn its_policies_select_all_of_it_and_no_pod_is_labelled() {
    let pass = on_cilium(shop(2)).look();
    assert_eq!(effects(&pass), ["Put CiliumClusterwideNetworkPolicy", "Put NetworkPolicy"]);
    let manifests: Vec<&Value> = pass
        .steps
        .iter()
        .map(|step| match &step.effect {
            Effect::Put { manifest, .. } => manifest,
            other => panic!("{other}"),
        })
        .collect();
    let selected = json!({ "matchLabels": { "k8s:io.kubernetes.pod.namespace": "shop" } });
    assert_eq!(manifests[0]["spec"]["endpointSelector"], selected);
    assert_eq!(manifests[1]["spec"]["podSelector"], json!({}));
    assert_eq!(manifests[1]["metadata"]["namespace"], "shop");
}

#[test]
fn on_cilium_it_is_in_force_as_soon_as_the_policy_is() {
    let (_, pass) = settled(on_cilium(shop(2)));
    assert_eq!(says(&pass.status, "Ready"), "True/DenyTier");
    assert_eq!(says(&pass.status, "Contained"), "True/DenyTier");
    let counts = pass.status.targets[0].pods.unwrap();
    assert_eq!((counts.running, counts.contained), (2, 2));
    let message = pass.status.actions[0].message.clone().unwrap();
    assert!(message.contains("those that start later from their first packet; done on all 2 pods"), "{message}");
}

#[test]
fn each_pod_is_cut_first_and_the_policies_come_after_that() {
    let pass = with_agents(on_cilium(shop(2))).look();
    let cut = ["Apply Containment"; 4].as_slice();
    assert_eq!(effects(&pass), [cut, &["Put CiliumClusterwideNetworkPolicy", "Put NetworkPolicy"]].concat());
    let Effect::Apply { fields, .. } = &pass.steps[0].effect else { panic!("{:?}", pass.steps) };
    assert_eq!(fields["metadata"]["labels"][names::POD_NAMESPACE_LABEL], "shop");
}

#[test]
fn what_is_cut_is_contained_on_any_engine_and_on_none() {
    let (_, pass) = settled(with_agents(shop(3)));
    assert_eq!(says(&pass.status, "Contained"), "True/Cut");
    assert_eq!(says(&pass.status, "Ready"), "True/Cut");
    let residual = pass.status.residual.iter().find(|residual| residual.code == "NewPodsOpenAtFirst").unwrap();
    assert!(residual.message.contains("each is cut off as soon as it is seen"), "{residual:?}");
}

#[test]
fn a_pod_that_comes_later_is_cut_as_well() {
    let (mut scene, _) = settled(with_agents(shop(1)));
    scene.pods.push(numbered(7));
    let pass = scene.look();
    assert_eq!(effects(&pass), ["Apply Containment", "Apply Containment"]);
    assert!(pass.steps.iter().all(|step| step.target.as_deref() == Some("uid-of-web-7")));
    assert_eq!(says(&pass.status, "Contained"), "False/Applying", "it is open until it is cut");
    let (_, pass) = settled(scene);
    assert_eq!(says(&pass.status, "Contained"), "True/Cut");
    assert_eq!(pass.status.actions[0].results.len(), 3, "the namespace and its two pods");
}

#[test]
fn a_pod_without_a_network_yet_is_nothing_to_wait_for() {
    let mut scene = on_cilium(shop(1));
    let mut young = numbered(1);
    young.status = None;
    scene.pods.push(young);
    let (_, pass) = settled(scene);
    assert_eq!(says(&pass.status, "Contained"), "True/DenyTier");
    let counts = pass.status.targets[0].pods.unwrap();
    assert_eq!((counts.running, counts.contained), (1, 1));
}

#[test]
fn an_empty_namespace_is_not_said_to_be_contained_where_nobody_reports() {
    let (_, pass) = settled(shop(0));
    assert_eq!(says(&pass.status, "Contained"), "Unknown/NetworkPolicy");
    assert_eq!(says(&pass.status, "Ready"), "False/NetworkPolicy");
    let (_, pass) = settled(on_cilium(shop(0)));
    assert_eq!(says(&pass.status, "Contained"), "True/DenyTier");
}

#[test]
fn a_policy_of_somebody_else_that_allows_is_named() {
    let mut scene = shop(1);
    scene.policies.push(allow_all("open"));
    let (_, pass) = settled(scene);
    assert_eq!(says(&pass.status, "Ready"), "False/AllowedByPolicy");
    assert_eq!(says(&pass.status, "Contained"), "False/AllowedByPolicy");
    assert!(pass.status.actions[0].message.as_deref().unwrap().contains("open"));
}

#[test]
fn a_pod_in_the_nodes_network_is_out_of_reach_and_said_so() {
    let mut scene = on_cilium(shop(2));
    scene.pods[1].spec.get_or_insert_default().host_network = Some(true);
    let (_, pass) = settled(scene);
    assert_eq!(says(&pass.status, "Contained"), "False/HostNetwork");
    assert_eq!(pass.status.actions[0].outcome, Outcome::Partial);
}

#[test]
fn what_the_api_server_depends_on_there_refuses_it() {
    let mut scene = shop(0);
    scene.backends = vec![tourniquet_response::AdmissionBackend {
        used_by: "APIService v1.metrics".to_owned(),
        service: "metrics".to_owned(),
        selector: BTreeMap::new(),
    }];
    assert_eq!(says(&scene.look().status, "Accepted"), "False/AdmissionBackend");
    let scene = scene.with_spec(|spec| spec.override_protection = true);
    assert_eq!(says(&scene.look().status, "Accepted"), "True/Accepted");
}

#[test]
fn another_namespace_of_the_same_name_is_let_go_of() {
    let (mut scene, _) = settled(on_cilium(shop(1)));
    scene.namespace = Some(object(json!({ "metadata": { "name": "shop", "uid": "uid-of-another" } })));
    scene.policies.clear();
    let pass = scene.look();
    assert_eq!(effects(&pass), ["Delete CiliumClusterwideNetworkPolicy"], "it would deny the other one's pods");
    let (_, pass) = settled(scene);
    assert_eq!(says(&pass.status, "Contained"), "False/TargetGone");
}

#[test]
fn the_cuts_of_another_namespace_of_the_same_name_are_not_its_matter() {
    let (mut scene, _) = settled(with_agents(shop(1)));
    scene.namespace = Some(object(json!({ "metadata": { "name": "shop", "uid": "uid-of-another" } })));
    scene.policies.clear();
    // A pod of the other one, of which somebody else has just let go: the agent has not said yet that its cut is lifted.
    scene.pods = vec![numbered(7)];
    scene.containments.insert("uid-of-web-7".to_owned(), containment("uid-of-web-7", &[], "Cut"));
    let pass = scene.look();
    assert_eq!(effects(&pass), ["Withdraw Containment"], "what is left of the pod that went with its own namespace");
    assert_eq!(pass.steps[0].effect.object().name, "uid-of-web-0");

    scene.response.metadata.deletion_timestamp = Some(Time(noon()));
    for _ in 0..3 {
        let pass = scene.look();
        assert!(pass.steps.iter().all(|step| step.effect.object().name == "uid-of-web-0"), "{:?}", pass.steps);
        perform(&mut scene, &pass);
    }
    assert_eq!(says(&scene.look().status, "Reverted"), "True/Released", "it waits for nobody");
    assert!(scene.containments.contains_key("uid-of-web-7"));
}

#[test]
fn undo_takes_the_policies_first_and_lifts_the_cuts_after_them() {
    let (mut scene, _) = settled(with_agents(on_cilium(shop(2))));
    // One that was cut and is gone since, and one that came to its end.
    scene.containments.insert("uid-of-gone".to_owned(), containment("uid-of-gone", &[RESPONSE_UID], "PodGone"));
    scene.response.metadata.deletion_timestamp = Some(Time(noon()));
    let pass = scene.look();
    assert_eq!(effects(&pass), ["Delete CiliumClusterwideNetworkPolicy", "Delete NetworkPolicy"]);
    perform(&mut scene, &pass);
    let pass = scene.look();
    assert_eq!(effects(&pass), ["Withdraw Containment"; 3]);
    perform(&mut scene, &pass);
    let pass = scene.look();
    assert_eq!(effects(&pass), ["Delete Containment"; 3]);
    perform(&mut scene, &pass);
    let pass = scene.look();
    assert!(pass.steps.is_empty() && !pass.finalizer);
    assert_eq!(says(&pass.status, "Reverted"), "True/Released");
}

#[test]
fn what_is_left_of_pods_that_are_gone_is_tidied_up_and_said() {
    let (mut scene, _) = settled(with_agents(shop(2)));
    scene.pods.pop();
    let pass = scene.look();
    assert_eq!(effects(&pass), ["Withdraw Containment"]);
    assert_eq!(says(&pass.status, "Contained"), "True/Cut", "the one that runs is held all the while");
    assert_eq!(says(&pass.status, "EvidenceIntact"), "False/Lost");
    perform(&mut scene, &pass);
    assert_eq!(effects(&scene.look()), ["Delete Containment"]);
    let (scene, pass) = settled(scene);
    assert_eq!(scene.containments.len(), 1);
    assert_eq!(says(&pass.status, "EvidenceIntact"), "False/Lost", "for good");
}

#[test]
fn a_container_that_restarted_while_held_is_said() {
    let (mut scene, pass) = settled(on_cilium(shop(1)));
    assert_eq!(says(&pass.status, "EvidenceIntact"), "True/Running");
    let mut status = fixtures::container_status("web", "containerd://2", 1);
    status["lastState"] = json!({ "terminated": {
        "exitCode": 1, "finishedAt": (noon() + seconds(60)).to_string(),
    } });
    scene.pods[0].status.get_or_insert_default().container_statuses = Some(vec![object(status)]);
    assert_eq!(says(&scene.look().status, "EvidenceIntact"), "False/Lost");
}

/// Another response that isolates a pod of it, by itself.
fn another(contains: bool) -> PeerResponse {
    PeerResponse {
        name: "incident-response/other".to_owned(),
        uid: OTHER_UID.to_owned(),
        isolates: vec![("shop".to_owned(), "web-0".to_owned(), Some("uid-of-web-0".to_owned()))],
        live: true,
        contains,
        ..PeerResponse::default()
    }
}

#[test]
fn it_is_not_let_go_before_another_that_isolates_one_of_its_pods_is_in_force() {
    let (mut scene, _) = settled(with_agents(shop(2)));
    scene.response.metadata.deletion_timestamp = Some(Time(noon()));
    scene.peers = vec![another(false)];
    let pass = scene.look();
    assert!(pass.steps.is_empty());
    assert_eq!(says(&pass.status, "Reverted"), "False/WaitingForHolder");
    // Now the cut is the other one's as well.
    scene
        .containments
        .insert("uid-of-web-0".to_owned(), containment("uid-of-web-0", &[RESPONSE_UID, OTHER_UID], "Cut"));
    assert_eq!(effects(&scene.look()), ["Delete NetworkPolicy"]);
}

#[test]
fn a_pod_is_not_let_go_before_its_namespace_is_isolated_by_another_that_is_about_to() {
    let mut scene = fixtures::scene::a_pod_that_cilium_serves();
    scene.endpoint = Some(fixtures::scene::endpoint(&[RESPONSE_UID]));
    let pass = scene.look();
    scene.response.status = Some(stored(&pass.status));
    scene.response.metadata.deletion_timestamp = Some(Time(noon()));
    scene.policies.push(object(match &pass.steps[1].effect {
        Effect::Put { manifest, .. } => manifest.clone(),
        other => panic!("{other}"),
    }));
    scene.peers = vec![PeerResponse {
        name: "incident-response/other".to_owned(),
        uid: OTHER_UID.to_owned(),
        isolates_namespace: Some("shop".to_owned()),
        live: true,
        ..PeerResponse::default()
    }];
    assert_eq!(says(&scene.look().status, "Reverted"), "False/WaitingForHolder");
    scene.clusterwide.insert(
        names::policy(OTHER_UID),
        ClusterwidePolicy { uid: "other-policy".to_owned(), valid: true, ..ClusterwidePolicy::default() },
    );
    let pass = scene.look();
    assert_eq!(effects(&pass), ["Delete NetworkPolicy"], "every pod of the namespace has the label that it selects");
}

#[test]
fn of_more_than_a_hundred_pods_the_others_are_counted() {
    let (_, pass) = settled(on_cilium(shop(130)));
    let action = &pass.status.actions[0];
    assert_eq!(action.results.len(), 100);
    assert_eq!(action.further, [("Done".to_owned(), 31)].into());
    let counts = pass.status.targets[0].pods.unwrap();
    assert_eq!((counts.running, counts.contained), (130, 130));
    assert!(action.message.as_deref().unwrap().ends_with("done on all 130 pods that run there"), "{action:?}");
    let status = serde_json::to_string(&pass.status).unwrap();
    assert!(status.len() < 200_000, "{}", status.len());
}

#[test]
fn one_that_is_open_among_the_many_is_what_is_said() {
    let mut scene = on_cilium(shop(130));
    let last = scene.pods.last_mut().unwrap();
    last.metadata.name = Some("zz".to_owned());
    last.spec.get_or_insert_default().host_network = Some(true);
    let (_, pass) = settled(scene);
    assert_eq!(says(&pass.status, "Contained"), "False/HostNetwork");
    assert!(pass.status.actions[0].message.as_deref().unwrap().contains("pod shop/zz uses its node's network"));
}

#[test]
fn while_its_release_waits_for_one_pod_it_is_said_of_all_of_them_whether_they_are_held() {
    let (mut scene, _) = settled(with_agents(shop(2)));
    scene.response.metadata.deletion_timestamp = Some(Time(noon()));
    scene.peers = vec![another(false)];
    assert_eq!(says(&scene.look().status, "Contained"), "True/WaitingForHolder");
    scene.containments.insert("uid-of-web-1".to_owned(), containment("uid-of-web-1", &[], "Lifted"));
    assert_eq!(says(&scene.look().status, "Contained"), "False/WaitingForHolder", "the other one is open");
}

#[test]
fn without_an_engine_and_agents_a_pod_that_answers_before_and_after_is_seen_to_be_open() {
    let mut scene = shop(1);
    scene.control = Answer::Answered;
    let (mut scene, _) = settled(scene);
    let probes = &scene.response.status.as_ref().unwrap().actions[0].results[1].probes;
    assert_eq!(probes.len(), 1, "it was tried before the policies came");
    scene = scene.later(seconds(10));
    scene.reach = Some(Answer::Answered);
    assert_eq!(says(&scene.look().status, "Ready"), "False/NotEnforced");
    scene.reach = Some(Answer::TimedOut);
    let status = scene.look().status;
    assert_eq!(says(&status, "Contained"), "True/NetworkPolicy");
}

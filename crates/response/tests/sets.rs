//! Responses on several pods: which are meant, what each of them comes to, and what they have together.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests: a panic is a failed test")]

mod fixtures;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tourniquet_api::{Answer, Outcome, names};
use tourniquet_response::{Effect, Kind, Pass};

use fixtures::scene::{Scene, a_pod_that_answers};
use fixtures::{RESPONSE_UID, condition, object, pod, says, stored};

/// Pods `web-0`, `web-1` … of `shop`.
fn pods(count: usize) -> Vec<Pod> {
    let numbered = |number| {
        let mut pod = pod();
        pod.metadata.name = Some(format!("web-{number}"));
        pod.metadata.uid = Some(format!("uid-of-web-{number}"));
        pod.status.get_or_insert_default().pod_ip = Some(format!("10.1.0.{}", 10 + number));
        pod
    };
    (0..count).map(numbered).collect()
}

fn of_shop(pods: Vec<Pod>, more: Value) -> Scene {
    let mut target = json!({ "namespace": "shop" });
    target.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let scene = a_pod_that_answers().with_spec(|spec| spec.target = object(json!({ "pods": target })));
    Scene { pods, pod: None, control: Answer::TimedOut, ..scene }
}

fn selected(pods: Vec<Pod>) -> Scene {
    of_shop(pods, json!({ "selector": { "matchLabels": { "app": "web" } } }))
}

fn refusal(scene: &Scene) -> (String, String) {
    let status = scene.look().status;
    let accepted = condition(&status, "Accepted").unwrap();
    assert_eq!(accepted.status, "False");
    (accepted.reason.clone(), accepted.message.clone())
}

fn kinds(pass: &Pass) -> Vec<Kind> {
    pass.steps.iter().map(|step| step.effect.object().kind).collect()
}

/// Looks until nothing is left to do, taking every effect on pods and policies as carried out.
fn settled(mut scene: Scene) -> (Scene, Pass) {
    for _ in 0..5 {
        let pass = scene.look();
        scene.response.status = Some(stored(&pass.status));
        if pass.steps.is_empty() {
            return (scene, pass);
        }
        for step in &pass.steps {
            match &step.effect {
                Effect::Apply { object, manager, fields } if object.kind == Kind::Pod => {
                    let pod = scene.pods.iter_mut().find(|pod| pod.metadata.uid == object.uid).unwrap();
                    let labels: std::collections::BTreeMap<String, String> =
                        serde_json::from_value(fields["metadata"]["labels"].clone()).unwrap();
                    let held: serde_json::Map<String, Value> =
                        labels.keys().map(|key| (format!("f:{key}"), json!({}))).collect();
                    pod.metadata.labels.get_or_insert_default().extend(labels);
                    pod.metadata.managed_fields.get_or_insert_default().push(fixtures::object(json!({
                        "manager": manager, "operation": "Apply", "fieldsV1": { "f:metadata": { "f:labels": held } },
                    })));
                }
                Effect::Put { manifest, .. } => scene.policies.push(object(manifest.clone())),
                other => panic!("{other} was not expected"),
            }
        }
    }
    panic!("it comes to no end");
}

#[test]
fn all_that_are_selected_are_pinned_by_uid_in_the_order_of_their_names() {
    let mut unordered = pods(3);
    unordered.reverse();
    let status = selected(unordered).look().status;
    let pinned: Vec<(&str, &str)> =
        status.targets.iter().map(|target| (target.name.as_str(), target.uid.as_str())).collect();
    assert_eq!(pinned, [("web-0", "uid-of-web-0"), ("web-1", "uid-of-web-1"), ("web-2", "uid-of-web-2")]);
    assert_eq!(status.target.as_deref(), Some("pods shop (app=web)"));
    assert!(status.targets.iter().all(|target| target.containers.len() == 2));
}

#[test]
fn more_than_the_limit_refuse_the_whole_response() {
    let (reason, message) = refusal(&selected(pods(11)));
    assert_eq!(reason, "TooManyTargets");
    assert!(message.contains("there are 11 pods shop (app=web), and the limit is 10"), "{message}");
    let (reason, message) =
        refusal(&of_shop(pods(3), json!({ "owner": { "kind": "Job", "name": "web" }, "limit": 2 })));
    assert_eq!(reason, "TooManyTargets");
    assert!(message.contains("there are 3 pods of Job shop/web"), "{message}");
    assert!(selected(pods(11)).look().steps.is_empty());
    assert_eq!(says(&selected(pods(10)).look().status, "Accepted"), "True/Accepted");
}

#[test]
fn none_at_all_and_no_such_owner_are_refused() {
    assert_eq!(refusal(&selected(Vec::new())).0, "TargetNotFound");
    let mut scene = of_shop(pods(1), json!({ "owner": { "kind": "Deployment", "name": "web" } }));
    assert_eq!(says(&scene.look().status, "Accepted"), "True/Accepted");
    scene.is_owned = false;
    let (reason, message) = refusal(&scene);
    assert_eq!(reason, "TargetNotFound");
    assert!(message.contains("there is no Deployment shop/web"), "{message}");
}

#[test]
fn they_have_one_policy_and_a_label_each() {
    let pass = selected(pods(3)).look();
    assert_eq!(kinds(&pass), [Kind::NetworkPolicy, Kind::Pod, Kind::Pod, Kind::Pod]);
    assert_eq!(pass.steps[0].target, None, "the policy is for all of them");
    assert_eq!(pass.steps[2].target.as_deref(), Some("uid-of-web-1"));
}

#[test]
fn the_result_of_each_is_its_own_and_the_action_is_as_bad_as_the_worst() {
    let mut all = pods(3);
    all[1].spec.get_or_insert_default().host_network = Some(true);
    all[2].status.get_or_insert_default().phase = Some("Succeeded".to_owned());
    let mut scene = selected(all);
    scene.control = Answer::Answered;
    let (mut scene, _) = settled(scene);
    scene.reach = Some(Answer::TimedOut);
    let status = scene.later(fixtures::seconds(10)).look().status;
    let action = &status.actions[0];
    let each: Vec<(Outcome, &str)> =
        action.results.iter().map(|result| (result.outcome, result.reason.as_deref().unwrap_or_default())).collect();
    assert_eq!(
        each,
        [(Outcome::Done, "NetworkPolicy"), (Outcome::Failed, "HostNetwork"), (Outcome::Skipped, "PodFinished")]
    );
    assert_eq!((action.outcome, action.reason.as_deref()), (Outcome::Partial, Some("HostNetwork")));
    let message = action.message.as_deref().unwrap();
    assert!(message.starts_with("done on 1 of 3; pod shop/web-1 uses its node's network"), "{message}");
    assert_eq!(says(&status, "Ready"), "False/HostNetwork");
    assert_eq!(says(&status, "Contained"), "False/HostNetwork", "one of them is known to be open");
}

#[test]
fn what_has_finished_is_no_failure() {
    let mut all = pods(2);
    all[1].status.get_or_insert_default().phase = Some("Failed".to_owned());
    let mut scene = selected(all);
    scene.control = Answer::Answered;
    let (mut scene, _) = settled(scene);
    scene.reach = Some(Answer::TimedOut);
    let status = scene.look().status;
    assert_eq!(says(&status, "Ready"), "True/NetworkPolicy");
    assert_eq!(says(&status, "Contained"), "True/NetworkPolicy");
}

#[test]
fn where_none_can_be_isolated_the_response_is_refused() {
    let mut all = pods(2);
    for pod in &mut all {
        pod.spec.get_or_insert_default().host_network = Some(true);
    }
    assert_eq!(refusal(&selected(all)).0, "HostNetwork");
}

#[test]
fn a_pod_on_a_virtual_node_is_passed_over() {
    let mut all = pods(2);
    all[1].spec.get_or_insert_default().tolerations =
        Some(object(json!([{ "key": "virtual-kubelet.io/provider", "operator": "Exists" }])));
    let mut scene = selected(all);
    scene.node = Some(object(json!({
        "metadata": { "name": "virtual-node-aci-linux" },
        "spec": { "taints": [{ "key": "virtual-kubelet.io/provider", "value": "azure", "effect": "NoSchedule" }] },
    })));
    let pass = scene.look();
    assert_eq!(kinds(&pass), [Kind::NetworkPolicy, Kind::Pod]);
    let result = &pass.status.actions[0].results[1];
    assert_eq!((result.outcome, result.reason.as_deref()), (Outcome::Failed, Some("VirtualNode")));
}

#[test]
fn one_that_the_api_server_depends_on_refuses_the_whole_response() {
    let mut scene = selected(pods(2));
    scene.pods[1].metadata.labels.get_or_insert_default().insert("role".to_owned(), "hook".to_owned());
    scene.backends = vec![tourniquet_response::AdmissionBackend {
        used_by: "ValidatingWebhookConfiguration gate".to_owned(),
        service: "hook".to_owned(),
        selector: [("role".to_owned(), "hook".to_owned())].into(),
    }];
    let (reason, message) = refusal(&scene);
    assert_eq!(reason, "AdmissionBackend");
    assert!(message.contains("pod shop/web-1 is behind Service hook"), "{message}");
}

#[test]
fn a_failed_effect_is_of_its_target_alone() {
    let scene = selected(pods(2));
    let pass = scene.look();
    let of_second = pass.steps.iter().find(|step| step.target.as_deref() == Some("uid-of-web-1")).unwrap();
    let failure = of_second.failed("cannot apply to Pod shop/web-1".to_owned());
    let status =
        tourniquet_response::report_failures(&scene.response, &pass.status, false, &[failure], fixtures::noon());
    let outcomes: Vec<Outcome> = status.actions[0].results.iter().map(|result| result.outcome).collect();
    assert_eq!(outcomes, [Outcome::Running, Outcome::Failed]);
}

#[test]
fn all_are_let_go_together() {
    let (mut scene, _) = settled(selected(pods(3)));
    scene.response.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(fixtures::noon()));
    let pass = scene.look();
    assert_eq!(kinds(&pass), [Kind::NetworkPolicy, Kind::Pod, Kind::Pod, Kind::Pod]);
    let Effect::Delete { object, .. } = &pass.steps[0].effect else { panic!("{:?}", pass.steps) };
    assert_eq!(object.name, names::policy(RESPONSE_UID));
}

#[test]
fn all_of_several_are_labelled() {
    let scene = selected(pods(2)).with_spec(|spec| {
        spec.actions = object(json!([{ "label": { "set": { "soc.example.com/incident": "4711" } } }]));
    });
    let (scene, pass) = settled(scene);
    assert_eq!(says(&pass.status, "Ready"), "True/Labelled");
    let labelled = |pod: &Pod| pod.metadata.labels.as_ref().unwrap()["soc.example.com/incident"] == "4711";
    assert!(scene.pods.iter().all(labelled));
    let message = pass.status.actions[0].message.clone().unwrap();
    assert!(message.starts_with("done on all 2; the first: pod shop/web-0"), "{message}");
}

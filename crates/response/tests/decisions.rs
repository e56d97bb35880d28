//! Whether a response is carried out: each reason to refuse, and what acceptance and a dry run pin down.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests: a panic is a failed test")]

mod fixtures;

use fixtures::scene::{Scene, a_pod_that_answers, a_pod_that_cilium_serves};
use fixtures::{NAMESPACE, POD_UID, condition, noon, object, says, seconds, stored};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;
use tourniquet_api::{IncidentResponseSpec, Outcome, PodTarget};
use tourniquet_response::{AdmissionBackend, Agents, Effect, Phase, Read};

/// The reason of the refusal; a refused response touches nothing and says so.
fn refusal(scene: &Scene) -> String {
    let pass = scene.look();
    assert_eq!(pass.phase, Phase::Refused, "{:?}", pass.status.conditions);
    assert_eq!((pass.steps.len(), pass.finalizer, pass.watch.len()), (0, false, 0));
    assert!(pass.status.targets.is_empty());
    assert!(pass.status.actions.iter().all(|action| action.outcome == Outcome::Skipped));
    let accepted = says(&pass.status, "Accepted");
    let reason = accepted.strip_prefix("False/").expect("not accepted");
    assert_eq!(says(&pass.status, "Ready"), format!("False/{reason}"));
    assert_eq!(says(&pass.status, "Stalled"), format!("True/{reason}"));
    assert_eq!(says(&pass.status, "Contained"), format!("False/{reason}"));
    reason.to_owned()
}

fn is_accepted(scene: &Scene) -> bool {
    says(&scene.look().status, "Accepted") == "True/Accepted"
}

fn target(spec: &mut IncidentResponseSpec) -> &mut PodTarget {
    spec.target.pod.as_mut().unwrap()
}

fn behind(service: &str, app: Option<&str>) -> AdmissionBackend {
    AdmissionBackend {
        used_by: "ValidatingWebhookConfiguration gatekeeper".to_owned(),
        service: service.to_owned(),
        selector: app.map(|app| ("app".to_owned(), app.to_owned())).into_iter().collect(),
    }
}

#[test]
fn a_running_pod_is_pinned_by_uid_with_its_containers() {
    let pass = a_pod_that_answers().look();
    assert_eq!(says(&pass.status, "Accepted"), "True/Accepted");
    assert_eq!(
        json!(pass.status.targets),
        json!([{
            "kind": "Pod",
            "namespace": "shop",
            "name": "web",
            "uid": POD_UID,
            "node": "node-1",
            "containers": [
                { "name": "sidecar", "containerID": "containerd://2", "restartCount": 0 },
                { "name": "web", "containerID": "containerd://1", "restartCount": 0 },
            ],
        }])
    );
    assert_eq!(pass.status.target.as_deref(), Some("pod shop/web"));
}

#[test]
fn an_action_without_a_verb_is_refused() {
    let scene = a_pod_that_answers().with_spec(|spec| spec.actions = object(json!([{ "name": "nothing" }])));
    assert_eq!(refusal(&scene), "Invalid");
}

#[test]
fn what_was_stored_under_another_schema_is_not_carried_out_in_part() {
    let two_verbs = json!([{ "isolate": {}, "run": { "command": ["a"] } }]);
    let same_names = json!([{ "isolate": {} }, { "isolate": {} }]);
    for actions in [json!([]), two_verbs, same_names] {
        let scene = a_pod_that_answers().with_spec(|spec| spec.actions = object(actions.clone()));
        assert_eq!(refusal(&scene), "Invalid", "{actions}");
        let names: Vec<String> = scene.look().status.actions.into_iter().map(|action| action.name).collect();
        assert!(names.len() <= 1, "a name is there once: {names:?}");
    }
    let two_targets = json!({ "pod": { "namespace": "shop", "name": "web" }, "node": { "name": "node-1" } });
    let scene = a_pod_that_answers().with_spec(|spec| spec.target = object(two_targets));
    assert_eq!(refusal(&scene), "Invalid");
}

#[test]
fn a_verb_on_a_target_that_it_is_not_for_is_refused_and_says_what_is() {
    let refused = |target, actions| {
        let scene = a_pod_that_answers().with_spec(|spec| {
            spec.target = object(target);
            spec.actions = object(actions);
        });
        assert_eq!(refusal(&scene), "VerbNotSupported");
        condition(&scene.look().status, "Accepted").unwrap().message.clone()
    };
    let namespace = json!({ "namespace": { "name": "shop" } });
    let message = refused(namespace.clone(), json!([{ "cordon": {} }]));
    assert!(message.contains("cordon on a node, and on a namespace only label or isolate"), "{message}");
    let message = refused(namespace, json!([{ "label": { "set": { "a": "b" } } }, { "cordon": {} }]));
    assert!(message.contains("cordon on a node"), "{message}");
    let message = refused(json!({ "node": { "name": "node-1" } }), json!([{ "isolate": {} }]));
    assert!(message.contains("on a node only label or cordon"), "{message}");
}

#[test]
fn namespaces_and_nodes_are_pinned_by_uid() {
    let label = json!([{ "label": { "set": { "incident": "4711" } } }]);
    let on = |target: serde_json::Value| {
        let mut scene = a_pod_that_answers().with_spec(|spec| {
            spec.target = object(target);
            spec.actions = object(label.clone());
        });
        scene.namespace = Some(object(json!({ "metadata": { "name": "shop", "uid": "uid-of-shop" } })));
        scene.node = Some(object(json!({ "metadata": { "name": "node-1", "uid": "uid-of-node" } })));
        scene
    };
    let pinned = |target| json!(on(target).look().status.targets);
    let shop = json!([{ "kind": "Namespace", "name": "shop", "uid": "uid-of-shop" }]);
    assert_eq!(pinned(json!({ "namespace": { "name": "shop", "uid": "uid-of-shop" } })), shop);
    let node = json!([{ "kind": "Node", "name": "node-1", "uid": "uid-of-node" }]);
    assert_eq!(pinned(json!({ "node": { "name": "node-1" } })), node);

    for other in
        [json!({ "namespace": { "name": "shop", "uid": "b" } }), json!({ "node": { "name": "node-1", "uid": "b" } })]
    {
        assert_eq!(refusal(&on(other)), "UIDMismatch");
    }
    let mut scene = on(json!({ "namespace": { "name": "shop" } }));
    scene.settings.protected_namespaces.insert(NAMESPACE.to_owned());
    assert_eq!(refusal(&scene), "ProtectedNamespace");
    scene =
        on(json!({ "namespace": { "name": "tourniquet-system" } })).with_spec(|spec| spec.override_protection = true);
    assert_eq!(refusal(&scene), "ProtectedNamespace", "the operator's own, whatever is overridden");
    scene = on(json!({ "namespace": { "name": "shop" } }));
    scene.namespace = None;
    assert_eq!(refusal(&scene), "TargetNotFound");
}

#[test]
fn what_only_speaks_against_an_isolation_does_not_keep_a_pod_from_being_labelled() {
    let label = json!([{ "label": { "set": { "incident": "4711" } } }]);
    let labelled = || a_pod_that_answers().with_spec(|spec| spec.actions = object(label.clone()));
    assert!(is_accepted(&labelled().with_pod(|pod| pod.spec.as_mut().unwrap().host_network = Some(true))));
    let finished = labelled().with_pod(|pod| pod.status.as_mut().unwrap().phase = Some("Failed".to_owned()));
    assert!(is_accepted(&finished));
    let mut scene = labelled();
    scene.backends = vec![behind("gatekeeper", Some("web"))];
    assert!(is_accepted(&scene));
}

#[test]
fn outside_the_response_namespace_a_response_acts_on_its_own_namespace_only() {
    let mut scene = a_pod_that_answers();
    scene.response.metadata.namespace = Some("elsewhere".to_owned());
    assert_eq!(refusal(&scene), "OutsideResponseNamespace");

    scene.response.metadata.namespace = Some(NAMESPACE.to_owned());
    assert!(is_accepted(&scene));
}

#[test]
fn a_protected_namespace_is_refused_unless_overridden() {
    let mut scene = a_pod_that_answers();
    scene.settings.protected_namespaces.insert(NAMESPACE.to_owned());
    assert_eq!(refusal(&scene), "ProtectedNamespace");
    assert!(is_accepted(&scene.with_spec(|spec| spec.override_protection = true)));
}

#[test]
fn the_operators_own_namespace_is_refused_whatever_is_overridden() {
    let mut scene = a_pod_that_answers().with_spec(|spec| spec.override_protection = true);
    scene.settings.own_namespace = NAMESPACE.to_owned();
    assert_eq!(refusal(&scene), "ProtectedNamespace");
}

#[test]
fn the_agents_own_namespace_is_refused_whatever_is_overridden() {
    let mut scene = a_pod_that_answers().with_spec(|spec| spec.override_protection = true);
    scene.settings.agents = Some(Agents { namespace: NAMESPACE.to_owned(), ..Agents::default() });
    assert_eq!(refusal(&scene), "ProtectedNamespace");
}

#[test]
fn a_pod_that_does_not_exist_is_refused_and_the_refusal_is_final() {
    let mut scene = a_pod_that_answers();
    let pod = scene.pod.take();
    assert_eq!(refusal(&scene), "TargetNotFound");

    scene = scene.act();
    scene.pod = pod;
    assert_eq!(refusal(&scene), "TargetNotFound", "a pod that comes later is another one than was meant");
}

#[test]
fn a_pod_of_the_same_name_with_another_uid_is_refused() {
    let scene = a_pod_that_answers().with_spec(|spec| target(spec).uid = Some("another".to_owned()));
    assert_eq!(refusal(&scene), "UIDMismatch");
    assert!(is_accepted(&scene.with_spec(|spec| target(spec).uid = Some(POD_UID.to_owned()))));
}

#[test]
fn a_pod_that_was_created_at_or_after_the_alert_is_refused() {
    let created = noon() - seconds(3600);
    let scene = |limit| a_pod_that_answers().with_spec(|spec| target(spec).created_before = Some(Time(limit)));
    assert_eq!(refusal(&scene(created)), "CreatedAfter");
    assert!(is_accepted(&scene(created + seconds(1))));
}

#[test]
fn a_pod_in_its_nodes_network_is_refused() {
    let scene = a_pod_that_answers().with_pod(|pod| pod.spec.as_mut().unwrap().host_network = Some(true));
    assert_eq!(refusal(&scene), "HostNetwork");
}

#[test]
fn a_pod_that_has_finished_is_refused() {
    for phase in ["Succeeded", "Failed"] {
        let scene = a_pod_that_answers().with_pod(|pod| pod.status.as_mut().unwrap().phase = Some(phase.to_owned()));
        assert_eq!(refusal(&scene), "PodFinished");
    }
}

#[test]
fn a_pod_that_the_api_server_depends_on_is_refused_unless_overridden() {
    let mut scene = a_pod_that_answers();
    scene.backends = vec![behind("gatekeeper", Some("web"))];
    assert_eq!(refusal(&scene), "AdmissionBackend");
    assert!(is_accepted(&scene.with_spec(|spec| spec.override_protection = true)));
}

#[test]
fn a_service_without_a_selector_or_of_other_pods_is_no_reason_to_refuse() {
    let mut scene = a_pod_that_answers();
    scene.backends = vec![behind("external", None), behind("other", Some("gatekeeper"))];
    assert!(is_accepted(&scene));
}

#[test]
fn of_two_services_the_same_one_is_named_in_whatever_order() {
    let message = |backends| {
        let mut scene = a_pod_that_answers();
        scene.backends = backends;
        fixtures::condition(&scene.look().status, "Accepted").unwrap().message.clone()
    };
    let (one, other) = (behind("a", Some("web")), behind("b", Some("web")));
    assert_eq!(message(vec![one.clone(), other.clone()]), message(vec![other, one]));
}

#[test]
fn what_is_deleted_before_it_was_accepted_is_left_alone() {
    let pass = a_pod_that_answers().deleted().look();
    assert_eq!(pass.phase, Phase::Unaccepted);
    assert_eq!((pass.steps.len(), pass.finalizer), (0, false));
    assert_eq!(says(&pass.status, "Accepted"), "absent");
}

#[test]
fn a_dry_run_publishes_its_plan_and_touches_nothing() {
    let pass = a_pod_that_cilium_serves().with_spec(|spec| spec.dry_run = true).look();
    assert_eq!(pass.phase, Phase::Planned);
    assert_eq!((pass.steps.len(), pass.finalizer, pass.watch.len()), (0, false, 0));
    assert_eq!(says(&pass.status, "Ready"), "True/Planned");
    assert_eq!(says(&pass.status, "Contained"), "False/Planned");
    let plan: Vec<_> = pass.status.plan.iter().map(|step| (step.verb.as_str(), step.object.as_str())).collect();
    assert_eq!(
        plan,
        [
            ("Put", "CiliumClusterwideNetworkPolicy tourniquet-4711aaaa-0000-4000-8000-000000000001"),
            ("Put", "NetworkPolicy shop/tourniquet-4711aaaa-0000-4000-8000-000000000001"),
            ("Apply", "Pod shop/web"),
            ("Apply", "Pod shop/web"),
        ]
    );
    let actions: Vec<&str> = pass.status.plan.iter().map(|step| step.action.as_str()).collect();
    assert_eq!(actions, ["isolate", "isolate", "isolate", "preserve"]);
}

#[test]
fn a_dry_run_makes_no_connection() {
    let tries = |scene: &Scene| scene.looked_at().observed.keys().any(|read| matches!(read, Read::Control { .. }));
    let scene = a_pod_that_answers();
    assert!(tries(&scene), "who carries it out makes a positive control first");
    assert!(!tries(&scene.with_spec(|spec| spec.dry_run = true)));
}

#[test]
fn a_dry_run_stays_a_plan_whatever_comes() {
    let mut scene = a_pod_that_cilium_serves().with_spec(|spec| spec.dry_run = true).act();
    let planned = scene.response.status.clone().unwrap();
    // The spec cannot change; should it all the same, what was decided counts.
    scene.response.spec.dry_run = false;
    scene.pod = None;
    let pass = scene.later(seconds(3600)).deleted().look();
    assert_eq!((pass.phase, pass.steps.len(), pass.finalizer), (Phase::Planned, 0, false));
    similar_asserts::assert_eq!(stored(&pass.status), planned);
}

#[test]
fn every_effect_on_a_pod_names_its_uid() {
    for scene in [a_pod_that_answers(), a_pod_that_cilium_serves()] {
        let steps = scene.look().steps;
        let uids: Vec<_> = steps
            .iter()
            .filter(|step| matches!(step.effect, Effect::Apply { .. }))
            .map(|step| step.effect.object().uid.as_deref())
            .collect();
        assert_eq!(uids, [Some(POD_UID)]);
    }
}

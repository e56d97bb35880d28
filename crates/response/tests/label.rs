//! Labels: who may be overwritten, what is put back, and what others changed meanwhile.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests: a panic is a failed test")]

mod fixtures;

use fixtures::labels::Labels;
use fixtures::object;
use fixtures::scene::a_pod_that_answers;
use fixtures::stage::{Crash, Stage};
use serde_json::{Value, json};
use tourniquet_response::{Effect, Kind, ServiceSelector};

const EVERY_KIND: [&str; 3] = ["Pod", "Namespace", "Node"];

fn label(key: &str, value: &str) -> Value {
    json!([{ "label": { "set": { key: value } } }])
}

fn overwrite(key: &str, value: &str) -> Value {
    json!([{ "label": { "set": { key: value }, "overwrite": true } }])
}

/// The reason why it is refused, and what is said of it. Nothing is touched.
fn refused(stage: &mut Stage, actions: Value) -> (String, String) {
    let before = stage.fields.clone();
    stage.respond("alert", actions);
    let status = stage.status("alert");
    let accepted = fixtures::condition(&status, "Accepted").expect("it is decided");
    assert_eq!(accepted.status, "False", "{accepted:?}");
    assert_eq!(stage.fields, before);
    (accepted.reason.clone(), accepted.message.clone())
}

#[test]
fn a_label_is_set_and_taken_off_again_on_every_kind_of_target() {
    for kind in EVERY_KIND {
        let mut stage = Stage::new(kind);
        let before = stage.fields.clone();
        stage.respond("alert", label("incident", "4711"));
        assert_eq!(stage.fields.get("incident"), Some("4711"));
        assert_eq!(stage.outcome("alert", "label"), "Done/Labelled");
        assert_eq!(fixtures::says(&stage.status("alert"), "Ready"), "True/Labelled");
        assert_eq!(fixtures::says(&stage.status("alert"), "Contained"), "absent", "a label contains nothing");
        stage.undo("alert");
        assert_eq!(stage.fields, before, "{kind}");
    }
}

#[test]
fn what_somebody_holds_with_another_value_stays_and_he_is_named() {
    let mut stage = Stage::new("Pod");
    stage.others_label("kubectl-label", "team", Some("red"));
    let before = stage.fields.clone();
    stage.respond("alert", json!([{ "label": { "set": { "team": "blue", "incident": "4711" } } }]));
    assert_eq!(stage.outcome("alert", "label"), "Failed/LabelHeld");
    let message = stage.action("alert", "label").message.unwrap();
    assert!(message.contains("label team is \"red\", held by kubectl-label"), "{message}");
    assert_eq!(stage.fields, before, "all or nothing");
    stage.undo("alert");
    assert_eq!(stage.fields, before);
}

#[test]
fn the_same_value_is_held_together_and_stays_after_the_last_response() {
    let mut stage = Stage::new("Node");
    stage.others_label("kubectl-label", "team", Some("red"));
    let before = stage.fields.clone();
    stage.respond("one", label("team", "red"));
    stage.respond("two", label("team", "red"));
    assert_eq!(stage.outcome("two", "label"), "Done/Labelled");
    stage.undo("one");
    stage.undo("two");
    assert_eq!(stage.fields, before);
}

#[test]
fn an_overwritten_value_is_put_back_with_its_holder() {
    for kind in EVERY_KIND {
        let mut stage = Stage::new(kind);
        stage.others_label("kubectl-label", "team", Some("red"));
        let before = stage.fields.clone();
        stage.respond("alert", overwrite("team", "blue"));
        assert_eq!(stage.fields.get("team"), Some("blue"));
        assert_eq!(
            json!(stage.action("alert", "label").results[0].changes),
            json!([{ "what": "label team", "before": "red", "manager": "kubectl-label" }])
        );
        stage.undo("alert");
        assert_eq!(stage.fields, before, "{kind}");
    }
}

#[test]
fn a_value_that_was_applied_is_put_back_by_nobody_in_particular() {
    let mut stage = Stage::new("Pod");
    let applied = [("team".to_owned(), "red".to_owned()), ("tier".to_owned(), "front".to_owned())].into();
    stage.fields.apply("argocd", &applied).unwrap();
    stage.respond("alert", overwrite("team", "blue"));
    stage.undo("alert");
    assert_eq!((stage.fields.get("team"), stage.fields.get("tier")), (Some("red"), Some("front")));
    assert_eq!(stage.fields.managers("argocd"), ["argocd"], "what else it applied is still its own");
    assert_eq!(stage.fields.managers("tourniquet"), ["tourniquet"]);
}

#[test]
fn what_somebody_changed_meanwhile_is_kept() {
    for change in [Some("green"), None] {
        for actions in [label("incident", "4711"), overwrite("incident", "4711")] {
            let mut stage = Stage::new("Pod");
            stage.others_label("kubectl-label", "incident", (actions != label("incident", "4711")).then_some("none"));
            stage.respond("alert", actions);
            stage.others_label("someone", "incident", change);
            let changed = stage.fields.labels();
            stage.settle("alert").unwrap();
            assert_eq!(stage.outcome("alert", "label"), "Partial/Drifted");
            assert_eq!(stage.fields.labels(), changed, "nothing is applied again");
            stage.settle("alert").unwrap();
            assert_eq!(stage.outcome("alert", "label"), "Partial/Drifted");
            stage.undo("alert");
            assert_eq!(stage.fields.labels(), changed);
            assert!(stage.fields.managers(tourniquet_api::names::OPERATOR_MANAGER).is_empty());
        }
    }
}

#[test]
fn another_response_is_named_and_never_overwritten() {
    let mut stage = Stage::new("Pod");
    let before = stage.fields.clone();
    stage.respond("first", label("incident", "1"));
    stage.respond("second", overwrite("incident", "2"));
    assert_eq!(stage.outcome("second", "label"), "Failed/LabelHeld");
    let message = stage.action("second", "label").message.unwrap();
    assert!(message.contains("held by response incident-response/first"), "{message}");
    stage.undo("first");
    stage.settle("second").unwrap();
    assert_eq!(stage.outcome("second", "label"), "Done/Labelled", "once it is free");
    stage.undo("second");
    assert_eq!(stage.fields, before);
}

#[test]
fn a_value_that_another_response_replaced_is_nothing_to_join() {
    let mut stage = Stage::new("Pod");
    stage.others_label("kubectl-label", "team", Some("red"));
    let before = stage.fields.clone();
    stage.respond("first", overwrite("team", "blue"));
    stage.respond("second", label("team", "blue"));
    assert_eq!(stage.outcome("second", "label"), "Failed/LabelHeld", "it goes when the first one is released");
    stage.undo("first");
    stage.undo("second");
    assert_eq!(stage.fields, before);
}

#[test]
fn reserved_labels_are_refused() {
    for key in [
        "kubernetes.io/hostname",
        "node-role.kubernetes.io/control-plane",
        "pod-security.kubernetes.io/enforce",
        "k8s.io/a",
        "topology.k8s.io/zone",
        "kubernetes.azure.com/mode",
        "tourniquet.dev/response",
        "isolate.tourniquet.dev/4711",
    ] {
        let (reason, message) = refused(&mut Stage::new("Node"), overwrite(key, "a"));
        assert_eq!(reason, "ReservedLabel");
        assert!(message.contains(key), "{message}");
    }
    for key in ["incident", "soc.example.com/incident", "mykubernetes.io/a", "notk8s.io/a"] {
        let mut stage = Stage::new("Node");
        stage.respond("alert", label(key, "a"));
        assert_eq!(stage.outcome("alert", "label"), "Done/Labelled", "{key}");
    }
}

#[test]
fn two_values_for_one_label_are_refused() {
    let actions = json!([{ "label": { "set": { "a": "1" } } }, { "name": "again", "label": { "set": { "a": "2" } } }]);
    assert_eq!(refused(&mut Stage::new("Pod"), actions).0, "Invalid");
}

#[test]
fn a_label_by_which_a_service_knows_the_pod_is_not_changed() {
    let service = |app: &str| ServiceSelector {
        name: format!("{app}-service"),
        selector: [("app".to_owned(), app.to_owned())].into(),
    };
    let mut stage = Stage::new("Pod");
    stage.services = vec![service("web")];
    let (reason, message) = refused(&mut stage, overwrite("app", "quarantine"));
    assert_eq!(reason, "WouldDetach");
    assert!(message.contains("Service web-service") && message.contains("app=quarantine"), "{message}");

    let mut stage = Stage::new("Pod");
    stage.services = vec![service("db")];
    stage.respond("other", overwrite("app", "quarantine"));
    assert_eq!(stage.outcome("other", "label"), "Done/Labelled", "of another pod's Service");

    let mut stage = Stage::new("Pod");
    stage.services = vec![service("web")];
    stage.respond("held", label("app", "quarantine"));
    assert_eq!(stage.outcome("held", "label"), "Failed/LabelHeld", "without overwrite it stays what it is");
}

#[test]
fn a_label_by_which_its_owner_knows_the_pod_is_not_changed() {
    let mut stage = Stage::new("Pod");
    stage.owner = Some(object(json!({ "matchLabels": { "app": "web" } })));
    let (reason, message) = refused(&mut stage, overwrite("app", "quarantine"));
    assert_eq!(reason, "WouldDetach");
    assert!(message.contains("ReplicaSet web-7d9c"), "{message}");

    // One that is not there yet can detach it as well.
    let mut stage = Stage::new("Pod");
    stage.owner = Some(object(json!({ "matchExpressions": [{ "key": "quarantine", "operator": "DoesNotExist" }] })));
    assert_eq!(refused(&mut stage, label("quarantine", "true")).0, "WouldDetach");
}

/// Before and after each write of the operator, while it labels and while it undoes.
#[test]
fn a_crash_at_any_write_loses_nothing() {
    for kind in EVERY_KIND {
        let mut crashes = 0;
        for (write, after) in (0..8).flat_map(|write| [(write, false), (write, true)]) {
            let mut stage = Stage::new(kind);
            stage.others_label("kubectl-label", "team", Some("red"));
            let before = stage.fields.clone();
            let set = json!([{ "label": { "set": { "team": "blue", "incident": "4711" }, "overwrite": true } }]);
            stage.create("alert", set);
            stage.crash = Some((write, after));
            crashes += usize::from(stage.settle("alert") == Err(Crash));
            stage.crash = None;
            stage.settle("alert").unwrap();
            assert_eq!(stage.outcome("alert", "label"), "Done/Labelled", "{kind}, write {write}");
            assert_eq!(stage.fields.get("team"), Some("blue"));
            stage.delete("alert");
            stage.crash = Some((write, after));
            crashes += usize::from(stage.settle("alert") == Err(Crash));
            stage.crash = None;
            stage.settle("alert").unwrap();
            assert_eq!(stage.fields, before, "{kind}, write {write}");
        }
        assert!(crashes >= 16, "{crashes}: most of them hit a write");
    }
}

#[test]
fn what_was_changed_between_the_journal_and_the_effect_is_what_is_put_back() {
    let mut stage = Stage::new("Pod");
    stage.others_label("kubectl-label", "team", Some("red"));
    stage.create("alert", overwrite("team", "blue"));
    // The status with the journal, the finalizer, and then the patch.
    stage.crash = Some((2, false));
    assert_eq!(stage.settle("alert"), Err(Crash));
    assert_eq!(stage.action("alert", "label").results[0].changes.len(), 1, "stored before the effect");
    stage.others_label("kubectl-edit", "team", Some("green"));
    let before = stage.fields.clone();
    stage.settle("alert").unwrap();
    assert_eq!(stage.fields.get("team"), Some("blue"));
    stage.undo("alert");
    assert_eq!(stage.fields, before);
}

#[test]
fn a_response_that_cannot_be_read_any_more_is_undone_by_its_journal() {
    for kind in EVERY_KIND {
        let mut stage = Stage::new(kind);
        stage.others_label("kubectl-label", "team", Some("red"));
        let before = stage.fields.clone();
        let set = json!([{ "label": { "set": { "team": "blue", "incident": "4711" }, "overwrite": true } }]);
        stage.respond("alert", set);
        stage.undo_unread("alert");
        assert_eq!(stage.fields, before, "{kind}");
    }
}

#[test]
fn a_dry_run_says_what_it_would_do_and_what_is_in_the_way() {
    let mut stage = Stage::new("Pod");
    stage.others_label("kubectl-label", "team", Some("red"));
    let before: Labels = stage.fields.clone();
    for (name, actions) in [("replace", overwrite("team", "blue")), ("held", label("team", "blue"))] {
        stage.create(name, actions);
        stage.responses.get_mut(name).unwrap().spec.dry_run = true;
        stage.settle(name).unwrap();
    }
    let plan = stage.status("replace").plan;
    assert_eq!((plan[0].verb.as_str(), plan[0].object.as_str()), ("Patch", "Pod shop/web"));
    assert_eq!(stage.status("held").plan, []);
    assert_eq!(stage.status("held").residual[0].code, "LabelHeld");
    assert_eq!(stage.fields, before);
}

/// The labels of one response on a pod, in one apply: the second would withdraw what the first one put there.
#[test]
fn label_and_isolate_of_one_pod_are_one_apply_after_the_policies() {
    for actions in [
        json!([{ "label": { "set": { "incident": "4711" } } }, { "isolate": {} }]),
        json!([{ "isolate": {} }, { "label": { "set": { "incident": "4711" } } }]),
    ] {
        let scene = a_pod_that_answers().with_spec(|spec| spec.actions = object(actions));
        let steps = scene.look().steps;
        let kinds: Vec<Kind> = steps.iter().map(|step| step.effect.object().kind).collect();
        assert_eq!(kinds, [Kind::NetworkPolicy, Kind::Pod]);
        let Effect::Apply { fields, .. } = &steps[1].effect else { panic!("{steps:?}") };
        let labels = fields["metadata"]["labels"].as_object().unwrap();
        assert_eq!(labels.len(), 3, "the incident, and both of the isolation: {labels:?}");
    }
}

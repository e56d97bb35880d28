//! What is told on the objects that a response acts on, and that it is told once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests: a panic is a failed test")]

mod fixtures;

use fixtures::stage::Stage;
use fixtures::{NAMESPACE, NODE, RESPONSE_UID, condition, noon, object};
use serde_json::{Value, json};
use tourniquet_api::IncidentResponseStatus;
use tourniquet_response::{About, Kind, Note, NoteType, ObjectRef, Told, notes};

/// What a response tells on its target, from one status to another.
fn told(stage: &Stage, before: &IncidentResponseStatus) -> Vec<Note> {
    let all = notes(&stage.responses["alert"], before, &stage.status("alert"));
    all.into_iter().filter(|note| note.about != About::Response).collect()
}

fn shown(notes: &[Note]) -> Vec<String> {
    let about = |note: &Note| match &note.about {
        About::Response => String::new(),
        About::Object(object) => format!(" on {object}"),
    };
    notes.iter().map(|note| format!("{:?} {}{}", note.type_, note.reason, about(note))).collect()
}

/// What is told from here on to the end of that.
fn then(stage: &mut Stage, work: impl FnOnce(&mut Stage)) -> Vec<Note> {
    let before = stage.status("alert");
    work(stage);
    stage.settle("alert").expect("nothing crashes");
    told(stage, &before)
}

fn release(stage: &mut Stage) {
    stage.responses.get_mut("alert").unwrap().spec.release = Some(true);
}

#[test]
fn a_node_tells_who_cordoned_it_that_somebody_uncordoned_it_and_that_it_was_let_go() {
    let mut stage = Stage::new("Node");
    let notes = then(&mut stage, |stage| stage.create("alert", json!([{ "cordon": {} }])));
    assert_eq!(shown(&notes), [format!("Normal Cordoned on Node {NODE}")]);
    let by = format!("Cordoned by IncidentResponse incident-response/alert: node {NODE} takes no new pods");
    assert!(notes[0].note.starts_with(&by), "{notes:?}");
    let About::Object(node) = &notes[0].about else { panic!("{notes:?}") };
    assert_eq!(node.uid.as_ref(), Some(&stage.uid));

    assert_eq!(shown(&then(&mut stage, |_| ())), [""; 0], "told once");

    let notes = then(&mut stage, |stage| stage.others_cordon(false));
    assert_eq!(shown(&notes), [format!("Warning Drifted on Node {NODE}")]);
    assert!(notes[0].note.starts_with("No longer as IncidentResponse incident-response/alert asks"), "{notes:?}");
    assert!(notes[0].note.contains("somebody has uncordoned it"), "{notes:?}");
    assert_eq!(shown(&then(&mut stage, |_| ())), [""; 0], "told once");

    let notes = then(&mut stage, release);
    assert_eq!(shown(&notes), [format!("Normal Released on Node {NODE}")]);
}

#[test]
fn a_namespace_and_a_pod_tell_who_labelled_them() {
    for (kind, object) in [("Namespace", format!("Namespace {NAMESPACE}")), ("Pod", format!("Pod {NAMESPACE}/web"))] {
        let mut stage = Stage::new(kind);
        let label = json!([{ "label": { "set": { "incident": "4711" } } }]);
        let notes = then(&mut stage, |stage| stage.create("alert", label));
        assert_eq!(shown(&notes), [format!("Normal Labelled on {object}")]);
        assert!(notes[0].note.ends_with("has incident=4711"), "{notes:?}");
        let notes = then(&mut stage, |stage| stage.others_label("kubectl-label", "incident", None));
        assert_eq!(shown(&notes), [format!("Warning Drifted on {object}")]);
        let notes = then(&mut stage, release);
        assert_eq!(shown(&notes), [format!("Normal Released on {object}")]);
    }
}

#[test]
fn a_label_that_somebody_holds_is_no_matter_of_the_target() {
    let mut stage = Stage::new("Node");
    let label = json!([{ "label": { "set": { "app": "mine" } } }]);
    assert_eq!(shown(&then(&mut stage, |stage| stage.create("alert", label))), [""; 0]);
    assert_eq!(stage.outcome("alert", "label"), "Failed/LabelHeld");
}

/// A status of an isolation with a result for each target: `(name, outcome)`.
fn isolation(contained: &str, kind: &str, results: &[(&str, &str)]) -> IncidentResponseStatus {
    let uid = |name: &str| format!("uid-of-{name}");
    let targets: Vec<Value> = results
        .iter()
        .map(|(name, _)| match kind {
            "Pod" => json!({ "kind": kind, "namespace": NAMESPACE, "name": name, "uid": uid(name) }),
            _ => json!({ "kind": kind, "name": name, "uid": uid(name) }),
        })
        .collect();
    let made: Vec<Value> = results
        .iter()
        .map(|(name, outcome)| json!({ "targetUID": uid(name), "outcome": outcome, "message": format!("{name} is {outcome}") }))
        .collect();
    let condition = |type_: &str, status: &str| {
        json!({
            "type": type_, "status": status, "reason": "Why", "message": "isolate: all", "lastTransitionTime": noon(),
        })
    };
    let done = contained == "True";
    let mut conditions = vec![condition("Accepted", "True"), condition("Contained", contained)];
    conditions.push(if done { condition("Ready", "True") } else { condition("Stalled", "True") });
    object(json!({
        "targets": targets, "conditions": conditions,
        "actions": [{ "name": "isolate", "outcome": if done { "Done" } else { "Partial" }, "results": made }],
    }))
}

fn between(before: &IncidentResponseStatus, after: &IncidentResponseStatus) -> Vec<Note> {
    let all = notes(&fixtures::response("r", RESPONSE_UID), before, after);
    all.into_iter().filter(|note| note.about != About::Response).collect()
}

#[test]
fn a_namespace_tells_who_isolated_it() {
    let notes = between(&IncidentResponseStatus::default(), &isolation("True", "Namespace", &[("shop", "Done")]));
    assert_eq!(shown(&notes), ["Warning Isolated on Namespace shop"]);
}

#[test]
fn of_several_pods_each_tells_what_became_of_itself() {
    let both = isolation("True", "Pod", &[("a", "Done"), ("b", "Done")]);
    let notes = between(&IncidentResponseStatus::default(), &both);
    assert_eq!(shown(&notes), ["Warning Isolated on Pod shop/a", "Warning Isolated on Pod shop/b"]);
    assert!(notes[1].note.ends_with(": b is Done"), "{notes:?}");

    let one = isolation("False", "Pod", &[("a", "Done"), ("b", "Partial")]);
    let notes = between(&IncidentResponseStatus::default(), &one);
    assert_eq!(shown(&notes), ["Warning Isolated on Pod shop/a", "Warning NotIsolated on Pod shop/b"]);
    assert_eq!(shown(&between(&both, &one)), ["Warning ContainmentLost on Pod shop/b"]);
}

fn not_done(text: &str) -> Note {
    note("NotDone", text)
}

fn note(reason: &str, text: &str) -> Note {
    Note {
        type_: NoteType::Warning,
        reason: reason.to_owned(),
        action: "Observe",
        note: text.to_owned(),
        about: About::Object(ObjectRef { kind: Kind::Node, namespace: None, name: NODE.to_owned(), uid: None }),
    }
}

fn working() -> IncidentResponseStatus {
    isolation("False", "Pod", &[("a", "Running")])
}

#[test]
fn what_is_not_done_is_told_again_only_when_it_says_something_else() {
    let mut told = Told::default();
    let mut news = |text: &str| told.news("r", &working(), vec![not_done(text)]).len();
    assert_eq!(news("nothing enforces it"), 1);
    assert_eq!(news("nothing enforces it"), 0);
    assert_eq!(news("a policy allows it"), 1);
    assert_eq!(news("nothing enforces it"), 1, "it was otherwise in between");
}

#[test]
fn everything_else_is_told_as_often_as_it_happens() {
    let mut told = Told::default();
    for _ in 0..2 {
        assert_eq!(told.news("r", &working(), vec![note("EvidenceLost", "a container was restarted")]).len(), 1);
    }
}

#[test]
fn what_was_done_in_between_or_is_anothers_is_news() {
    let mut told = Told::default();
    let mut news = |uid: &str, status: &IncidentResponseStatus| told.news(uid, status, vec![not_done("x")]).len();
    assert_eq!(news("r", &working()), 1);
    assert_eq!(news("other", &working()), 1);
    let done = isolation("True", "Pod", &[("a", "Done")]);
    assert!(condition(&done, "Ready").is_some());
    assert_eq!(told.news("r", &done, Vec::new()).len(), 0);
    assert_eq!(told.news("r", &working(), vec![not_done("x")]).len(), 1);
    told.forget("r");
    assert_eq!(told.news("r", &working(), vec![not_done("x")]).len(), 1);
}

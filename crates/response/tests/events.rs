//! What is worth an event: each transition once, on the response, and on the pod where its owner has to know.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests: a panic is a failed test")]

mod fixtures;

use fixtures::scene::{Scene, a_pod_that_answers, a_pod_that_cilium_serves, endpoint};
use fixtures::{OTHER_UID, POD_UID, RESPONSE_UID, container_status, noon, object, seconds};
use serde_json::json;
use tourniquet_api::{Answer, IncidentResponseStatus, Residual};
use tourniquet_response::{
    About, Failure, Note, NoteType, mark_unreadable, notes, notes_of_unreadable, report_failures, unobservable,
};

fn status(scene: &Scene) -> IncidentResponseStatus {
    scene.response.status.clone().unwrap_or_default()
}

/// What the next look notes.
fn noted(scene: &Scene) -> Vec<Note> {
    notes(&scene.response, &status(scene), &scene.look().status)
}

fn shown(notes: &[Note]) -> Vec<String> {
    let about = |note: &Note| match &note.about {
        About::Response => String::new(),
        About::Object(object) => format!(" on {object}"),
    };
    notes.iter().map(|note| format!("{:?} {}{}", note.type_, note.reason, about(note))).collect()
}

fn nothing() -> Vec<String> {
    Vec::new()
}

/// A response that is in force on Cilium, and reported so.
fn in_force() -> Scene {
    coming_into_force().act()
}

/// The same, before that was looked at.
fn coming_into_force() -> Scene {
    let mut scene = a_pod_that_cilium_serves()
        .with_spec(|spec| spec.incident = object(json!({ "id": "4711", "title": "Crypto miner detected" })))
        .act();
    scene.endpoint = Some(endpoint(&[RESPONSE_UID]));
    scene
}

/// Its status written down, and nothing else done.
fn written(mut scene: Scene) -> Scene {
    scene.response.status = Some(fixtures::stored(&scene.look().status));
    scene
}

#[test]
fn that_it_is_accepted_says_on_what() {
    let notes = noted(&a_pod_that_answers());
    assert_eq!(shown(&notes), ["Normal Accepted"]);
    assert_eq!(notes[0].note, format!("isolate is carried out on pod shop/web (UID {POD_UID}) on node node-1"));
}

#[test]
fn that_it_is_refused_says_why() {
    let mut scene = a_pod_that_answers();
    scene.pod = None;
    let notes = noted(&scene);
    assert_eq!(shown(&notes), ["Warning Refused"]);
    assert_eq!(notes[0].note, "TargetNotFound: there is no pod shop/web; nothing was touched");
}

#[test]
fn a_dry_run_is_planned() {
    let notes = noted(&a_pod_that_answers().with_spec(|spec| spec.dry_run = true));
    assert_eq!(shown(&notes), ["Normal Planned"]);
    assert_eq!(notes[0].note, "a dry run: nothing is touched; the plan in status.plan has 3 steps");
}

#[test]
fn the_pod_says_who_isolated_it_and_how_that_is_known() {
    let notes = noted(&coming_into_force());
    assert_eq!(shown(&notes), ["Normal Contained", "Warning Isolated on Pod shop/web"]);
    let (contained, isolated) = (&notes[0].note, &notes[1].note);
    assert!(contained.starts_with("Cilium denies all new connections of pod shop/web"), "{contained}");
    let by = "Isolated by IncidentResponse incident-response/sentinel-4711 (incident 4711): Cilium denies all new";
    assert!(isolated.starts_with(by), "{isolated}");
}

#[test]
fn what_stays_as_it_is_is_not_noted_again() {
    assert_eq!(shown(&noted(&in_force())), nothing());
    assert_eq!(shown(&noted(&in_force().later(seconds(3600)))), nothing());
    let status = unobservable(&in_force().response, "cannot read", noon());
    assert_eq!(shown(&notes(&in_force().response, &status, &status)), nothing());
}

#[test]
fn containment_that_is_lost_while_held_is_noted_on_both() {
    let mut scene = in_force().later(seconds(300));
    scene.reach = Some(Answer::Answered);
    let notes = noted(&scene);
    assert_eq!(shown(&notes), ["Warning ContainmentLost", "Warning ContainmentLost on Pod shop/web"]);
    assert!(notes[0].note.contains("still answers the operator"), "{notes:?}");
    assert!(notes[0].note.contains("What to do: contain it by other means"), "{notes:?}");
}

#[test]
fn containment_that_nobody_can_see_any_more_is_noted_on_both() {
    let scene = in_force();
    let unseen = unobservable(&scene.response, "cannot list NetworkPolicies of shop: forbidden", noon());
    let notes = notes(&scene.response, &status(&scene), &unseen);
    assert_eq!(shown(&notes), ["Warning ContainmentUnknown", "Warning ContainmentUnknown on Pod shop/web"]);
    assert!(notes[1].note.contains("cannot list NetworkPolicies of shop: forbidden"), "{notes:?}");
}

#[test]
fn an_isolation_that_ends_as_less_is_noted_on_both() {
    let mut scene = a_pod_that_answers().act().later(seconds(10));
    scene.reach = Some(Answer::Answered);
    let notes = noted(&scene);
    assert_eq!(shown(&notes), ["Warning NotDone", "Warning NotIsolated on Pod shop/web"]);
    assert!(notes[0].note.starts_with("NotEnforced: nothing enforces the policy"), "{notes:?}");
    assert_eq!(shown(&noted(&scene.act())), nothing());
}

#[test]
fn an_effect_that_fails_is_noted() {
    let scene = written(a_pod_that_answers());
    let failure = Failure {
        action: Some("isolate".to_owned()),
        target: None,
        message: "cannot apply to Pod shop/web".to_owned(),
    };
    let failed = report_failures(&scene.response, &status(&scene), false, &[failure], noon());
    let notes = notes(&scene.response, &status(&scene), &failed);
    assert_eq!(shown(&notes), ["Warning NotDone", "Warning NotIsolated on Pod shop/web"]);
    assert_eq!(notes[0].note, "EffectFailed: cannot apply to Pod shop/web; it is tried again");
}

#[test]
fn each_container_that_restarts_is_noted_once() {
    let restarted = |scene: Scene, index: usize| {
        scene.with_pod(|pod| {
            let statuses = pod.status.as_mut().unwrap().container_statuses.as_mut().unwrap();
            let name = statuses[index].name.clone();
            statuses[index] = object(container_status(&name, "containerd://new", 1));
        })
    };
    let scene = restarted(in_force(), 0);
    assert_eq!(shown(&noted(&scene)), ["Warning EvidenceLost"]);
    let scene = scene.act();
    assert_eq!(shown(&noted(&scene)), nothing());
    let notes = noted(&restarted(scene, 1));
    assert_eq!(shown(&notes), ["Warning EvidenceLost"]);
    assert!(notes[0].note.contains("container sidecar of pod shop/web was restarted"), "{notes:?}");
}

#[test]
fn a_high_residual_is_noted_when_it_is_new_or_says_something_new() {
    let scene = in_force();
    let tampered = |times: u32| {
        let mut status = status(&scene);
        status.residual.push(Residual {
            code: "CutTamperedWith".to_owned(),
            severity: "High".to_owned(),
            message: format!("something in pod shop/web changed the cut {times} times"),
            remedy: Some("stop its processes".to_owned()),
        });
        status
    };
    let first = notes(&scene.response, &status(&scene), &tampered(1));
    assert_eq!(shown(&first), ["Warning CutTamperedWith", "Warning CutTamperedWith on Pod shop/web"]);
    assert_eq!(first[1].note, "something in pod shop/web changed the cut 1 times. What to do: stop its processes");
    assert_eq!(shown(&notes(&scene.response, &tampered(1), &tampered(1))), nothing());
    assert_eq!(shown(&notes(&scene.response, &tampered(1), &tampered(2))).len(), 2);
    assert_eq!(shown(&notes(&scene.response, &tampered(1), &status(&scene))), nothing());
}

#[test]
fn a_release_is_noted_on_both_and_nothing_as_lost() {
    let mut scene = in_force().deleted();
    assert_eq!(shown(&noted(&scene)), nothing(), "being undone");
    scene = written(scene);
    scene.policies.clear();
    scene.clusterwide.clear();
    scene.pod.as_mut().unwrap().metadata.managed_fields = None;
    let notes = noted(&scene);
    assert_eq!(shown(&notes), ["Normal Released", "Normal Released on Pod shop/web"]);
    let by = "Released by IncidentResponse incident-response/sentinel-4711 (incident 4711): everything that";
    assert!(notes[1].note.starts_with(by), "{notes:?}");
}

#[test]
fn a_release_of_what_another_response_holds_says_so() {
    let mut scene = in_force().held_by_another().deleted();
    scene.endpoint = Some(endpoint(&[RESPONSE_UID, OTHER_UID]));
    scene = written(scene);
    scene.policies.retain(|policy| !policy.metadata.name.as_ref().unwrap().contains(RESPONSE_UID));
    scene.clusterwide.retain(|name, _| !name.contains(RESPONSE_UID));
    scene.pod.as_mut().unwrap().metadata.managed_fields = None;
    let notes = noted(&scene);
    assert_eq!(shown(&notes), ["Normal Released", "Normal Released on Pod shop/web"]);
    for note in &notes {
        assert!(note.note.ends_with("response incident-response/other goes on holding the target"), "{note:?}");
    }
}

#[test]
fn a_release_that_waits_or_fails_is_noted() {
    let mut scene = in_force().held_by_another().deleted();
    scene.peers[0].contains = false;
    assert_eq!(shown(&noted(&scene)), ["Normal WaitingForHolder"]);

    let scene = written(in_force().deleted());
    let failure = Failure { action: None, target: None, message: "cannot delete NetworkPolicy shop/x".to_owned() };
    let failed = report_failures(&scene.response, &status(&scene), true, &[failure], noon());
    assert_eq!(shown(&notes(&scene.response, &status(&scene), &failed)), ["Warning UndoFailed"]);
    assert_eq!(shown(&notes(&scene.response, &failed, &failed)), nothing());
}

#[test]
fn a_release_is_blocked_when_it_has_been_so_for_some_seconds() {
    let mut scene = written(in_force().deleted());
    scene.pod.as_mut().unwrap().metadata.managed_fields = None;
    scene.policies.clear();
    for policy in scene.clusterwide.values_mut() {
        policy.terminating = true;
        policy.finalizers = vec!["example.com/keep".to_owned()];
    }
    assert_eq!(shown(&noted(&scene)), nothing());
    let notes = noted(&written(scene).later(seconds(5)));
    assert_eq!(shown(&notes), ["Warning UndoBlocked"]);
    assert!(notes[0].note.contains("example.com/keep"), "{notes:?}");
}

#[test]
fn a_note_stays_within_what_the_api_server_takes_and_in_one_line() {
    let scene = in_force().with_spec(|spec| {
        spec.incident = object(json!({ "id": format!("\u{1b}[31m\n{}", "x".repeat(250)) }));
    });
    let unseen = unobservable(&scene.response, &"ü€\n".repeat(2000), noon());
    let notes = notes(&scene.response, &status(&scene), &unseen);
    assert_eq!(notes.len(), 2);
    for note in notes {
        assert!(note.note.len() <= 1024, "{} bytes", note.note.len());
        assert!(note.note.ends_with('…') && !note.note.contains(char::is_control), "{}", note.note);
    }
}

#[test]
fn an_object_that_cannot_be_read_is_noted_once() {
    let scene = a_pod_that_answers();
    let (metadata, before) = (&scene.response.metadata, json!(null));
    let after = mark_unreadable(&before, "missing field `target`", Some(1), noon());
    let noted = notes_of_unreadable(metadata, &before, &after);
    assert_eq!(shown(&noted), ["Warning Refused"]);
    assert!(noted[0].note.contains("missing field `target`"), "{noted:?}");
    assert_eq!(notes_of_unreadable(metadata, &after, &after), Vec::new());

    let before = json!(in_force().response.status);
    let after = mark_unreadable(&before, "unknown variant", Some(1), noon());
    let noted = notes_of_unreadable(metadata, &before, &after);
    assert_eq!(shown(&noted), ["Warning ContainmentUnknown", "Warning ContainmentUnknown on Pod shop/web"]);
    assert_eq!(noted[0].type_, NoteType::Warning);
}

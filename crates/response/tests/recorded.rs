//! That a response was released is said in its folders of evidence, after everything else and without holding anything up; and the digest of what was
//! sealed is told outside of the store.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests: a panic is a failed test")]

mod fixtures;

use fixtures::says;
use fixtures::stage::Stage;
use serde_json::{Value, json};
use tourniquet_api::{EvidenceResult, IncidentResponseStatus, Outputs, RunResult};
use tourniquet_response::{
    About, CollectionReport, CommandReport, Ended, NoteType, Release, ReleaseReport, TaskKey, TaskReport, TaskState,
    Work, deeds, notes, released_by,
};

const URL: &str = "https://evidence.blob.core.windows.net/soc/prod/web/collect";

fn a_pod() -> Stage {
    let mut stage = Stage::new("Pod");
    stage.containers = vec![("web", "containerd://one")];
    stage
}

fn collect() -> Value {
    json!({ "collect": { "storeRef": { "name": "soc" } } })
}

/// What is under way of this action ends so.
fn ends(stage: &mut Stage, action: &str, report: &TaskReport) {
    for (_, task) in stage.tasks.iter_mut().filter(|(key, _)| key.action == action) {
        *task = TaskState::Ended(report.clone());
    }
    stage.settle("alert").expect("nothing crashes");
}

fn collected() -> TaskReport {
    let evidence = EvidenceResult {
        artifacts_done: 5,
        artifacts_total: 5,
        bytes: 100,
        record_digest: Some("abcd".to_owned()),
        url: Some(URL.to_owned()),
    };
    TaskReport::Collection(CollectionReport { evidence, ..CollectionReport::default() })
}

/// One that has collected.
fn one_with_evidence() -> Stage {
    let mut stage = a_pod();
    stage.respond("alert", json!([collect()]));
    ends(&mut stage, "collect", &collected());
    stage
}

fn release(stage: &mut Stage) {
    stage.release("alert");
    stage.settle("alert").expect("nothing crashes");
}

fn begun(stage: &Stage) -> Vec<(TaskKey, Release)> {
    let releases = stage.begun.iter().filter_map(|(key, work)| match work {
        Work::Release(release) => Some((key.clone(), (**release).clone())),
        _ => None,
    });
    releases.collect()
}

fn recorded(done: usize, trouble: Option<&str>) -> TaskReport {
    TaskReport::Release(ReleaseReport { done, trouble: trouble.map(str::to_owned) })
}

#[test]
fn a_release_is_said_in_the_folder_and_waits_for_no_store() {
    let mut stage = one_with_evidence();
    release(&mut stage);
    assert_eq!(says(&stage.status("alert"), "Reverted"), "True/Released", "whatever the store does");
    assert_eq!(says(&stage.status("alert"), "ReleaseRecorded"), "Unknown/Recording");
    let [(key, said)] = begun(&stage).try_into().expect("it is begun once");
    let [folder] = &said.folders[..] else { panic!("{said:?}") };
    assert_eq!(
        (folder.store.as_str(), folder.action.as_str(), folder.target_uid.as_str()),
        ("soc", "collect", &*stage.uid)
    );
    assert_eq!((said.reason.as_str(), &said.by), ("Released", &None));
    assert!(said.said.contains("what action collect did stays"), "{said:?}");
    ends(&mut stage, &key.action, &recorded(1, None));
    assert_eq!(says(&stage.status("alert"), "ReleaseRecorded"), "True/Recorded");
    assert!(stage.responses["alert"].metadata.finalizers.is_none());
    stage.settle("alert").unwrap();
    assert_eq!(begun(&stage).len(), 1, "and never again");
}

#[test]
fn it_is_said_once_nothing_more_comes_into_the_folder() {
    let mut stage = a_pod();
    stage.respond("alert", json!([collect()]));
    release(&mut stage);
    assert_eq!(says(&stage.status("alert"), "Reverted"), "True/Released");
    assert!(begun(&stage).is_empty(), "it still collects");
    ends(&mut stage, "collect", &collected());
    assert_eq!(begun(&stage).len(), 1);
}

#[test]
fn a_folder_of_outputs_gets_to_know_it_as_well() {
    let mut stage = a_pod();
    stage.respond("alert", json!([{ "run": { "command": ["/bin/true"], "storeRef": { "name": "soc" } } }]));
    let result = RunResult { outputs: Some(Outputs::Stored), url: Some(URL.to_owned()), ..RunResult::default() };
    let report =
        CommandReport { at: fixtures::noon(), ended: Ended::Exited(0), result, not_stored: None, replaced: None };
    ends(&mut stage, "run", &TaskReport::Command(report));
    release(&mut stage);
    assert_eq!(begun(&stage)[0].1.folders[0].action, "run");
}

#[test]
fn where_nothing_was_stored_nothing_is_said() {
    let mut stage = a_pod();
    stage.respond("alert", json!([{ "label": { "set": { "incident": "4711" } } }]));
    release(&mut stage);
    assert!(begun(&stage).is_empty());
    assert!(stage.status("alert").conditions.iter().all(|condition| condition.type_ != "ReleaseRecorded"));
}

#[test]
fn a_store_that_does_not_take_it_is_named_in_the_status_and_in_an_event() {
    let mut stage = one_with_evidence();
    release(&mut stage);
    let before = stage.status("alert");
    ends(&mut stage, "release.json", &recorded(0, Some("the store is down")));
    let after = stage.status("alert");
    assert_eq!(says(&after, "ReleaseRecorded"), "False/NotRecorded");
    let notes = notes(&stage.responses["alert"], &before, &after);
    let [note] = &notes[..] else { panic!("{notes:?}") };
    assert_eq!((note.type_, note.reason.as_str()), (NoteType::Warning, "ReleaseNotRecorded"));
    assert!(note.note.contains("the store is down"), "{note:?}");
    assert!(stage.responses["alert"].metadata.finalizers.is_none(), "nobody waits for it any more");
}

#[test]
fn a_deletion_tells_it_to_come_to_its_end_and_goes_on_then() {
    for released_before in [false, true] {
        let mut stage = one_with_evidence();
        if released_before {
            release(&mut stage);
        }
        stage.delete("alert");
        stage.settle("alert").unwrap();
        let (key, said) = begun(&stage).remove(0);
        assert_eq!(said.reason, if released_before { "Released" } else { "Deleted" });
        assert!(matches!(stage.tasks[&key], TaskState::Running { ending: true, .. }));
        assert!(stage.responses.contains_key("alert"));
        ends(&mut stage, &key.action, &recorded(0, Some("the store is down")));
        assert!(!stage.responses.contains_key("alert"), "whatever came of it");
    }
}

#[test]
fn an_operator_that_is_killed_at_any_write_of_the_release_says_it_all_the_same() {
    for write in 0..5 {
        for after in [false, true] {
            let mut stage = one_with_evidence();
            stage.release("alert");
            stage.crash = Some((write, after));
            drop(stage.settle("alert"));
            stage.settle("alert").unwrap();
            let said = begun(&stage);
            assert!(said.windows(2).all(|pair| pair[0].1 == pair[1].1), "the same each time: {said:?}");
            // One that is killed before it has written down what came of it says it again.
            for _ in 0..2 {
                for task in stage.tasks.values_mut() {
                    *task = TaskState::Ended(recorded(1, None));
                }
                drop(stage.settle("alert"));
                stage.settle("alert").unwrap();
            }
            assert_eq!(says(&stage.status("alert"), "ReleaseRecorded"), "True/Recorded", "write {write} {after}");
        }
    }
}

#[test]
fn what_asked_for_the_release_is_the_manager_of_the_field_and_otherwise_nothing() {
    let mut stage = one_with_evidence();
    let manager = json!([
        { "manager": "kubectl-create", "operation": "Update", "fieldsV1": { "f:spec": { "f:target": {} } } },
        { "manager": "kubectl-patch", "operation": "Update", "fieldsV1": { "f:spec": { "f:release": {} } } },
    ]);
    let response = stage.responses.get_mut("alert").unwrap();
    response.metadata.managed_fields = Some(fixtures::object(manager));
    assert_eq!(released_by(response), None, "it is not released");
    response.spec.release = Some(true);
    assert_eq!(released_by(response).as_deref(), Some("field manager kubectl-patch"));
}

#[test]
fn the_digest_of_what_was_sealed_is_an_event_on_the_response_and_on_the_pod() {
    let mut stage = a_pod();
    stage.respond("alert", json!([collect()]));
    let before = stage.status("alert");
    ends(&mut stage, "collect", &collected());
    let after = stage.status("alert");
    let sealed = |before: &IncidentResponseStatus| {
        let notes = notes(&stage.responses["alert"], before, &after);
        notes.into_iter().filter(|note| note.reason == "EvidenceSealed").collect::<Vec<_>>()
    };
    let notes = sealed(&before);
    let [response, pod] = &notes[..] else { panic!("{notes:?}") };
    assert_eq!(response.about, About::Response);
    assert!(matches!(&pod.about, About::Object(object) if object.uid.as_ref() == Some(&stage.uid)), "{pod:?}");
    for note in [response, pod] {
        assert!(note.note.contains("SHA-256 of the record abcd") && note.note.contains(URL), "{note:?}");
    }
    assert!(sealed(&after).is_empty(), "it is told once");
}

#[test]
fn what_was_done_to_a_target_is_what_the_status_has_of_it_and_that_it_is_over() {
    let mut stage = a_pod();
    stage.respond("alert", json!([{ "label": { "set": { "incident": "4711" } } }, collect()]));
    let told = |stage: &Stage, uid: &str| {
        let mut deeds = deeds(&stage.responses["alert"], uid);
        deeds.sort();
        deeds.into_iter().map(|deed| format!("{} {}", deed.subject, deed.became)).collect::<Vec<_>>()
    };
    let done = told(&stage, &stage.uid);
    assert!(done.iter().any(|deed| deed.contains("action label is Done (Labelled)")), "{done:?}");
    assert!(told(&stage, "another").is_empty());
    release(&mut stage);
    let done = told(&stage, &stage.uid);
    assert!(done.iter().any(|deed| deed.contains("is over (Released)")), "{done:?}");
}

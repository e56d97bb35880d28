//! Evidence is collected beside everything else: what waits for it and for how long, and what is said of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests: a panic is a failed test")]

mod fixtures;

use fixtures::says;
use fixtures::stage::Stage;
use jiff::SignedDuration;
use serde_json::{Value, json};
use tourniquet_api::EvidenceResult;
use tourniquet_response::{Artifact, CollectionReport, Progress, TaskReport, TaskState, Way, Work};

fn a_pod() -> Stage {
    let mut stage = Stage::new("Pod");
    stage.containers = vec![("web", "containerd://one")];
    stage
}

fn collect(more: Value) -> Value {
    let mut collect = json!({ "storeRef": { "name": "soc" } });
    collect.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    json!({ "collect": collect })
}

/// Collects, and then sets a label.
fn and_label(more: Value) -> Value {
    json!([collect(more), { "label": { "set": { "incident": "4711" } } }])
}

fn stored(done: i32, total: i32) -> EvidenceResult {
    EvidenceResult { artifacts_done: done, artifacts_total: total, bytes: 100, ..EvidenceResult::default() }
}

fn so_far(done: i32, volatile_done: bool) -> Progress {
    Progress { evidence: stored(done, 5), volatile_done, ..Progress::default() }
}

/// It has come so far.
fn goes(stage: &mut Stage, progress: Progress) {
    for task in stage.tasks.values_mut() {
        if let TaskState::Running { progress: now, .. } = task {
            *now = Some(progress.clone());
        }
    }
    stage.settle("alert").expect("nothing crashes");
}

fn ends(stage: &mut Stage, report: &CollectionReport) {
    for task in stage.tasks.values_mut() {
        *task = TaskState::Ended(TaskReport::Collection(report.clone()));
    }
    stage.settle("alert").expect("nothing crashes");
}

fn sealed(done: i32, total: i32) -> CollectionReport {
    let evidence = EvidenceResult { record_digest: Some("abcd".to_owned()), ..stored(done, total) };
    let missing = if done < total { vec!["memory: denied".to_owned()] } else { Vec::new() };
    CollectionReport { evidence, missing, ..CollectionReport::default() }
}

fn artifacts(stage: &Stage) -> Vec<Artifact> {
    match &stage.begun[0].1 {
        Work::Collection(collection) => collection.artifacts.clone(),
        other => panic!("no collection: {other:?}"),
    }
}

#[test]
fn what_follows_waits_until_what_is_volatile_is_there() {
    let mut stage = a_pod();
    stage.respond("alert", and_label(json!({})));
    assert_eq!(stage.outcome("alert", "collect"), "Running/Collecting");
    assert_eq!(stage.outcome("alert", "label"), "Pending/WaitsForEvidence");
    goes(&mut stage, so_far(1, false));
    assert_eq!(stage.outcome("alert", "label"), "Pending/WaitsForEvidence");
    goes(&mut stage, so_far(2, true));
    assert_eq!(stage.outcome("alert", "label"), "Done/Labelled");
    assert_eq!(stage.outcome("alert", "collect"), "Running/Collecting");
}

#[test]
fn what_follows_waits_no_longer_than_the_head_start() {
    let mut stage = a_pod();
    stage.respond("alert", and_label(json!({ "headStart": "7s" })));
    stage.later(SignedDuration::from_secs(6));
    stage.settle("alert").unwrap();
    assert_eq!(stage.outcome("alert", "label"), "Pending/WaitsForEvidence");
    stage.later(SignedDuration::from_secs(7));
    stage.settle("alert").unwrap();
    assert_eq!(stage.outcome("alert", "label"), "Done/Labelled");
}

#[test]
fn what_comes_before_it_in_the_list_does_not_wait() {
    let mut stage = a_pod();
    stage.respond("alert", json!([{ "label": { "set": { "incident": "4711" } } }, collect(json!({}))]));
    assert_eq!(stage.outcome("alert", "label"), "Done/Labelled");
}

#[test]
fn it_is_done_only_when_everything_is_there_and_sealed() {
    let not_sealed = CollectionReport { trouble: Some("the store is down".to_owned()), ..sealed(5, 5) };
    let nothing = CollectionReport { evidence: stored(0, 5), ..not_sealed.clone() };
    for (report, outcome) in [
        (sealed(5, 5), "Done/Collected"),
        (sealed(4, 5), "Partial/CollectedInPart"),
        (sealed(0, 5), "Failed/CollectedInPart"),
        (not_sealed, "Partial/NotSealed"),
        (nothing, "Failed/NotSealed"),
    ] {
        let mut stage = a_pod();
        stage.respond("alert", json!([collect(json!({}))]));
        ends(&mut stage, &report);
        assert_eq!(stage.outcome("alert", "collect"), outcome);
        let result = stage.action("alert", "collect").results.remove(0);
        assert_eq!(result.evidence, Some(report.evidence.clone()));
        let message = result.message.unwrap();
        assert!(report.missing.iter().chain(&report.trouble).all(|why| message.contains(why)), "{message}");
    }
}

#[test]
fn a_restart_finishes_what_was_begun() {
    for write in 0..4 {
        for after in [false, true] {
            let mut stage = a_pod();
            stage.create("alert", json!([collect(json!({}))]));
            stage.crash = Some((write, after));
            drop(stage.settle("alert"));
            stage.settle("alert").unwrap();
            assert_eq!(stage.outcome("alert", "collect"), "Running/Collecting", "write {write} {after}");
            ends(&mut stage, &sealed(5, 5));
            assert_eq!(stage.outcome("alert", "collect"), "Done/Collected", "write {write} {after}");
        }
    }
}

#[test]
fn a_release_does_not_wait_for_it_and_lets_it_finish() {
    let mut stage = a_pod();
    let before = stage.fields.clone();
    stage.respond("alert", and_label(json!({})));
    goes(&mut stage, so_far(2, true));
    stage.release("alert");
    stage.settle("alert").unwrap();
    assert_eq!(says(&stage.status("alert"), "Reverted"), "True/Released");
    assert_eq!(stage.fields, before, "everything else is undone");
    assert_eq!(stage.outcome("alert", "collect"), "Running/Collecting");
    assert!(stage.responses["alert"].metadata.finalizers.is_some(), "it is not gone before the folder is sealed");
    ends(&mut stage, &sealed(5, 5));
    assert_eq!(stage.outcome("alert", "collect"), "Done/Collected");
    assert!(stage.responses["alert"].metadata.finalizers.is_none());
    assert_eq!(says(&stage.status("alert"), "Reverted"), "True/Released");
}

#[test]
fn a_restart_before_or_after_the_release_finishes_it_too() {
    for released_meanwhile in [false, true] {
        let mut stage = a_pod();
        stage.respond("alert", json!([collect(json!({}))]));
        stage.release("alert");
        if !released_meanwhile {
            stage.settle("alert").unwrap();
        }
        stage.restart();
        // Nobody looks again when the release is done: what goes on is begun with it.
        stage.settle("alert").unwrap();
        assert_eq!(says(&stage.status("alert"), "Reverted"), "True/Released");
        assert_eq!(stage.begun.len(), 2, "another instance goes on with it, released meanwhile: {released_meanwhile}");
        ends(&mut stage, &sealed(5, 5));
        assert_eq!(stage.outcome("alert", "collect"), "Done/Collected");
    }
}

#[test]
fn what_was_stored_before_a_restart_is_sealed_when_there_is_nothing_more_to_collect() {
    for deleted in [false, true] {
        let mut stage = a_pod();
        stage.respond("alert", json!([collect(json!({}))]));
        stage.restart();
        if deleted {
            stage.delete("alert");
        } else {
            stage.gone = true;
        }
        stage.settle("alert").unwrap();
        assert_eq!(stage.begun.len(), 2);
        let Work::Collection(collection) = &stage.begun[1].1 else { panic!("{:?}", stage.begun) };
        assert!(collection.artifacts.is_empty(), "nothing is collected: {collection:?}");
        assert!(stage.responses.contains_key("alert"), "it waits for the seal");
        ends(&mut stage, &sealed(3, 5));
        assert_eq!(stage.responses.contains_key("alert"), !deleted);
        if !deleted {
            assert_eq!(stage.outcome("alert", "collect"), "Partial/CollectedInPart");
        }
    }
}

#[test]
fn a_deletion_ends_it_and_what_was_received_is_sealed() {
    for released_before in [false, true] {
        let mut stage = a_pod();
        stage.respond("alert", json!([collect(json!({}))]));
        if released_before {
            stage.release("alert");
            stage.settle("alert").unwrap();
        }
        stage.delete("alert");
        stage.settle("alert").unwrap();
        assert!(stage.responses.contains_key("alert"), "it waits for the seal");
        let mut stopped = stage.tasks.values();
        assert!(stopped.all(|task| matches!(task, TaskState::Running { ending: true, .. })));
        ends(&mut stage, &CollectionReport { cancelled: true, ..sealed(3, 5) });
        assert!(!stage.responses.contains_key("alert"));
    }
}

#[test]
fn what_is_lost_first_comes_first() {
    let mut stage = a_pod();
    let more = json!({ "memory": ["miner"], "files": [{ "path": "/etc/passwd" }] });
    stage.respond("alert", json!([collect(more)]));
    let artifacts = artifacts(&stage);
    let first_durable = artifacts.iter().position(|artifact| !artifact.volatile).unwrap();
    assert!(artifacts.iter().skip(first_durable).all(|artifact| !artifact.volatile), "{artifacts:?}");
    let names: Vec<&str> = artifacts.iter().map(|artifact| artifact.name.as_str()).collect();
    for name in ["memory/miner.core", "files/web/etc/passwd", "manifest.json", "events.json", "logs/web.log"] {
        assert!(names.contains(&name), "{name} of {names:?}");
    }
}

#[test]
fn without_an_agent_the_containers_own_programs_are_run_and_memory_is_not_to_be_had() {
    let mut stage = a_pod();
    stage.respond("alert", json!([collect(json!({ "memory": ["7"] }))]));
    for artifact in artifacts(&stage) {
        match artifact.name.as_str() {
            "processes/web.txt" | "connections/web.txt" => {
                assert!(matches!(artifact.ways[..], [Way::Tool(_)]), "{artifact:?}");
            }
            "memory/7.core" => assert!(artifact.ways.is_empty() && artifact.what.contains("agent"), "{artifact:?}"),
            _ => {}
        }
    }
}

#[test]
fn a_file_of_an_unnamed_container_among_several_is_not_guessed() {
    let mut stage = a_pod();
    stage.containers.push(("sidecar", "containerd://two"));
    stage.respond("alert", json!([collect(json!({ "files": [{ "path": "/etc/passwd" }] }))]));
    let artifacts = artifacts(&stage);
    let file = artifacts.iter().find(|artifact| artifact.name.starts_with("files/")).unwrap();
    assert!(file.ways.is_empty() && file.what.contains("web, sidecar"), "{file:?}");
}

#[test]
fn a_dry_run_says_what_would_be_collected_and_collects_nothing() {
    let mut stage = a_pod();
    stage.create("alert", json!([collect(json!({}))]));
    stage.responses.get_mut("alert").unwrap().spec.dry_run = true;
    stage.settle("alert").unwrap();
    assert!(stage.begun.is_empty());
    let plan = stage.status("alert").plan;
    let step = plan.iter().find(|step| step.verb == "Collect").expect("it is planned");
    assert!(step.change.contains("soc") && step.change.contains("logs/web.log"), "{step:?}");
}

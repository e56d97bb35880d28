//! A folder, from its opening to its seal, as an auditor finds it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests: a panic is a failed test")]

mod lab;

use std::process::Command;

use jiff::Timestamp;
use lab::folders::{bounds, facts, opening, place, plan, report};
use lab::sources::{breaks, bytes, falls_silent, sha256};
use lab::{Lab, put};
use tourniquet_evidence::Folder;
use tourniquet_evidence::folder::{ArtifactRecord, Claim, Outcome, Record, Release, SourceReport, State};

/// Collects an artifact whose source does well.
async fn collect(folder: &Folder, name: &str, content: &[u8]) -> ArtifactRecord {
    folder.add(plan(name), content, report(), bounds()).await
}

async fn record(lab: &Lab) -> Record {
    let bytes = lab.content(&format!("{}/data/record.json", place().path())).await.unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

#[tokio::test]
async fn a_folder_is_a_bag_that_sha256sum_and_bagit_accept() {
    let lab = Lab::new().await;
    let folder =
        Folder::open(&lab.store(), &place(), &opening(&["web/processes.txt", "web/files/etc/passwd"])).await.unwrap();
    assert_eq!(folder.state().await, State::Open);
    collect(&folder, "web/processes.txt", b"PID CMD\n").await;
    collect(&folder, "web/files/etc/passwd", &bytes(5_000_000)).await;
    collect(&folder, "web/files/tmp/a b\nc%0A", b"").await;
    let sealed = folder.seal(facts()).await.unwrap();
    assert_eq!(folder.state().await, State::Sealed);
    assert_eq!((sealed.done, sealed.total, sealed.bytes), (3, 3, 5_000_008));
    let release = Release {
        released_at: Timestamp::now(),
        released_by: Some("field manager kubectl".to_owned()),
        reason: "Released".to_owned(),
        undone: vec![],
    };
    for _ in 0..2 {
        Folder::add_release(&lab.store(), &place(), &release).await.expect("the first one stays, and that is no error");
    }

    let dir = lab.download(&place().path()).await;
    let verified = Command::new("sha256sum")
        .args(["--check", "--strict", "--quiet", "manifest-sha256.txt"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    let verified = Command::new("sha256sum")
        .args(["--check", "--strict", "--quiet", "tagmanifest-sha256.txt"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    let tag_manifest = std::fs::read(dir.path().join("tagmanifest-sha256.txt")).unwrap();
    assert_eq!(sealed.tag_manifest_sha256, sha256(&tag_manifest));
    assert_eq!(sealed.record_sha256, sha256(&std::fs::read(dir.path().join("data/record.json")).unwrap()));
    lab::bagit::accepts(dir.path());
    // And not just anything.
    std::fs::write(dir.path().join("data/web/processes.txt"), "PID CMd\n").unwrap();
    lab::bagit::refuses(dir.path());
}

#[tokio::test]
async fn the_record_tells_what_was_collected_and_how_it_ended() {
    let lab = Lab::new().await;
    let folder = Folder::open(&lab.store(), &place(), &opening(&["a", "b", "never"])).await.unwrap();
    let claimed = SourceReport {
        exit_code: Some(0),
        claimed: Some(Claim { by: "the agent".to_owned(), sha256: sha256(b"abc"), length: Some(3) }),
        ..SourceReport::default()
    };
    let lies = SourceReport {
        claimed: Some(Claim { by: "the agent".to_owned(), sha256: sha256(b"abd"), length: Some(3) }),
        ..claimed.clone()
    };
    folder.add(plan("a"), b"abc".as_slice(), async { claimed }, bounds()).await;
    folder.add(plan("b"), breaks(b"half".to_vec(), "reset"), report(), bounds()).await;
    let failed = SourceReport {
        broken: Some("exit status 1".to_owned()),
        exit_code: Some(1),
        stderr: "no such file".to_owned(),
        ..SourceReport::default()
    };
    folder.add(plan("c"), b"".as_slice(), async { failed }, bounds()).await;
    let mut small = bounds();
    small.limit = 2;
    folder.add(plan("d"), b"abc".as_slice(), report(), small).await;
    let mut cancelled = bounds();
    cancelled.cancel = tokio_util::sync::CancellationToken::new();
    cancelled.cancel.cancel();
    folder.add(plan("e"), falls_silent(vec![]), report(), cancelled).await;
    folder.add_failed(plan("f"), "the pod is gone".to_owned()).await;
    folder.add(plan("g"), b"abc".as_slice(), async { lies }, bounds()).await;
    let more = SourceReport { truncated: Some("the folder has more entries".to_owned()), ..SourceReport::default() };
    folder.add(plan("h"), b"abc".as_slice(), async { more }, bounds()).await;
    folder.seal(facts()).await.unwrap();

    let record = record(&lab).await;
    let failed = |why: &str| Outcome::Failed { why: why.to_owned() };
    let outcomes: Vec<_> = record
        .artifacts
        .iter()
        .map(|a| (a.plan.name.as_str(), a.outcome.clone(), a.blob.as_ref().map(|b| b.length)))
        .collect();
    assert_eq!(
        outcomes,
        [
            ("a", Outcome::Done, Some(3)),
            ("b", failed("reset"), Some(4)),
            ("c", failed("exit status 1"), Some(0)),
            ("d", Outcome::Truncated, Some(2)),
            ("e", Outcome::Cancelled, Some(0)),
            ("f", failed("the pod is gone"), None),
            // What was sent is not what arrived.
            (
                "g",
                failed(&format!(
                    "the agent says that it sent 3 bytes, SHA-256 {}; 3 bytes of SHA-256 {} arrived",
                    sha256(b"abd"),
                    sha256(b"abc")
                )),
                Some(3)
            ),
            // The source says that there was more.
            ("h", Outcome::Truncated, Some(3)),
        ]
    );
    assert!(!record.complete);
    assert_eq!(record.not_collected, ["never"]);
    assert_eq!(record.facts, facts());
    let first = &record.artifacts[0];
    assert_eq!(first.blob.as_ref().unwrap().sha256, sha256(b"abc"));
    // A claim beside ours.
    assert_eq!(first.report.claimed.as_ref().unwrap().sha256, sha256(b"abc"));
    assert!(first.started_at <= first.ended_at && record.opened_at <= record.sealed_at);
    lab::bagit::accepts(lab.download(&place().path()).await.path());
}

#[tokio::test]
async fn a_folder_whose_artifacts_are_all_there_says_so() {
    let lab = Lab::new().await;
    let folder = Folder::open(&lab.store(), &place(), &opening(&["a", "b/c"])).await.unwrap();
    collect(&folder, "a", b"1").await;
    collect(&folder, "/b/c", b"2").await;
    folder.seal(facts()).await.unwrap();
    assert!(record(&lab).await.complete);
}

#[tokio::test]
async fn what_is_collected_again_lies_beside_what_was_collected_before() {
    let lab = Lab::new().await;
    let first = Folder::open(&lab.store(), &place(), &opening(&["a"])).await.unwrap();
    collect(&first, "a", b"before").await;
    drop(first);
    let second = Folder::open(&lab.store(), &place(), &opening(&[])).await.unwrap();
    assert_eq!(second.artifacts().await.len(), 1);
    let again = collect(&second, "a", b"after").await;
    assert_eq!(again.plan.name, "a~2");
    second.seal(facts()).await.unwrap();
    let dir = lab.download(&place().path()).await;
    assert_eq!(std::fs::read(dir.path().join("data/a")).unwrap(), b"before");
    assert_eq!(std::fs::read(dir.path().join("data/a~2")).unwrap(), b"after");
    assert!(record(&lab).await.complete);
    lab::bagit::accepts(dir.path());
}

#[tokio::test]
async fn artifacts_can_be_collected_at_the_same_time() {
    let lab = Lab::new().await;
    let folder = Folder::open(&lab.store(), &place(), &opening(&[])).await.unwrap();
    let contents: Vec<Vec<u8>> = (0..12).map(|n| bytes(n * 100_000)).collect();
    let adding = contents.iter().map(|content| collect(&folder, "same", content));
    let artifacts = futures::future::join_all(adding).await;
    folder.seal(facts()).await.unwrap();
    let dir = lab.download(&place().path()).await;
    for (artifact, content) in artifacts.iter().zip(&contents) {
        assert!(std::fs::read(dir.path().join("data").join(&artifact.plan.name)).unwrap() == *content);
    }
    lab::bagit::accepts(dir.path());
}

#[tokio::test]
async fn nothing_is_added_to_a_finished_folder_but_its_release() {
    let lab = Lab::new().await;
    let folder = Folder::open(&lab.store(), &place(), &opening(&[])).await.unwrap();
    let sealed = folder.seal(facts()).await.unwrap();
    let late = collect(&folder, "late", b"x").await;
    assert_eq!(late.outcome, Outcome::Failed { why: "the folder was finished before".to_owned() });
    // To seal it again is to see that it is.
    assert_eq!(folder.seal(facts()).await.unwrap(), sealed);
    let reopened = Folder::resume(&lab.store(), &place()).await.unwrap().unwrap();
    assert_eq!(reopened.state().await, State::Sealed);
    assert_eq!(reopened.seal(facts()).await.unwrap(), sealed);
    let release = |who: &str| Release {
        released_at: Timestamp::now(),
        released_by: Some(who.to_owned()),
        reason: "Released".to_owned(),
        undone: vec![],
    };
    Folder::add_release(&lab.store(), &place(), &release("ana")).await.unwrap();
    Folder::add_release(&lab.store(), &place(), &release("ben")).await.unwrap();
    let dir = lab.download(&place().path()).await;
    assert!(std::fs::read_to_string(dir.path().join("release.json")).unwrap().contains("ana"));
    lab::bagit::accepts(dir.path());
}

#[tokio::test]
async fn two_who_finish_one_folder_make_one_record() {
    let lab = Lab::new().await;
    let one = Folder::open(&lab.store(), &place(), &opening(&[])).await.unwrap();
    collect(&one, "a", b"1").await;
    let two = Folder::open(&lab.store(), &place(), &opening(&[])).await.unwrap();
    let (one, two) = tokio::join!(one.seal(facts()), two.seal(facts()));
    assert_eq!(one.unwrap(), two.unwrap());
    lab::bagit::accepts(lab.download(&place().path()).await.path());
}

#[tokio::test]
async fn what_somebody_else_put_into_a_folder_is_told_and_not_vouched_for() {
    let lab = Lab::new().await;
    let folder = Folder::open(&lab.store(), &place(), &opening(&[])).await.unwrap();
    collect(&folder, "a", b"1").await;
    put(&lab.store(), &format!("{}/data/planted", place().path()), b"x").await.unwrap();
    folder.seal(facts()).await.unwrap();
    let record = record(&lab).await;
    assert_eq!((record.complete, record.foreign.as_slice()), (false, ["data/planted".to_owned()].as_slice()));
    lab::bagit::refuses(lab.download(&place().path()).await.path());
}

#[tokio::test]
async fn there_is_no_folder_where_none_was_opened() {
    let lab = Lab::new().await;
    assert!(Folder::resume(&lab.store(), &place()).await.unwrap().is_none());
    put(&lab.store(), &format!("{}/opened.json", place().path()), b"no JSON").await.unwrap();
    assert_eq!(Folder::resume(&lab.store(), &place()).await.unwrap_err().code, "NotOurs");
}

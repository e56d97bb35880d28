//! Whoever fills a folder dies at any of its writes, before it arrives or before its answer comes back; somebody else finishes the folder.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests: a panic is a failed test")]

mod lab;

use std::collections::BTreeMap;
use std::time::Duration;

use lab::Lab;
use lab::folders::{bounds, facts, opening, place, plan, report};
use lab::proxy::{Fate, Proxy, Seen};
use lab::sources::bytes;
use tourniquet_evidence::folder::{Outcome, Record, Sealed, State};
use tourniquet_evidence::{Folder, Store, Trouble};

const ARTIFACTS: [&str; 3] = ["processes.txt", "web/files/etc/passwd", "memory"];

fn content(name: &str) -> Vec<u8> {
    bytes(if name == "memory" { 5_000_000 } else { 1000 + name.len() })
}

/// What an operator does, from wherever the one before it was stopped.
async fn collect_all(store: &Store) -> Result<Sealed, Trouble> {
    let folder = Folder::open(store, &place(), &opening(&ARTIFACTS)).await?;
    for name in ARTIFACTS {
        let there = folder
            .artifacts()
            .await
            .iter()
            .any(|artifact| artifact.plan.name == name && artifact.outcome == Outcome::Done);
        if !there && folder.state().await == State::Open {
            let content = content(name);
            let artifact = folder.add(plan(name), content.as_slice(), report(), bounds()).await;
            if let Outcome::Failed { why } = artifact.outcome {
                // It is dead: it does nothing more.
                return Err(Trouble { code: "Dead".to_owned(), message: why, transient: false, retry_after: None });
            }
        }
    }
    folder.seal(facts()).await
}

/// Nothing passes any more from this write on; of the write itself the answer is lost, or it does not arrive.
fn dies_at(write: usize, arrives: bool) -> impl FnMut(&Seen) -> Fate + Send + 'static {
    let mut dead = false;
    move |seen: &Seen| {
        if dead {
            return Fate::Dropped;
        }
        dead = seen.write == Some(write);
        match (dead, arrives) {
            (false, _) => Fate::Passes,
            (true, true) => Fate::AnswerLost,
            (true, false) => Fate::Dropped,
        }
    }
}

#[tokio::test]
async fn a_death_at_any_write_leaves_a_folder_that_is_finished_later_whole_and_without_doubles() {
    let mut write = 0;
    loop {
        let mut died = false;
        for arrives in [false, true] {
            died |= dies_and_is_finished(write, arrives).await;
        }
        if !died {
            // Opening, artifacts of 1, 1 and 2 blocks, and five files at the end: each block and each commit is a write.
            assert_eq!(write, 2 + 2 + 2 + 3 + 5 * 2);
            return;
        }
        write += 1;
    }
}

/// False when it had no such write to die at.
async fn dies_and_is_finished(write: usize, arrives: bool) -> bool {
    let lab = Lab::new().await;
    let proxy = Proxy::start(lab.azurite, dies_at(write, arrives)).await;
    let mut config = lab.config_at(&proxy.endpoint(), lab.sas().sign());
    config.times.patience = Duration::from_millis(20);
    if collect_all(&Store::open(&config).unwrap()).await.is_ok() {
        return false;
    }
    // Without the last file it is not finished, whatever else is there; with it, all is there.
    let dir = lab.download(&place().path()).await;
    if dir.path().join("tagmanifest-sha256.txt").exists() {
        lab::bagit::accepts(dir.path());
    }

    proxy.follow(lab::proxy::passes);
    let sealed = collect_all(&lab.store_at(&proxy)).await.unwrap();
    assert_eq!((sealed.done, sealed.total), (3, 3), "write {write}, arrives: {arrives}");
    let dir = lab.download(&place().path()).await;
    lab::bagit::accepts(dir.path());
    let record: Record = serde_json::from_slice(&std::fs::read(dir.path().join("data/record.json")).unwrap()).unwrap();
    assert!(record.complete);
    for name in ARTIFACTS {
        assert!(std::fs::read(dir.path().join("data").join(name)).unwrap() == content(name), "{name}, write {write}");
    }
    let mut commits: BTreeMap<String, usize> = BTreeMap::new();
    proxy.commits().into_iter().for_each(|blob| *commits.entry(blob).or_default() += 1);
    assert!(commits.values().all(|count| *count == 1), "{commits:?}, write {write}");
    true
}

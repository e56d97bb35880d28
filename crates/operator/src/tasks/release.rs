//! That a response was released, added to its folders. What is released is released: a store that does not take it is given up after a while.

use std::time::Duration;

use futures::{StreamExt, stream};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tourniquet_evidence::folder::{self, Folder};
use tourniquet_response::{Release, ReleaseReport, ReleasedFolder, TaskKey};
use tracing::warn;

use super::case::place;
use crate::stores::Stores;

/// How long it is tried.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long it is tried after it was told to end: a deletion waits for it.
const HURRIED: Duration = Duration::from_secs(10);
/// Folders that are written to at the same time.
const AT_A_TIME: usize = 8;
/// The pause before a store that did not take it is tried again.
const AGAIN: Duration = Duration::from_secs(2);

const NOT_IN_TIME: &str = "the store did not take it in time";

/// What it needs.
pub(super) struct Recording<'a> {
    pub(super) stores: &'a Stores,
    pub(super) cluster_name: &'a str,
    pub(super) key: &'a TaskKey,
    pub(super) release: &'a Release,
    pub(super) end: &'a CancellationToken,
}

impl Recording<'_> {
    /// Adds it to each folder. However that ends, it is what the report says.
    pub(super) async fn run(&self) -> ReleaseReport {
        let until = Instant::now() + PATIENCE;
        let mut left: Vec<&ReleasedFolder> = self.release.folders.iter().collect();
        let hurried = async {
            self.end.cancelled().await;
            sleep(HURRIED).await;
        };
        tokio::pin!(hurried);
        let mut trouble = None;
        loop {
            let tried = async {
                let adding: Vec<_> = left.iter().map(|folder| self.add(folder, until)).collect();
                stream::iter(adding).buffered(AT_A_TIME).collect::<Vec<_>>().await
            };
            let tried = tokio::select! {
                tried = tried => tried,
                () = &mut hurried => {
                    // What was added meanwhile is there, and nobody has seen it.
                    trouble = self.trouble(&left).or(trouble).or_else(|| Some(NOT_IN_TIME.to_owned()));
                    break;
                }
            };
            let mut not_added = Vec::new();
            let mut first = None;
            for (folder, added) in left.iter().zip(tried) {
                if let Err(why) = added {
                    not_added.push(*folder);
                    first.get_or_insert(why);
                }
            }
            (left, trouble) = (not_added, first);
            let Some(why) = trouble.as_ref().filter(|_| Instant::now() + AGAIN < until) else { break };
            warn!(why, folders = left.len(), "the release is not recorded yet; it is tried again");
            tokio::select! {
                () = sleep(AGAIN) => {}
                () = &mut hurried => break,
            }
        }
        ReleaseReport { done: self.release.folders.len() - left.len(), trouble }
    }

    async fn add(&self, of: &ReleasedFolder, until: Instant) -> Result<(), String> {
        let ReleasedFolder { store, action, target_name, target_uid } = of;
        let open = self.stores.tried_by(store, Instant::now() + AGAIN).await.map_err(|error| error.to_string())?;
        let key = TaskKey { action: action.clone(), target: target_uid.clone(), ..self.key.clone() };
        let place = place(self.cluster_name, &key, &self.release.response, target_name);
        let release = folder::Release {
            released_at: self.release.at,
            released_by: self.release.by.clone(),
            reason: self.release.reason.clone(),
            undone: vec![self.release.said.clone()],
        };
        match timeout_at(until, Folder::add_release(&open.store, &place, &release)).await {
            Ok(added) => added.map_err(|trouble| trouble.to_string()),
            Err(_) => Err(NOT_IN_TIME.to_owned()),
        }
    }

    /// What the stores of these are held up by.
    fn trouble(&self, left: &[&ReleasedFolder]) -> Option<String> {
        let open = left.iter().filter_map(|folder| self.stores.get(&folder.store).ok());
        open.filter_map(|open| open.store.held_up().borrow().as_ref().map(ToString::to_string)).next()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Lab;
    use super::*;

    fn release(stores: &[&str]) -> Release {
        let folder = |(index, store): (usize, &&str)| ReleasedFolder {
            store: (*store).to_owned(),
            action: if index == 0 { "run".to_owned() } else { format!("run-{index}") },
            target_name: "web".to_owned(),
            target_uid: "pod".to_owned(),
        };
        Release {
            response: "soc/alert".to_owned(),
            folders: stores.iter().enumerate().map(folder).collect(),
            at: "2026-11-23T03:12:00Z".parse().unwrap(),
            by: Some("field manager kubectl".to_owned()),
            reason: "Released".to_owned(),
            said: "everything is gone".to_owned(),
        }
    }

    async fn record(lab: &Lab, release: &Release) -> ReleaseReport {
        let recording = Recording { stores: &lab.stores, cluster_name: "c1", key: &lab.key, release, end: &lab.end };
        recording.run().await
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn it_is_said_in_each_folder_once_however_often_it_is_begun() {
        let lab = Lab::new("release").await;
        for _ in 0..2 {
            let report = record(&lab, &release(&["soc", "soc"])).await;
            assert_eq!(report, ReleaseReport { done: 2, trouble: None });
        }
        let said = lab.json("release.json").await;
        assert_eq!((&said["reason"], &said["releasedBy"]), (&"Released".into(), &"field manager kubectl".into()));
        assert_eq!(
            (&said["releasedAt"], &said["undone"][0]),
            (&"2026-11-23T03:12:00Z".into(), &"everything is gone".into())
        );
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_deletion_waits_for_a_store_that_is_down_no_longer_than_that() {
        let lab = Lab::down();
        lab.end.cancel();
        let began = Instant::now();
        let report = record(&lab, &release(&["soc"])).await;
        assert_eq!(report.done, 0);
        assert!(report.trouble.is_some(), "{report:?}");
        assert!(began.elapsed() < HURRIED + Duration::from_secs(2));
    }
}

//! How a folder is finished: the record, the bag's files, the tag manifest, each written once, by whoever comes to it.

use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::bag::{self, RECORD, TAG_MANIFEST};
use super::contents::not_ours;
use super::record::{Facts, Outcome, Record};
use super::{Folder, Sealed};
use crate::store::{Ended, Store, Trouble};

/// How long one small file may take. Faults that pass are borne for that long; sealing can be called again.
const WRITE: Duration = Duration::from_secs(60);

impl Folder {
    /// Finishes the folder with this record of its circumstances; the artifacts are those that were added, and what else the store has of them.
    ///
    /// Waits for artifacts that are being added: cancel them first when it has to be soon.
    /// When it was recorded before, by a process that ended in between, the record that is there stays, and what is missing after it is written.
    ///
    /// # Errors
    /// When the store does not take it. It can be called again.
    pub async fn seal(&self, facts: Facts) -> Result<Sealed, Trouble> {
        let _alone = self.adding.write().await;
        let mut contents = self.contents.lock().await;
        contents.refresh(&self.store, &self.path).await?;
        let path = format!("{}/{RECORD}", self.path);
        let bytes = match &contents.recorded {
            Some(bytes) => bytes.clone(),
            None => {
                let record = contents.record(self.url(), facts);
                let bytes = serde_json::to_vec_pretty(&record)
                    .map_err(|error| not_ours(&self.store, &path, &error.to_string()))?;
                match self.write(RECORD, &bytes).await {
                    // Somebody was faster; theirs is the record.
                    Err(trouble) if trouble.code == "BlobAlreadyExists" => {
                        self.store.get_small(&path).await?.ok_or(trouble)?
                    }
                    written => written.map(|()| bytes)?,
                }
            }
        };
        let record: Record =
            serde_json::from_slice(&bytes).map_err(|error| not_ours(&self.store, &path, &error.to_string()))?;
        contents.recorded = Some(bytes.clone());
        let files = bag::files(&record, &bytes, &contents.opened_sha256);
        for file in &files {
            self.write_same(file.name, file.content.as_bytes()).await?;
        }
        contents.sealed = true;
        let tag_manifest = files.iter().find(|file| file.name == TAG_MANIFEST).map(bag::File::sha256);
        Ok(Sealed {
            url: self.url(),
            record_sha256: bag::digest(&bytes),
            tag_manifest_sha256: tag_manifest.unwrap_or_default(),
            done: record.artifacts.iter().filter(|artifact| artifact.outcome == Outcome::Done).count(),
            total: record.artifacts.len() + record.not_collected.len(),
            bytes: record.artifacts.iter().filter_map(|artifact| artifact.blob.as_ref()).map(|blob| blob.length).sum(),
        })
    }

    /// Writes a small file that is not there yet.
    pub(super) async fn write(&self, name: &str, content: &[u8]) -> Result<(), Trouble> {
        write(&self.store, &format!("{}/{name}", self.path), content).await
    }

    /// Writes a small file, or sees that it is there already.
    async fn write_same(&self, name: &str, content: &[u8]) -> Result<(), Trouble> {
        match self.write(name, content).await {
            Err(trouble) if trouble.code == "BlobAlreadyExists" => {
                let path = format!("{}/{name}", self.path);
                let there = self.store.get_small(&path).await?;
                if there.as_deref() == Some(content) {
                    Ok(())
                } else {
                    Err(not_ours(&self.store, &path, "it is another file"))
                }
            }
            written => written,
        }
    }
}

/// A small file that is not there yet, as a whole.
pub(super) async fn write(store: &Store, path: &str, content: &[u8]) -> Result<(), Trouble> {
    let stored = store.put_small(path, content, Uuid::new_v4(), Instant::now() + WRITE).await?;
    match stored.ended {
        Ended::Whole => Ok(()),
        // Memory does not end early; only its time can.
        _ => Err(not_ours(store, path, "its time was up while it was written")),
    }
}

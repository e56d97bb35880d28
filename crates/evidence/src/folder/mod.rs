//! What one response collects from one target: a BagIt bag in a store.
//!
//! # How a folder comes about
//!
//! 1. [`Folder::open`] writes `opened.json`: what goes on, since when. Each blob is written once, so it stays; what tells a finished folder is
//!    `tagmanifest-sha256.txt`, which is written last.
//! 2. [`Folder::add`], as often as there is something to collect, also at the same time. What the record needs to know of an artifact is in its blob's metadata.
//! 3. [`Folder::seal`] writes the record, the bag's files, and the tag manifest. It can be repeated, by the same process or another, until it succeeds.
//! 4. [`Folder::add_release`], when the response is released later.
//!
//! A crash in between loses nothing that was stored: opening the folder again finds what is there.

mod place;
mod record;

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncRead;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use place::{Place, safe_segment};
pub use record::{
    ArtifactPlan, ArtifactRecord, BlobFacts, Claim, ClockFacts, ClusterFacts, ContainerFacts, Deed, Facts, FileFacts,
    Incident, ObjectFacts, Outcome, Record, SCHEMA, STDERR, Source, SourceReport, TargetFacts, VolumeFacts,
};

use crate::store::{Store, Trouble};

/// What is written before anything is collected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Opening {
    /// When, by the operator's clock.
    pub opened_at: Timestamp,
    /// The circumstances, as far as they are known by now.
    pub facts: Facts,
    /// The names of the artifacts that are to be collected.
    pub planned: Vec<String>,
}

/// How much of an artifact is taken, and for how long.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Bytes.
    pub limit: u64,
    /// The longest silence.
    pub idle: Duration,
    /// The source is given up then.
    pub deadline: Instant,
    /// How long storing may go on after that.
    pub grace: Duration,
    /// Ends the source; what was received is stored.
    pub cancel: CancellationToken,
}

/// How far a folder has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Artifacts can be added.
    Open,
    /// The record is there, and nothing can be added; [`Folder::seal`] finishes it, with the record that is there.
    Recorded,
    /// It is finished.
    Sealed,
}

/// A finished folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// The folder's URL, without a signature.
    pub url: String,
    /// The digest of `data/record.json`, in hex.
    pub record_sha256: String,
    /// The digest of `tagmanifest-sha256.txt`, in hex. It stands for every byte in the folder: whoever keeps it elsewhere can tell whether one was changed.
    pub tag_manifest_sha256: String,
    /// Artifacts that are there as a whole, and all of them.
    pub done: usize,
    /// All artifacts.
    pub total: usize,
    /// Bytes of all artifacts.
    pub bytes: u64,
}

/// Who let go, and when; for `release.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Release {
    /// When, by the operator's clock.
    pub released_at: Timestamp,
    /// Who, as far as it is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub released_by: Option<String>,
    /// How: `Released`, `Expired` or `Deleted`.
    pub reason: String,
    /// What was undone, in words.
    #[serde(default)]
    pub undone: Vec<String>,
}

/// A folder that is being filled.
#[derive(Debug)]
pub struct Folder {}

impl Folder {
    /// Opens the folder at this place: a new one, or the one that is there already, with what is in it.
    ///
    /// # Errors
    /// When the store does not take or tell it.
    pub async fn open(store: &Store, place: &Place, opening: &Opening) -> Result<Self, Trouble> {
        let _ = (store, place, opening);
        todo!()
    }

    /// The folder at this place with what is in it; none, when there is none.
    ///
    /// # Errors
    /// When the store does not tell, or (`NotOurs`) what is there cannot be read.
    pub async fn resume(store: &Store, place: &Place) -> Result<Option<Self>, Trouble> {
        let _ = (store, place);
        todo!()
    }

    /// Its URL, without a signature.
    #[must_use]
    pub fn url(&self) -> String {
        todo!()
    }

    /// How far it has come.
    #[must_use]
    pub fn state(&self) -> State {
        todo!()
    }

    /// What was collected by now, also by those who had it open before, and what was told not to have been.
    #[must_use]
    pub fn artifacts(&self) -> Vec<ArtifactRecord> {
        todo!()
    }

    /// Collects one artifact: what `reader` gives is stored under the plan's name, or beside what is there. `report` is awaited after the stream has ended (for at most
    /// `bounds.grace`) and says how the source did.
    ///
    /// What cannot be stored is kept as a failed artifact for the record, and returned as one: an artifact is never an error of the folder.
    /// A source that ends badly is stored up to there, and its outcome says so.
    pub async fn add<R, F>(&self, plan: ArtifactPlan, reader: R, report: F, bounds: Bounds) -> ArtifactRecord
    where
        R: AsyncRead + Unpin + Send,
        F: Future<Output = SourceReport> + Send,
    {
        let _ = (plan, reader, report, bounds);
        todo!()
    }

    /// Keeps for the record that an artifact could not be collected at all.
    pub fn add_failed(&self, plan: ArtifactPlan, why: String) -> ArtifactRecord {
        let _ = (plan, why);
        todo!()
    }

    /// Finishes the folder with this record of its circumstances; the artifacts are those that were added, and what else the store has of them.
    ///
    /// When it was recorded before, by a process that ended in between, the record that is there stays, and what is missing after it is written.
    ///
    /// # Errors
    /// When the store does not take it. It can be called again.
    pub async fn seal(&self, facts: Facts) -> Result<Sealed, Trouble> {
        let _ = facts;
        todo!()
    }

    /// Adds `release.json`, also to a finished folder: it is no part of what the manifests cover. The first one stays.
    ///
    /// # Errors
    /// When the store does not take it.
    pub async fn add_release(&self, release: &Release) -> Result<(), Trouble> {
        let _ = release;
        todo!()
    }
}

//! What one action of a response collects from one target, or the outputs of its command there: a BagIt bag in a store.
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

mod artifact;
mod bag;
mod contents;
mod free;
mod place;
mod record;
mod seal;

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncRead;
use tokio::sync::{Mutex, RwLock};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

pub use place::{Place, safe_path, safe_segment};
pub use record::{
    ArtifactPlan, ArtifactRecord, BlobFacts, Claim, ClockFacts, ClusterFacts, CommandFacts, ContainerFacts, Deed,
    Facts, FileFacts, Incident, ObjectFacts, Outcome, Record, SCHEMA, STDERR, Source, SourceReport, StoreFacts,
    TargetFacts, VolumeFacts,
};

use bag::{HOW_TO_TELL, OPENED, PAYLOAD, RELEASE};
use contents::Contents;

use crate::store::{Ended, PutOptions, Received, Store, Trouble, Verdict};

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

/// What let go, and when; for `release.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Release {
    /// When everything was undone, by the operator's clock, in whole seconds.
    pub released_at: Timestamp,
    /// By what it was asked for, as far as it is known: the field manager that wrote `spec.release`. Nobody, of one that expired; of a deletion the
    /// API server's audit log has who.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub released_by: Option<String>,
    /// How: `Released`, `Expired` or `Deleted`.
    pub reason: String,
    /// What was undone and what stays, in words.
    #[serde(default)]
    pub undone: Vec<String>,
}

/// A folder that is being filled.
#[derive(Debug)]
pub struct Folder {
    store: Store,
    /// Below the store's prefix.
    path: String,
    contents: Mutex<Contents>,
    /// Held for reading by whoever adds, for writing by whoever seals.
    adding: RwLock<()>,
}

/// `opened.json`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Opened<'a> {
    how_to_tell: &'static str,
    #[serde(flatten)]
    opening: &'a Opening,
}

impl Folder {
    /// Opens the folder at this place: a new one, or the one that is there already, with what is in it.
    ///
    /// # Errors
    /// When the store does not take or tell it.
    pub async fn open(store: &Store, place: &Place, opening: &Opening) -> Result<Self, Trouble> {
        let path = place.path();
        let opened = Opened { how_to_tell: HOW_TO_TELL, opening };
        let opened =
            serde_json::to_vec_pretty(&opened).map_err(|error| Trouble::new("Unexpected", error.to_string()))?;
        match seal::write(store, &format!("{path}/{OPENED}"), &opened).await {
            Ok(()) => Ok(Self::of(store, path, Contents::new(opening, &opened))),
            Err(trouble) if trouble.code == "BlobAlreadyExists" => Self::resume(store, place).await?.ok_or(trouble),
            Err(trouble) => Err(trouble),
        }
    }

    /// The folder at this place with what is in it; none, when there is none.
    ///
    /// # Errors
    /// When the store does not tell, or (`NotOurs`) what is there cannot be read.
    pub async fn resume(store: &Store, place: &Place) -> Result<Option<Self>, Trouble> {
        let path = place.path();
        let contents = Contents::read(store, &path).await?;
        Ok(contents.map(|contents| Self::of(store, path, contents)))
    }

    fn of(store: &Store, path: String, contents: Contents) -> Self {
        Self { store: store.clone(), path, contents: Mutex::new(contents), adding: RwLock::new(()) }
    }

    /// Its URL, without a signature.
    #[must_use]
    pub fn url(&self) -> String {
        self.store.url(&self.path)
    }

    /// How far it has come.
    pub async fn state(&self) -> State {
        self.contents.lock().await.state()
    }

    /// What was collected by now, also by those who had it open before, and what was told not to have been.
    pub async fn artifacts(&self) -> Vec<ArtifactRecord> {
        self.contents.lock().await.artifacts.clone()
    }

    /// Collects one artifact: what `reader` gives is stored under the plan's name, or beside what is there. `report` is awaited after the stream has ended and the reader is
    /// dropped (for at most half of `bounds.grace`), and says how the source did.
    ///
    /// What cannot be stored is kept as a failed artifact for the record, and returned as one: an artifact is never an error of the folder.
    /// A source that ends badly is stored up to there, and its outcome says so.
    pub async fn add<R, F>(&self, plan: ArtifactPlan, reader: R, report: F, bounds: Bounds) -> ArtifactRecord
    where
        R: AsyncRead + Unpin + Send,
        F: Future<Output = SourceReport> + Send,
    {
        let _adding = self.adding.read().await;
        let plan = {
            let mut contents = self.contents.lock().await;
            if contents.state() != State::Open {
                return failed(plan, "the folder was finished before".to_owned());
            }
            ArtifactPlan { name: contents.take_name(&plan.name), ..plan }
        };
        let relative = format!("{PAYLOAD}{}", plan.name);
        // What is known when there is nothing to be known of a blob.
        let mut artifact = failed(plan, String::new());
        let known = &mut artifact;
        let verdict = |received: Received| async move {
            known.ended_at = Timestamp::now();
            // Before the store gives it up, which then knows nothing of the artifact.
            let report = timeout(bounds.grace / 2, report).await.unwrap_or_else(|_| SourceReport {
                broken: Some("its source did not say in time how it ended".to_owned()),
                ..SourceReport::default()
            });
            known.report = artifact::bounded(report);
            let ended = artifact::ended(&received, &known.report);
            known.outcome = artifact::outcome(&ended);
            let truncated = ended == Ended::Truncated;
            let broken = match ended {
                Ended::Broken(why) if received.ended == Ended::Whole => Some(why),
                _ => known.report.broken.clone(),
            };
            Verdict { broken, truncated, metadata: artifact::metadata(known) }
        };
        let options = PutOptions {
            idle: bounds.idle,
            grace: bounds.grace,
            cancel: bounds.cancel,
            ..PutOptions::new(bounds.limit, bounds.deadline)
        };
        match self.store.put(&format!("{}/{relative}", self.path), reader, verdict, options).await {
            Ok(stored) => {
                artifact.outcome = artifact::outcome(&stored.ended);
                artifact.blob = Some(artifact::blob(&stored, &relative));
            }
            Err(trouble) => {
                artifact.outcome = Outcome::Failed { why: format!("it could not be stored: {trouble}") };
                artifact.ended_at = Timestamp::now();
            }
        }
        self.contents.lock().await.artifacts.push(artifact.clone());
        artifact
    }

    /// Keeps for the record that an artifact could not be collected at all.
    pub async fn add_failed(&self, plan: ArtifactPlan, why: String) -> ArtifactRecord {
        let mut contents = self.contents.lock().await;
        let artifact = failed(ArtifactPlan { name: contents.take_name(&plan.name), ..plan }, why);
        contents.artifacts.push(artifact.clone());
        artifact
    }

    /// Adds `release.json` to the folder at this place, also to a finished one: it is no part of what the manifests cover. The first one stays.
    ///
    /// # Errors
    /// When the store does not take it.
    pub async fn add_release(store: &Store, place: &Place, release: &Release) -> Result<(), Trouble> {
        let bytes =
            serde_json::to_vec_pretty(release).map_err(|error| Trouble::new("Unexpected", error.to_string()))?;
        match seal::write(store, &format!("{}/{RELEASE}", place.path()), &bytes).await {
            Err(trouble) if trouble.code == "BlobAlreadyExists" => Ok(()),
            written => written,
        }
    }
}

fn failed(plan: ArtifactPlan, why: String) -> ArtifactRecord {
    let now = Timestamp::now();
    ArtifactRecord {
        plan,
        outcome: Outcome::Failed { why },
        started_at: now,
        ended_at: now,
        report: SourceReport::default(),
        blob: None,
        shortened: false,
    }
}

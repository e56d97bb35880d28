//! A collection: each artifact by the first way to it that there is, into one folder, which is sealed in the end.
//!
//! A store that is down holds up nothing but this task, which waits for it until its time is over.

mod facts;
mod sources;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tourniquet_api::EvidenceResult;
use tourniquet_cluster::{Cluster, ContainerRef};
use tourniquet_evidence::folder::{Bounds, Facts, Folder, Opening, Outcome, Place, Sealed, safe_path};
use tourniquet_evidence::{Store, Trouble};
use tourniquet_response::{Artifact, Collection, CollectionReport, ObjectRef, Progress, TaskKey};
use tracing::{info, warn};

use self::sources::Sources;
use crate::stores::Stores;

/// Artifacts that are collected at the same time, each with at most four blocks of 4 MiB under way.
const VOLATILE_AT_A_TIME: usize = 3;
const AT_A_TIME: usize = 2;
/// How long sealing may go on after the time is over, or it was told to end: a deletion waits for it.
const TO_SEAL: Duration = Duration::from_secs(30);
/// The longest silence of a source.
const IDLE: Duration = Duration::from_secs(60);
/// The pause before a store that does not take anything is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// Of what is not there as a whole, so many are named.
const NAMED: usize = 5;

/// Told how far it has come.
pub(super) type Report = Arc<dyn Fn(Progress) + Send + Sync>;

/// What a collection needs.
pub(super) struct Collecting<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) stores: &'a Stores,
    pub(super) cluster_name: &'a str,
    pub(super) object: &'a ObjectRef,
    pub(super) key: &'a TaskKey,
    pub(super) collection: &'a Collection,
    pub(super) end: &'a CancellationToken,
    pub(super) report: Report,
}

impl Collecting<'_> {
    /// Collects. However it ends, that is what the report says.
    pub(super) async fn run(&self) -> CollectionReport {
        let deadline = Instant::now() + self.collection.timeout;
        let mut evidence = EvidenceResult {
            artifacts_total: i32::try_from(self.collection.artifacts.len()).unwrap_or(i32::MAX),
            ..EvidenceResult::default()
        };
        (self.report)(Progress { evidence: evidence.clone(), volatile_done: false });
        let (folder, facts) = match self.open(deadline).await {
            Ok(opened) => opened,
            Err(trouble) => return self.ended(evidence, Vec::new(), Some(trouble)),
        };
        evidence.url = Some(folder.url());
        let missing = self.fill(&folder, deadline, &mut evidence).await;
        let until = if self.end.is_cancelled() { Instant::now() } else { deadline } + TO_SEAL;
        match self.seal(&folder, facts, until).await {
            Ok(sealed) => {
                evidence.record_digest = Some(sealed.record_sha256);
                evidence.artifacts_done = count(sealed.done);
                evidence.artifacts_total = count(sealed.total);
                evidence.bytes = i64::try_from(sealed.bytes).unwrap_or(i64::MAX);
                self.ended(evidence, missing, None)
            }
            Err(trouble) => self.ended(evidence, missing, Some(trouble)),
        }
    }

    fn ended(&self, evidence: EvidenceResult, missing: Vec<String>, trouble: Option<String>) -> CollectionReport {
        CollectionReport { evidence, missing, trouble, cancelled: self.end.is_cancelled() }
    }

    /// Tries until the folder is open, the time is over, or it is told to end; then what stood in the way.
    async fn open(&self, deadline: Instant) -> Result<(Folder, Facts), String> {
        let mut last = "its time was over before it began".to_owned();
        loop {
            let tried = tokio::select! {
                tried = timeout_at(deadline, self.try_to_open()) => tried,
                () = self.end.cancelled() => return Err(last),
            };
            match tried {
                Ok(Ok(opened)) => return Ok(opened),
                Ok(Err(why)) => {
                    if last != why {
                        warn!(why, "evidence cannot be stored yet; it is tried again");
                    }
                    last = why;
                }
                Err(_) => return Err(last),
            }
            if Instant::now() + AGAIN >= deadline {
                return Err(last);
            }
            tokio::select! {
                () = sleep(AGAIN) => {}
                () = self.end.cancelled() => return Err(last),
            }
        }
    }

    async fn try_to_open(&self) -> Result<(Folder, Facts), String> {
        let open = self.stores.tried_by(&self.collection.store, Instant::now() + AGAIN).await;
        let open = open.map_err(|error| error.to_string())?;
        let clock = open.outcome.as_ref().ok().map(|checked| checked.clock_offset);
        let facts = facts::of(self, clock).await;
        let folder = self.open_in(&open.store, &facts).await.map_err(|trouble| trouble.to_string())?;
        Ok((folder, facts))
    }

    async fn open_in(&self, store: &Store, facts: &Facts) -> Result<Folder, Trouble> {
        let (namespace, name) = self.collection.response.split_once('/').unwrap_or(("", &self.collection.response));
        let place = Place {
            cluster: self.cluster_name.to_owned(),
            response_namespace: namespace.to_owned(),
            response_name: name.to_owned(),
            response_uid: self.key.response.clone(),
            target_name: self.object.name.clone(),
            target_uid: self.key.target.clone(),
        };
        let planned = self.collection.artifacts.iter().map(|artifact| artifact.name.clone()).collect();
        Folder::open(store, &place, &Opening { opened_at: jiff::Timestamp::now(), facts: facts.clone(), planned }).await
    }

    /// Collects what is not there yet, what is volatile before everything else.
    async fn fill(&self, folder: &Folder, deadline: Instant, evidence: &mut EvidenceResult) -> Vec<String> {
        let agent = match (&self.collection.agents, &self.collection.node) {
            (Some(namespace), Some(node)) => self.cluster.agent_on(namespace, node).await,
            _ => Ok(None),
        };
        let sources = Sources { cluster: self.cluster, object: self.object, agent };
        // Of a collection that another instance of the operator began.
        let there = folder.artifacts().await;
        let whole = |artifact: &&Artifact| {
            let (file, folder) = (safe_path(&artifact.name), safe_path(&format!("{}.tar", artifact.name)));
            let is_it = |name: &str| name == file || name == folder;
            !there.iter().any(|found| is_it(&found.plan.name) && found.outcome == Outcome::Done)
        };
        let mut missing = Vec::new();
        for (volatile, at_a_time) in [(true, VOLATILE_AT_A_TIME), (false, AT_A_TIME)] {
            let artifacts =
                self.collection.artifacts.iter().filter(|artifact| artifact.volatile == volatile).filter(whole);
            let mut collecting: Vec<BoxFuture<'_, _>> = Vec::new();
            for artifact in artifacts {
                collecting.push(self.one(folder, &sources, artifact, deadline).boxed());
            }
            let mut collecting = stream::iter(collecting).buffer_unordered(at_a_time);
            while let Some((stored, lack)) = collecting.next().await {
                evidence.artifacts_done += i32::from(lack.is_none());
                evidence.bytes += i64::try_from(stored).unwrap_or_default();
                if missing.len() < NAMED {
                    missing.extend(lack);
                }
                (self.report)(Progress { evidence: evidence.clone(), volatile_done: !volatile });
            }
            (self.report)(Progress { evidence: evidence.clone(), volatile_done: true });
        }
        missing
    }

    /// Collects one artifact; how many bytes of it are stored, and what it lacks.
    async fn one(
        &self,
        folder: &Folder,
        sources: &Sources<'_>,
        artifact: &Artifact,
        deadline: Instant,
    ) -> (u64, Option<String>) {
        let bounds = Bounds {
            limit: artifact.limit,
            idle: IDLE,
            deadline: deadline.min(Instant::now() + artifact.timeout),
            grace: TO_SEAL / 2,
            cancel: self.end.clone(),
        };
        let record = Box::pin(sources.collect(folder, artifact, bounds)).await;
        let stored = record.blob.as_ref().map_or(0, |blob| blob.length);
        let lack = match &record.outcome {
            Outcome::Done => None,
            Outcome::Truncated => Some(format!("{} (cut off at {} bytes)", record.plan.name, artifact.limit)),
            Outcome::Failed { why } => Some(format!("{} ({why})", record.plan.name)),
            Outcome::TimedOut => Some(format!("{} (not in time)", record.plan.name)),
            Outcome::Cancelled => Some(format!("{} (cancelled)", record.plan.name)),
        };
        info!(artifact = record.plan.name, bytes = stored, lack, "collected");
        (stored, lack)
    }

    /// Also when it was told to end: what was received is worth a seal.
    async fn seal(&self, folder: &Folder, facts: Facts, until: Instant) -> Result<Sealed, String> {
        loop {
            let why = match timeout_at(until, folder.seal(facts.clone())).await {
                Ok(Ok(sealed)) => return Ok(sealed),
                Ok(Err(trouble)) => trouble.to_string(),
                Err(_) => return Err("the store did not take the seal in time".to_owned()),
            };
            if Instant::now() + AGAIN >= until {
                return Err(why);
            }
            warn!(why, "the folder cannot be sealed yet; it is tried again");
            sleep(AGAIN).await;
        }
    }
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// A container of the pod that evidence is of.
fn container_of(object: &ObjectRef, container: &(String, String)) -> ContainerRef {
    ContainerRef {
        namespace: object.namespace.clone().unwrap_or_default(),
        pod: object.name.clone(),
        pod_uid: object.uid.clone().unwrap_or_default(),
        container: container.0.clone(),
        container_id: container.1.clone(),
    }
}

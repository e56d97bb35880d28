//! A collection: each artifact by the first way to it that there is, into one folder, which is sealed in the end.
//!
//! A store that is down holds up nothing but this task, which waits for it until its time is over.

mod sources;

use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tourniquet_api::EvidenceResult;
use tourniquet_cluster::ContainerRef;
use tourniquet_evidence::folder::{Bounds, Facts, Folder, Outcome, safe_path};
use tourniquet_response::{Artifact, Collection, CollectionReport, ObjectRef, Progress};
use tracing::info;

use self::sources::Sources;
use super::Report;
use super::case::{Case, TO_SEAL};

/// Artifacts that are collected at the same time, each with at most four blocks of 4 MiB under way.
const VOLATILE_AT_A_TIME: usize = 3;
const AT_A_TIME: usize = 2;
/// The longest silence of a source.
const IDLE: Duration = Duration::from_secs(60);
/// Of what is not there as a whole, so many are named.
const NAMED: usize = 5;

/// What a collection needs.
pub(super) struct Collecting<'a> {
    pub(super) case: Case<'a>,
    pub(super) collection: &'a Collection,
    /// Artifacts that are stored at the same time, of all collections.
    pub(super) uploads: &'a Semaphore,
    pub(super) end: &'a CancellationToken,
    pub(super) report: Report,
}

impl Collecting<'_> {
    /// Collects. However it ends, that is what the report says.
    pub(super) async fn run(&self) -> CollectionReport {
        let deadline = Instant::now() + self.collection.timeout;
        if self.collection.artifacts.is_empty() {
            return Box::pin(self.finish(deadline)).await;
        }
        let mut evidence = EvidenceResult {
            artifacts_total: i32::try_from(self.collection.artifacts.len()).unwrap_or(i32::MAX),
            ..EvidenceResult::default()
        };
        self.tell(&evidence, false);
        let planned = self.collection.artifacts.iter().map(|artifact| artifact.name.clone()).collect();
        let opened = Box::pin(self.case.open(planned, "began to collect", deadline, self.end)).await;
        let (folder, facts) = match opened {
            Ok(opened) => opened,
            Err(trouble) => return self.ended(evidence, Vec::new(), Some(trouble)),
        };
        evidence.url = Some(folder.url());
        let missing = self.fill(&folder, deadline, &mut evidence).await;
        self.seal(&folder, facts, evidence, missing, deadline).await
    }

    /// Seals what another instance of the operator has stored: the pod is gone, or the response deleted.
    async fn finish(&self, deadline: Instant) -> CollectionReport {
        let began = "went on after a restart of the operator, to seal what is stored";
        let reopened = Box::pin(self.case.reopen(began, deadline, self.end)).await;
        let mut evidence = EvidenceResult::default();
        let (folder, facts) = match reopened {
            Ok(Some(reopened)) => reopened,
            Ok(None) => {
                let none = "the operator was restarted before anything was stored".to_owned();
                return self.ended(evidence, Vec::new(), Some(none));
            }
            Err(trouble) => return self.ended(evidence, Vec::new(), Some(trouble)),
        };
        evidence.url = Some(folder.url());
        let missing = vec!["what was not there yet when the operator was restarted".to_owned()];
        self.seal(&folder, facts, evidence, missing, deadline).await
    }

    async fn seal(
        &self,
        folder: &Folder,
        facts: Facts,
        mut evidence: EvidenceResult,
        missing: Vec<String>,
        deadline: Instant,
    ) -> CollectionReport {
        let until = if self.end.is_cancelled() { Instant::now() } else { deadline } + TO_SEAL;
        match self.case.seal(folder, facts, until).await {
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

    fn tell(&self, evidence: &EvidenceResult, volatile_done: bool) {
        (self.report)(Progress { evidence: evidence.clone(), volatile_done, ..Progress::default() });
    }

    fn ended(&self, evidence: EvidenceResult, missing: Vec<String>, trouble: Option<String>) -> CollectionReport {
        CollectionReport { evidence, missing, trouble, cancelled: self.end.is_cancelled() }
    }

    /// Collects what is not there yet, what is volatile before everything else.
    async fn fill(&self, folder: &Folder, deadline: Instant, evidence: &mut EvidenceResult) -> Vec<String> {
        let agent = match (&self.collection.agents, &self.case.custody.node) {
            (Some(namespace), Some(node)) => self.case.cluster.agent_on(namespace, node).await,
            _ => Ok(None),
        };
        let sources = Sources { cluster: self.case.cluster, object: self.case.object, agent };
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
                self.tell(evidence, !volatile);
            }
            self.tell(evidence, true);
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
        // What is waited for here counts: the time of the whole goes on.
        let _permit = tokio::select! {
            permit = self.uploads.acquire() => permit.ok(),
            () = self.end.cancelled() => None,
            () = sleep_until(deadline) => None,
        };
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
            Outcome::Truncated => Some(match &record.report.truncated {
                Some(why) => format!("{} (cut off: {why})", record.plan.name),
                None => format!("{} (cut off at {} bytes)", record.plan.name, artifact.limit),
            }),
            Outcome::Failed { why } => Some(format!("{} ({why})", record.plan.name)),
            Outcome::TimedOut => Some(format!("{} (not in time)", record.plan.name)),
            Outcome::Cancelled => Some(format!("{} (cancelled)", record.plan.name)),
        };
        info!(artifact = record.plan.name, bytes = stored, lack, "collected");
        (stored, lack)
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

#[cfg(test)]
mod tests {
    use tourniquet_evidence::folder::{ArtifactPlan, Source, SourceReport};

    use super::super::tests::Lab;
    use super::*;

    async fn finish(lab: &Lab) -> CollectionReport {
        let custody = lab.command.custody.as_deref().unwrap().clone();
        let collection = Collection { custody, timeout: Duration::from_secs(60), artifacts: Vec::new(), agents: None };
        let collecting = Collecting {
            case: lab.case(),
            collection: &collection,
            uploads: &Semaphore::new(1),
            end: &lab.end,
            report: lab.report(),
        };
        collecting.run().await
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_another_instance_has_stored_is_sealed_and_what_it_had_planned_is_said_to_be_missing() {
        let lab = Lab::new("collect-finish").await;
        let in_time = Instant::now() + Duration::from_secs(60);
        let planned = ["processes.txt", "logs/web.log"].map(str::to_owned).to_vec();
        let opened = lab.case().open(planned, "began to collect", in_time, &lab.end).await;
        let plan = ArtifactPlan {
            name: "processes.txt".to_owned(),
            what: "processes".to_owned(),
            source: Source::NodeAgent,
            container: None,
            argv: Vec::new(),
        };
        let bounds =
            Bounds { limit: 100, idle: IDLE, deadline: in_time, grace: TO_SEAL, cancel: CancellationToken::new() };
        opened.unwrap().0.add(plan, &b"1 /bin/sh\n"[..], async { SourceReport::default() }, bounds).await;

        let report = finish(&lab).await;
        let CollectionReport { evidence, missing, trouble, .. } = report;
        assert_eq!((evidence.artifacts_done, evidence.artifacts_total, trouble), (1, 2, None));
        assert!(evidence.record_digest.is_some() && missing.len() == 1, "{missing:?}");
        let record = lab.json("data/record.json").await;
        assert_eq!((&record["complete"], &record["notCollected"][0]), (&false.into(), &"logs/web.log".into()));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn where_nothing_was_stored_no_folder_is_made_of_nothing() {
        let lab = Lab::new("collect-none").await;
        let report = finish(&lab).await;
        assert_eq!((report.evidence.url, report.evidence.record_digest), (None, None));
        assert!(report.trouble.is_some_and(|why| why.contains("before anything was stored")));
        assert!(lab.content("opened.json").await.is_none());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_deletion_does_not_wait_long_for_a_store_that_is_down() {
        let lab = Lab::down();
        lab.end.cancel();
        let began = Instant::now();
        let report = finish(&lab).await;
        assert!(report.trouble.is_some_and(|why| why.contains("127.0.0.1")) && report.cancelled);
        assert!(began.elapsed() < TO_SEAL + Duration::from_secs(5));
    }
}

//! Work that takes its time, beside reconciling: no response waits for a command of another one, nor for its own.
//!
//! What is begun here is in the stored status before. What was begun stays in the table until its response is gone, so that nothing is begun
//! twice by one instance; that another one does not begin it again is decided in `tourniquet-response`, by the instance's name.

mod case;
mod collect;
mod command;
mod release;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::runtime::reflector;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tourniquet_cluster::{Cluster, ContainerRef};
use tourniquet_response::{Custody, ObjectRef, Progress, TaskKey, TaskReport, TaskSeen, TaskState, Work};
use tracing::{Instrument, info, info_span};

use crate::stores::Stores;
use crate::triggers::Stored;

/// Artifacts that are stored at the same time, of all collections: each has at most four blocks of 4 MiB under way, and the operator 256 MiB in all.
const UPLOADS: usize = 6;
/// Outputs of commands that are stored at the same time, beside them: one that comes slowly must not keep others from being collected.
const STREAMS: usize = 4;
/// How often the progress of a task is a reason to write a status.
const PROGRESS: Duration = Duration::from_secs(5);

/// Told how far a task has come.
type Report = Arc<dyn Fn(Progress) + Send + Sync>;

/// Called with a response's UID when one of its tasks has come further.
type Changed = Arc<dyn Fn(&str) + Send + Sync>;

/// The tasks of all responses.
#[derive(Clone)]
pub(crate) struct Tasks {
    table: Arc<Mutex<BTreeMap<TaskKey, Task>>>,
    cluster: Cluster,
    stores: Stores,
    responses: reflector::Store<Stored>,
    uploads: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    /// How the cluster is called in evidence.
    cluster_name: Arc<str>,
    changed: Changed,
    instance: Arc<str>,
}

struct Task {
    state: TaskState,
    end: CancellationToken,
    told: Instant,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

impl Tasks {
    pub(crate) fn new(
        cluster: Cluster,
        stores: Stores,
        responses: reflector::Store<Stored>,
        cluster_name: &str,
        changed: impl Fn(&str) + Send + Sync + 'static,
    ) -> Self {
        // A pod's name is not given twice, and a container of it does not start twice at one time.
        let pod = std::env::var("HOSTNAME").unwrap_or_default();
        let instance = format!("{pod} {} {}", std::process::id(), Timestamp::now()).into();
        Self {
            table: Arc::default(),
            cluster,
            stores,
            responses,
            uploads: Arc::new(Semaphore::new(UPLOADS)),
            streams: Arc::new(Semaphore::new(STREAMS)),
            cluster_name: cluster_name.into(),
            changed: Arc::new(changed),
            instance,
        }
    }

    /// How a task stands.
    pub(crate) fn look(&self, key: &TaskKey) -> TaskSeen {
        let state = self.lock().get(key).map(|task| task.state.clone());
        TaskSeen { instance: self.instance.to_string(), state }
    }

    /// Begins a task, unless it was begun before.
    pub(crate) fn start(&self, object: &ObjectRef, key: &TaskKey, work: &Work) {
        let end = CancellationToken::new();
        {
            let mut table = self.lock();
            if table.contains_key(key) {
                return;
            }
            let state = TaskState::Running { since: Timestamp::now(), ending: false, progress: work.so_far() };
            table.insert(key.clone(), Task { state, end: end.clone(), told: Instant::now() });
        }
        let (tasks, key, object, work) = (self.clone(), key.clone(), object.clone(), work.clone());
        let span =
            info_span!("task", response_uid = key.response, action = key.action, undo = key.undo, target = %object);
        let task = async move {
            let (cx, of) = (tasks.clone(), key.clone());
            let report: Report = Arc::new(move |progress| cx.progress(&of, progress));
            let report = match work {
                Work::Collection(collection) => {
                    let collecting = collect::Collecting {
                        case: tasks.case(&object, &key, &collection.custody),
                        collection: &collection,
                        uploads: &tasks.uploads,
                        end: &end,
                        report,
                    };
                    TaskReport::Collection(Box::pin(collecting.run()).await)
                }
                Work::Command(command) => {
                    let place = ContainerRef {
                        namespace: object.namespace.clone().unwrap_or_default(),
                        pod: object.name.clone(),
                        pod_uid: object.uid.clone().unwrap_or_default(),
                        container: command.container.clone(),
                        container_id: command.container_id.clone(),
                    };
                    let running = command::Running {
                        cluster: &tasks.cluster,
                        place: &place,
                        command: &command,
                        case: command.custody.as_deref().map(|custody| tasks.case(&object, &key, custody)),
                        streams: &tasks.streams,
                        end: &end,
                        report,
                    };
                    TaskReport::Command(Box::pin(running.run()).await)
                }
                Work::Seal(seal) => {
                    let case = tasks.case(&object, &key, &seal.custody);
                    TaskReport::Command(Box::pin(command::seal(&case, &seal, &end)).await)
                }
                Work::Release(release) => {
                    let recording = release::Recording {
                        stores: &tasks.stores,
                        cluster_name: &tasks.cluster_name,
                        key: &key,
                        release: &release,
                        end: &end,
                    };
                    TaskReport::Release(Box::pin(recording.run()).await)
                }
            };
            tasks.ended(&key, report);
        };
        tokio::spawn(task.instrument(span));
    }

    fn case<'a>(&'a self, object: &'a ObjectRef, key: &'a TaskKey, custody: &'a Custody) -> case::Case<'a> {
        case::Case {
            cluster: &self.cluster,
            stores: &self.stores,
            responses: &self.responses,
            cluster_name: &self.cluster_name,
            object,
            key,
            custody,
        }
    }

    /// Ends a task before its end.
    pub(crate) fn stop(&self, key: &TaskKey) {
        if let Some(task) = self.lock().get_mut(key)
            && let TaskState::Running { ending, .. } = &mut task.state
        {
            *ending = true;
            task.end.cancel();
        }
    }

    /// Ends and forgets the tasks of a response that is gone.
    pub(crate) fn forget(&self, response: &str) {
        self.lock().retain(|key, _| key.response != response);
    }

    fn progress(&self, key: &TaskKey, now: Progress) {
        let mut is_news = false;
        if let Some(task) = self.lock().get_mut(key)
            && let TaskState::Running { progress, .. } = &mut task.state
        {
            // What waits for it waits no longer.
            let volatile = now.volatile_done && !progress.as_ref().is_some_and(|before| before.volatile_done);
            is_news = volatile || now.command.is_some() || task.told.elapsed() >= PROGRESS;
            *progress = Some(now);
            if is_news {
                task.told = Instant::now();
            }
        }
        if is_news {
            (self.changed)(&key.response);
        }
    }

    fn ended(&self, key: &TaskKey, report: TaskReport) {
        match &report {
            TaskReport::Command(report) => info!(ended = ?report.ended, "command ended"),
            TaskReport::Collection(report) => info!(?report, "collection ended"),
            TaskReport::Release(report) => info!(?report, "what is said of the release in its folders is over"),
        }
        if let Some(task) = self.lock().get_mut(key) {
            task.state = TaskState::Ended(report);
        }
        (self.changed)(&key.response);
    }

    /// A thread that panicked while it held the lock left the table whole: each change of it is one assignment.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<TaskKey, Task>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

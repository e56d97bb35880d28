//! Work that takes its time, beside the looks at a response: commands in containers, evidence. Somebody else carries it out; here it is asked
//! for ([`crate::Effect::Start`]) and looked at ([`crate::Read::Task`]) like everything else.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use tourniquet_api::{Change, EvidenceResult, Incident, RunResult, TargetResult};

/// Which piece of work of which response.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskKey {
    /// The response's UID.
    pub response: String,
    /// The action's name.
    pub action: String,
    /// The target's UID.
    pub target: String,
    /// Whether it undoes what the action did.
    pub undo: bool,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// Run a command in a container.
    Command(Command),
    /// Seal what another instance of the operator was storing of a command's outputs.
    Seal(Box<Seal>),
    /// Collect what can be read from a pod.
    Collection(Box<Collection>),
    /// Add to the folders of a response that it was released.
    Release(Box<Release>),
}

impl Work {
    /// What is done, in one line, for plans.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Command(Command { container, argv, timeout, custody, .. }) => {
                let mut line =
                    json!({ "container": container, "command": argv, "timeout": format!("{}s", timeout.as_secs()) });
                if let Some(custody) = custody {
                    line["store"] = json!(custody.store);
                }
                line.to_string()
            }
            Self::Collection(collection) => {
                let names: Vec<&str> = collection.artifacts.iter().map(|artifact| artifact.name.as_str()).collect();
                json!({ "store": collection.custody.store, "artifacts": names }).to_string()
            }
            Self::Seal(seal) => json!({ "store": seal.custody.store }).to_string(),
            Self::Release(release) => json!({ "folders": release.folders.len() }).to_string(),
        }
    }

    /// How far it has come when it is begun.
    #[must_use]
    pub fn so_far(&self) -> Option<Progress> {
        match self {
            Self::Seal(seal) => Some(Progress { command: Some(Box::new(seal.report.clone())), ..Progress::default() }),
            Self::Command(_) | Self::Collection(_) | Self::Release(_) => None,
        }
    }
}

/// The outputs of a command that another instance of the operator had begun. Nothing is run for them.
#[derive(Clone, Debug, PartialEq)]
pub struct Seal {
    /// The command.
    pub command: Command,
    /// Where its outputs go.
    pub custody: Custody,
    /// What is known of it.
    pub report: CommandReport,
}

/// A command in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The container's name.
    pub container: String,
    /// The container that was pinned. Another one of its name is another container.
    pub container_id: String,
    /// The program and its arguments; there is no shell.
    pub argv: Vec<String>,
    /// How long it may take.
    pub timeout: Duration,
    /// How many bytes of the end of each output are kept, as they are written in JSON.
    pub tail: usize,
    /// Where the whole of its outputs goes, if anywhere.
    pub custody: Option<Box<Custody>>,
    /// How many bytes of each output are stored.
    pub limit: u64,
}

/// Where evidence goes, and what its record says of the circumstances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Custody {
    /// The evidence store's name.
    pub store: String,
    /// The node that the pod runs on.
    pub node: Option<String>,
    /// `namespace/name` of the response.
    pub response: String,
    /// The alert.
    pub incident: Incident,
    /// Who asked for it, as far as it says so.
    pub requested_by: Option<String>,
}

/// What is collected from one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collection {
    /// Where it goes.
    pub custody: Custody,
    /// How long it may take in all.
    pub timeout: Duration,
    /// What to collect, in this order: what is lost first comes first. Nothing: what another instance of the operator has stored is sealed as it is.
    pub artifacts: Vec<Artifact>,
    /// The agents' namespace, where there are agents.
    pub agents: Option<String>,
}

/// What is added to each folder of a response that was released: the same, whoever comes to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// `namespace/name` of the response.
    pub response: String,
    /// Its folders.
    pub folders: Vec<ReleasedFolder>,
    /// When everything was undone.
    pub at: Timestamp,
    /// What has asked for it, as far as it is known.
    pub by: Option<String>,
    /// `Released`, `Expired` or `Deleted`.
    pub reason: String,
    /// What was undone, and what stays.
    pub said: String,
}

/// A folder that something was stored in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleasedFolder {
    /// The evidence store's name.
    pub store: String,
    /// The action's name.
    pub action: String,
    /// The target's name.
    pub target_name: String,
    /// The target's UID.
    pub target_uid: String,
}

/// One artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// Its name in the folder.
    pub name: String,
    /// What it is, in words.
    pub what: String,
    /// Whether it is lost when the pod goes on, or ends: those that an isolation waits for.
    pub volatile: bool,
    /// How many bytes of it are taken.
    pub limit: u64,
    /// How long it may take.
    pub timeout: Duration,
    /// The container that it is of, by name and ID.
    pub container: Option<(String, String)>,
    /// The ways to it, the best first; the first one that there is is taken. None: it cannot be collected, and `what` says why.
    pub ways: Vec<Way>,
}

/// How an artifact is come by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// The agent on the pod's node reads it from outside.
    Agent(FromOutside),
    /// A program in the container is run: whoever has the container may have replaced it.
    Tool(Vec<String>),
    /// The API server has it: the pod and what belongs to it.
    Manifest,
    /// The API server has it: the events about the pod.
    Events,
    /// The kubelet has it: the newest log file of the container, or of the one before it.
    Log {
        /// Of the container before the last restart.
        previous: bool,
    },
}

/// What an agent reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromOutside {
    /// The processes.
    Processes,
    /// Sockets, routes, ARP caches.
    Connections,
    /// The environment that processes were started with.
    Environment {
        /// The values as well as the names.
        values: bool,
    },
    /// The memory of a process, by its number or its name.
    Memory(String),
    /// A file; a folder as an archive.
    Path(String),
}

/// What whoever carries tasks out knows of one.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskSeen {
    /// Who carries them out. Another one after each start of the operator: of what a former one had begun nobody knows anything.
    pub instance: String,
    /// How it stands; `None` when this instance was not asked to begin it.
    pub state: Option<TaskState>,
}

/// How a task stands.
#[derive(Clone, Debug, PartialEq)]
pub enum TaskState {
    /// Under way.
    Running {
        /// When it began.
        since: Timestamp,
        /// Whether it was asked to end.
        ending: bool,
        /// How far it has come, of what has parts.
        progress: Option<Progress>,
    },
    /// It has come to its end.
    Ended(TaskReport),
}

/// What came of a task.
#[derive(Clone, Debug, PartialEq)]
pub enum TaskReport {
    /// Of a command.
    Command(CommandReport),
    /// Of a collection.
    Collection(CollectionReport),
    /// Of what is said of a release.
    Release(ReleaseReport),
}

/// What came of saying in the folders that a response was released.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReleaseReport {
    /// Folders in which it is said.
    pub done: usize,
    /// Why it is not said in the others; the first reason.
    pub trouble: Option<String>,
}

/// How far a task has come.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// What is stored.
    pub evidence: EvidenceResult,
    /// Whether everything that is lost first was tried.
    pub volatile_done: bool,
    /// What came of a command that has ended, and whose outputs are still being stored.
    pub command: Option<Box<CommandReport>>,
}

/// What came of a collection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CollectionReport {
    /// What is stored. With a record digest the folder is sealed, without one it says itself that it is unfinished.
    pub evidence: EvidenceResult,
    /// What is not there as a whole, and why; the first of them.
    pub missing: Vec<String>,
    /// Why it is not sealed.
    pub trouble: Option<String>,
    /// Whether it was told to end before it did.
    pub cancelled: bool,
}

/// What came of a command.
#[derive(Clone, Debug, PartialEq)]
pub struct CommandReport {
    /// When it ended.
    pub at: Timestamp,
    /// How it ended.
    pub ended: Ended,
    /// What it wrote: the ends of its outputs, and what became of the whole of them. The exit code is in `ended`.
    pub result: RunResult,
    /// What is not stored of its outputs, and why.
    pub not_stored: Option<String>,
    /// The pod or the container was another one afterwards: what the exit code is of is not known.
    pub replaced: Option<String>,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Nobody was asked to run it.
    NotAsked(String),
    /// It was asked for, and the answer was that it was not begun.
    NotBegun(String),
    /// By itself, with this exit code.
    Exited(i32),
    /// The connection to it ended, or it brought something else than an exit code: it may have run or not, and may go on.
    Lost(String),
    /// It did not end in time.
    TimedOut,
    /// It was told to end before it did.
    Cancelled,
}

/// The journal's entry: that something was begun, by which instance.
pub(crate) fn journal(what: &str, instance: &str) -> Change {
    Change { what: what.to_owned(), before: Some(instance.to_owned()), ..Change::default() }
}

/// The instance that has begun it, by the journal.
pub(crate) fn begun<'a>(before: Option<&'a TargetResult>, what: &str) -> Option<&'a str> {
    let changes = before.map_or(&[][..], |before| &before.changes);
    changes.iter().find(|change| change.what == what).map(|change| change.before.as_deref().unwrap_or_default())
}

impl fmt::Display for TaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let undo = if self.undo { " (undo)" } else { "" };
        write!(f, "{}{undo} on {}", self.action, self.target)
    }
}

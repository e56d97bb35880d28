//! Work that takes its time, beside the looks at a response: commands in containers, evidence. Somebody else carries it out; here it is asked
//! for ([`crate::Effect::Start`]) and looked at ([`crate::Read::Task`]) like everything else.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use tourniquet_api::RunResult;

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Run a command in a container.
    Command(Command),
}

impl Work {
    /// What is done, in one line, for plans.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Command(Command { container, argv, timeout, .. }) => {
                json!({ "container": container, "command": argv, "timeout": format!("{}s", timeout.as_secs()) })
                    .to_string()
            }
        }
    }
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
    },
    /// It has come to its end.
    Ended(TaskReport),
}

/// What came of a task.
#[derive(Clone, Debug, PartialEq)]
pub enum TaskReport {
    /// Of a command.
    Command(CommandReport),
}

/// What came of a command.
#[derive(Clone, Debug, PartialEq)]
pub struct CommandReport {
    /// When it ended.
    pub at: Timestamp,
    /// How it ended.
    pub ended: Ended,
    /// What it wrote: the ends of its outputs. The exit code is in `ended`.
    pub result: RunResult,
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

impl fmt::Display for TaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let undo = if self.undo { " (undo)" } else { "" };
        write!(f, "{}{undo} on {}", self.action, self.target)
    }
}

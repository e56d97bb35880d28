//! What the operator asks the agent for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The agent's program in its image.
pub const PROGRAM: &str = "/tourniquet-agent";
/// What follows it. Admission lets only these two, and one argument more, into the agents' containers.
pub const SUBCOMMAND: &str = "capture";
/// A request has at most so many bytes of JSON.
pub const MOST_REQUEST: usize = 16 * 1024;
/// A path has at most so many bytes (`PATH_MAX`).
pub const LONGEST_PATH: usize = 4096;
/// Seconds that a capture may take, where nothing is asked for.
pub const DEFAULT_TIMEOUT: u32 = 600;
/// Seconds that a capture may take at most. It ends by itself when nobody is there any more to end it.
pub const LONGEST_TIMEOUT: u32 = 7200;

/// One artifact of one pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Request {
    /// Whose.
    pub pod: Pod,
    /// Of which container; none: of all of them. A file, a folder is of one container, so it has to be named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<Container>,
    /// What.
    pub what: What,
    /// Seconds after which the capture gives up: [`DEFAULT_TIMEOUT`], at most [`LONGEST_TIMEOUT`]. What was written until then
    /// stands, and the trailer says [`Reason::TimedOut`](crate::Reason::TimedOut).
    #[serde(default = "default_timeout")]
    pub timeout_seconds: u32,
}

/// The pod, as the node knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pod {
    /// `metadata.uid`; of a pod from a file on the node, its annotation `kubernetes.io/config.hash`.
    pub uid: String,
}

/// A container of the pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Container {
    /// Its name, for messages only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its `containerID` in the pod's status, with or without the runtime's `containerd://`. A container that was restarted has
    /// another one, and is another container.
    pub id: String,
}

/// What is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum What {
    /// The processes, as JSON Lines, one process a line.
    Processes {},
    /// Sockets, routes and ARP caches of each network namespace that a process of the pod is in, as JSON Lines.
    Connections {},
    /// The bytes of one regular file; its metadata are in the trailer. A last component that is a symbolic link is followed,
    /// within the container.
    File {
        /// An absolute path in the container.
        path: String,
        /// So many bytes at most.
        max_bytes: u64,
    },
    /// A folder and everything below it, as a tar archive (POSIX.1-2001, pax). Nothing is followed.
    Folder {
        /// An absolute path in the container.
        path: String,
        /// So many bytes of the archive at most.
        max_bytes: u64,
        /// So many entries at most.
        max_entries: u64,
    },
    /// The memory of one process, as an ELF core file.
    Memory {
        /// Which.
        process: ProcessRef,
        /// So many bytes of the core file at most.
        max_bytes: u64,
    },
    /// The environment that each process was started with, as JSON Lines, one process a line.
    Environment {
        /// The values as well as the names. They often hold secrets.
        values: bool,
    },
}

/// One process of a pod. Where several fit, the oldest is meant, and the trailer names the others.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ProcessRef {
    /// By its number as its container sees it.
    Pid(u32),
    /// By its number as the node sees it: what the artifact of the processes and
    /// [`ProcessFacts::others`](crate::ProcessFacts::others) have.
    NodePid(u32),
    /// By its name, as ps(1) shows it: at most 15 bytes, or the last component of its executable's path.
    Name(String),
}

/// `4711` is a number as the container sees it; whatever is no number is a name.
impl FromStr for ProcessRef {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(text.parse().map_or_else(|_| Self::Name(text.to_owned()), Self::Pid))
    }
}

impl fmt::Display for ProcessRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pid(pid) => write!(f, "process {pid}"),
            Self::NodePid(pid) => write!(f, "process {pid} (as the node counts)"),
            Self::Name(name) => write!(f, "process {name:?}"),
        }
    }
}

/// Why a request is none.
#[derive(Debug, thiserror::Error)]
pub enum BadRequest {
    /// It is no JSON of this shape.
    #[error("the request is not one of this version of the agent: {0}; operator and agents must be of one version")]
    Shape(#[from] serde_json::Error),
    /// It is too long.
    #[error("the request has {0} bytes, and at most {MOST_REQUEST} are read")]
    TooLong(usize),
    /// A value is out of bounds.
    #[error("{0}")]
    Value(String),
}

impl Request {
    /// What is to be executed in the agent's container: [`PROGRAM`], [`SUBCOMMAND`] and the request as JSON. No shell is
    /// involved, so nothing needs quoting.
    ///
    /// # Errors
    /// As [`Request::parse`]: what the agent would refuse is not sent.
    pub fn argv(&self) -> Result<[String; 3], BadRequest> {
        let json = serde_json::to_string(self)?;
        Self::parse(&json)?;
        Ok([PROGRAM.to_owned(), SUBCOMMAND.to_owned(), json])
    }

    /// The request in the third argument.
    ///
    /// # Errors
    /// When it is not one. Names of others in the message are quoted.
    pub fn parse(json: &str) -> Result<Self, BadRequest> {
        if json.len() > MOST_REQUEST {
            return Err(BadRequest::TooLong(json.len()));
        }
        let request: Self = serde_json::from_str(json)?;
        request.check().map_err(BadRequest::Value)?;
        Ok(request)
    }

    fn check(&self) -> Result<(), String> {
        if !(1..=LONGEST_TIMEOUT).contains(&self.timeout_seconds) {
            return Err(format!("timeoutSeconds is {}: between 1 and {LONGEST_TIMEOUT}", self.timeout_seconds));
        }
        if let Some(container) = &self.container
            && !container.has_valid_id()
        {
            return Err(format!(
                "{:?} is not a containerID: take it from the pod's status.containerStatuses",
                container.id
            ));
        }
        match &self.what {
            What::File { path, max_bytes } | What::Folder { path, max_bytes, .. } => {
                if self.container.is_none() {
                    return Err(format!("{path:?} is in some container: name it"));
                }
                if !path.starts_with('/') || path.len() > LONGEST_PATH || path.contains('\0') {
                    return Err(format!("{path:?} is not an absolute path of at most {LONGEST_PATH} bytes"));
                }
                at_least_one("maxBytes", *max_bytes)?;
            }
            What::Memory { process, max_bytes } => {
                if matches!(process, ProcessRef::Name(name) if name.is_empty()) {
                    return Err("the process has neither a number nor a name".to_owned());
                }
                at_least_one("maxBytes", *max_bytes)?;
            }
            What::Processes {} | What::Connections {} | What::Environment { .. } => {}
        }
        match self.what {
            What::Folder { max_entries, .. } => at_least_one("maxEntries", max_entries),
            _ => Ok(()),
        }
    }
}

impl Container {
    /// The identifier without the runtime's name.
    pub fn bare_id(&self) -> &str {
        self.id.split_once("://").map_or(&*self.id, |(_, id)| id)
    }

    fn has_valid_id(&self) -> bool {
        let id = self.bare_id();
        !id.is_empty() && id.len() <= 128 && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
    }
}

fn at_least_one(what: &str, value: u64) -> Result<(), String> {
    if value == 0 { Err(format!("{what} is 0: nothing would be read")) } else { Ok(()) }
}

const fn default_timeout() -> u32 {
    DEFAULT_TIMEOUT
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{ProcessRef, Request};

    const UID: &str = "9c2d1e34-5b6f-4a70-8123-b4c5d6e7f809";

    fn with(container: &str, what: &str) -> String {
        format!(r#"{{"pod":{{"uid":"{UID}"}},{container}"what":{what}}}"#)
    }

    #[test]
    fn what_is_sent_is_what_is_read() {
        let web = r#""container":{"name":"web","id":"containerd://0a1b"},"#;
        for (container, what) in [
            ("", r#"{"processes":{}}"#),
            (web, r#"{"processes":{}}"#),
            ("", r#"{"connections":{}}"#),
            (web, r#"{"file":{"path":"/etc/passwd","maxBytes":1}}"#),
            (web, r#"{"folder":{"path":"/","maxBytes":1,"maxEntries":1}}"#),
            ("", r#"{"memory":{"process":{"name":"x\") y\n"},"maxBytes":1}}"#),
            ("", r#"{"memory":{"process":{"pid":7},"maxBytes":1}}"#),
            ("", r#"{"environment":{"values":false}}"#),
        ] {
            let request = Request::parse(&with(container, what)).expect("a request");
            let [program, subcommand, json] = request.argv().expect("a request");
            assert_eq!((program.as_str(), subcommand.as_str()), ("/tourniquet-agent", "capture"));
            assert_eq!(Request::parse(&json).expect("the same request"), request);
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        let web = r#""container":{"id":"0a1b"},"#;
        for (container, what) in [
            ("", r#"{"file":{"path":"/etc/passwd","maxBytes":1}}"#),
            (web, r#"{"file":{"path":"etc/passwd","maxBytes":1}}"#),
            (web, r#"{"file":{"path":"/a\u0000b","maxBytes":1}}"#),
            (web, r#"{"file":{"path":"/etc/passwd","maxBytes":0}}"#),
            (web, r#"{"file":{"path":"/etc/passwd"}}"#),
            (web, r#"{"folder":{"path":"/","maxBytes":1,"maxEntries":0}}"#),
            ("", r#"{"memory":{"process":{"name":""},"maxBytes":1}}"#),
            ("", r#"{"shell":{"command":"x"}}"#),
            ("", r#"{"processes":{"more":1}}"#),
            (r#""container":{"id":"../0a1b"},"#, r#"{"processes":{}}"#),
            (r#""timeoutSeconds":7201,"#, r#"{"processes":{}}"#),
            (r#""more":1,"#, r#"{"processes":{}}"#),
        ] {
            let text = with(container, what);
            assert!(Request::parse(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_number_is_a_process_and_anything_else_a_name() {
        let parse = |text: &str| text.parse::<ProcessRef>().expect("always one");
        assert_eq!(parse("4711"), ProcessRef::Pid(4711));
        assert_eq!(parse("nginx"), ProcessRef::Name("nginx".into()));
        assert_eq!(parse("-1"), ProcessRef::Name("-1".into()));
    }

    proptest! {
        #[test]
        fn any_text_is_read(text: String) {
            prop_assert!(Request::parse(&text).is_err());
        }
    }
}

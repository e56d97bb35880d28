//! What the agent says of what it has written.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A trailer has at most so many bytes.
pub const MOST_TRAILER: usize = 64 * 1024;
/// At most so many warnings are told; the rest is counted.
pub const MOST_WARNINGS: usize = 32;
/// A warning or a message has at most so many bytes.
pub const LONGEST_WARNING: usize = 512;

/// What the agent says of an artifact that it has written: a claim by us, to be compared with what arrived.
///
/// Names of others in messages and warnings are quoted, control characters in them escaped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trailer {
    /// Whether it is whole.
    pub outcome: Outcome,
    /// How many bytes were written.
    pub length: u64,
    /// The SHA-256 of the bytes written, in lower-case hexadecimal.
    pub sha256: String,
    /// When reading began, by the node's clock.
    pub began: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// The agent's version.
    pub version: String,
    /// Of a file or a folder, also of one that could not be read: what it is, as it was before it was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileFacts>,
    /// Of a process's memory: whose it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessFacts>,
    /// How many of what is in the artifact, and how many of what is not: `processes`, `sockets`, `files`, `leftOut`, …
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub counts: BTreeMap<String, u64>,
    /// What a reader of the artifact should know, at most [`MOST_WARNINGS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// How many more there were.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_warnings: u64,
}

/// How a capture ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result")]
pub enum Outcome {
    /// Everything that was asked for.
    Whole,
    /// A bound was reached, or a part could not be read: what is there is true, and there is more.
    Truncated {
        /// What is missing, and why; the warnings have more.
        message: String,
    },
    /// It is not what was asked for. What was written is worth keeping, and not to be taken for whole.
    Failed {
        /// Why, for a program.
        reason: Reason,
        /// Why, for a person: what happened to which object, and what to do next.
        message: String,
    },
}

/// Why a capture failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Reason {
    /// The request is none that this agent understands.
    BadRequest,
    /// The pod has no process on this node.
    PodNotHere,
    /// The container has no process: it has ended, or was restarted under another identifier.
    ContainerNotHere,
    /// No process of the pod fits.
    NoSuchProcess,
    /// The process ended while it was read.
    ProcessGone,
    /// Nothing is there by this path.
    NotFound,
    /// It is a folder: ask for it as one.
    IsFolder,
    /// It is no folder: ask for it as a file.
    NotAFolder,
    /// It is a device, a named pipe or a socket, which has no bytes of its own.
    NotAFile,
    /// It is the kernel's own (proc, sysfs, …), not the container's.
    KernelFile,
    /// The path leads through a loop of links, or one of the kernel's links that lead out of the container.
    BadLink,
    /// The kernel keeps the agent out: mostly the chart's `agent.capture.enabled` is false, so that CAP_DAC_READ_SEARCH is missing.
    Denied,
    /// It took longer than was allowed.
    TimedOut,
    /// What was written was not taken.
    NotTaken,
    /// Anything else that could not be read.
    Unreadable,
    /// A fault of the agent's own.
    Internal,
    /// A reason that a newer agent knows.
    #[serde(other)]
    Unknown,
}

/// What a file is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileFacts {
    /// What kind of file.
    pub file_type: FileType,
    /// Permissions, set-user-ID bits included: the low 12 bits.
    pub mode: u32,
    /// Owner, as the node counts: in a user namespace another number.
    pub uid: u32,
    /// Group, as the node counts.
    pub gid: u32,
    /// Bytes as its file system says; what was written is in [`Trailer::length`].
    pub size: u64,
    /// How many names it has; 0 is a file that was deleted and is still open.
    pub links: u64,
    /// Device of the file system, as `MAJOR:MINOR`.
    pub device: String,
    /// Inode number.
    pub inode: u64,
    /// When its bytes were last changed. Anybody who may write it can set it.
    pub mtime: Timestamp,
    /// When its bytes or its metadata were last changed. Nobody can set it.
    pub ctime: Timestamp,
    /// When it was last read, before we did.
    pub atime: Timestamp,
    /// When it was made, where its file system keeps that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub btime: Option<Timestamp>,
    /// Where the symbolic link points that stands by the path asked for; everything else here is of the file that it leads to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_target: Option<String>,
}

/// Kinds of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FileType {
    /// With bytes.
    Regular,
    /// A folder.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A device of characters.
    CharacterDevice,
    /// A device of blocks.
    BlockDevice,
    /// Anything else.
    #[serde(other)]
    Unknown,
}

/// Which process a memory is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessFacts {
    /// Its number as the node counts.
    pub node_pid: u32,
    /// Its number as its container counts.
    pub pid: u32,
    /// Its name, which it may have chosen itself.
    pub name: String,
    /// Its executable's path in the container.
    pub exe: String,
    /// When it was started, to about 10 ms.
    pub started: Timestamp,
    /// Other processes that fit what was asked for, younger, as the node counts: at most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<u32>,
}

/// Why what the agent said at the end is no trailer. The artifact is then cut off.
#[derive(Debug, thiserror::Error)]
pub enum BadTrailer {
    /// Nothing was said.
    #[error("the agent ended without saying what it had written: it was killed, or the connection to it was cut")]
    Missing,
    /// Too much was said.
    #[error("the agent said {0} bytes where at most {MOST_TRAILER} are read")]
    TooLong(usize),
    /// It is not one line of text.
    #[error("the agent's last words are not one line: {0:?}")]
    NotALine(String),
    /// It is no JSON of this shape.
    #[error("the agent's last words are not understood: {error}: {start:?}")]
    Shape {
        /// What is wrong with it.
        error: serde_json::Error,
        /// How they begin.
        start: String,
    },
}

impl Trailer {
    /// The trailer in what the command wrote to stderr.
    ///
    /// # Errors
    /// When it is not exactly one.
    pub fn parse(stderr: &[u8]) -> Result<Self, BadTrailer> {
        if stderr.is_empty() {
            return Err(BadTrailer::Missing);
        }
        if stderr.len() > MOST_TRAILER {
            return Err(BadTrailer::TooLong(stderr.len()));
        }
        let start = || String::from_utf8_lossy(stderr.get(..200).unwrap_or(stderr)).into_owned();
        let line = std::str::from_utf8(stderr).ok().and_then(|text| text.strip_suffix('\n'));
        let Some(line) = line.filter(|line| !line.contains('\n')) else { return Err(BadTrailer::NotALine(start())) };
        let trailer: Self = serde_json::from_str(line).map_err(|error| BadTrailer::Shape { error, start: start() })?;
        if trailer.sha256.len() != 64 || !trailer.sha256.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(BadTrailer::NotALine(start()));
        }
        Ok(trailer)
    }

    /// Whether what arrived is what was written. The digest is in lower-case hexadecimal.
    pub fn agrees(&self, length: u64, sha256: &str) -> bool {
        self.length == length && self.sha256 == sha256
    }

    /// The status that the command exits with.
    pub fn exit_status(&self) -> u8 {
        u8::from(matches!(self.outcome, Outcome::Failed { .. }))
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::{BadTrailer, MOST_TRAILER, Outcome, Reason, Trailer};

    fn trailer() -> Trailer {
        Trailer {
            outcome: Outcome::Failed { reason: Reason::NotFound, message: "\"/a\\nb\" is not there".into() },
            length: 3,
            sha256: "ab".repeat(32),
            began: Timestamp::UNIX_EPOCH,
            ended: Timestamp::UNIX_EPOCH,
            version: "0.1.0".into(),
            file: None,
            process: None,
            counts: BTreeMap::from([("files".into(), 1)]),
            warnings: vec!["a line\nbreak".into()],
            more_warnings: 0,
        }
    }

    fn line(trailer: &Trailer) -> String {
        serde_json::to_string(trailer).expect("JSON") + "\n"
    }

    #[test]
    fn what_is_said_is_what_is_read() {
        let said = trailer();
        assert_eq!(Trailer::parse(line(&said).as_bytes()).expect("a trailer"), said);
        assert_eq!(said.exit_status(), 1);
        assert!(said.agrees(3, &"ab".repeat(32)) && !said.agrees(4, &"ab".repeat(32)) && !said.agrees(3, ""));
    }

    #[test]
    fn a_newer_agent_is_understood() {
        let newer = line(&trailer()).replace("NotFound", "Eclipsed").replace("{\"outcome", "{\"more\":1,\"outcome");
        let Outcome::Failed { reason, .. } = Trailer::parse(newer.as_bytes()).expect("a trailer").outcome else {
            panic!("failed");
        };
        assert_eq!(reason, Reason::Unknown);
    }

    #[test]
    fn what_is_none_is_refused() {
        let good = line(&trailer());
        assert!(matches!(Trailer::parse(b""), Err(BadTrailer::Missing)));
        assert!(matches!(Trailer::parse(&vec![b' '; MOST_TRAILER + 1]), Err(BadTrailer::TooLong(_))));
        for text in [good.trim_end().to_owned(), format!("{good}{good}"), format!("panicked\n{good}"), "\n".to_owned()]
        {
            assert!(Trailer::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(Trailer::parse(good.replace(&"ab".repeat(32), "AB").as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Trailer::parse(&bytes).is_err());
        }
    }
}

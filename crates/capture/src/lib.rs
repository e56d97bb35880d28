//! What is read from a pod, and how: from outside it, with our own tools. Nothing is executed in a container, and one without a
//! shell yields the same. No async, no Kubernetes.
//!
//! # The protocol
//!
//! The operator executes one fixed command in the agent's container on the pod's node ([`Request::argv`]), without a shell:
//!
//! ```text
//! /tourniquet-agent capture {"pod":{"uid":"9c2d…"},"what":{"file":{"path":"/etc/passwd","maxBytes":1048576}}}
//! ```
//!
//! * **stdout** carries the artifact's bytes and nothing else.
//! * **stderr** carries one line, the [`Trailer`] as JSON, once the last byte is written ([`Trailer::parse`]).
//! * **The exit status** is 0 when the artifact is whole or truncated, as the trailer says; anything else has failed.
//!
//! A capture whose trailer is missing, or claims another length or SHA-256 than what arrived, was cut off on the way: it is
//! not whole, whatever else is said.

mod capture;
mod connections;
mod environment;
mod files;
mod memory;
mod output;
mod process;
mod report;
mod request;
mod text;
mod trailer;

pub use self::capture::Capture;
pub use self::process::{Member, Members, Process, Stat};
pub use self::request::{
    BadRequest, Container, DEFAULT_TIMEOUT, LONGEST_PATH, LONGEST_TIMEOUT, MOST_REQUEST, PROGRAM, Pod, ProcessRef,
    Request, SUBCOMMAND, What,
};
pub use self::trailer::{
    BadTrailer, FileFacts, FileType, LONGEST_WARNING, MOST_TRAILER, MOST_WARNINGS, Outcome, ProcessFacts, Reason,
    Trailer,
};

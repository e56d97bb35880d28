//! One capture, from the request to the trailer.

use std::io::{BufWriter, Write};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::files::folder::Bounds;
use crate::files::{Root, file, folder};
use crate::output::{Output, Written};
use crate::process::Members;
use crate::report::{Deadline, Failure, Report, bounded};
use crate::request::{Request, What};
use crate::trailer::{Outcome, Reason, Trailer};
use crate::{connections, environment, memory, process};

/// An exec's stream has a message for each piece that is written.
const PIECE: usize = 64 * 1024;

/// One capture. A clone is the same capture: what one has written, the other can tell, also while a read hangs.
#[derive(Clone)]
pub struct Capture {
    request: Option<Request>,
    written: Written,
    began: Timestamp,
    deadline: Deadline,
}

impl Capture {
    /// The capture that this asks for. It begins now.
    pub fn new(request: Request) -> Self {
        let allowed = Duration::from_secs(u64::from(request.timeout_seconds));
        Self { deadline: Deadline(Instant::now() + allowed), ..Self::none(Some(request)) }
    }

    fn none(request: Option<Request>) -> Self {
        Self { request, written: Written::default(), began: Timestamp::now(), deadline: Deadline(Instant::now()) }
    }

    /// The trailer for what is no request.
    pub fn refused(message: impl ToString) -> Trailer {
        Self::none(None).failed(Reason::BadRequest, message)
    }

    /// Reads, and writes the artifact. What cannot be read of single objects is told in the trailer, and the rest goes on.
    pub fn run(&self, members: &dyn Members, out: impl Write) -> Trailer {
        let mut report = Report::default();
        let mut out = BufWriter::with_capacity(PIECE, Output::new(out, self.written.clone()));
        let done = match &self.request {
            Some(request) => read(request, members, &mut out, &mut report, self.deadline),
            None => Err(Failure::new(Reason::BadRequest, "there is no request")),
        };
        let missing: u64 = ["unreadable", "bytesUnreadable"].iter().filter_map(|what| report.counts.get(*what)).sum();
        if missing > 0 {
            report.truncate("parts of it could not be read: the warnings say which, and why");
        }
        // What was read before a failure is worth keeping. What is not taken now is not tried again: the trailer would not count it.
        let done = done.and(out.flush().map_err(Failure::not_taken));
        drop(out.into_parts());
        let outcome = match (done, report.truncated.take()) {
            (Err(Failure { reason, message }), _) => Outcome::Failed { reason, message: bounded(message) },
            (Ok(()), Some(message)) => Outcome::Truncated { message },
            (Ok(()), None) => Outcome::Whole,
        };
        self.trailer(outcome, report)
    }

    /// The trailer of a capture that came to nothing, or was given up: of what was written until now.
    pub fn failed(&self, reason: Reason, message: impl ToString) -> Trailer {
        self.trailer(Outcome::Failed { reason, message: bounded(message.to_string()) }, Report::default())
    }

    fn trailer(&self, outcome: Outcome, report: Report) -> Trailer {
        let (length, sha256) = self.written.so_far();
        Trailer {
            outcome,
            length,
            sha256,
            began: self.began,
            ended: Timestamp::now(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            file: report.file,
            process: report.process,
            counts: report.counts,
            warnings: report.warnings,
            more_warnings: report.more_warnings,
        }
    }
}

fn read(
    request: &Request,
    members: &dyn Members,
    out: &mut dyn Write,
    report: &mut Report,
    deadline: Deadline,
) -> Result<(), Failure> {
    let chosen = process::of(members, request.container.as_ref())?;
    if members.more() > 0 {
        report.truncate(format!("the pod has {} more processes than are looked at", members.more()));
    }
    match &request.what {
        What::Processes {} => process::record::write(members, &chosen, out, report, deadline),
        What::Environment { values } => environment::write(members, &chosen, *values, out, report, deadline),
        What::File { path, max_bytes } => {
            file::write(&Root::of(members, &chosen)?, path, *max_bytes, out, report, deadline)
        }
        What::Folder { path, max_bytes, max_entries } => {
            let bounds = Bounds { bytes: *max_bytes, entries: *max_entries };
            folder::write(&Root::of(members, &chosen)?, path, bounds, out, report, deadline)
        }
        What::Memory { process, max_bytes } => {
            memory::write(members, &chosen, process, *max_bytes, out, report, deadline)
        }
        What::Connections {} => connections::write(members, &chosen, out, report, deadline),
    }
}

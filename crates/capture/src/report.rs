//! What is said of a capture while it goes on, and why one stops.

use std::collections::BTreeMap;
use std::io;
use std::time::Instant;

use rustix::io::Errno;

use crate::trailer::{FileFacts, LONGEST_WARNING, MOST_WARNINGS, ProcessFacts, Reason};

/// Why a capture stopped before its end.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) reason: Reason,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    /// The operator, or the connection to it, is gone.
    pub(crate) fn not_taken(error: io::Error) -> Self {
        Self::new(Reason::NotTaken, format!("what was written was not taken: {error}"))
    }

    /// Something of the pod's could not be read.
    pub(crate) fn unreadable(what: &str, error: impl Into<io::Error>) -> Self {
        let error = error.into();
        let reason = match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOENT | Errno::NOTDIR) => Reason::NotFound,
            Some(Errno::SRCH) => Reason::ProcessGone,
            Some(Errno::LOOP | Errno::XDEV) => Reason::BadLink,
            Some(Errno::ACCESS | Errno::PERM) => Reason::Denied,
            _ => Reason::Unreadable,
        };
        let next = match reason {
            Reason::NotFound => "; look for it by its folder",
            Reason::ProcessGone => "; it has ended",
            Reason::BadLink => {
                "; it leads through a loop of links, or a link of the kernel's that leads out of the container"
            }
            Reason::Denied => {
                "; the agent needs CAP_DAC_READ_SEARCH (agent.capture.enabled in the chart) and CAP_SYS_PTRACE, and no security \
                 module that forbids it"
            }
            _ => "",
        };
        Self::new(reason, format!("{what} cannot be read: {error}{next}"))
    }
}

/// Whether a process is not there any more, by what reading it said.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw_os_error), Some(Errno::NOENT | Errno::SRCH))
}

/// When a capture has to end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(pub(crate) Instant);

impl Deadline {
    pub(crate) fn check(self) -> Result<(), Failure> {
        if Instant::now() < self.0 {
            return Ok(());
        }
        Err(Failure::new(Reason::TimedOut, "it took longer than was allowed; ask for less of it, or allow more time"))
    }
}

/// What is known besides the bytes.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) truncated: Option<String>,
    pub(crate) file: Option<FileFacts>,
    pub(crate) process: Option<ProcessFacts>,
    pub(crate) counts: BTreeMap<String, u64>,
    pub(crate) warnings: Vec<String>,
    pub(crate) more_warnings: u64,
}

impl Report {
    pub(crate) fn warn(&mut self, warning: impl Into<String>) {
        if self.warnings.len() < MOST_WARNINGS {
            self.warnings.push(bounded(warning.into()));
        } else {
            self.more_warnings += 1;
        }
    }

    pub(crate) fn count(&mut self, what: &str, more: u64) {
        let counted = self.counts.entry(what.to_owned()).or_default();
        *counted = counted.saturating_add(more);
    }

    /// The first bound that was reached is told; others follow from it.
    pub(crate) fn truncate(&mut self, message: impl Into<String>) {
        self.truncated.get_or_insert_with(|| bounded(message.into()));
    }
}

/// No longer than a warning may be.
pub(crate) fn bounded(mut text: String) -> String {
    if text.len() > LONGEST_WARNING {
        let end = (0..=LONGEST_WARNING - '…'.len_utf8()).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or_default());
        text.push('…');
    }
    text
}

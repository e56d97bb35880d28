//! What can go wrong, in words for a responder.

use std::fmt;
use std::time::Duration;

/// A request that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no way to reach the API server.
    #[error("cannot find out how to reach the API server: {0}")]
    Configuration(String),
    /// A request failed.
    #[error("cannot {doing} {object}: {cause}")]
    Request {
        /// What was being done.
        doing: &'static str,
        /// To which object.
        object: String,
        /// Why it failed.
        cause: Cause,
    },
}

impl Error {
    pub(crate) fn request(doing: &'static str, object: impl fmt::Display, cause: Cause) -> Self {
        Self::Request { doing, object: object.to_string(), cause }
    }

    /// Whether the object was changed or replaced since it was read: read it again and decide afresh.
    #[must_use]
    pub const fn is_conflict(&self) -> bool {
        matches!(self, Self::Request { cause: Cause::Status { code: 409, .. }, .. })
    }

    /// Whether the object does not exist.
    #[must_use]
    pub const fn is_not_found(&self) -> bool {
        matches!(self, Self::Request { cause: Cause::Status { code: 404, .. }, .. })
    }

    /// Whether it is a fault of the API server or of the way to it, which passes by itself: the same request may succeed the next time.
    /// Anything else is an answer, and stays one until somebody changes something.
    #[must_use]
    pub const fn passes(&self) -> bool {
        match self {
            Self::Configuration(_) => false,
            Self::Request { cause, .. } => match cause {
                // 410: a list that took longer than the API server keeps its beginning for. It is begun anew.
                Cause::Status { code, .. } => matches!(*code, 408 | 410 | 429) || *code >= 500,
                Cause::TimedOut | Cause::Transport(_) => true,
            },
        }
    }

    /// How long the API server asks to wait before this is tried again.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Request { cause: Cause::Status { retry_after, .. }, .. } => *retry_after,
            _ => None,
        }
    }
}

/// Why a request failed.
#[derive(Debug)]
pub enum Cause {
    /// The API server answered with an error.
    Status {
        /// The HTTP status.
        code: u16,
        /// The server's message.
        message: String,
        /// Who holds the fields, when this is a conflict of field managers.
        field_conflict: bool,
        /// How long it asks to wait before this is tried again.
        retry_after: Option<Duration>,
    },
    /// It did not answer in time.
    TimedOut,
    /// It could not be reached, or its answer could not be read.
    Transport(String),
}

impl From<kube::Error> for Cause {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::Status {
                code: status.code,
                field_conflict: status
                    .details
                    .iter()
                    .flat_map(|details| &details.causes)
                    .any(|cause| cause.reason == "FieldManagerConflict"),
                retry_after: status
                    .details
                    .as_ref()
                    .filter(|details| details.retry_after_seconds > 0)
                    .map(|details| Duration::from_secs(details.retry_after_seconds.into())),
                message: status.message,
            },
            // `Service` and `HyperError` hide what happened in their sources.
            other => {
                let mut text = other.to_string();
                let mut source = std::error::Error::source(&other);
                while let Some(error) = source {
                    let more = error.to_string();
                    if !text.contains(&more) {
                        text = format!("{text}: {more}");
                    }
                    source = error.source();
                }
                Self::Transport(text)
            }
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status { code: 403, message, .. } => {
                write!(
                    f,
                    "{message} (if it is a matter of rights: install the chart of this version, its ClusterRole has what is needed)"
                )
            }
            Self::Status { message, retry_after: Some(pause), .. } => {
                write!(f, "{message} (the API server asks to wait {} s)", pause.as_secs())
            }
            Self::Status { message, .. } => f.write_str(message),
            Self::TimedOut => write!(f, "the API server did not answer within {} s", super::REQUEST_LIMIT.as_secs()),
            Self::Transport(text) => f.write_str(text),
        }
    }
}

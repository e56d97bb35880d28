//! What can go wrong with a store, in words for a responder.

use std::time::Duration;

/// Something that a store did not do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Trouble {
    /// The service's own error code, such as `AuthorizationFailure`, `AuthenticationFailed`, `ContainerNotFound` or `BlobAlreadyExists`; or one of ours where no service answered:
    /// `BadConfiguration`, `NameNotResolved`, `CannotConnect`, `TlsFailed`, `ConnectionLost`, `TimedOut`, `TokenRefused`, `ReadBackDiffers`, `TooLarge`, `TooMany`,
    /// `AlreadySealed`, `NotOurs`.
    pub code: String,
    /// What happened, to which account and container, and what to do next. Has no secret in it.
    pub message: String,
    /// Whether it may pass by itself: the same request may succeed later.
    pub transient: bool,
    /// How long the service asks to wait.
    pub retry_after: Option<Duration>,
}

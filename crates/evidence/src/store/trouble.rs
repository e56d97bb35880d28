//! What can go wrong with a store, in words for a responder.

use std::error::Error as StdError;
use std::time::Duration;

use azure_core::error::{Error, ErrorKind};
use azure_core::http::headers::{HeaderName, Headers, RETRY_AFTER};
use azure_storage_blob::StorageError;
use jiff::{SignedDuration, Timestamp};

/// Something that a store did not do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Trouble {
    /// The service's own error code, such as `AuthorizationFailure`, `AuthenticationFailed`, `ContainerNotFound` or `BlobAlreadyExists`; or one of ours where no service answered:
    /// `BadConfiguration`, `InvalidName`, `NameNotResolved`, `CannotConnect`, `TlsFailed`, `ConnectionLost`, `TimedOut`, `TokenRefused`, `Unexpected`, `ReadBackDiffers`, `TooLarge`, `TooMany`,
    /// `NotOurs`.
    pub code: String,
    /// What happened, to which account and container, and what to do next. Has no secret in it.
    pub message: String,
    /// Whether it may pass by itself: the same request may succeed later.
    pub transient: bool,
    /// How long the service asks to wait.
    pub retry_after: Option<Duration>,
}

const ERROR_CODE: HeaderName = HeaderName::from_static("x-ms-error-code");
const DATE: HeaderName = HeaderName::from_static("date");

/// How much the clocks may differ before it is mentioned: signatures and tokens are good for minutes on either side.
const SKEW: SignedDuration = SignedDuration::from_secs(60);

/// How much of somebody else's words is passed on.
const WORDS: usize = 400;

impl Trouble {
    /// One of ours, which stays until somebody changes something.
    pub(crate) fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), transient: false, retry_after: None }
    }

    /// One of ours, which may pass.
    pub(super) fn passing(code: &str, message: impl Into<String>) -> Self {
        Self { transient: true, ..Self::new(code, message) }
    }

    /// Of a request: what was being done, to what, in which container.
    pub(super) fn of(error: Error, doing: &str, container: &str) -> Self {
        let at = |what: String| format!("cannot {doing} in {container}: {what}");
        match error.kind() {
            ErrorKind::HttpResponse { status, error_code, raw_response } => {
                let status = u16::from(*status);
                let headers = raw_response.as_ref().map(|response| response.headers().clone()).unwrap_or_default();
                // A gateway in between answers with codes of its own, or none.
                let code = headers.get_optional_string(&ERROR_CODE);
                let code = code.or_else(|| error_code.clone()).unwrap_or_else(|| status.to_string());
                let said = StorageError::try_from(error).ok();
                let detail = said.as_ref().and_then(|said| said.authentication_error_detail.as_deref());
                let words = match (detail, said.as_ref().and_then(|said| said.message.as_deref())) {
                    // The other details quote what was signed.
                    (Some(detail), _) if detail.contains("time frame") => first_line(detail),
                    (_, Some(message)) => first_line(message),
                    _ => String::new(),
                };
                let mut message = at(format!("{code} ({status}) {words}").trim_end().to_owned());
                message.push_str(advice(&code));
                if is_refused(&code, status) {
                    message.push_str(&skew(&headers));
                }
                let transient = matches!(status, 408 | 429 | 500 | 502 | 503 | 504);
                Self { code, message, transient, retry_after: retry_after(&headers) }
            }
            ErrorKind::Connection | ErrorKind::Io => {
                let (code, advice) = connection(&error);
                let transient = code != "TlsFailed";
                Self { transient, ..Self::new(code, at(format!("{}{advice}", words(&error)))) }
            }
            ErrorKind::Credential => {
                let passing = nested(&error).is_some_and(|inner| match inner.kind() {
                    ErrorKind::Connection | ErrorKind::Io => true,
                    ErrorKind::HttpResponse { status, .. } => u16::from(*status) == 429 || u16::from(*status) >= 500,
                    _ => false,
                });
                let message = at(format!(
                    "no token: {}. Compare the identity's client ID, its federated credential (issuer, subject, audience) and its tenant",
                    words(&error)
                ));
                Self { transient: passing, ..Self::new("TokenRefused", message) }
            }
            _ => Self::new("Unexpected", at(words(&error))),
        }
    }

    /// Whether another credential would help.
    pub(super) fn is_of_the_credential(&self) -> bool {
        !self.transient && is_refused(&self.code, 0)
    }

    /// Whether something is there already.
    pub(super) fn is_taken(&self) -> bool {
        // The last two: what protects a blob that is there says so instead.
        matches!(
            self.code.as_str(),
            "BlobAlreadyExists" | "ConditionNotMet" | "BlobImmutableDueToPolicy" | "BlobImmutableDueToLegalHold"
        )
    }

    /// Whether there is no such blob.
    pub(super) fn is_no_blob(&self) -> bool {
        // A HEAD has no body: Azurite then gives no code either.
        matches!(self.code.as_str(), "BlobNotFound" | "404")
    }

    /// The same, and more to say.
    pub(super) fn with(mut self, more: &str) -> Self {
        self.message.push_str(more);
        self
    }

    /// The same without what must not be told.
    pub(super) fn without(mut self, secret: &str) -> Self {
        if !secret.is_empty() {
            self.message = self.message.replace(secret, "(left out)");
            self.code = self.code.replace(secret, "(left out)");
        }
        self
    }
}

fn is_refused(code: &str, status: u16) -> bool {
    matches!(status, 401 | 403)
        || matches!(
            code,
            "401"
                | "403"
                | "AuthenticationFailed"
                | "AuthorizationFailure"
                | "AuthorizationPermissionMismatch"
                | "AuthorizationProtocolMismatch"
                | "AuthorizationResourceTypeMismatch"
                | "AuthorizationServiceMismatch"
                | "AuthorizationSourceIPMismatch"
                | "InsufficientAccountPermissions"
                | "InvalidAuthenticationInfo"
                | "KeyBasedAuthenticationNotPermitted"
                | "NoAuthenticationInformation"
                | "TokenRefused"
        )
}

/// What to do next.
fn advice(code: &str) -> &'static str {
    match code {
        "AuthenticationFailed" => {
            ". The credential has expired, is not valid yet, or is not of this account: put a new shared access signature into the store's Secret, or compare the identity's tenant with the account's"
        }
        "AuthorizationFailure" => {
            ". The account's network rules do not let this address in, or the shared access signature is over or does not allow it (it needs cwrl)"
        }
        "AuthorizationPermissionMismatch" | "InsufficientAccountPermissions" => {
            ". The identity has no role that allows it (Storage Blob Data Contributor on the container, or one of your own without delete), or the shared access signature does not (it needs cwrl); a new role takes minutes to be in force"
        }
        "AuthorizationProtocolMismatch" | "AuthorizationResourceTypeMismatch" | "AuthorizationServiceMismatch" => {
            ". The shared access signature is for something else: it has to be for the Blob service, and for objects and containers"
        }
        "AuthorizationSourceIPMismatch" => {
            ". The shared access signature is for other addresses than the cluster's way out"
        }
        "KeyBasedAuthenticationNotPermitted" => {
            ". The account allows no shared keys: use an identity, or a user delegation signature"
        }
        "InvalidAuthenticationInfo" | "NoAuthenticationInformation" => {
            ". The account does not know this token: compare the identity's tenant with the account's"
        }
        "ContainerNotFound" | "ContainerBeingDeleted" | "ContainerDisabled" => {
            ". Create the container, or name another one: whoever stores evidence has no right to create containers"
        }
        "AccountIsDisabled" | "ResourceNotFound" | "InvalidUri" => ". Compare the endpoint with the account's",
        _ => "",
    }
}

fn retry_after(headers: &Headers) -> Option<Duration> {
    let text = headers.get_optional_str(&RETRY_AFTER)?;
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    // Or a date, by the sender's clock.
    let until = azure_core::time::parse_rfc7231(text).ok()?;
    let now = azure_core::time::parse_rfc7231(headers.get_optional_str(&DATE)?).ok()?;
    u64::try_from((until - now).whole_seconds()).ok().map(Duration::from_secs)
}

/// The clock of whoever answered, less ours.
pub(super) fn clock_offset(headers: &Headers) -> Option<SignedDuration> {
    let theirs = azure_core::time::parse_rfc7231(headers.get_optional_str(&DATE)?).ok()?;
    let theirs = Timestamp::from_second(theirs.unix_timestamp()).ok()?;
    Some(theirs.duration_since(Timestamp::now()))
}

/// What a difference of the clocks has to do with it.
fn skew(headers: &Headers) -> String {
    match clock_offset(headers) {
        Some(offset) if offset.abs() > SKEW => {
            let side = if offset.is_negative() { "behind" } else { "ahead of" };
            format!(". The store's clock is {} s {side} ours: one of the two is wrong", offset.as_secs().abs())
        }
        _ => String::new(),
    }
}

/// What of a connection failed. hyper has no types for it that are public; its words are held by a test.
fn connection(error: &Error) -> (&'static str, &'static str) {
    let mut source: Option<&(dyn StdError + 'static)> = Some(error);
    let mut name = false;
    while let Some(error) = source {
        if is_of_tls(error) {
            return (
                "TlsFailed",
                ". The server's certificate or protocol is not accepted: where a proxy inspects TLS, its authority belongs into the store's CA bundle",
            );
        }
        name |= error.to_string().contains("dns error");
        source = error.source();
    }
    if name {
        return ("NameNotResolved", ". Compare the endpoint with the account's: a wrong name has no address");
    }
    match error.kind() {
        ErrorKind::Connection => (
            "CannotConnect",
            ". Compare the endpoint, and whether network policies and firewalls let the operator reach it",
        ),
        _ => ("ConnectionLost", ""),
    }
}

/// An I/O error hides what it wraps from `source`, and hyper wraps it twice.
fn is_of_tls(error: &(dyn StdError + 'static)) -> bool {
    let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    error.is::<rustls::Error>() || inner.is_some_and(|inner| is_of_tls(inner))
}

/// What an identity's error is about.
fn nested(error: &Error) -> Option<&Error> {
    let mut source = StdError::source(error);
    let mut found = None;
    while let Some(error) = source {
        found = error.downcast_ref::<Error>().or(found);
        source = error.source();
    }
    found
}

/// The words of an error and of what it came from, without repetitions.
fn words(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = StdError::source(error);
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    bounded(&text.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn first_line(text: &str) -> String {
    bounded(text.lines().next().unwrap_or_default().trim_end_matches(['.', ' ']))
}

fn bounded(text: &str) -> String {
    match text.char_indices().nth(WORDS) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

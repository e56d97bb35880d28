//! Shared access signatures, signed with the account's key as Azure's own tools do.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;
use sha2::Sha256;

use crate::{ACCOUNT, KEY};

const VERSION: &str = "2022-11-02";

/// A service signature for one container, good for what and when.
pub struct Sas<'a> {
    container: &'a str,
    permissions: &'a str,
    from: SignedDuration,
    to: SignedDuration,
}

impl<'a> Sas<'a> {
    pub fn new(container: &'a str) -> Self {
        Self { container, permissions: "rcwl", from: SignedDuration::from_hours(-1), to: SignedDuration::from_hours(1) }
    }

    pub fn with(self, permissions: &'a str) -> Self {
        Self { permissions, ..self }
    }

    /// Over before now.
    pub fn expired(self) -> Self {
        Self { to: SignedDuration::from_mins(-10), ..self }
    }

    /// Over in this many seconds.
    pub fn for_seconds(self, seconds: i64) -> Self {
        Self { to: SignedDuration::from_secs(seconds), ..self }
    }

    /// Made by a clock that is ahead.
    pub fn of_tomorrow(self) -> Self {
        Self { from: SignedDuration::from_hours(24), to: SignedDuration::from_hours(25), ..self }
    }

    pub fn sign(&self) -> SecretString {
        let (from, to) = (time(self.from), time(self.to));
        let resource = format!("/blob/{ACCOUNT}/{}", self.container);
        let fields =
            [self.permissions, &from, &to, &resource, "", "", "https", VERSION, "c", "", "", "", "", "", "", ""];
        let sig = sign(&fields.join("\n"));
        let pairs = [
            ("sv", VERSION),
            ("sp", self.permissions),
            ("st", &from),
            ("se", &to),
            ("spr", "https"),
            ("sr", "c"),
            ("sig", &sig),
        ];
        query(&pairs).into()
    }
}

/// A signature for all blobs of the account.
pub fn account() -> String {
    account_for("b", "rwdlc", "sco")
}

/// A signature for the queues of the account: these permissions, on these types of resource.
pub fn queue_account(permissions: &str, types: &str) -> String {
    account_for("q", permissions, types)
}

fn account_for(service: &str, permissions: &str, types: &str) -> String {
    let (from, to) = (time(SignedDuration::from_hours(-1)), time(SignedDuration::from_hours(1)));
    let fields = [ACCOUNT, permissions, service, types, &from, &to, "", "https", VERSION, "", ""];
    let sig = sign(&fields.join("\n"));
    query(&[
        ("sv", VERSION),
        ("sp", permissions),
        ("ss", service),
        ("srt", types),
        ("st", &from),
        ("se", &to),
        ("spr", "https"),
        ("sig", &sig),
    ])
}

fn time(offset: SignedDuration) -> String {
    (Timestamp::now() + offset).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn sign(text: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(&STANDARD.decode(KEY).unwrap()).unwrap();
    mac.update(text.as_bytes());
    STANDARD.encode(mac.finalize().into_bytes())
}

fn query(pairs: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

//! The API server's audit log: what the operator and the agents asked for, and what became of it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::Deserialize;

use crate::{Environment, until};

/// The operator's account, wherever it runs.
pub const OPERATOR: &str = "system:serviceaccount:tourniquet-system:tourniquet-operator";
/// The account of all agents.
pub const AGENT: &str = "system:serviceaccount:tourniquet-agent:tourniquet-agent";

/// One request.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    #[serde(rename = "auditID")]
    id: String,
    user: User,
    /// In RBAC's words, such as `patch`.
    pub verb: String,
    #[serde(rename = "requestURI")]
    pub uri: String,
    #[serde(default)]
    pub object_ref: ObjectRef,
    #[serde(default)]
    response_status: Answer,
    /// What admission has to say of it.
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    request_received_timestamp: Timestamp,
}

/// What it was about.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectRef {
    pub resource: String,
    pub subresource: String,
    pub api_group: String,
    pub namespace: String,
    pub name: String,
}

#[derive(Clone, Debug, Deserialize)]
struct User {
    username: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Answer {
    code: u16,
}

impl Request {
    pub fn is_by(&self, user: &str) -> bool {
        self.user.username == user
    }

    /// Whether it could change something.
    pub fn writes(&self) -> bool {
        !matches!(self.verb.as_str(), "get" | "list" | "watch")
    }

    /// Whether the API server did it.
    pub fn succeeded(&self) -> bool {
        (200..300).contains(&self.response_status.code)
    }

    /// What a policy of admission records, by `policy/key`.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(String::as_str)
    }

    /// `resource`, or `resource/subresource`.
    pub fn resource(&self) -> String {
        let ObjectRef { resource, subresource, .. } = &self.object_ref;
        if subresource.is_empty() { resource.clone() } else { format!("{resource}/{subresource}") }
    }

    /// When it came to the API server.
    pub const fn received(&self) -> Timestamp {
        self.request_received_timestamp
    }

    /// Whether it is about who leads, of the operators in their own namespace.
    pub fn is_lease(&self) -> bool {
        self.object_ref.resource == "leases" && self.object_ref.namespace == crate::OPERATOR_NAMESPACE
    }

    pub fn is_event(&self) -> bool {
        self.object_ref.resource == "events"
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ObjectRef { namespace, name, .. } = &self.object_ref;
        let (resource, code) = (self.resource(), self.response_status.code);
        write!(f, "{} {resource} {namespace}/{name} ({code}; {})", self.verb, self.uri)
    }
}

/// The log from some moment on.
pub struct Audit {
    log: PathBuf,
    since: Timestamp,
}

impl Audit {
    /// What is asked from now on.
    pub fn begin(env: &Environment) -> Result<Self> {
        let log = env.audit_log.clone().context("TOURNIQUET_AUDIT_LOG is not set; run this through cargo xtask")?;
        Ok(Self { log, since: Timestamp::now() })
    }

    /// Every request so far, in the order in which they came, once each.
    pub fn requests(&self) -> Result<Vec<Request>> {
        let mut requests = BTreeMap::new();
        for file in self.files()? {
            let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            // The last line may be half written; the next look has it.
            for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
                let request: Request = serde_json::from_str(line).with_context(|| line.to_owned())?;
                if request.request_received_timestamp >= self.since {
                    // A watch has a second line when it ends.
                    requests.insert((request.request_received_timestamp, request.id.clone()), request);
                }
            }
        }
        Ok(requests.into_values().collect())
    }

    /// The writes of an account that were carried out, without events and the lease by which the operator leads: they are beside the work.
    pub fn writes_of(&self, user: &str) -> Result<Vec<Request>> {
        let mut requests = self.requests()?;
        requests
            .retain(|request| request.is_by(user) && request.writes() && request.succeeded() && !request.is_event());
        requests.retain(|request| !request.is_lease());
        Ok(requests)
    }

    /// Waits until there is a request of which this is true. The API server writes a line as it answers: whoever has the answer may be a moment
    /// ahead of it.
    pub async fn shows(&self, what: &str, wanted: impl Fn(&Request) -> bool) -> Result<()> {
        until(&format!("the audit log shows {what}"), Duration::from_secs(10), async || {
            Ok(self.requests()?.iter().any(&wanted).then_some(()))
        })
        .await
    }

    /// The log, and what was put beside it when it was full, unless that was before.
    fn files(&self) -> Result<Vec<PathBuf>> {
        let folder = self.log.parent().unwrap_or(Path::new("."));
        let (stem, extension) = (self.log.file_stem().unwrap_or_default(), self.log.extension());
        let is_ours = |path: &PathBuf| {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            path.extension() == extension && name.starts_with(&*stem.to_string_lossy())
        };
        let files = std::fs::read_dir(folder).with_context(|| format!("cannot look into {}", folder.display()))?;
        let is_of_then = |path: &PathBuf| {
            let written = path.metadata().and_then(|metadata| metadata.modified());
            written.is_ok_and(|at| Timestamp::try_from(at).is_ok_and(|at| at >= self.since))
        };
        Ok(files.filter_map(|entry| Some(entry.ok()?.path())).filter(is_ours).filter(is_of_then).collect())
    }
}

//! A message of a playbook: base64 of JSON, every field known, every size bounded. Pure.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::mapping::{Event, Scope, quoted};

/// What a queue takes as one message.
const LARGEST: usize = 64 * 1024;

/// How far the playbook's clock may be ahead of the queue's.
const AHEAD: SignedDuration = SignedDuration::from_mins(5);

/// What a playbook asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// Cut the pods off that the incident names.
    IsolatePod,
    /// Cut the namespaces off that it names, those of its pods included.
    IsolateNamespace,
    /// Keep new pods off the nodes that it names.
    CordonNode,
    /// Collect evidence from the pods that it names.
    Collect,
    /// Run an approved command in them.
    Run,
    /// Release everything that an intake created for the incident.
    Release,
}

impl Action {
    /// The verb that it takes, in the intake's policy as in the cluster's RBAC.
    #[must_use]
    pub const fn verb(self) -> &'static str {
        match self {
            Self::IsolatePod | Self::IsolateNamespace => "isolate",
            Self::CordonNode => "cordon",
            Self::Collect => "collect",
            Self::Run => "run",
            Self::Release => "release",
        }
    }

    /// What it acts on; a release acts on responses.
    #[must_use]
    pub const fn scope(self) -> Option<Scope> {
        match self {
            Self::IsolatePod | Self::Collect | Self::Run => Some(Scope::Pod),
            Self::IsolateNamespace => Some(Scope::Namespace),
            Self::CordonNode => Some(Scope::Node),
            Self::Release => None,
        }
    }
}

/// What came through the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery<'a> {
    /// The text as it was put in.
    pub text: &'a str,
    /// When the queue took it.
    pub inserted: Timestamp,
}

/// How old a message may be.
#[derive(Clone, Copy, Debug)]
pub struct Ages {
    /// From when the playbook says it sent it until the queue took it. One that is older was kept by somebody, and put in again.
    pub on_the_way: SignedDuration,
    /// From then until now: what waited longer, while no intake ran, is not what somebody wants to happen now.
    pub waiting: SignedDuration,
}

/// A message that can be acted on.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// The playbook's own name for it, by which it finds the outcome: letters, digits and hyphens.
    pub id: String,
    /// What is asked for.
    pub action: Action,
    /// Which approved command, for [`Action::Run`].
    pub command: Option<String>,
    event: Told,
}

#[derive(Clone, Debug, PartialEq)]
enum Told {
    DefenderAlert(Value),
    SentinelIncident(Value),
}

impl Message {
    /// What it is about.
    #[must_use]
    pub const fn event(&self) -> Event<'_> {
        match &self.event {
            Told::DefenderAlert(alert) => Event::DefenderAlert(alert),
            Told::SentinelIncident(incident) => Event::SentinelIncident(incident),
        }
    }
}

/// As it is written.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    version: u32,
    id: String,
    sent_at: Timestamp,
    action: Action,
    #[serde(default)]
    command: Option<String>,
    #[serde(default)]
    defender_alert: Option<Value>,
    #[serde(default)]
    sentinel_incident: Option<Value>,
}

/// A message that nothing is done about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Where somebody may wait for an outcome, if that much can be read.
    pub id: Option<String>,
    /// Why.
    pub why: String,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

/// Reads a message.
///
/// # Errors
/// When it is none, or is too old.
pub fn read(delivery: &Delivery<'_>, now: Timestamp, ages: &Ages) -> Result<Message, Rejected> {
    let json = decoded(delivery.text).map_err(|why| Rejected { id: None, why })?;
    let rejected = |why: String| Rejected { id: waiting_for(&json), why };
    let written: Written = serde_json::from_slice(&json)
        .map_err(|error| rejected(format!("the message is not as it has to be: {error}")))?;
    written.checked(delivery, now, ages).map_err(rejected)
}

impl Written {
    fn checked(self, delivery: &Delivery<'_>, now: Timestamp, ages: &Ages) -> Result<Message, String> {
        if self.version != 1 {
            return Err(format!(
                "the message has version {}, and this intake knows 1: upgrade what is older, the intake or the playbook",
                self.version
            ));
        }
        if !is_id(&self.id) {
            return Err(format!("{} is no id: letters, digits and hyphens, at most 64", quoted(&self.id)));
        }
        let way = delivery.inserted.duration_since(self.sent_at);
        if way > ages.on_the_way || way < -AHEAD {
            return Err(format!(
                "the message says that it was sent at {}, and the queue took it at {}: it was replayed, or a clock is wrong. Run the playbook again",
                self.sent_at, delivery.inserted
            ));
        }
        let waited = now.duration_since(delivery.inserted);
        if waited > ages.waiting {
            return Err(format!(
                "the message has waited since {}, longer than this intake acts on one: run the playbook again",
                delivery.inserted
            ));
        }
        let event = match (self.defender_alert, self.sentinel_incident) {
            (Some(alert), None) => Told::DefenderAlert(alert),
            (None, Some(incident)) => Told::SentinelIncident(incident),
            _ => return Err("the message has to have exactly one of defenderAlert and sentinelIncident".to_owned()),
        };
        // A playbook that is one for all actions has an empty one.
        let command = self.command.filter(|command| !command.is_empty());
        if command.is_some() != (self.action == Action::Run) {
            return Err("the message has to name a command for run, and for nothing else".to_owned());
        }
        Ok(Message { id: self.id, action: self.action, command, event })
    }
}

fn decoded(text: &str) -> Result<Vec<u8>, String> {
    if text.len() > LARGEST {
        return Err(format!("the message has {} bytes, and {LARGEST} are the most", text.len()));
    }
    STANDARD.decode(text.trim()).map_err(|error| format!("the message is not base64: {error}"))
}

fn is_id(id: &str) -> bool {
    (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// The id of a message that is otherwise wrong: its playbook waits, and may be told.
fn waiting_for(json: &[u8]) -> Option<String> {
    let message: Value = serde_json::from_slice(json).ok()?;
    message.get("id").and_then(Value::as_str).filter(|id| is_id(id)).map(str::to_owned)
}

//! What the operator has done and seen.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::containment::ContainmentState;
use crate::evidence_store::Immutability;
use crate::schema;

/// What has been done, what was seen of it, and what is still open.
///
/// At most 256 KiB. A response of which more could have to be kept is refused (`TooLarge`). What only explains gives way to that where it is too long: messages are cut,
/// `connections.first` is shortened, and so are `residual` and `plan` at their ends. What undo needs, digests, exit codes and the ends of outputs never do.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IncidentResponseStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The target in one string, such as `pod shop/web-7d9c-x2x`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// When the response releases itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
    /// Accepted, Ready, Contained, Reconciling, Stalled, Reverted, EvidenceIntact and ReleaseRecorded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// The objects acted on, pinned once: a later object of the same name is another object.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::targets")]
    pub targets: Vec<PinnedTarget>,
    /// What became of each action.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::actions")]
    pub actions: Vec<ActionStatus>,
    /// What is still open, so that nobody believes more than is true.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub residual: Vec<Residual>,
    /// When the receipt was made: what `residual` says of tokens, secrets, volumes, other pods and Services is as of then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt_at: Option<Time>,
    /// What a dry run would do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plan: Vec<PlannedEffect>,
}

/// An object that a response acts on, pinned by UID.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PinnedTarget {
    /// The object's kind.
    pub kind: String,
    /// The object's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The object's name.
    pub name: String,
    /// The object's UID.
    pub uid: String,
    /// The node that a pod runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// A pod's containers at that moment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub containers: Vec<PinnedContainer>,
    /// Of a namespace that is isolated, how many pods run there, and how many of them are held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<PodCounts>,
}

/// The pods of a namespace that is isolated.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodCounts {
    /// How many run.
    pub running: i32,
    /// How many of them are held.
    pub contained: i32,
}

/// A container, pinned by its ID: a restarted container is another container.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PinnedContainer {
    /// The container's name.
    pub name: String,
    /// The container's ID, as the runtime reports it. Absent when it had not started.
    #[serde(rename = "containerID", default, skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// How often it had restarted.
    pub restart_count: i32,
}

/// What became of an action, or of an action on one target.
///
/// A string without an enum in the schema: an older CRD must not refuse the status of a newer operator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
pub enum Outcome {
    /// Not begun.
    #[default]
    Pending,
    /// Under way.
    Running,
    /// Carried out, and seen to be in force.
    Done,
    /// Carried out in part, or not seen to be in force.
    Partial,
    /// Not carried out.
    Failed,
    /// Not begun, because an action before it failed.
    Skipped,
    /// Undone.
    Undone,
    /// Nobody can know. Also what an outcome of a newer operator is read as.
    #[serde(other)]
    Unknown,
}

impl Outcome {
    /// The outcome as it stands in status.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Done => "Done",
            Self::Partial => "Partial",
            Self::Failed => "Failed",
            Self::Skipped => "Skipped",
            Self::Undone => "Undone",
            Self::Unknown => "Unknown",
        }
    }
}

/// How far it is known that an isolation is in force. The order of the values is that of their strength.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(from = "String")]
pub enum Assurance {
    /// Nothing is known, or it is known to be open. Also what a value of a newer operator is read as.
    #[default]
    None,
    /// The API server took the objects; nothing more is known.
    Accepted,
    /// The policy engine reports it in force on this pod.
    EngineReported,
    /// The node agent read the cut back from the kernel.
    KernelVerified,
    /// A connection that was answered before times out after; `probes` says which directions.
    Probed,
}

impl From<String> for Assurance {
    // Not `serde(other)`: that must be the last variant, and here the unknown is the weakest, so the first.
    fn from(text: String) -> Self {
        match text.as_str() {
            "Accepted" => Self::Accepted,
            "EngineReported" => Self::EngineReported,
            "KernelVerified" => Self::KernelVerified,
            "Probed" => Self::Probed,
            _ => Self::None,
        }
    }
}

macro_rules! plain_string_schema {
    ($($name:ident: $description:literal),*) => {$(
        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "description": $description })
            }
        }
    )*};
}

plain_string_schema!(
    ContainmentState: "Pending, Cut, Lifted, PodGone, Failed or Unknown; further values may come.",
    Immutability: "Verified, Absent or Unknown; further values may come.",
    Outputs: "Storing, Stored, Incomplete or NotStored; further values may come.",
    Outcome: "Pending, Running, Done, Partial, Failed, Skipped, Unknown or Undone; further values may come.",
    Assurance: "None, Accepted, EngineReported, KernelVerified or Probed; further values may come.",
    Answer: "Answered, Refused, TimedOut or Unreachable; further values may come.",
    Direction: "Ingress or Egress; further values may come."
);

/// What became of one action.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ActionStatus {
    /// The action's name.
    pub name: String,
    /// What became of it.
    #[serde(default)]
    pub outcome: Outcome,
    /// Why, in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why, in a sentence for the responder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When it was first seen complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
    /// What became of it on each target.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::results")]
    pub results: Vec<TargetResult>,
    /// Of more than 100 targets, how many further ones have which outcome.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub further: std::collections::BTreeMap<String, i32>,
}

/// What became of one action on one target.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetResult {
    /// The target's UID.
    #[serde(rename = "targetUID")]
    pub target_uid: String,
    /// What became of it.
    #[serde(default)]
    pub outcome: Outcome,
    /// Why, in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why, in a sentence for the responder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When the last effect was put in place; what is seen before it is no verdict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied_at: Option<Time>,
    /// How far an isolation is known to be in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assurance: Option<Assurance>,
    /// What was tried to find out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<Probe>,
    /// The connections that were open when the target was cut off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<Connections>,
    /// The journal: what undo needs and cannot derive. Never truncated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
    /// The result of a command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunResult>,
    /// The evidence collected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<EvidenceResult>,
}

/// The direction of a probe, seen from the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum Direction {
    /// A connection to the target.
    Ingress,
    /// A connection from the target.
    Egress,
    /// What a newer operator may have tried.
    #[serde(other)]
    Unknown,
}

/// What a connection attempt came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum Answer {
    /// The connection was made.
    Answered,
    /// The peer refused it: it was reached.
    Refused,
    /// There was no answer.
    TimedOut,
    /// The network said that there is no way, or the attempt could not be made.
    #[serde(other)]
    Unreachable,
}

impl Answer {
    /// Whether the peer was reached: a refusal comes from the peer as well.
    #[must_use]
    pub const fn reached(self) -> bool {
        matches!(self, Self::Answered | Self::Refused)
    }
}

/// One direction tried before and after the isolation.
#[derive(JsonSchema, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// The direction, seen from the target.
    pub direction: Direction,
    /// The address that was tried.
    pub peer: String,
    /// The positive control.
    pub before: Answer,
    /// When the positive control was taken.
    pub before_at: Time,
    /// The latest attempt since the isolation began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Answer>,
    /// When `after` last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
}

/// Open connections of a target.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Connections {
    /// How many there were; 10,000 are the most that are counted.
    pub count: i32,
    /// The first of them; all are in the evidence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub first: Vec<String>,
}

/// Something that was replaced and is put back on undo.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// What was replaced, such as `label app`.
    pub what: String,
    /// The value before; absent when there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// Who had written it, by field manager, and gets it back; absent when that was nobody, or was server-side apply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manager: Option<String>,
}

/// The result of a command.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RunResult {
    /// The exit code; absent when nobody can know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The end of the standard output, at most 4 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout_tail: Option<String>,
    /// The end of the standard error, at most 4 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr_tail: Option<String>,
    /// What has become of the whole outputs, where they were to be stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outputs: Option<Outputs>,
    /// The digest of the sealed record, which has those of both outputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Where the whole outputs lie, with their record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

impl RunResult {
    /// Whether its outputs are still on their way into the store.
    #[must_use]
    pub fn is_storing(&self) -> bool {
        self.outputs == Some(Outputs::Storing)
    }
}

/// What has become of the whole outputs of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum Outputs {
    /// They are being stored; the command has ended.
    Storing,
    /// Both are stored whole, and their record is sealed.
    Stored,
    /// The record is sealed, and says what is missing.
    Incomplete,
    /// No record is sealed. What is stored all the same says itself that it is unfinished.
    NotStored,
    /// What a newer operator may say.
    #[serde(other)]
    Unknown,
}

/// The evidence collected from one target.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EvidenceResult {
    /// Artifacts that are stored.
    pub artifacts_done: i32,
    /// Artifacts in all.
    pub artifacts_total: i32,
    /// Bytes stored.
    pub bytes: i64,
    /// The digest of the sealed record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record_digest: Option<String>,
    /// Where the evidence lies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// Something that is still open.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Residual {
    /// What, in one word.
    pub code: String,
    /// How bad it is: High, Medium or Low.
    pub severity: String,
    /// What, in a sentence for the responder.
    pub message: String,
    /// What to do about it; a command where one helps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// One step that a dry run would take.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedEffect {
    /// The action that asks for it.
    pub action: String,
    /// What would be done, such as `create` or `apply`.
    pub verb: String,
    /// The object.
    pub object: String,
    /// What would change.
    pub change: String,
    /// When, of what would not be done at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// What it would defeat, join, or be defeated by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meets: Option<String>,
}

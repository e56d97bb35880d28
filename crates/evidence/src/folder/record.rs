//! The record: who asked for what, what was read, how, when, and what became of it. `data/record.json` of each folder.
//!
//! Field names are those of the JSON; a released field does not change its meaning.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The value of [`Record::schema`].
pub const SCHEMA: &str = "tourniquet.dev/evidence/v1";

/// All there is to say of one folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// What the fields mean: [`SCHEMA`].
    pub schema: String,
    /// The folder's URL, without a signature.
    pub folder: String,
    /// When the folder was opened, by the operator's clock.
    pub opened_at: Timestamp,
    /// When this record was made, by the operator's clock.
    pub sealed_at: Timestamp,
    /// Whether each artifact that was planned is there as a whole: all of them are [`Outcome::Done`], and nothing is not collected or foreign.
    pub complete: bool,
    /// The circumstances.
    #[serde(flatten)]
    pub facts: Facts,
    /// What was collected, and what could not be, by the time it was begun.
    pub artifacts: Vec<ArtifactRecord>,
    /// Names of what was planned when the folder was opened, and of which nothing was begun or it is not known any more.
    pub not_collected: Vec<String>,
    /// Blobs that lie below `data/` and that no upload of ours made. No manifest has them: tools that verify the bag name them.
    pub foreign: Vec<String>,
}

/// The circumstances, as the caller knows them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Facts {
    /// The alert.
    pub incident: Incident,
    /// The response that collected.
    pub response: ObjectFacts,
    /// The cluster.
    pub cluster: ClusterFacts,
    /// Where it is stored.
    pub store: StoreFacts,
    /// What was collected from.
    pub target: TargetFacts,
    /// The command whose outputs these are; none, when this was collected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<CommandFacts>,
    /// Who asked for the response, as far as it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requested_by: Option<String>,
    /// Who released it, when that happened before the folder was sealed; later, `release.json` says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub released_by: Option<String>,
    /// What we ourselves did to the target, in order: with the artifacts' times it tells what each was taken after.
    pub deeds: Vec<Deed>,
    /// The clocks that times were taken from.
    pub clocks: Vec<ClockFacts>,
    /// What else whoever reads this should know: what was not tried, and why.
    pub notes: Vec<String>,
}

/// An alert; free text of whoever raised it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Incident {
    /// Its number or name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// How bad it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub severity: Option<String>,
    /// Who raised it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Where it is described.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// An object of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectFacts {
    /// What it is.
    pub kind: String,
    /// Of which group and version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    /// Where; none for what has no namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Which of that name.
    pub uid: String,
}

/// A cluster and what acted on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterFacts {
    /// Its name, as the operator was told.
    pub name: String,
    /// Its resource ID in Azure, as the operator was told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_id: Option<String>,
    /// The UID of its namespace `kube-system`, which no two clusters share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// The API server's version.
    pub api_server_version: String,
    /// The operator's version.
    pub operator_version: String,
}

/// Where evidence is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StoreFacts {
    /// The EvidenceStore's name.
    pub name: String,
    /// `Verified`, `Absent` or `Unknown`: what the service reported of write-once protection when the store was tried last.
    pub immutability: String,
}

/// A command that was run in a container of the target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CommandFacts {
    /// The exact command, program first. There was no shell but one that it names.
    pub argv: Vec<String>,
    /// The container that it was run in.
    pub container: String,
    /// The runtime's ID of that very container.
    pub container_id: String,
    /// When it was asked for, by the operator's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it was known to have ended, or was let go of, by the operator's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// Its exit status; none, when nobody can know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// How it ended, in words.
    pub ended: String,
}

/// What was collected from, as it was when the folder was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TargetFacts {
    /// Itself.
    #[serde(flatten)]
    pub object: ObjectFacts,
    /// The node that it runs on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// What owns it, the nearest first.
    pub owners: Vec<ObjectFacts>,
    /// Its containers.
    pub containers: Vec<ContainerFacts>,
    /// Its volumes.
    pub volumes: Vec<VolumeFacts>,
}

/// A container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerFacts {
    /// Its name in the pod.
    pub name: String,
    /// `Container`, `InitContainer` or `EphemeralContainer`.
    pub kind: String,
    /// The runtime's ID of the very container; another one is another container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// The image that was asked for.
    pub image: String,
    /// The image that runs, by digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_id: Option<String>,
    /// How often it was restarted: what was in its memory and on its own file system before is lost.
    pub restart_count: i32,
}

/// A volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeFacts {
    /// Its name in the pod.
    pub name: String,
    /// What kind of source, such as `emptyDir`.
    pub kind: String,
    /// Which one: a claim, a secret, a path of the node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// Something that we ourselves did to the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deed {
    /// When, by the operator's clock. What is taken from a status has whole seconds: within that second it may have been before or after something else.
    pub at: Timestamp,
    /// What, by which response, such as `IncidentResponse soc/a: isolate is Done (CutInForce): cut off in its network namespace`.
    pub what: String,
}

/// A clock, compared with the operator's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClockFacts {
    /// Whose: `operator`, `apiServer`, `store`, or `node/NAME`.
    pub whose: String,
    /// What it read when the operator's read `at`.
    pub at: Timestamp,
    /// How many milliseconds it was ahead; negative: behind.
    pub offset_ms: i64,
    /// How far that may be wrong, in milliseconds.
    pub uncertainty_ms: u64,
}

/// By which way the bytes came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// The API server's own data.
    ApiServer,
    /// The kubelet, through the API server: logs.
    Kubelet,
    /// The agent on the node, which reads from outside of the container.
    NodeAgent,
    /// Programs in the container itself: whoever has the container may have replaced them.
    ContainerTools,
}

/// What became of an artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all_fields = "camelCase", tag = "result")]
pub enum Outcome {
    /// It is there as a whole.
    Done,
    /// It is there up to the limit.
    Truncated,
    /// What is there is what came before it broke off; nothing may be there at all.
    Failed {
        /// Why.
        why: String,
    },
    /// What is there is what came in time.
    TimedOut,
    /// What is there is what came before it was cancelled.
    Cancelled,
}

/// What is to be collected, before it is begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArtifactPlan {
    /// Its name below `data/`, such as `web/processes.txt`; made safe ([`super::safe_path`]). One that is taken gets a number (`web/processes.txt~2`): what was
    /// collected again lies beside what was collected before.
    pub name: String,
    /// What it is, in words.
    pub what: String,
    /// By which way.
    pub source: Source,
    /// The container that it is of.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub container: Option<String>,
    /// The exact command that is run, program first; or the request that is made.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub argv: Vec<String>,
}

/// What the source of an artifact says when it has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SourceReport {
    /// Why it is not whole, though its stream ended; for an exec without a status, for instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broken: Option<String>,
    /// Why there was more than was sent, where the source itself says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncated: Option<String>,
    /// The exit status of the command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The end of what it wrote to stderr, at most [`STDERR`] bytes of it are kept.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stderr: String,
    /// What a program in the container says its output's digest is. A claim, beside [`ArtifactRecord::sha256`], which is ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claimed: Option<Claim>,
    /// Of a file: what its file system says of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<FileFacts>,
}

/// At most so much of [`SourceReport::stderr`] is kept, in bytes.
pub const STDERR: usize = 1024;

/// What somebody else says the bytes are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// Who says so.
    pub by: String,
    /// In hex.
    pub sha256: String,
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub length: Option<u64>,
}

/// What a file system says of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileFacts {
    /// Its path in the container.
    pub path: String,
    /// Type and permissions, in octal, such as `0100644`.
    pub mode: String,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// When it was last read, as far as the mount keeps that.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub accessed: Option<Timestamp>,
    /// When its content last changed. Anybody who may write it can set this.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub modified: Option<Timestamp>,
    /// When anything of it last changed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub changed: Option<Timestamp>,
    /// When it was made, where the file system knows.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub born: Option<Timestamp>,
}

/// What was collected, or could not be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArtifactRecord {
    /// What was to be collected. The name is the one it got.
    #[serde(flatten)]
    pub plan: ArtifactPlan,
    /// What became of it.
    pub outcome: Outcome,
    /// When it was begun, by the operator's clock.
    pub started_at: Timestamp,
    /// When its stream ended, by the operator's clock.
    pub ended_at: Timestamp,
    /// What its source said at the end.
    #[serde(flatten)]
    pub report: SourceReport,
    /// The blob; none, when there is none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub blob: Option<BlobFacts>,
    /// Whether the command was too long to be kept through a restart of the operator: its end is missing.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub shortened: bool,
}

/// The bytes in custody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlobFacts {
    /// Relative to the folder.
    pub path: String,
    /// Bytes.
    pub length: u64,
    /// In hex, over the bytes as the operator received them.
    pub sha256: String,
    /// The store's.
    pub etag: String,
    /// The store's, where the account keeps versions.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub version_id: Option<String>,
}

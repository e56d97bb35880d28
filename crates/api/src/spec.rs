//! What a responder asks for.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;
use crate::{Duration, IncidentResponseStatus};

/// A response to a security incident, carried out by the operator and undone when it is released or deleted.
///
/// `spec` is immutable except `expireAfter` and `release`.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[kube(
    group = "tourniquet.dev",
    version = "v1alpha1",
    kind = "IncidentResponse",
    plural = "incidentresponses",
    shortname = "ir",
    category = "security",
    namespaced,
    derive = "PartialEq",
    status = "IncidentResponseStatus",
    doc = "A response to a security incident: carried out when it is created, undone when it is released or deleted.",
    selectable = ".spec.incident.id",
    selectable = ".spec.target.pod.namespace",
    selectable = ".spec.target.pod.name",
    selectable = ".spec.target.pods.namespace",
    selectable = ".spec.target.namespace.name",
    selectable = ".spec.target.node.name",
    printcolumn(name = "Target", type_ = "string", json_path = ".status.target"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(
        name = "Contained",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Contained")].status"#
    ),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Incident", type_ = "string", json_path = ".spec.incident.id"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    // `has` also of what is required, in all rules: they run on every write to what is stored, and what is stored can be older than the
    // schema. A rule that says no to what nobody changed is a warning then (KEP-4008), but one that fails for want of a field refuses the
    // write all the same, be it our own status or finalizer (measured on 1.36: "no such key: actions evaluating rule").
    validation = Rule::new("has(self.target) == has(oldSelf.target) && (!has(self.target) || self.target == oldSelf.target)")
        .message("spec.target cannot change: delete this response and create another")
        .field_path(".target"),
    validation = Rule::new("has(self.actions) == has(oldSelf.actions) && (!has(self.actions) || self.actions == oldSelf.actions)")
        .message("spec.actions cannot change: delete this response and create another")
        .field_path(".actions"),
    validation = Rule::new(
        "has(self.incident) == has(oldSelf.incident) && (!has(self.incident) || self.incident == oldSelf.incident)")
        .message("spec.incident cannot change: delete this response and create another"),
    validation = Rule::new(
        "has(self.requestedBy) == has(oldSelf.requestedBy) && (!has(self.requestedBy) || self.requestedBy == oldSelf.requestedBy)")
        .message("spec.requestedBy cannot change: delete this response and create another"),
    validation = Rule::new("self.?overrideProtection.orValue(false) == oldSelf.?overrideProtection.orValue(false)")
        .message("spec.overrideProtection cannot change: delete this response and create another"),
    validation = Rule::new("self.?dryRun.orValue(false) == oldSelf.?dryRun.orValue(false)")
        .message("spec.dryRun cannot change: create another response without it to carry the plan out"),
    validation = Rule::new("!oldSelf.?release.orValue(false) || self.?release.orValue(false)")
        .message("spec.release is one way: create another response to contain the target again"),
    validation = Rule::new(
        "!has(self.actions) || !has(self.target) || self.actions.all(a, !has(a.isolate) || !has(self.target.node))")
        .message("isolate acts on a pod, pods or a namespace: for a node, use cordon"),
    validation = Rule::new(
        "!has(self.actions) || !has(self.target) || self.actions.all(a, !has(a.cordon) || has(self.target.node))")
        .message("cordon acts on a node: name one in target.node"),
    validation = Rule::new(
        "!has(self.actions) || !has(self.target) || \
         self.actions.all(a, !has(a.collect) && !has(a.run) || has(self.target.pod) || has(self.target.pods))")
        .message("collect and run act on pods: name them in target.pod or target.pods")
)]
pub struct IncidentResponseSpec {
    /// Facts of the alert, carried into events, evidence and reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incident: Option<Incident>,

    /// Who asked for this. Admission refuses a name that is not the requester's own; leave it out in GitOps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::text_256")]
    pub requested_by: Option<String>,

    /// What is acted on.
    pub target: Target,

    /// What is done, in this order.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(validation = Rule::new(
        "self.all(a, self.exists_one(b, \
         (has(a.name) ? a.name : has(a.label) ? 'label' : has(a.isolate) ? 'isolate' : has(a.cordon) ? 'cordon' : \
         has(a.collect) ? 'collect' : 'run') == \
         (has(b.name) ? b.name : has(b.label) ? 'label' : has(b.isolate) ? 'isolate' : has(b.cordon) ? 'cordon' : \
         has(b.collect) ? 'collect' : 'run')))")
        .message("two actions have the same name (an action without one is called like its verb): give each its own"))]
    // What is stored has to fit into etcd (1.5 MiB), in an alphabet of four bytes a character as well.
    #[x_kube(validation = Rule::new(
        "self.map(a, has(a.collect) && has(a.collect.files) ? size(a.collect.files) : 0).sum() <= 64")
        .message("a response collects at most 64 files in all: create a second response for the others"))]
    #[x_kube(validation = Rule::new(
        "self.map(a, has(a.run) ? (has(a.run.command) ? size(a.run.command) : 0) + \
         (has(a.run.undo) && has(a.run.undo.command) ? size(a.run.undo.command) : 0) : 0).sum() <= 64")
        .message("the commands of a response have at most 64 arguments in all: create a second response for the others"))]
    pub actions: Vec<Action>,

    /// Release by itself this long after creation. There is no default: a containment never ends because nobody thought
    /// of it.
    ///
    /// It can be made longer or shorter while the response is in force; one that has passed by then releases at once. When the
    /// undo has begun, a longer one comes too late: what was let go is not contained anew, and `status.expiresAt` stays
    /// what it was. Create another response then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('[1-9]')").message("expireAfter must be longer than zero"))]
    pub expire_after: Option<Duration>,

    /// Undo, and keep this record. One way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<bool>,

    /// Act on a protected namespace, on a pod that backs a fail-closed webhook, or beyond the operator's budget. Needs the right
    /// `override-protection`.
    #[serde(default)]
    pub override_protection: bool,

    /// Publish the plan in status and touch nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// Facts of the alert that this response answers. Free strings from outside: shown, never interpreted.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Incident {
    /// The incident's identifier in its source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::text_256")]
    pub id: Option<String>,
    /// The incident's title.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::text_1024")]
    pub title: Option<String>,
    /// The severity, in the source's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::text_256")]
    pub severity: Option<String>,
    /// Where the incident comes from, such as `MicrosoftSentinel`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::text_256")]
    pub source: Option<String>,
    /// A link to the incident.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::text_1024")]
    pub url: Option<String>,
}

/// What a response acts on: exactly one of the fields.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "[has(self.pod), has(self.pods), has(self.namespace), has(self.node)].filter(x, x).size() == 1")
    .message("a target is exactly one of pod, pods, namespace and node"))]
pub struct Target {
    /// One pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodTarget>,
    /// Several pods of one namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<PodsTarget>,
    /// A namespace and every pod in it, future ones included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<NamespaceTarget>,
    /// A node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeTarget>,
}

/// One pod.
#[derive(JsonSchema, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodTarget {
    /// The pod's namespace.
    #[schemars(schema_with = "schema::dns_label")]
    pub namespace: String,
    /// The pod's name.
    #[schemars(schema_with = "schema::subdomain")]
    pub name: String,
    /// Refuse a pod of this name that has another UID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::uid")]
    pub uid: Option<String>,
    /// Refuse a pod of this name that was created at or after this time: usually the time of the alert.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time")]
    pub created_before: Option<Time>,
}

/// Several pods of one namespace, by selector or by owner, as they are when the response is accepted.
#[derive(KubeSchema, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.selector) != has(self.owner)")
    .message("pods are named by exactly one of selector and owner"))]
pub struct PodsTarget {
    /// The pods' namespace.
    #[schemars(schema_with = "schema::dns_label")]
    pub namespace: String,
    /// The pods that these labels select.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
    /// The pods of this workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// More matching pods than this refuse the response.
    #[serde(default = "ten")]
    #[schemars(range(min = 1, max = 50))]
    pub limit: i32,
}

fn ten() -> i32 {
    10
}

/// A label selector, as everywhere in Kubernetes, with bounds. An empty one is refused: it would select every pod.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "(has(self.matchLabels) && size(self.matchLabels) > 0) || (has(self.matchExpressions) && size(self.matchExpressions) > 0)")
    .message("an empty selector selects every pod of the namespace: to isolate all of them, use target.namespace"))]
pub struct Selector {
    /// Labels that a pod must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::labels_to_match")]
    pub match_labels: BTreeMap<String, String>,
    /// Further requirements; all must hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub match_expressions: Vec<Requirement>,
}

/// One requirement of a [`Selector`].
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "!has(self.operator) || (self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)")
    .message("In and NotIn need values; Exists and DoesNotExist take none"))]
pub struct Requirement {
    /// The label's key.
    #[schemars(schema_with = "schema::label_key")]
    pub key: String,
    /// How the label relates to `values`.
    pub operator: Operator,
    /// The values, for `In` and `NotIn`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::label_values")]
    pub values: Vec<String>,
}

/// The operators of a label selector.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[allow(missing_docs, reason = "the names are those of Kubernetes")]
pub enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

/// A workload whose pods are meant.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// The workload's kind.
    pub kind: OwnerKind,
    /// The workload's name.
    #[schemars(schema_with = "schema::subdomain")]
    pub name: String,
}

/// The kinds of workload whose pods can be named through them.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[allow(missing_docs, reason = "the names are those of Kubernetes")]
pub enum OwnerKind {
    Deployment,
    StatefulSet,
    DaemonSet,
    ReplicaSet,
    Job,
}

/// A namespace.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceTarget {
    /// The namespace's name.
    #[schemars(schema_with = "schema::dns_label")]
    pub name: String,
    /// Refuse a namespace of this name that has another UID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::uid")]
    pub uid: Option<String>,
}

/// A node.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeTarget {
    /// The node's name.
    #[schemars(schema_with = "schema::subdomain")]
    pub name: String,
    /// Refuse a node of this name that has another UID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::uid")]
    pub uid: Option<String>,
}

/// One thing to do: exactly one verb.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "[has(self.label), has(self.isolate), has(self.cordon), has(self.collect), has(self.run)].filter(x, x).size() == 1")
    .message("an action has exactly one verb: label, isolate, cordon, collect or run"))]
pub struct Action {
    /// The action's name in status. Without one it is called like its verb.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::dns_label")]
    pub name: Option<String>,
    /// Whether the actions after this one are skipped when it fails.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// Set labels on the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<Label>,
    /// Cut the target off from the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolate: Option<Isolate>,
    /// Keep new pods off the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cordon: Option<Cordon>,
    /// Collect artifacts into an evidence store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collect: Option<Collect>,
    /// Run a command in a container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<Run>,
}

/// What a failed action means for those after it.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum OnFailure {
    /// Go on with the next action.
    #[default]
    Continue,
    /// Skip the actions that follow.
    Stop,
}

/// Set labels on the target.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Label {
    /// The labels.
    #[schemars(schema_with = "schema::labels_to_set")]
    pub set: BTreeMap<String, String>,
    /// Replace a value that somebody else set; it is put back on undo.
    #[serde(default)]
    pub overwrite: bool,
}

/// Cut the target off from the network. It has no options.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Isolate {}

/// Keep new pods off the node. It has no options.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Cordon {}

/// Collect artifacts into an evidence store.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.headStart) || !self.headStart.matches('^[0-9hms]+$') || duration(self.headStart) <= duration('60s')")
    .message("headStart is at most 60s: collecting goes on beside what follows"))]
pub struct Collect {
    /// The evidence store.
    pub store_ref: StoreRef,
    /// How long the actions after this one wait for the volatile artifacts.
    #[serde(default = "five_seconds")]
    pub head_start: Duration,
    /// How long collecting may take in all.
    #[serde(default = "thirty_minutes")]
    pub timeout: Duration,
    /// What to collect.
    #[serde(default = "everything")]
    #[schemars(length(max = 5))]
    pub include: Vec<Artifact>,
    /// Files and folders to collect.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub files: Vec<FilePath>,
    /// Processes whose memory to collect, by process id or name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 64)))]
    pub memory: Vec<String>,
    /// Collect the values of environment variables as well as their names. They often hold secrets.
    #[serde(default)]
    pub environment_values: bool,
}

fn five_seconds() -> Duration {
    Duration::from_secs(5)
}

fn thirty_minutes() -> Duration {
    Duration::from_secs(30 * 60)
}

fn everything() -> Vec<Artifact> {
    vec![Artifact::Processes, Artifact::Connections, Artifact::Manifest, Artifact::Events, Artifact::Logs]
}

/// Kinds of artifact.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum Artifact {
    /// The processes, from /proc.
    Processes,
    /// The open sockets.
    Connections,
    /// The pod and what belongs to it, from the API server.
    Manifest,
    /// The events about the pod.
    Events,
    /// The logs of every container.
    Logs,
}

/// A file or folder in a container.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FilePath {
    /// The container; without one, the pod's only container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::dns_label")]
    pub container: Option<String>,
    /// The absolute path.
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = Rule::new("self.startsWith('/')").message("write an absolute path, such as /etc/passwd"))]
    pub path: String,
}

/// A reference to an evidence store.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreRef {
    /// The evidence store's name.
    #[schemars(schema_with = "schema::subdomain")]
    pub name: String,
}

/// Run a command in a container, at most once.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// The container; without one, the pod's only container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::dns_label")]
    pub container: Option<String>,
    /// The program and its arguments. There is no shell unless you name one.
    #[schemars(schema_with = "schema::command")]
    pub command: Vec<String>,
    /// How long the command may take.
    #[serde(default = "one_minute")]
    pub timeout: Duration,
    /// Where the whole of both outputs goes, apart from each other, up to 16 GiB each; without one only their ends are kept, in status.
    ///
    /// The command is never begun later for the store's sake. One that takes nothing for 10 s, or holds the command up for half of its timeout in all, gets
    /// no more of it, and what is missing is said. The outputs of `undo.command` are not stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_ref: Option<StoreRef>,
    /// What to run on release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<RunUndo>,
}

fn one_minute() -> Duration {
    Duration::from_secs(60)
}

/// The command that undoes a [`Run`].
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RunUndo {
    /// The program and its arguments.
    #[schemars(schema_with = "schema::command")]
    pub command: Vec<String>,
}

/// The verbs, in the order of the API documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// Set labels.
    Label,
    /// Cut off from the network.
    Isolate,
    /// Keep new pods off.
    Cordon,
    /// Collect artifacts.
    Collect,
    /// Run a command.
    Run,
}

impl Verb {
    /// The verb as it stands in a manifest, in RBAC and in status.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Label => "label",
            Self::Isolate => "isolate",
            Self::Cordon => "cordon",
            Self::Collect => "collect",
            Self::Run => "run",
        }
    }
}

impl std::fmt::Display for Verb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Action {
    /// The action's one verb. `None` for an action without any, which the API server refuses; a stored object can still
    /// have one when it was stored under another schema.
    #[must_use]
    pub fn verb(&self) -> Option<Verb> {
        if self.label.is_some() {
            Some(Verb::Label)
        } else if self.isolate.is_some() {
            Some(Verb::Isolate)
        } else if self.cordon.is_some() {
            Some(Verb::Cordon)
        } else if self.collect.is_some() {
            Some(Verb::Collect)
        } else if self.run.is_some() {
            Some(Verb::Run)
        } else {
            None
        }
    }

    /// The action's name in status: its own, or its verb.
    #[must_use]
    pub fn effective_name(&self) -> &str {
        self.name.as_deref().or(self.verb().map(Verb::as_str)).unwrap_or("none")
    }
}

//! The ways to touch a cluster. The set is closed: actions combine these, and each is built and tested once.

use std::fmt;

use serde_json::{Value, json};

use crate::task::{TaskKey, Work};

/// The kinds of object that effects touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A pod.
    Pod,
    /// A namespace.
    Namespace,
    /// A node.
    Node,
    /// A network policy: additive, understood by every policy engine.
    NetworkPolicy,
    /// Cilium's cluster-wide policy, which has a deny tier.
    CiliumClusterwideNetworkPolicy,
    /// A tier of Calico's: whose policies come before others'.
    Tier,
    /// Calico's cluster-wide policy, which is in a tier.
    GlobalNetworkPolicy,
    /// What the agent on a node is asked for.
    Containment,
}

impl Kind {
    /// The kind's `apiVersion`.
    #[must_use]
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::Pod | Self::Namespace | Self::Node => "v1",
            Self::NetworkPolicy => "networking.k8s.io/v1",
            Self::CiliumClusterwideNetworkPolicy => "cilium.io/v2",
            Self::Tier | Self::GlobalNetworkPolicy => "projectcalico.org/v3",
            Self::Containment => "internal.tourniquet.dev/v1alpha1",
        }
    }

    /// The kind's name in manifests.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pod => "Pod",
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::CiliumClusterwideNetworkPolicy => "CiliumClusterwideNetworkPolicy",
            Self::Tier => "Tier",
            Self::GlobalNetworkPolicy => "GlobalNetworkPolicy",
            Self::Containment => "Containment",
        }
    }

    /// The kind's name in paths and in RBAC.
    #[must_use]
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Pod => "pods",
            Self::Namespace => "namespaces",
            Self::Node => "nodes",
            Self::NetworkPolicy => "networkpolicies",
            Self::CiliumClusterwideNetworkPolicy => "ciliumclusterwidenetworkpolicies",
            Self::Tier => "tiers",
            Self::GlobalNetworkPolicy => "globalnetworkpolicies",
            Self::Containment => "containments",
        }
    }
}

/// One object of the cluster. With a UID it is that object and never another one of the same name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    /// The object's kind.
    pub kind: Kind,
    /// The namespace, of a namespaced kind.
    pub namespace: Option<String>,
    /// The name.
    pub name: String,
    /// The UID. Absent only for an object of ours that may not exist yet.
    pub uid: Option<String>,
}

impl ObjectRef {
    /// The object as the start of a manifest: `apiVersion`, `kind` and the metadata that identify it.
    ///
    /// The UID is in it: an apply to a name that has vanished would create an object, and with the UID it is a 409
    /// instead (Kubernetes 1.36, apiserver `patch.go`).
    #[must_use]
    pub fn manifest(&self) -> Value {
        let mut metadata = serde_json::Map::new();
        metadata.insert("name".into(), json!(self.name));
        if let Some(namespace) = &self.namespace {
            metadata.insert("namespace".into(), json!(namespace));
        }
        if let Some(uid) = &self.uid {
            metadata.insert("uid".into(), json!(uid));
        }
        json!({ "apiVersion": self.kind.api_version(), "kind": self.kind.as_str(), "metadata": metadata })
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind.as_str(), self.name),
            None => write!(f, "{} {}", self.kind.as_str(), self.name),
        }
    }
}

/// One way to touch the cluster.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Server-side apply of some fields of somebody else's object, under a manager of the response's own and never
    /// forced: what others hold stays theirs.
    Apply {
        /// Whose fields.
        object: ObjectRef,
        /// The field manager.
        manager: String,
        /// The whole of what this manager holds, merged into the object's manifest.
        fields: Value,
    },
    /// Server-side apply of nothing: what the manager held goes, unless somebody else holds it as well.
    Withdraw {
        /// Whose fields.
        object: ObjectRef,
        /// The field manager.
        manager: String,
    },
    /// Replaces fields that somebody else holds, of the very version that was seen. What they were is in the journal of the
    /// status before, and is put back by the same effect.
    ///
    /// A merge patch with UID and version rather than a JSON patch that tests the value: the version also tells that nobody
    /// has become another holder of the value since.
    Patch {
        /// Whose fields.
        object: ObjectRef,
        /// The field manager.
        manager: String,
        /// The version that was seen.
        version: Option<String>,
        /// The fields, as a merge patch.
        fields: Value,
    },
    /// Creates an object of ours, or replaces it by what it has to be: an apply would leave in it what somebody added.
    Put {
        /// The object. With a UID it is replaced, without one created.
        object: ObjectRef,
        /// The field manager.
        manager: String,
        /// The whole manifest.
        manifest: Value,
        /// The version of the object that is replaced, as it was seen; another one is looked at again first.
        replaces: Option<String>,
    },
    /// Deletes an object of ours, by its UID.
    Delete {
        /// The object.
        object: ObjectRef,
        /// Only this version of it, where a newer one may matter to somebody else.
        version: Option<String>,
    },
    /// Begins what takes its time. That it was to begin is in the journal of the status before; how it stands is seen by the next look.
    Start {
        /// The object that it is about.
        object: ObjectRef,
        /// Which one it is. It is begun once, however often this is asked for.
        key: TaskKey,
        /// What is to be done.
        work: Work,
    },
    /// Ends what takes its time before its end.
    Stop {
        /// The object that it is about.
        object: ObjectRef,
        /// Which one it is.
        key: TaskKey,
    },
}

impl Effect {
    /// The object that is touched.
    #[must_use]
    pub const fn object(&self) -> &ObjectRef {
        match self {
            Self::Apply { object, .. }
            | Self::Withdraw { object, .. }
            | Self::Patch { object, .. }
            | Self::Put { object, .. }
            | Self::Delete { object, .. }
            | Self::Start { object, .. }
            | Self::Stop { object, .. } => object,
        }
    }

    /// The effect's verb, for plans and logs.
    #[must_use]
    pub const fn verb(&self) -> &'static str {
        match self {
            Self::Apply { .. } => "Apply",
            Self::Withdraw { .. } => "Withdraw",
            Self::Patch { .. } => "Patch",
            Self::Put { .. } => "Put",
            Self::Delete { .. } => "Delete",
            Self::Start { work: Work::Command(_), .. } => "Run",
            Self::Start { work: Work::Seal(_), .. } => "SealOutputs",
            Self::Start { work: Work::Collection(_), .. } => "Collect",
            Self::Start { work: Work::Release(_), .. } => "RecordRelease",
            Self::Stop { .. } => "Stop",
        }
    }

    /// What changes, in one line, for plans.
    #[must_use]
    pub fn change(&self) -> String {
        match self {
            Self::Apply { fields, .. } | Self::Patch { fields, .. } => fields.to_string(),
            Self::Withdraw { manager, .. } => format!("everything held by {manager}"),
            Self::Put { manifest, .. } => manifest.get("spec").map_or_else(String::new, Value::to_string),
            Self::Delete { .. } => "the object".to_owned(),
            Self::Start { work, .. } => work.describe(),
            Self::Stop { key, .. } => key.to_string(),
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb(), self.object())
    }
}

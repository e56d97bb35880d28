//! What the receipt rests on: summaries, since a cluster has any number of pods and bindings, and a decision needs little of each.

use k8s_openapi::api::core::v1::{PersistentVolumeClaimVolumeSource, Pod};
use k8s_openapi::api::rbac::v1::{PolicyRule, RoleRef, Subject};

/// Something that may fail to be looked at without the response failing; the text says why.
pub type Looked<T> = Result<T, String>;

/// What RBAC grants a service account.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Grants {
    /// Each binding that names the account or a group that it is in.
    pub bindings: Vec<Grant>,
    /// What was not looked at, such as the bindings beyond a limit.
    pub left_out: Vec<String>,
}

/// A binding that names a service account or a group that it is in, and what it grants.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Grant {
    /// The namespace of a RoleBinding; none of a ClusterRoleBinding.
    pub namespace: Option<String>,
    /// The binding's name.
    pub name: String,
    /// How many subjects it has.
    pub subjects: usize,
    /// Those that are the account or its groups, each with its place in the list.
    pub matched: Vec<(usize, Subject)>,
    /// What it refers to: `Role` or `ClusterRole`.
    pub role_kind: String,
    /// The role's name.
    pub role: String,
    /// The role's rules; none when there is no such role.
    pub rules: Vec<PolicyRule>,
}

impl Grant {
    /// A binding as far as it concerns a service account; nothing when it does not. Its rules are read after that.
    #[must_use]
    pub fn of(
        (namespace, name): (Option<&str>, &str),
        role: &RoleRef,
        subjects: &[Subject],
        (account_namespace, account): (&str, &str),
    ) -> Option<Self> {
        let matched: Vec<(usize, Subject)> = subjects
            .iter()
            .enumerate()
            .filter(|(_, subject)| is(subject, account_namespace, account))
            .map(|(place, subject)| (place, subject.clone()))
            .collect();
        (!matched.is_empty()).then(|| Self {
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
            subjects: subjects.len(),
            matched,
            role_kind: role.kind.clone(),
            role: role.name.clone(),
            rules: Vec::new(),
        })
    }
}

/// Whether a subject is the account, by itself or by a group that the API server puts it in (Kubernetes 1.36,
/// `serviceaccount.MakeGroupNames`).
fn is(subject: &Subject, namespace: &str, account: &str) -> bool {
    match subject.kind.as_str() {
        "ServiceAccount" => subject.name == account && subject.namespace.as_deref() == Some(namespace),
        "User" => subject.name == format!("system:serviceaccount:{namespace}:{account}"),
        "Group" => {
            matches!(subject.name.as_str(), "system:serviceaccounts" | "system:authenticated")
                || subject.name == format!("system:serviceaccounts:{namespace}")
        }
        _ => false,
    }
}

/// Pods that may have something in common with a target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Neighbours {
    /// Those that have not finished; the target is among them.
    pub pods: Vec<Neighbour>,
    /// Whether there are more pods than were looked at.
    pub more: bool,
}

/// What of a pod it can have in common with another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Neighbour {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its service account.
    pub account: String,
    /// Its node.
    pub node: String,
    /// The PersistentVolumeClaims that it mounts.
    pub claims: Vec<String>,
    /// The paths of its node that it mounts.
    pub host_paths: Vec<String>,
    /// The images that its containers run, as the runtime identifies them.
    pub images: Vec<String>,
}

impl From<&Pod> for Neighbour {
    fn from(pod: &Pod) -> Self {
        let spec = pod.spec.as_ref();
        let volumes = || spec.into_iter().flat_map(|spec| spec.volumes.iter().flatten());
        let claim = |claim: &PersistentVolumeClaimVolumeSource| claim.claim_name.clone();
        let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        Self {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            account: account(pod).to_owned(),
            node: spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
            claims: volumes().filter_map(|volume| volume.persistent_volume_claim.as_ref().map(claim)).collect(),
            host_paths: volumes().filter_map(|volume| Some(volume.host_path.as_ref()?.path.clone())).collect(),
            images: statuses.map(|status| status.image_id.clone()).filter(|image| !image.is_empty()).collect(),
        }
    }
}

/// The service account of a pod.
pub(super) fn account(pod: &Pod) -> &str {
    let named = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
    named.filter(|name| !name.is_empty()).unwrap_or("default")
}

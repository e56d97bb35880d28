//! Every name that a response leaves in a cluster, derived from the response's UID.
//!
//! Names are derived, not remembered: undo needs no memory of them, every trace of a response can be listed, and no
//! response can collide with another one. A UID has 36 characters, so each name below stays within the 63 characters
//! that Kubernetes allows for the name part of a label key and for a label value, whatever the response is called.

/// Label on a Containment: the namespace of its pod, by which those of a namespace are listed.
pub const POD_NAMESPACE_LABEL: &str = "tourniquet.dev/pod-namespace";

/// The finalizer that keeps a response until it has been undone.
pub const FINALIZER: &str = "tourniquet.dev/undo";

/// Label on objects that a response created (policies); the value is the response's UID.
pub const RESPONSE_LABEL: &str = "tourniquet.dev/response";

/// Label on pods that at least one response contains, with the value [`CONTAINED_VALUE`]. It selects nothing; it lets
/// people list contained pods, and the operator watch what Cilium reports of them.
pub const CONTAINED_LABEL: &str = "tourniquet.dev/contained";

/// The one value of [`CONTAINED_LABEL`]. It is the same for every response, so that server-side apply co-owns it and the
/// label goes with the last one.
pub const CONTAINED_VALUE: &str = "true";

/// Annotation on objects that a response created: `namespace/name` of that response, for people.
pub const RESPONSE_ANNOTATION: &str = "tourniquet.dev/incident-response";

/// Annotation on a response's network policy: the engine whose deny tier was put beside it. It says that a release has to look there, also
/// where nobody answers for the kind at the moment.
pub const TIER_ANNOTATION: &str = "tourniquet.dev/tier";

/// Prefix of the label keys that policies select pods by; see [`isolation_label`].
pub const ISOLATION_LABEL_PREFIX: &str = "isolate.tourniquet.dev/";

/// The value of the label of [`isolation_label`].
pub const ISOLATION_VALUE: &str = "true";

/// Who creates and deletes the objects that belong to one response alone, and writes its status.
pub const OPERATOR_MANAGER: &str = "tourniquet";

/// The label key by which the policies of the response with this UID select a pod.
///
/// One key per response (not one value), so that any number of responses can hold the same pod.
#[must_use]
pub fn isolation_label(response_uid: &str) -> String {
    format!("{ISOLATION_LABEL_PREFIX}{response_uid}")
}

/// The UID of the response that put this label key on a pod, if it is one of ours.
#[must_use]
pub fn response_of_isolation_label(key: &str) -> Option<&str> {
    key.strip_prefix(ISOLATION_LABEL_PREFIX)
}

/// The server-side apply field manager of the response with this UID. At most 128 characters are allowed.
#[must_use]
pub fn field_manager(response_uid: &str) -> String {
    format!("{OPERATOR_MANAGER}-{response_uid}")
}

/// The UID of the response whose field manager this is, if it is one of ours.
#[must_use]
pub fn response_of_field_manager(manager: &str) -> Option<&str> {
    manager.strip_prefix(OPERATOR_MANAGER)?.strip_prefix('-')
}

/// The name of the policy objects of the response with this UID, and of its tier where Calico's are.
#[must_use]
pub fn policy(response_uid: &str) -> String {
    format!("{OPERATOR_MANAGER}-{response_uid}")
}

/// The name of Calico's policy of the response with this UID. Until version 3.31 Calico refuses one that does not begin with its tier's
/// (`ValidateTieredPolicyName`); later versions take it as it is.
#[must_use]
pub fn calico_policy(response_uid: &str) -> String {
    format!("{}.isolate", policy(response_uid))
}

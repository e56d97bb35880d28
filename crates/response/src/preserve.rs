//! What keeps the evidence from being chosen for removal (law 10): annotations by which autoscalers leave a node and a pod alone, and a
//! ReplicaSet that is scaled down takes other pods first.
//!
//! Applied under the response's own manager beside whatever its actions do, and withdrawn with it. They are a help and no promise: whoever
//! deletes the pod or drains the node does so all the same. What somebody else has set to another value is left, and said.

use serde_json::{Map, Value, json};
use tourniquet_api::{PinnedTarget, Residual, names};

use crate::effect::{Effect, Kind};
use crate::fields::Fields;
use crate::target::{self, describe};

/// The name under which steps of this are reported: no action's.
pub(crate) const PRESERVE: &str = "preserve";

/// The code of what could not be preserved.
const NOT_PRESERVED: &str = "NotPreserved";

/// The cluster autoscaler does not drain the node of such a pod (`cluster-autoscaler/FAQ.md`), nor does Karpenter, which AKS's node
/// auto-provisioning is (`karpenter.sh/docs/concepts/disruption`); a ReplicaSet takes pods that cost more last (KEP-2255), and this is the most
/// that a pod can cost.
const OF_POD: [(&str, &str); 3] = [
    ("cluster-autoscaler.kubernetes.io/safe-to-evict", "false"),
    ("controller.kubernetes.io/pod-deletion-cost", "2147483647"),
    ("karpenter.sh/do-not-disrupt", "true"),
];

/// The same of a node.
const OF_NODE: [(&str, &str); 2] =
    [("cluster-autoscaler.kubernetes.io/scale-down-disabled", "true"), ("karpenter.sh/do-not-disrupt", "true")];

fn wanted(kind: Kind) -> &'static [(&'static str, &'static str)] {
    match kind {
        Kind::Pod => &OF_POD,
        Kind::Node => &OF_NODE,
        _ => &[],
    }
}

/// What preserving a target takes, and what stands against it.
#[derive(Default)]
pub(crate) struct Preserving {
    pub(crate) effect: Option<Effect>,
    pub(crate) residual: Option<Residual>,
}

/// What is still missing of the annotations.
pub(crate) fn plan(target: &PinnedTarget, fields: &Fields<'_>, response_uid: &str) -> Preserving {
    let Some(kind) = target::kind(target) else { return Preserving::default() };
    let manager = names::field_manager(response_uid);
    let (mut missing, mut others) = (Map::new(), Vec::new());
    for (key, value) in wanted(kind) {
        let holders = fields.holders_of_annotation(key);
        let now = fields.metadata.annotations.as_ref().and_then(|all| all.get(*key));
        if now.is_some_and(|now| now != value) {
            let by: Vec<&str> = holders.iter().map(|holder| holder.manager).collect();
            let by = if by.is_empty() { String::new() } else { format!(", by {}", by.join(", ")) };
            others.push(format!("{key} is {:?}{by}", now.map_or("", String::as_str)));
        } else if !holders.iter().any(|holder| holder.manager == manager && holder.applied) {
            missing.insert((*key).to_owned(), Value::from(*value));
        }
    }
    let object = target::object(target, kind);
    Preserving {
        effect: (!missing.is_empty())
            .then(|| fields.apply(object, &manager, &json!({ "metadata": { "annotations": missing } }))),
        residual: (!others.is_empty()).then(|| not_preserved(target, &others.join("; "))),
    }
}

/// What takes the annotations away again, and whatever else the response has applied to the target.
pub(crate) fn undo(target: &PinnedTarget, fields: &Fields<'_>, response_uid: &str) -> Option<Effect> {
    let kind = target::kind(target).filter(|kind| !wanted(*kind).is_empty())?;
    let manager = names::field_manager(response_uid);
    fields.is_applied_by(&manager).then(|| Effect::Withdraw { object: target::object(target, kind), manager })
}

/// That a target may be removed.
pub(crate) fn not_preserved(target: &PinnedTarget, why: &str) -> Residual {
    Residual {
        code: NOT_PRESERVED.to_owned(),
        severity: "Medium".to_owned(),
        message: format!(
            "{} is not kept from being chosen when the cluster is scaled down: {why}; with it the evidence would go",
            describe(target)
        ),
        remedy: Some(
            "keep the autoscaler, and whoever scales its workload, away from it until the evidence is saved".to_owned(),
        ),
    }
}

/// Whether this is said of a target.
pub(crate) fn is_said(residual: &Residual, target: &PinnedTarget) -> bool {
    residual.code == NOT_PRESERVED && residual.message.starts_with(&format!("{} ", describe(target)))
}

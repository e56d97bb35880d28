//! Calico's deny tier: one tier for each response, before all others, and one policy in it.
//!
//! Read in the sources of Calico 3.32.1, and accepted by its published definitions (`tests/e2e/tests/none_calico.rs`); never tried on a
//! running Calico. What a tier denies no later one allows, and Kubernetes' network policies are in the tier `default`. Calico says of no
//! pod that a policy is in force on it, so nothing here is taken for granted: [`judge`].
//!
//! The pod's own node is not denied, whatever the policy says: Calico does not apply ingress policy to what a host sends to its own
//! workloads (felix/rules/static.go, `filterOutputChain`; felix/bpf-gpl/tc.c: "Host to workload traffic always allowed"). So the
//! kubelet's probes pass, and their answers belong to connections that were let in.

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::{Value, json};
use tourniquet_api::{Answer, Assurance, Outcome, Residual, names};

use super::policies::{self, Scope, kept_by, namespace, put, scope};
use super::verdict::{OTHERS_SETTLE, Seen, Verdict};
use crate::action::{Contained, Context};
use crate::effect::{Effect, Kind, ObjectRef};
use crate::world::{Calico, CalicoTier, ClusterwidePolicy, Unread};

/// The order of our tiers. The lower, the earlier (felix/calc/policy_sorter.go, `TierLess`): Calico's own are at 1,000 (`kube-admin`),
/// 1,000,000 (`default`) and 10,000,000 (`kube-baseline`), and nothing refuses a negative one. It is the same for all responses, which only
/// deny. One that is chosen below whatever is there would be a race with whoever does the same: an earlier tier is said instead.
const ORDER: i64 = -1_000_000;

/// What the network policy says of the deny tier beside it.
pub(super) const NOTED: &str = "calico";

/// What is known of Calico where it may be what enforces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tier {
    /// Tiers of others that come before ours, and may allow what ours denies.
    earlier: Vec<String>,
    /// A network policy that admits everybody to the pod: with it in place, silence is the tier's work.
    admits_everybody: Option<String>,
}

fn tier_ref(cx: &Context<'_>, uid: Option<String>) -> ObjectRef {
    ObjectRef { kind: Kind::Tier, namespace: None, name: names::policy(cx.response_uid), uid }
}

fn policy_ref(cx: &Context<'_>, uid: Option<String>) -> ObjectRef {
    ObjectRef { kind: Kind::GlobalNetworkPolicy, namespace: None, name: names::calico_policy(cx.response_uid), uid }
}

/// What somebody else puts into our tier is not ours to deny by default.
fn tier_spec() -> Value {
    json!({ "order": ORDER, "defaultAction": "Pass" })
}

/// Rules without conditions are for all peers, those outside the cluster included. The namespace is selected by the name that Calico
/// itself gives it (libcalico-go/lib/backend/k8s/conversion, `NameLabel`): a label that nobody else can set.
fn policy_spec(cx: &Context<'_>) -> Value {
    let selector = match scope(cx) {
        Scope::Labelled => {
            format!("{} == '{}'", names::isolation_label(cx.response_uid), names::ISOLATION_VALUE)
        }
        Scope::Namespace => "all()".to_owned(),
    };
    json!({
        "tier": names::policy(cx.response_uid),
        "order": 0,
        "namespaceSelector": format!("projectcalico.org/name == '{}'", namespace(cx)),
        "selector": selector,
        "types": ["Ingress", "Egress"],
        "ingress": [{ "action": "Deny" }],
        "egress": [{ "action": "Deny" }],
    })
}

/// Whether what is stored says what was asked for. Calico's API server writes numbers and empty fields its own way (`"source": {}`).
fn says(seen: &Value, wanted: &Value) -> bool {
    match (seen, wanted) {
        (Value::Object(seen), Value::Object(wanted)) => {
            wanted.iter().all(|(key, wanted)| seen.get(key).is_some_and(|seen| says(seen, wanted)))
                && seen.iter().all(|(key, value)| wanted.contains_key(key) || is_empty(value))
        }
        (Value::Array(seen), Value::Array(wanted)) => {
            seen.len() == wanted.len() && seen.iter().zip(wanted).all(|(seen, wanted)| says(seen, wanted))
        }
        (Value::Number(seen), Value::Number(wanted)) => seen.as_f64() == wanted.as_f64(),
        _ => seen == wanted,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::String(value) => value.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(fields) => fields.values().all(is_empty),
        Value::Number(_) => false,
    }
}

fn put_one(cx: &Context<'_>, seen: Option<&ClusterwidePolicy>, object: ObjectRef, spec: Value) -> Option<Effect> {
    let is_ours = |seen: &ClusterwidePolicy| {
        let of = seen.labels.get(names::RESPONSE_LABEL);
        seen.terminating || says(&seen.spec, &spec) && of.is_some_and(|uid| uid == cx.response_uid)
    };
    (!seen.is_some_and(is_ours)).then(|| put(cx, object, seen.and_then(|seen| seen.resource_version.clone()), spec))
}

/// What puts the tier and its policy in place; nothing when they are. The tier comes first: Calico refuses a policy in one that is not
/// there.
pub(super) fn put_in_place(cx: &Context<'_>) -> Result<Vec<Effect>, Unread> {
    let Calico { tier, policy, .. } = cx.world.calico(&names::policy(cx.response_uid))?;
    let uid = |seen: &Option<ClusterwidePolicy>| seen.as_ref().map(|seen| seen.uid.clone());
    let tier = put_one(cx, tier.as_ref(), tier_ref(cx, uid(tier)), tier_spec());
    let policy = put_one(cx, policy.as_ref(), policy_ref(cx, uid(policy)), policy_spec(cx));
    Ok(tier.into_iter().chain(policy).collect())
}

/// What deletes them, and what keeps those that are being deleted. The policy first: Calico refuses to delete a tier that has one, or
/// keeps it until it has none.
pub(super) fn withdraw(cx: &Context<'_>) -> Result<(Option<Effect>, Option<String>), Unread> {
    let Calico { tier, policy, .. } = cx.world.calico(&names::policy(cx.response_uid))?;
    let seen = match (policy, tier) {
        (Some(policy), _) => Some((policy_ref(cx, Some(policy.uid.clone())), policy)),
        (None, Some(tier)) => Some((tier_ref(cx, Some(tier.uid.clone())), tier)),
        (None, None) => None,
    };
    Ok(match seen {
        Some((object, seen)) if seen.terminating => (None, Some(kept_by(&object, &seen.finalizers))),
        Some((object, _)) => (Some(Effect::Delete { object, version: None }), None),
        None => (None, None),
    })
}

/// What is known of Calico; `None` where its kinds are not served.
pub(super) fn seen(cx: &Context<'_>, admits_everybody: Option<String>) -> Result<Option<Tier>, Unread> {
    if !cx.world.engines()?.calico {
        return Ok(None);
    }
    let ours = names::policy(cx.response_uid);
    let others = cx.world.calico(&ours)?.others.iter().filter(|tier| comes_before(tier, &ours));
    let mut earlier: Vec<String> = others.map(|tier| tier.name.clone()).collect();
    earlier.sort();
    Ok(Some(Tier { earlier, admits_everybody }))
}

/// Whether another tier comes before ours. Those of other responses only deny.
#[allow(clippy::cast_precision_loss, reason = "the one constant is exact")]
fn comes_before(other: &CalicoTier, ours: &str) -> bool {
    let is_of_a_response = other.response_uid.as_deref().is_some_and(|uid| names::policy(uid) == other.name);
    let ours_at = ORDER as f64;
    let is_earlier = other.order.is_some_and(|at| at < ours_at || at <= ours_at && other.name.as_str() < ours);
    is_earlier && !(is_of_a_response && other.order.is_some_and(|at| at >= ours_at))
}

/// A network policy that selects the pod and lets everybody in on all ports. Where policies only add up, ours can then close nothing.
pub(super) fn admits_everybody(pod: &Pod, policies: &[NetworkPolicy]) -> Option<String> {
    let admits = |policy: &&NetworkPolicy| {
        let rules = policy.spec.iter().flat_map(|spec| spec.ingress.iter().flatten());
        let everybody = |list: Option<bool>| list.unwrap_or(true);
        rules.into_iter().any(|rule| {
            everybody(rule.from.as_ref().map(Vec::is_empty)) && everybody(rule.ports.as_ref().map(Vec::is_empty))
        })
    };
    policies
        .iter()
        .filter(admits)
        .filter(|policy| policies::selects(policy, pod))
        .find_map(|policy| policy.metadata.name.clone())
}

impl Tier {
    /// What comes of it with a namespace's pods that start later: what is known, which is not much.
    pub(super) fn of_namespace(&self, name: &str, allowing: &str) -> String {
        let mut message = format!(
            "a tier of Calico denies all traffic of namespace {name}, and Calico reports nothing: whether pods that start later are \
             denied theirs from the first packet is not known"
        );
        if !allowing.is_empty() {
            message += &format!("; if Calico does not enforce it, NetworkPolicy {allowing} goes on allowing traffic");
        }
        message + &self.earlier_words()
    }

    fn earlier_words(&self) -> String {
        if self.earlier.is_empty() {
            return String::new();
        }
        format!(
            "; Calico asks tier {} before it, whose policies may allow traffic all the same",
            self.earlier.join(", ")
        )
    }

    /// What stays open because of tiers that come before ours.
    pub(super) fn residual(&self, what: &str) -> Option<Residual> {
        (!self.earlier.is_empty()).then(|| Residual {
            code: "EarlierTier".to_owned(),
            severity: "Medium".to_owned(),
            message: format!(
                "Calico asks tier {} before the one that denies the traffic of {what}: what a policy there allows is not denied",
                self.earlier.join(", ")
            ),
            remedy: Some(
                "look at the policies there, and give the tier an order above -1000000: kubectl get tiers.projectcalico.org".to_owned(),
            ),
        })
    }
}

/// What Calico's tier meets in a dry run.
pub(super) fn meets(cx: &Context<'_>, allowing: &str) -> (ObjectRef, String) {
    let message = format!(
        "if Calico enforces it, overrules policies that allow some of the traffic: {allowing}; Calico does not report that"
    );
    (policy_ref(cx, None), message)
}

/// What may be said of a pod where Calico may be what enforces. `None`: the same as where it is not.
pub(super) fn judge(seen: &Seen<'_>, tier: &Tier) -> Option<Verdict> {
    let pod = seen.pod;
    let allowing = seen.allowing.join(", ");
    let verdict = |outcome, reason, assurance, contained, message: String| {
        Some(Verdict { outcome, reason, message, assurance, contained, again_after: None })
    };
    let partial =
        |reason, contained, message| verdict(Outcome::Partial, reason, Assurance::Accepted, contained, message);
    let open = seen.after.is_some_and(Answer::reached);
    let settles = seen.elapsed < OTHERS_SETTLE;
    let earlier = tier.earlier_words();
    if open {
        let message = format!(
            "nothing enforces Calico's tier that denies all traffic of pod {pod}: it still answers the operator{earlier}{}",
            if allowing.is_empty() { String::new() } else { format!("; NetworkPolicy {allowing} allows traffic") }
        );
        return if settles { None } else { partial("NotEnforced", Contained::Open, message) };
    }
    if !tier.earlier.is_empty() {
        let message =
            format!("Calico's policy is accepted, and whether it is in force on pod {pod} is not known{earlier}");
        return partial("EarlierTier", Contained::Unseen, message);
    }
    // With nobody allowing anything it does not matter whose deny it is.
    if allowing.is_empty() && (seen.after.is_some() || seen.controlled) {
        return None;
    }
    let silent = seen.after == Some(Answer::TimedOut);
    if silent && !seen.others && !seen.uncertain {
        return match &tier.admits_everybody {
            Some(policy) => verdict(
                Outcome::Done,
                "DenyTier",
                Assurance::Probed,
                Contained::Held,
                format!(
                    "Calico's tier denies all new connections of pod {pod}, but from its own node: it answered the operator before and \
                     does not now, though NetworkPolicy {policy} admits everybody"
                ),
            ),
            None => partial(
                "NotObserved",
                Contained::Unseen,
                format!(
                    "pod {pod} answered the operator before and does not now; whether by Calico's tier, which would overrule NetworkPolicy \
                     {allowing}, or by a policy that does not, cannot be seen: Calico reports nothing"
                ),
            ),
        };
    }
    if silent {
        return None;
    }
    let again_after = Some(OTHERS_SETTLE - seen.elapsed).filter(|left| *left > SignedDuration::ZERO);
    if seen.controlled && seen.after.is_none() {
        return match seen.before {
            // The operator has just started: what was seen stands until the first attempt has ended.
            Some(before) if before.outcome == Outcome::Done && before.reason.as_deref() == Some("DenyTier") => {
                Some(Verdict {
                    outcome: Outcome::Done,
                    reason: "DenyTier",
                    message: before.message.clone().unwrap_or_default(),
                    assurance: before.assurance.unwrap_or_default(),
                    contained: Contained::Held,
                    again_after: Some(OTHERS_SETTLE),
                })
            }
            _ => Some(Verdict {
                outcome: Outcome::Running,
                reason: "Settling",
                message: format!("Calico's policy is accepted; pod {pod} is being tried"),
                assurance: Assurance::Accepted,
                contained: Contained::Unseen,
                again_after: again_after.or(Some(OTHERS_SETTLE)),
            }),
        };
    }
    partial(
        "NotObserved",
        Contained::Unseen,
        format!(
            "Calico's policy is accepted; Calico reports nothing on pod {pod}, and there is no answer from before to compare with{}",
            if allowing.is_empty() {
                String::new()
            } else {
                format!("; if Calico does not enforce it, NetworkPolicy {allowing} goes on allowing traffic")
            }
        ),
    )
}

//! The objects that isolate a pod, and how to recognise them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::core::{Selector, SelectorExt};
use serde_json::{Value, json};
use tourniquet_api::names;

use super::calico;
use crate::action::Context;
use crate::effect::{Effect, Kind, ObjectRef};
use crate::fields::Fields;
use crate::world::{ClusterwidePolicy, Unread};

/// Everything that must not reach the pod, but not the pod's own host: the kubelet's probes come from there, and a
/// container whose liveness probe fails is restarted, which destroys its memory and writable layer.
///
/// Tried on Cilium 1.19.5: `all` includes the host; `kube-apiserver` includes it wherever the API server runs on the node.
/// An API server elsewhere is `remote-node` or `world`.
const DENIED_PEERS: [&str; 6] = ["world", "remote-node", "unmanaged", "health", "ingress", "init"];

/// The label by which Cilium knows a pod's namespace; with `Exists` it selects every pod.
const NAMESPACE_LABEL: &str = "k8s:io.kubernetes.pod.namespace";

/// Which pods of its namespace a response's policies select.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Those that it has labelled.
    Labelled,
    /// All, also those to come: from their first packet, and without a label, which on Cilium takes half a minute.
    Namespace,
}

pub(super) fn scope(cx: &Context<'_>) -> Scope {
    let is_namespace = cx.namespace.is_some() || cx.target.kind == Kind::Namespace.as_str();
    if is_namespace { Scope::Namespace } else { Scope::Labelled }
}

/// The label of a Cilium identity by which the policy of a response selects a pod.
pub(super) fn identity_label(scope: Scope, response_uid: &str, namespace: &str) -> String {
    match scope {
        Scope::Labelled => format!("k8s:{}={}", names::isolation_label(response_uid), names::ISOLATION_VALUE),
        Scope::Namespace => format!("{NAMESPACE_LABEL}={namespace}"),
    }
}

/// The namespace of the target, or the target.
pub(super) fn namespace<'a>(cx: &Context<'a>) -> &'a str {
    cx.target.namespace.as_deref().unwrap_or(&cx.target.name)
}

pub(super) fn pod_ref(cx: &Context<'_>) -> ObjectRef {
    ObjectRef {
        kind: Kind::Pod,
        namespace: cx.target.namespace.clone(),
        name: cx.target.name.clone(),
        uid: Some(cx.target.uid.clone()),
    }
}

pub(super) fn network_policy_ref(cx: &Context<'_>, uid: Option<String>) -> ObjectRef {
    ObjectRef {
        kind: Kind::NetworkPolicy,
        namespace: Some(namespace(cx).to_owned()),
        name: names::policy(cx.response_uid),
        uid,
    }
}

pub(super) fn clusterwide_ref(cx: &Context<'_>, uid: Option<String>) -> ObjectRef {
    ObjectRef { kind: Kind::CiliumClusterwideNetworkPolicy, namespace: None, name: names::policy(cx.response_uid), uid }
}

/// A manifest of an object of ours: marked with the response that it belongs to.
pub(super) fn put(cx: &Context<'_>, object: ObjectRef, replaces: Option<String>, spec: Value) -> Effect {
    let mut manifest = object.manifest();
    if let Some(version) = &replaces {
        manifest["metadata"]["resourceVersion"] = json!(version);
    }
    manifest["metadata"]["labels"] = json!({ names::RESPONSE_LABEL: cx.response_uid });
    manifest["metadata"]["annotations"] = json!({ names::RESPONSE_ANNOTATION: cx.response_name });
    manifest["spec"] = spec;
    Effect::Put { object, manager: names::field_manager(cx.response_uid), manifest, replaces }
}

fn clusterwide_spec(cx: &Context<'_>) -> Value {
    let mut selected = json!({ NAMESPACE_LABEL: namespace(cx) });
    if scope(cx) == Scope::Labelled {
        selected[format!("k8s:{}", names::isolation_label(cx.response_uid))] = json!(names::ISOLATION_VALUE);
    }
    json!({
        "endpointSelector": { "matchLabels": selected },
        "ingressDeny": [
            { "fromEntities": DENIED_PEERS },
            { "fromEndpoints": [{ "matchExpressions": [{ "key": NAMESPACE_LABEL, "operator": "Exists" }] }] },
        ],
        "egressDeny": [{ "toEntities": ["all"] }],
    })
}

/// The labels of the pods that the network policy selects: none of a whole namespace.
fn pod_labels(cx: &Context<'_>) -> BTreeMap<String, String> {
    match scope(cx) {
        Scope::Labelled => [(names::isolation_label(cx.response_uid), names::ISOLATION_VALUE.to_owned())].into(),
        Scope::Namespace => BTreeMap::new(),
    }
}

fn network_policy_spec(cx: &Context<'_>) -> Value {
    let selected = match scope(cx) {
        Scope::Labelled => json!({ "matchLabels": pod_labels(cx) }),
        Scope::Namespace => json!({}),
    };
    json!({ "podSelector": selected, "policyTypes": ["Ingress", "Egress"] })
}

/// What puts the cluster-wide deny policy in place; `None` when it is.
pub(super) fn put_clusterwide(cx: &Context<'_>, seen: Option<&ClusterwidePolicy>) -> Option<Effect> {
    let spec = clusterwide_spec(cx);
    let is_ours = |seen: &ClusterwidePolicy| {
        seen.terminating
            || seen.spec == spec && seen.labels.get(names::RESPONSE_LABEL).is_some_and(|uid| uid == cx.response_uid)
    };
    (!seen.is_some_and(is_ours)).then(|| {
        let (uid, version) = (seen.map(|seen| seen.uid.clone()), seen.and_then(|seen| seen.resource_version.clone()));
        put(cx, clusterwide_ref(cx, uid), version, spec)
    })
}

/// Says who keeps an object of ours that is being deleted.
pub(super) fn kept_by(object: &ObjectRef, finalizers: &[String]) -> String {
    format!(
        "{object} is deleted, and kept by {}: whoever put that finalizer on it has to take it off",
        if finalizers.is_empty() { "the API server".to_owned() } else { finalizers.join(", ") }
    )
}

/// What puts the network policy in place; `None` when it is. `beside`: the deny tier that is put beside it.
pub(super) fn put_network_policy(
    cx: &Context<'_>,
    seen: Option<&NetworkPolicy>,
    beside: Option<&'static str>,
) -> Option<Effect> {
    // Remembered for as long as the policy is there.
    let noted = seen.and_then(|seen| labels(seen.metadata.annotations.as_ref(), names::TIER_ANNOTATION));
    let is_whole = |seen: &NetworkPolicy| is_deny_all(cx, seen) && (beside.is_none() || noted == beside);
    (!seen.is_some_and(|seen| seen.metadata.deletion_timestamp.is_some() || is_whole(seen))).then(|| {
        let metadata = seen.map(|seen| &seen.metadata);
        let uid = metadata.and_then(|metadata| metadata.uid.clone());
        let version = metadata.and_then(|metadata| metadata.resource_version.clone());
        let mut effect = put(cx, network_policy_ref(cx, uid), version, network_policy_spec(cx));
        if let (Effect::Put { manifest, .. }, Some(tier)) = (&mut effect, beside.or(noted)) {
            manifest["metadata"]["annotations"][names::TIER_ANNOTATION] = json!(tier);
        }
        effect
    })
}

fn is_deny_all(cx: &Context<'_>, policy: &NetworkPolicy) -> bool {
    let Some(spec) = &policy.spec else { return false };
    let types = spec.policy_types.clone().unwrap_or_default();
    let selector = spec.pod_selector.clone().unwrap_or_default();
    labels(policy.metadata.labels.as_ref(), names::RESPONSE_LABEL) == Some(cx.response_uid)
        && selector.match_labels.unwrap_or_default() == pod_labels(cx)
        && selector.match_expressions.unwrap_or_default().is_empty()
        && ["Ingress", "Egress"].iter().all(|wanted| types.iter().any(|have| have == wanted))
        && spec.ingress.as_ref().is_none_or(Vec::is_empty)
        && spec.egress.as_ref().is_none_or(Vec::is_empty)
}

fn labels<'a>(labels: Option<&'a BTreeMap<String, String>>, key: &str) -> Option<&'a str> {
    labels?.get(key).map(String::as_str)
}

/// What puts our labels on the pod; `None` when they are there and held by us.
///
/// The label that every isolated pod has is left out where somebody gave it another value: nothing depends on it, and a
/// pod's author must not be able to stop the isolation with it.
pub(super) fn put_labels(cx: &Context<'_>, pod: &Pod) -> Option<Effect> {
    let manager = names::field_manager(cx.response_uid);
    let held = Fields::from(pod).labels_applied_by(&manager);
    let mut wanted = vec![(names::isolation_label(cx.response_uid), names::ISOLATION_VALUE)];
    if label(pod, names::CONTAINED_LABEL).is_none_or(|value| value == names::CONTAINED_VALUE) {
        wanted.push((names::CONTAINED_LABEL.to_owned(), names::CONTAINED_VALUE));
    }
    let there = wanted.iter().all(|(key, value)| label(pod, key) == Some(value) && held.contains(&key.as_str()));
    (!there).then(|| {
        let labels: serde_json::Map<String, Value> =
            wanted.into_iter().map(|(key, value)| (key, Value::from(value))).collect();
        Fields::from(pod).apply(pod_ref(cx), &manager, &json!({ "metadata": { "labels": labels } }))
    })
}

/// Whether our selecting label is on the pod, or was put there by us and taken off by somebody else.
pub(super) fn is_labelled(cx: &Context<'_>, pod: &Pod) -> bool {
    let held = Fields::from(pod).labels_applied_by(&names::field_manager(cx.response_uid));
    label(pod, &names::isolation_label(cx.response_uid)).is_some()
        // The verb `label` has the same manager.
        || held.iter().any(|key| *key == names::CONTAINED_LABEL || names::response_of_isolation_label(key).is_some())
}

/// What takes our labels off the pod; `None` when we hold none there. With annotations alone the cut need not wait.
pub(super) fn withdraw_labels(cx: &Context<'_>, pod: &Pod) -> Option<Effect> {
    let manager = names::field_manager(cx.response_uid);
    (!Fields::from(pod).labels_applied_by(&manager).is_empty())
        .then(|| Effect::Withdraw { object: pod_ref(cx), manager })
}

pub(super) fn label<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    Fields::from(pod).label(key)
}

/// Whether a response other than this one has its isolating label on the pod, or a policy that selects it.
pub(super) fn others_hold(cx: &Context<'_>, pod: &Pod, policies: &[NetworkPolicy]) -> bool {
    let keys = pod.metadata.labels.iter().flatten().map(|(key, _)| key);
    let mut labelled = keys.into_iter().filter_map(|key| names::response_of_isolation_label(key));
    let is_other = |uid: &str| uid != cx.response_uid;
    let of_others = |policy: &&NetworkPolicy| {
        let of = labels(policy.metadata.labels.as_ref(), names::RESPONSE_LABEL);
        of.is_some_and(|uid| is_other(uid) && policy.metadata.name == Some(names::policy(uid)))
    };
    labelled.any(is_other) || policies.iter().filter(of_others).any(|policy| selects(policy, pod))
}

/// Whether a policy selects a pod. A selector that cannot be read may.
pub(super) fn selects(policy: &NetworkPolicy, pod: &Pod) -> bool {
    let none = BTreeMap::new();
    let selector = policy.spec.as_ref().and_then(|spec| spec.pod_selector.clone()).unwrap_or_default();
    Selector::try_from(selector)
        .map_or(true, |selector| selector.matches(pod.metadata.labels.as_ref().unwrap_or(&none)))
}

/// What deletes the policies of this response, and what keeps those that are being deleted.
pub(super) fn withdraw(cx: &Context<'_>) -> Result<(Vec<Effect>, Option<String>), Unread> {
    let name = names::policy(cx.response_uid);
    let (mut effects, mut blocked) = (Vec::new(), None);
    // The deny tier first and the labels last, as when applying: a label change makes Cilium skip policy changes.
    if let Some(policy) = cx.world.clusterwide_policy(&name)? {
        let object = clusterwide_ref(cx, Some(policy.uid.clone()));
        if policy.terminating {
            blocked.get_or_insert(kept_by(&object, &policy.finalizers));
        } else {
            effects.push(Effect::Delete { object, version: None });
        }
    }
    let network_policy = cx.world.network_policy(namespace(cx), &name)?;
    let noted = network_policy.and_then(|seen| labels(seen.metadata.annotations.as_ref(), names::TIER_ANNOTATION));
    if cx.world.engines()?.calico || noted == Some(calico::NOTED) {
        let (effect, keeps) = calico::withdraw(cx)?;
        effects.extend(effect);
        blocked = blocked.or(keeps);
        if !effects.is_empty() || blocked.is_some() {
            // The network policy is what says that there is a tier to look for, so it goes after that.
            return Ok((effects, blocked));
        }
    }
    if let Some(policy) = network_policy {
        let object = network_policy_ref(cx, policy.metadata.uid.clone());
        if policy.metadata.deletion_timestamp.is_some() {
            let finalizers = policy.metadata.finalizers.as_deref().unwrap_or_default();
            blocked.get_or_insert(kept_by(&object, finalizers));
        } else {
            effects.push(Effect::Delete { object, version: None });
        }
    }
    Ok((effects, blocked))
}

/// What our policies meet, of which others allow some traffic.
pub(super) fn meets(cx: &Context<'_>, allowing: &str, has_deny_tier: bool) -> (ObjectRef, String) {
    let what = "policies that allow some of the traffic";
    if has_deny_tier {
        (clusterwide_ref(cx, None), format!("overrules {what}: {allowing}"))
    } else {
        (network_policy_ref(cx, None), format!("defeated by {what}, since policies add up: {allowing}"))
    }
}

/// The names of the policies that allow some traffic of the pod. Where policies only add up, each of them defeats a deny-all. Ours
/// have no rules; what merely carries our label is not asked whose it is, since anybody can write that.
pub(super) fn allowing(pod: &Pod, policies: &[NetworkPolicy]) -> Vec<String> {
    // Rather name one policy too many.
    named(policies.iter().filter(|policy| allows(policy) && selects(policy, pod)))
}

/// The same of any pod of their namespace.
pub(super) fn allowing_any(policies: &[NetworkPolicy]) -> Vec<String> {
    named(policies.iter().filter(|policy| allows(policy)))
}

fn allows(policy: &NetworkPolicy) -> bool {
    let Some(spec) = &policy.spec else { return false };
    spec.ingress.as_ref().is_some_and(|rules| !rules.is_empty())
        || spec.egress.as_ref().is_some_and(|rules| !rules.is_empty())
}

fn named<'a>(policies: impl Iterator<Item = &'a NetworkPolicy>) -> Vec<String> {
    let mut names: Vec<String> = policies.filter_map(|policy| policy.metadata.name.clone()).collect();
    // The same message whatever the order of the list: another one would be another status, to be written again.
    names.sort();
    names
}

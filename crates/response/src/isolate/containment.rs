//! The cut: what the operator asks of the agent on the pod's node, and what the agent's answer means.
//!
//! Operator and agent meet in a `Containment`, named by the pod's UID. What it is about is applied by one fixed manager; each
//! response applies its own entry in `spec.holders`, so the API server counts them. The last one out lifts the cut.

use std::collections::BTreeSet;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{self, Container, ContainerPort, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};
use tourniquet_api::{Connections, Containment, ContainmentState, Direction, Probe, names};

use super::beyond::is_windows;
use super::policies::{self, Scope};
use super::seen::containment;
use crate::action::{Context, Undo};
use crate::effect::{Effect, Kind, ObjectRef};
use crate::settings::Agents;
use crate::world::Unread;

/// How long the agent may take to answer before the policies take over. It takes some 20 ms.
pub(super) const AGENT_ANSWERS: SignedDuration = SignedDuration::from_secs(5);

/// How long a cut holds alone. A change of labels makes Cilium skip policy changes for half a minute, so a release within this
/// time, which changes none, is as quick as the cut was.
pub(super) const ALONE: SignedDuration = SignedDuration::from_secs(60);

/// When the policies follow, for a plan: see [`policies_are_due`].
pub(crate) const FOLLOWS: &str =
    "when the agent's cut has held for a minute, or when the agent has not answered within 5 s";

/// Whether the pod is cut, as its agent read back from the kernel, and this response is among those who hold it.
pub(super) fn holds(cx: &Context<'_>, response_uid: &str) -> Result<bool, Unread> {
    Ok(containment(cx)?.is_some_and(|containment| {
        containment.spec.holders.contains_key(response_uid)
            && containment.status.as_ref().is_some_and(|status| status.state == ContainmentState::Cut)
    }))
}

/// Whether the agent is about to lift a cut that nobody holds any more, or has, and has not said so. Who joins now could take
/// the old answer for its own, so joining waits for the next one; and silence meanwhile is nobody's.
pub(super) fn is_being_lifted(cx: &Context<'_>) -> Result<bool, Unread> {
    Ok(containment(cx)?.is_some_and(|containment| {
        containment.spec.holders.is_empty()
            && containment.status.as_ref().is_some_and(|status| status.state == ContainmentState::Cut)
    }))
}

/// Whether the agent cannot say whether the pod is cut: it may be, and no longer be a moment later.
pub(super) fn is_uncertain(cx: &Context<'_>) -> Result<bool, Unread> {
    let status = containment(cx)?.and_then(|containment| containment.status.as_ref());
    Ok(status.is_some_and(|status| matches!(status.state, ContainmentState::Failed | ContainmentState::Unknown)))
}

/// Whether the policies, and the label that they select, are due: at once without an agent, when the agent does not answer, and when
/// the cut has held for a while. Policies that select nobody yet would do nothing but work for the engine: fifty at once kept
/// Cilium from everything else for seconds.
///
/// Those of a whole namespace are there at once. They have a say as soon as the agent has had its own.
pub(super) fn policies_are_due(cx: &Context<'_>, pod: &Pod) -> Result<bool, Unread> {
    if cx.agents.is_none() || node(pod).is_none() || is_windows(pod) {
        return Ok(true);
    }
    if policies::scope(cx) == Scope::Namespace {
        return Ok(holds(cx, cx.response_uid)? || cx.elapsed() >= AGENT_ANSWERS);
    }
    if policies::is_labelled(cx, pod) {
        return Ok(true);
    }
    Ok(cx.elapsed() >= if holds(cx, cx.response_uid)? { ALONE } else { AGENT_ANSWERS })
}

/// How many targets a Containment may name (`api/src/containment.rs`).
const EGRESS_TARGETS: usize = 4;

/// What the node calls a pod that was made from a file there: its cgroups have this instead of the UID. Only what has the form of
/// the kubelet's hash (MD5 in hex, `pkg/kubelet/config/common.go`) and can be no other pod's UID: annotations are free text.
pub(crate) fn config_hash(pod: &ObjectMeta) -> Option<&str> {
    let annotations = pod.annotations.as_ref()?;
    let hash = annotations.get("kubernetes.io/config.hash")?;
    let mirror = annotations.get("kubernetes.io/config.mirror");
    let is_hash = hash.len() == 32 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    (mirror == Some(hash) && is_hash).then_some(hash)
}

/// What the agent tried from inside the pod, and who was connected when it cut it.
pub(super) fn seen_from_inside(cx: &Context<'_>) -> Result<(Option<Probe>, Option<Connections>), Unread> {
    let Some(status) = containment(cx)?.and_then(|containment| containment.status.as_ref()) else {
        return Ok((None, None));
    };
    let egress = status.probes.iter().find(|probe| probe.direction == Direction::Egress).cloned();
    Ok((egress, status.connections.clone()))
}

/// The node that the pod runs on.
pub(crate) fn node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

fn object(namespace: &str, cx: &Context<'_>, existing: Option<&Containment>) -> ObjectRef {
    ObjectRef {
        kind: Kind::Containment,
        namespace: Some(namespace.to_owned()),
        name: cx.target.uid.clone(),
        uid: existing.and_then(|containment| containment.metadata.uid.clone()),
    }
}

/// What a pod's Containment is, but for its holders.
pub(crate) fn fields(pod: &Pod, node: &str, agents: &Agents) -> Value {
    // By this the Containments of a namespace are listed.
    let labels = json!({ names::POD_NAMESPACE_LABEL: pod.metadata.namespace });
    json!({ "metadata": { "labels": labels }, "spec": spec(pod, node, agents) })
}

fn spec(pod: &Pod, node: &str, agents: &Agents) -> Value {
    let metadata = &pod.metadata;
    let mut spec = json!({
        "pod": { "namespace": metadata.namespace, "name": metadata.name, "uid": metadata.uid },
        "nodeName": node,
        "probePorts": probe_ports(pod),
        "egressTargets": agents.egress_targets.iter().take(EGRESS_TARGETS).collect::<Vec<_>>(),
    });
    if let Some(hash) = config_hash(metadata) {
        spec["pod"]["configHash"] = json!(hash);
    }
    spec
}

/// Whether the agent has lifted the cut. Of this very spec: the agent cuts before it says so, and an answer from before would leave
/// the cut behind.
pub(crate) fn is_lifted(containment: &Containment) -> bool {
    containment.status.as_ref().is_some_and(|status| {
        status.observed_generation == containment.metadata.generation
            && matches!(status.state, ContainmentState::Lifted | ContainmentState::PodGone)
    })
}

/// What makes the pod's Containment, and this response one of its holders; nothing when that is so, or has to wait.
pub(super) fn join(cx: &Context<'_>, pod: &Pod) -> Result<Vec<Effect>, Unread> {
    let (Some(agents), Some(node)) = (cx.agents, node(pod).filter(|_| !is_windows(pod))) else { return Ok(Vec::new()) };
    if is_being_lifted(cx)? {
        return Ok(Vec::new());
    }
    let existing = containment(cx)?;
    let ports = probe_ports(pod);
    let mut effects = Vec::new();
    if existing.is_none_or(|containment| containment.spec.probe_ports != ports) {
        let object = object(&agents.namespace, cx, existing);
        let manager = names::OPERATOR_MANAGER.to_owned();
        effects.push(Effect::Apply { object, manager, fields: fields(pod, node, agents) });
    }
    if existing.is_none_or(|containment| !containment.spec.holders.contains_key(cx.response_uid)) {
        let holders = json!({ cx.response_uid: { "response": cx.response_name } });
        let mut fields = json!({ "spec": { "holders": holders } });
        if let Some(version) = existing.and_then(|containment| containment.metadata.resource_version.as_ref()) {
            // Not when the last holder has left since, and the agent is lifting what we would join.
            fields["metadata"] = json!({ "resourceVersion": version });
        }
        let object = object(&agents.namespace, cx, existing);
        let manager = names::field_manager(cx.response_uid);
        effects.push(Effect::Apply { object, manager, fields });
    }
    Ok(effects)
}

/// What takes this response out of the holders, and the Containment away after the last one, once the agent has let go.
pub(super) fn leave(cx: &Context<'_>, pod_is_there: bool, undo: &mut Undo) -> Result<(), Unread> {
    let (Some(agents), Some(containment)) = (cx.agents, containment(cx)?) else { return Ok(()) };
    let object = object(&agents.namespace, cx, Some(containment));
    if containment.spec.holders.contains_key(cx.response_uid) {
        undo.effects.push(Effect::Withdraw { object, manager: names::field_manager(cx.response_uid) });
        return Ok(());
    }
    if !containment.spec.holders.is_empty() {
        return Ok(());
    }
    let node = &containment.spec.node_name;
    // With the node or the pod went the pod's network namespace, and with that the cut.
    if is_lifted(containment) || !pod_is_there || cx.world.node(node)?.is_none() {
        // Not when somebody has joined since: the version is another one then.
        undo.effects.push(Effect::Delete { object, version: containment.metadata.resource_version.clone() });
    } else {
        let why =
            containment.status.as_ref().and_then(|status| status.message.as_deref()).unwrap_or("it has not answered");
        undo.blocked.get_or_insert(format!(
            "the agent on node {node} has not lifted the cut of pod {} yet ({why}); it does as soon as it runs there",
            cx.target.name
        ));
    }
    Ok(())
}

/// What takes away a Containment whose pod is gone, as far as it is this response's.
pub(super) fn of_pod_that_is_gone(cx: &Context<'_>, containment: &Containment) -> Option<Effect> {
    let object = object(&cx.agents?.namespace, cx, Some(containment));
    let object = ObjectRef { name: containment.spec.pod.uid.clone(), ..object };
    if containment.spec.holders.contains_key(cx.response_uid) {
        return Some(Effect::Withdraw { object, manager: names::field_manager(cx.response_uid) });
    }
    let version = containment.metadata.resource_version.clone();
    containment.spec.holders.is_empty().then_some(Effect::Delete { object, version })
}

/// The ports that the kubelet's probes use. Names are those of the container's own ports.
fn probe_ports(pod: &Pod) -> Vec<u16> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let ports: BTreeSet<u16> = containers.flat_map(ports_of).collect();
    ports.into_iter().collect()
}

fn ports_of(container: &Container) -> Vec<u16> {
    let declared = container.ports.as_deref().unwrap_or_default();
    let probes = [&container.liveness_probe, &container.readiness_probe, &container.startup_probe];
    probes.into_iter().flatten().filter_map(|probe| port_of(probe, declared)).collect()
}

fn port_of(probe: &v1::Probe, declared: &[ContainerPort]) -> Option<u16> {
    let http = probe.http_get.as_ref().map(|http| http.port.clone());
    let tcp = probe.tcp_socket.as_ref().map(|tcp| tcp.port.clone());
    let grpc = probe.grpc.as_ref().map(|grpc| IntOrString::Int(grpc.port));
    match http.or(tcp).or(grpc)? {
        IntOrString::Int(port) => u16::try_from(port).ok(),
        IntOrString::String(name) => {
            let named = declared.iter().find(|port| port.name.as_ref() == Some(&name))?;
            u16::try_from(named.container_port).ok()
        }
    }
}

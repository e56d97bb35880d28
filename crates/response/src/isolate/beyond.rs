//! Pods that an isolation does not reach, and pods that must not be cut off.

use k8s_openapi::api::core::v1::{Node, Pod};
use tourniquet_api::PinnedTarget;

use super::seen::finished;
use crate::action::{Asked, Refusal};
use crate::world::{Unread, World, service_selects};

/// The taint of nodes that are no machines: what runs there, runs at a cloud provider (virtual kubelet; AKS: virtual nodes).
const VIRTUAL: &str = "virtual-kubelet.io/provider";

/// The reason of a pod that has come to its end.
pub(super) const FINISHED: &str = "PodFinished";

/// Why the isolation does not reach the pod; `None` when it does.
pub(super) fn out_of_reach(world: &World, pod: &Pod) -> Result<Option<Refusal>, Unread> {
    let name = crate::pass::full_name(&pod.metadata);
    let spec = pod.spec.as_ref();
    if spec.is_some_and(|spec| spec.host_network.unwrap_or(false)) {
        let message = format!(
            "pod {name} uses its node's network, which no policy reaches; cordoning node {} stops new pods from coming there, and \
             contains nothing",
            spec.and_then(|spec| spec.node_name.as_deref()).unwrap_or("(none yet)")
        );
        return Ok(Some(Refusal { reason: "HostNetwork", message }));
    }
    let node = spec.and_then(|spec| spec.node_name.as_deref());
    if let Some(node) = node.filter(|_| tolerates_virtual_nodes(pod))
        && world.node(node)?.is_some_and(is_virtual)
    {
        let message = format!(
            "pod {name} runs on virtual node {node}, which is no machine of the cluster: neither policies nor an agent reach it; \
             deny its traffic in the virtual network that it is in, or delete the pod when its memory is not needed"
        );
        return Ok(Some(Refusal { reason: "VirtualNode", message }));
    }
    Ok(finished(pod).then(|| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
        let message = format!("pod {name} has finished ({phase}): there is nothing left to isolate");
        Refusal { reason: FINISHED, message }
    }))
}

/// Whether a pod is there that runs Windows: no agent runs beside it.
pub(super) fn is_windows(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let selected = spec.node_selector.as_ref().and_then(|labels| labels.get("kubernetes.io/os"));
    spec.os.as_ref().is_some_and(|os| os.name == "windows") || selected.is_some_and(|os| os == "windows")
}

/// The node is only looked at where the pod could be on a virtual one.
fn tolerates_virtual_nodes(pod: &Pod) -> bool {
    let tolerations = pod.spec.iter().flat_map(|spec| spec.tolerations.iter().flatten());
    tolerations
        .into_iter()
        .any(|toleration| toleration.key.as_deref().is_none_or(|key| key.is_empty() || key == VIRTUAL))
}

fn is_virtual(node: &Node) -> bool {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let mut taints = taints.into_iter();
    let labels = node.metadata.labels.as_ref();
    taints.any(|taint| taint.key == VIRTUAL)
        || labels.and_then(|labels| labels.get("type")).is_some_and(|kind| kind == "virtual-kubelet")
}

/// A pod without which the API server does not work: cut off, it could not be let go of again.
pub(super) fn keeps_the_api(asked: &Asked<'_>) -> Result<Option<Refusal>, Unread> {
    if asked.spec.override_protection {
        return Ok(None);
    }
    let target: &PinnedTarget = asked.target;
    let namespace = target.namespace.as_deref().unwrap_or(&target.name);
    let labels = asked.pod.map(|pod| pod.metadata.labels.clone().unwrap_or_default());
    let backends = asked.world.admission_backends(namespace)?.iter();
    // Of a namespace all pods are meant, those of tomorrow as well.
    let backends =
        backends.filter(|backend| labels.as_ref().is_none_or(|labels| service_selects(&backend.selector, labels)));
    // The same one is named whatever the order of the list.
    Ok(backends.min_by_key(|backend| (&backend.service, &backend.used_by)).map(|backend| {
        let who = match target.namespace {
            Some(_) => format!("pod {namespace}/{} is behind Service {}", target.name, backend.service),
            None => format!("namespace {namespace} has Service {}", backend.service),
        };
        let message = format!(
            "{who}, on which {} depends: cut off, it can lock the API server, the undo of this response included; who has the right \
             override-protection sets overrideProtection: true",
            backend.used_by
        );
        Refusal { reason: "AdmissionBackend", message }
    }))
}

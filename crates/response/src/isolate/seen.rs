//! Where what is seen of a pod comes from: it is looked at by itself, or, where many are isolated, listed for its namespace.

use k8s_openapi::api::core::v1::Pod;
use tourniquet_api::Containment;

use crate::action::Context;
use crate::world::{CiliumEndpoint, PeerResponse, Read, Unread};

/// The pod's namespace and name.
pub(super) fn place<'a>(cx: &Context<'a>) -> (&'a str, &'a str) {
    (cx.target.namespace.as_deref().unwrap_or_default(), &cx.target.name)
}

/// What has to be looked at of a pod, but for the pod itself.
pub(super) fn containment_read(cx: &Context<'_>) -> Option<Read> {
    let agents = cx.agents?.namespace.clone();
    Some(if cx.listed {
        Read::NamespaceContainments { namespace: place(cx).0.to_owned(), agents }
    } else {
        Read::Containment { namespace: agents, name: cx.target.uid.clone() }
    })
}

/// The look at what Cilium reports of it.
pub(super) fn endpoint_read(cx: &Context<'_>) -> Read {
    let (namespace, name) = place(cx);
    if cx.listed {
        Read::NamespaceEndpoints { namespace: namespace.to_owned() }
    } else {
        Read::CiliumEndpoint { namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

/// The look at the responses that may isolate it as well.
pub(super) fn peers_read(cx: &Context<'_>) -> Read {
    let (namespace, name) = place(cx);
    Read::ResponsesOn { namespace: namespace.to_owned(), pod: (!cx.listed).then(|| name.to_owned()) }
}

/// Them, and this one.
pub(super) fn peers<'a>(cx: &Context<'a>) -> Result<&'a [PeerResponse], Unread> {
    let (namespace, name) = place(cx);
    cx.world.responses_on(namespace, (!cx.listed).then_some(name))
}

/// The pinned pod. A pod of the same name with another UID is another pod.
pub(super) fn pod<'a>(cx: &Context<'a>) -> Result<Option<&'a Pod>, Unread> {
    let (namespace, name) = place(cx);
    let pod = match cx.namespace {
        Some(_) => cx.world.namespace_pods(namespace)?.get(name),
        None => cx.world.pod(namespace, name)?,
    };
    Ok(pod.filter(|pod| pod.metadata.uid.as_deref() == Some(&cx.target.uid)))
}

/// The pod's Containment, where there are agents.
pub(super) fn containment<'a>(cx: &Context<'a>) -> Result<Option<&'a Containment>, Unread> {
    let Some(agents) = cx.agents else { return Ok(None) };
    if cx.listed {
        Ok(cx.world.namespace_containments(place(cx).0, &agents.namespace)?.get(&cx.target.uid))
    } else {
        cx.world.containment(&agents.namespace, &cx.target.uid)
    }
}

/// What Cilium reports of this very pod. An endpoint of the pod's name can still be its predecessor's.
pub(super) fn endpoint<'a>(cx: &Context<'a>) -> Result<Option<&'a CiliumEndpoint>, Unread> {
    let (namespace, name) = place(cx);
    let endpoint = if cx.listed {
        cx.world.namespace_endpoints(namespace)?.get(name)
    } else {
        cx.world.cilium_endpoint(namespace, name)?
    };
    Ok(endpoint.filter(|endpoint| endpoint.pod_uid.as_deref() == Some(&cx.target.uid)))
}

/// Whether it has come to its end.
pub(crate) fn finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Whether it has a network yet.
pub(super) fn has_network(pod: &Pod) -> bool {
    pod.status.as_ref().is_some_and(|status| status.pod_ip.as_deref().is_some_and(|ip| !ip.is_empty()))
}

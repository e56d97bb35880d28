//! Who holds a pod: this response, or another one that isolates it as well, by itself or with its namespace.

use k8s_openapi::api::core::v1::Pod;
use tourniquet_api::names;

use super::containment;
use super::policies::{self, Scope, scope};
use super::seen::{self, endpoint, place};
use super::verdict::Engine;
use crate::action::Context;
use crate::world::{PeerResponse, Unread};

/// Another response that isolates the pod, or may be about to.
pub(super) struct Peer<'a> {
    pub(super) response: &'a PeerResponse,
    scope: Scope,
}

/// The others that isolate the pod. The same one comes first whatever the order of the list.
pub(super) fn of<'a>(cx: &Context<'a>) -> Result<Vec<Peer<'a>>, Unread> {
    let (namespace, name) = place(cx);
    let peer = |response: &'a PeerResponse| {
        let by_namespace = response.isolates_namespace.as_deref() == Some(namespace);
        let by_itself = response.undecided_in.as_deref() == Some(namespace)
            || response.isolates.iter().any(|(of_namespace, of_name, uid)| match uid {
                Some(uid) => *uid == cx.target.uid,
                // Not accepted yet: it may become one.
                None => (of_namespace.as_str(), of_name.as_str()) == (namespace, name),
            });
        let scope = if by_namespace { Scope::Namespace } else { Scope::Labelled };
        (by_namespace || by_itself).then_some(Peer { response, scope })
    };
    let others = seen::peers(cx)?.iter().filter(|peer| peer.live && peer.uid != cx.response_uid);
    let mut peers: Vec<Peer<'a>> = others.filter_map(peer).collect();
    peers.sort_by_key(|peer| (&peer.response.name, &peer.response.uid));
    Ok(peers)
}

/// What the engine says of this response's policy on this pod.
pub(super) fn engine(cx: &Context<'_>) -> Result<Engine, Unread> {
    // Whether this response was in force on the pod when it was last looked at.
    let was_in_force = cx.before.is_some_and(|before| before.outcome == tourniquet_api::Outcome::Done);
    engine_of(cx, cx.response_uid, scope(cx), was_in_force)
}

fn engine_of(cx: &Context<'_>, response_uid: &str, scope: Scope, was_in_force: bool) -> Result<Engine, Unread> {
    let Some(endpoint) = endpoint(cx)? else { return Ok(Engine::Silent) };
    // An endpoint that waits for its next identity goes on enforcing the present one.
    let in_force = (endpoint.state == "ready" || was_in_force)
        && endpoint.identity_labels.contains(&policies::identity_label(scope, response_uid, place(cx).0));
    let policy = cx.world.clusterwide_policy(&names::policy(response_uid))?;
    let judged = policy.is_some_and(|policy| policy.valid);
    // One that somebody has emptied is valid as well. Of other responses' policies they themselves look after that.
    let is_whole = response_uid != cx.response_uid || policies::put_clusterwide(cx, policy).is_none();
    Ok(Engine::Cilium {
        in_force: in_force && is_whole && policy.is_some_and(|policy| policy.valid && !policy.terminating),
        judged,
    })
}

/// Whether another response holds the pod, as far as anybody reports: in force where the engine says so, else in place.
pub(super) fn holds(cx: &Context<'_>, pod: &Pod, peer: &Peer<'_>) -> Result<bool, Unread> {
    let uid = &peer.response.uid;
    if containment::holds(cx, uid)? {
        return Ok(true);
    }
    match engine_of(cx, uid, peer.scope, peer.response.contains)? {
        Engine::Cilium { in_force, .. } => Ok(in_force),
        // A deny policy of ours says that Cilium served the pod: without its report, in place is not in force there. Nor is
        // it known to be where a cut of ours holds the pod.
        Engine::Silent => Ok(!containment::holds(cx, cx.response_uid)?
            && cx.world.clusterwide_policy(&names::policy(cx.response_uid))?.is_none()
            && in_place(cx, pod, uid, peer.scope)?),
    }
}

/// Whether this response's network policy is there, is as it was put, and selects the pod.
pub(super) fn is_in_place(cx: &Context<'_>, pod: &Pod) -> Result<bool, Unread> {
    let policy = cx.world.network_policy(place(cx).0, &names::policy(cx.response_uid))?;
    Ok(in_place(cx, pod, cx.response_uid, scope(cx))? && policies::put_network_policy(cx, policy, None).is_none())
}

/// Whether a response's network policy is there and selects the pod.
fn in_place(cx: &Context<'_>, pod: &Pod, response_uid: &str, scope: Scope) -> Result<bool, Unread> {
    let selects = scope == Scope::Namespace
        || policies::label(pod, &names::isolation_label(response_uid)) == Some(names::ISOLATION_VALUE);
    Ok(cx.world.network_policy(place(cx).0, &names::policy(response_uid))?.is_some() && selects)
}

/// Whether this response may be what holds the pod, so that letting go could open a gap. Unlike [`holds`] this errs on the
/// side of yes: an endpoint whose labels have just changed is not `ready`, and enforces its present identity all the same.
pub(super) fn contributes(cx: &Context<'_>, pod: &Pod) -> Result<bool, Unread> {
    if containment::holds(cx, cx.response_uid)? {
        return Ok(true);
    }
    let scope = scope(cx);
    let Some(endpoint) = endpoint(cx)? else { return in_place(cx, pod, cx.response_uid, scope) };
    let label = policies::identity_label(scope, cx.response_uid, place(cx).0);
    let is_selected = endpoint.identity_labels.contains(&label);
    // The label of its namespace a pod has whether or not there is a policy.
    let is_there = scope == Scope::Labelled || cx.world.clusterwide_policy(&names::policy(cx.response_uid))?.is_some();
    Ok(is_selected && is_there)
}

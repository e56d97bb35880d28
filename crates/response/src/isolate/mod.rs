//! Isolate: cut a pod off from the network.
//!
//! Cilium's deny tier where Cilium serves the pod, a network policy everywhere. What is claimed follows observation: the
//! engine's own report for this pod, and the operator's own connection attempts before and after.

pub(crate) mod containment;
mod policies;
mod probes;
mod verdict;

use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::rbac::v1::PolicyRule;
use tourniquet_api::{Direction, Outcome, Probe, Verb, names};

use self::verdict::{CUT, Engine, Seen, cut_residual, judge, residual, with_agent};
use crate::action::{Act, Assessment, Context, Plan, Undo};
use crate::effect::{Effect, Kind, ObjectRef};
use crate::rbac::rule;
use crate::world::{PeerResponse, Read, Unread};

pub(crate) const ISOLATE: Isolate = Isolate;

/// The action.
pub(crate) struct Isolate;

/// A port to try on a pod that declares none. Nobody has to listen: a refused connection reached the pod as well.
const ANY_PORT: u16 = 80;

impl Act for Isolate {
    fn verb(&self) -> Verb {
        Verb::Isolate
    }

    fn targets(&self) -> &'static [Kind] {
        &[Kind::Pod]
    }

    fn rbac(&self) -> Vec<PolicyRule> {
        // An apply that creates is a patch and a create; what replaces is an update.
        let own = ["get", "list", "watch", "create", "patch", "update", "delete"];
        vec![
            rule("internal.tourniquet.dev", &["containments"], &["get", "list", "watch", "create", "patch", "delete"]),
            // Whether the node is gone for good, whose agent would have to lift a cut.
            rule("", &["nodes"], &["get"]),
            rule("", &["pods"], &["get", "list", "watch", "patch"]),
            rule("networking.k8s.io", &["networkpolicies"], &own),
            rule("cilium.io", &["ciliumclusterwidenetworkpolicies"], &own),
            rule("cilium.io", &["ciliumendpoints"], &["get", "list", "watch"]),
        ]
    }

    fn reads(&self, cx: &Context<'_>, undoing: bool) -> Vec<Read> {
        let (namespace, name) = place(cx);
        let mut reads = containment::reads(cx);
        reads.push(Read::Pod { namespace: namespace.into(), name: name.into() });
        if cx.agents.is_some() && !undoing {
            // Of the policies nothing matters in the first minute of a cut.
            return reads;
        }
        reads.extend([
            Read::NetworkPolicy { namespace: namespace.into(), name: names::policy(cx.response_uid) },
            Read::NetworkPolicies { namespace: namespace.into() },
            Read::CiliumEndpoint { namespace: namespace.into(), name: name.into() },
            Read::ClusterwidePolicy { name: names::policy(cx.response_uid) },
        ]);
        reads
    }

    fn plan(&self, cx: &Context<'_>) -> Result<Plan, Unread> {
        let Some(pod) = pod(cx)? else { return Ok(Plan::default()) };
        if finished(pod) {
            return Ok(Plan::default());
        }
        // The cut first: it takes milliseconds.
        let mut effects = containment::join(cx, pod)?;
        if containment::policies_are_due(cx, pod)? {
            let name = names::policy(cx.response_uid);
            // Policies before labels: from the moment of a label change Cilium skips policy changes for half a minute.
            if endpoint_serves(cx)? {
                effects.extend(policies::put_clusterwide(cx, cx.world.clusterwide_policy(&name)?));
            }
            effects.extend(policies::put_network_policy(cx, cx.world.network_policy(place(cx).0, &name)?));
            effects.extend(policies::put_labels(cx, pod));
        }

        let mut probes: Vec<Probe> = cx.before.map(|before| before.probes.clone()).unwrap_or_default();
        // A control that comes after an effect proves nothing, so only the first plan makes one.
        if cx.before.is_none()
            && !effects.is_empty()
            && let Some(address) = address(pod)
        {
            probes.push(Probe {
                direction: Direction::Ingress,
                peer: address.to_string(),
                before: cx.world.control(&address)?,
                before_at: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(cx.world.now),
                after: None,
                at: None,
            });
        }
        Ok(Plan { effects, probes, residual: probes::residual(pod), ..Plan::default() })
    }

    fn meets(&self, cx: &Context<'_>) -> Result<Vec<(ObjectRef, String)>, Unread> {
        let Some(pod) = pod(cx)?.filter(|pod| !finished(pod)) else { return Ok(Vec::new()) };
        let mut meets = Vec::new();
        let allowing = policies::allowing(pod, cx.world.network_policies(place(cx).0)?).join(", ");
        if !allowing.is_empty() {
            let what = "policies that allow some of the pod's traffic";
            meets.push(if endpoint_serves(cx)? {
                (policies::clusterwide_ref(cx, None), format!("overrules {what}: {allowing}"))
            } else {
                (
                    policies::network_policy_ref(cx, None),
                    format!("defeated by {what}, since policies add up: {allowing}"),
                )
            });
        }
        let peers = cx.world.responses()?.iter().filter(|peer| peer.live && peer.uid != cx.response_uid);
        let mut peers: Vec<&str> =
            peers.filter(|peer| isolates(&peer.isolates, cx)).map(|peer| peer.name.as_str()).collect();
        peers.sort_unstable();
        if !peers.is_empty() {
            let joins = format!("joins others who isolate the pod, and go on after a release: {}", peers.join(", "));
            meets.push((policies::pod_ref(cx), joins));
        }
        Ok(meets)
    }

    fn assess(&self, cx: &Context<'_>) -> Result<Assessment, Unread> {
        let mut assessment = Assessment {
            outcome: Outcome::Failed,
            reason: "TargetGone",
            probes: cx.before.map(|before| before.probes.clone()).unwrap_or_default(),
            ..Assessment::default()
        };
        let name = format!("{}/{}", place(cx).0, place(cx).1);
        let Some(pod) = pod(cx)?.filter(|pod| !finished(pod)) else {
            let before = cx.before.map_or(Outcome::Pending, |before| before.outcome);
            assessment.outcome = if before == Outcome::Done { Outcome::Done } else { Outcome::Failed };
            assessment.message = format!("pod {name} no longer runs; there is nothing left to hold");
            return Ok(assessment);
        };

        let mut after = None;
        // Only what answered before can be seen to be silent now.
        let ingress = assessment.probes.iter_mut().find(|probe| probe.direction == Direction::Ingress);
        if let Some(probe) = ingress.filter(|probe| probe.before.reached())
            && let Ok(address) = probe.peer.parse::<SocketAddr>()
            // A pod whose sandbox was made anew has another address; silence of the old one proves nothing.
            && has_address(pod, address.ip())
        {
            assessment.watch.push(address);
            if let Some(reach) = cx.world.reach(&address)? {
                after = Some(reach.answer);
                probe.after = after;
                probe.at = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(reach.since));
            }
        }
        let due = containment::policies_are_due(cx, pod)?;
        let mut engine = Engine::Silent;
        let policies = if due {
            let allowing = policies::allowing(pod, cx.world.network_policies(place(cx).0)?);
            engine = self::engine(cx, cx.response_uid, was_in_force(cx))?;
            // What was silent may have been so by a cut that has failed since.
            let uncertain = containment::is_uncertain(cx)?;
            Some(judge(&Seen {
                engine,
                after,
                controlled: !assessment.watch.is_empty(),
                others: policies::others_hold(cx, pod) || containment::is_being_lifted(cx)?,
                uncertain,
                allowing: &allowing,
                elapsed: cx.elapsed(),
                before: cx.before.filter(|_| !uncertain),
                pod: &name,
            }))
        } else {
            None
        };
        let (egress, connections) = containment::seen_from_inside(cx)?;
        let verdict = with_agent(cx, policies, after, egress.as_ref())?;
        if let Some(probe) = egress {
            assessment.probes.retain(|other| other.direction != Direction::Egress);
            assessment.probes.push(probe);
        }
        assessment.connections = connections;
        assessment.outcome = verdict.outcome;
        assessment.reason = verdict.reason;
        assessment.message = verdict.message;
        assessment.assurance = verdict.assurance;
        assessment.contained = Some(verdict.contained);
        assessment.again_after = verdict.again_after;
        assessment.residual = if verdict.reason == CUT {
            cut_residual(&name, &assessment.probes, containment::of(cx)?)
        } else {
            residual(&name, engine, verdict.contained)
        };
        Ok(assessment)
    }

    fn undo(&self, cx: &Context<'_>) -> Result<Undo, Unread> {
        let name = names::policy(cx.response_uid);
        let pod = pod(cx)?;
        let mut undo = Undo::default();
        if let Some(pod) = pod.filter(|pod| !finished(pod)) {
            let mut peers: Vec<&PeerResponse> = cx.world.responses()?.iter().collect();
            peers.retain(|peer| peer.live && peer.uid != cx.response_uid && isolates(&peer.isolates, cx));
            // The same one is named whatever the order of the list.
            peers.sort_by_key(|peer| (&peer.name, &peer.uid));
            for peer in peers {
                if holds(cx, pod, &peer.uid, peer.contains)? {
                    undo.held_by.get_or_insert(peer.name.clone());
                } else if contributes(cx, pod)? {
                    let (namespace, name) = place(cx);
                    let message =
                        format!("response {} also isolates pod {namespace}/{name} and is not in force yet", peer.name);
                    undo.waits.get_or_insert(("WaitingForHolder", message));
                }
            }
            if undo.held_by.is_some() {
                undo.waits = None;
            }
        }
        // The deny tier first and the labels last, as when applying: a label change makes Cilium skip policy changes.
        if let Some(policy) = cx.world.clusterwide_policy(&name)? {
            let object = policies::clusterwide_ref(cx, Some(policy.uid.clone()));
            if policy.terminating {
                undo.blocked.get_or_insert(policies::kept_by(&object, &policy.finalizers));
            } else {
                undo.effects.push(Effect::Delete { object, version: None });
            }
        }
        if let Some(policy) = cx.world.network_policy(place(cx).0, &name)? {
            let object = policies::network_policy_ref(cx, policy.metadata.uid.clone());
            if policy.metadata.deletion_timestamp.is_some() {
                let finalizers = policy.metadata.finalizers.as_deref().unwrap_or_default();
                undo.blocked.get_or_insert(policies::kept_by(&object, finalizers));
            } else {
                undo.effects.push(Effect::Delete { object, version: None });
            }
        }
        if let Some(pod) = pod {
            undo.effects.extend(policies::withdraw_labels(cx, pod));
        }
        // The cut last, when nothing else of ours is there any more: until then it is what holds.
        if undo.effects.is_empty() && undo.blocked.is_none() {
            containment::leave(cx, pod.is_some(), &mut undo)?;
        }
        Ok(undo)
    }
}

fn place<'a>(cx: &Context<'a>) -> (&'a str, &'a str) {
    (cx.target.namespace.as_deref().unwrap_or_default(), &cx.target.name)
}

/// The pinned pod. A pod of the same name with another UID is another pod.
fn pod<'a>(cx: &Context<'a>) -> Result<Option<&'a Pod>, Unread> {
    let (namespace, name) = place(cx);
    let pod = cx.world.pod(namespace, name)?;
    Ok(pod.filter(|pod| pod.metadata.uid.as_deref() == Some(&cx.target.uid)))
}

fn finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Where to try the pod: the first TCP port that it declares.
fn address(pod: &Pod) -> Option<SocketAddr> {
    let ip: IpAddr = pod.status.as_ref()?.pod_ip.as_deref()?.parse().ok()?;
    let ports =
        pod.spec.iter().flat_map(|spec| &spec.containers).flat_map(|container| container.ports.iter().flatten());
    let port = ports
        .filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"))
        .find_map(|port| u16::try_from(port.container_port).ok())
        .unwrap_or(ANY_PORT);
    Some(SocketAddr::new(ip, port))
}

/// Whether this is one of the pod's addresses now.
fn has_address(pod: &Pod, ip: IpAddr) -> bool {
    let Some(status) = &pod.status else { return false };
    let several = status.pod_ips.iter().flatten().map(|address| address.ip.as_str());
    several.chain(status.pod_ip.as_deref()).any(|address| address.parse() == Ok(ip))
}

/// Whether Cilium serves this very pod.
fn endpoint_serves(cx: &Context<'_>) -> Result<bool, Unread> {
    let (namespace, name) = place(cx);
    let endpoint = cx.world.cilium_endpoint(namespace, name)?;
    Ok(endpoint.is_some_and(|endpoint| endpoint.pod_uid.as_deref() == Some(&cx.target.uid)))
}

/// Whether this response was in force on the pod when it was last looked at.
fn was_in_force(cx: &Context<'_>) -> bool {
    cx.before.is_some_and(|before| before.outcome == Outcome::Done)
}

/// What the engine says of one response's policy on this pod.
fn engine(cx: &Context<'_>, response_uid: &str, was_in_force: bool) -> Result<Engine, Unread> {
    if !endpoint_serves(cx)? {
        return Ok(Engine::Silent);
    }
    let (namespace, name) = place(cx);
    // An endpoint that waits for its next identity goes on enforcing the present one.
    let in_force = cx.world.cilium_endpoint(namespace, name)?.is_some_and(|endpoint| {
        (endpoint.state == "ready" || was_in_force)
            && endpoint.identity_labels.contains(&policies::identity_label(response_uid))
    });
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
fn holds(cx: &Context<'_>, pod: &Pod, response_uid: &str, was_in_force: bool) -> Result<bool, Unread> {
    if containment::holds(cx, response_uid)? {
        return Ok(true);
    }
    match engine(cx, response_uid, was_in_force)? {
        Engine::Cilium { in_force, .. } => Ok(in_force),
        // A deny policy of ours says that Cilium served the pod: without its report, in place is not in force there. Nor is
        // it known to be where a cut of ours holds the pod.
        Engine::Silent => Ok(!containment::holds(cx, cx.response_uid)?
            && cx.world.clusterwide_policy(&names::policy(cx.response_uid))?.is_none()
            && in_place(cx, pod, response_uid)?),
    }
}

/// Whether a response's network policy is there and selects the pod.
fn in_place(cx: &Context<'_>, pod: &Pod, response_uid: &str) -> Result<bool, Unread> {
    Ok(cx.world.network_policy(place(cx).0, &names::policy(response_uid))?.is_some()
        && policies::label(pod, &names::isolation_label(response_uid)) == Some(names::ISOLATION_VALUE))
}

/// Whether this response may be what holds the pod, so that letting go could open a gap. Unlike [`holds`] this errs on the
/// side of yes: an endpoint whose labels have just changed is not `ready`, and enforces its present identity all the same.
fn contributes(cx: &Context<'_>, pod: &Pod) -> Result<bool, Unread> {
    if containment::holds(cx, cx.response_uid)? {
        return Ok(true);
    }
    if !endpoint_serves(cx)? {
        return in_place(cx, pod, cx.response_uid);
    }
    let (namespace, name) = place(cx);
    let endpoint = cx.world.cilium_endpoint(namespace, name)?;
    Ok(endpoint.is_some_and(|endpoint| endpoint.identity_labels.contains(&policies::identity_label(cx.response_uid))))
}

fn isolates(pods: &[(String, String, Option<String>)], cx: &Context<'_>) -> bool {
    pods.iter().any(|(namespace, name, uid)| match uid {
        Some(uid) => *uid == cx.target.uid,
        // Not accepted yet: it may become one.
        None => (namespace.as_str(), name.as_str()) == place(cx),
    })
}

//! One pod, whether it is the target, one of several, or in a namespace that is isolated.

use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tourniquet_api::{Direction, Outcome, Probe, names};

use super::policies::{self, Scope, scope};
use super::seen::{containment, endpoint, finished, has_network, place, pod};
use super::verdict::{CUT, Engine, Seen, cut_residual, judge, residual, with_agent};
use super::{beyond, calico, containment, peers, probes};
use crate::action::{Assessment, Contained, Context, Plan, Refusal, Undo};
use crate::effect::ObjectRef;
use crate::world::Unread;

/// A port to try on a pod that declares none. Nobody has to listen: a refused connection reached the pod as well.
const ANY_PORT: u16 = 80;

pub(super) fn plan(cx: &Context<'_>) -> Result<Plan, Unread> {
    let Some(pod) = pod(cx)? else { return Ok(Plan::default()) };
    if beyond::out_of_reach(cx.world, pod)?.is_some() {
        return Ok(Plan::default());
    }
    // The cut first: it takes milliseconds.
    let mut effects = containment::join(cx, pod)?;
    if scope(cx) == Scope::Labelled && containment::policies_are_due(cx, pod)? {
        let name = names::policy(cx.response_uid);
        // Policies before labels: from the moment of a label change Cilium skips policy changes for half a minute.
        let mut beside = None;
        if endpoint(cx)?.is_some() {
            effects.extend(policies::put_clusterwide(cx, cx.world.clusterwide_policy(&name)?));
        } else if cx.world.engines()?.calico {
            effects.extend(calico::put_in_place(cx)?);
            beside = Some(calico::NOTED);
        }
        effects.extend(policies::put_network_policy(cx, cx.world.network_policy(place(cx).0, &name)?, beside));
        effects.extend(policies::put_labels(cx, pod));
    }

    let mut probes: Vec<Probe> = cx.before.map(|before| before.probes.clone()).unwrap_or_default();
    // A control that comes after an effect proves nothing, so only the first plan makes one.
    if cx.before.is_none()
        // Of a namespace the policies are in place already when a pod comes later.
        && (!effects.is_empty() || scope(cx) == Scope::Namespace)
        && let Some(address) = address(pod)
    {
        probes.push(Probe {
            direction: Direction::Ingress,
            peer: address.to_string(),
            before: cx.world.control(&address)?,
            before_at: Time(cx.world.now),
            after: None,
            at: None,
        });
    }
    Ok(Plan { effects, probes, residual: probes::residual(pod), ..Plan::default() })
}

pub(super) fn meets(cx: &Context<'_>) -> Result<Vec<(ObjectRef, String)>, Unread> {
    let Some(pod) = pod(cx)?.filter(|pod| !finished(pod)) else { return Ok(Vec::new()) };
    let mut meets = Vec::new();
    let allowing = policies::allowing(pod, cx.world.network_policies(place(cx).0)?).join(", ");
    if !allowing.is_empty() && scope(cx) == Scope::Labelled {
        let is_cilium = endpoint(cx)?.is_some();
        meets.push(if !is_cilium && cx.world.engines()?.calico {
            calico::meets(cx, &allowing)
        } else {
            policies::meets(cx, &allowing, is_cilium)
        });
    }
    let peers: Vec<String> = peers::of(cx)?.into_iter().map(|peer| peer.response.name.clone()).collect();
    if !peers.is_empty() {
        let joins = format!("joins others who isolate the pod, and go on after a release: {}", peers.join(", "));
        meets.push((policies::pod_ref(cx), joins));
    }
    Ok(meets)
}

pub(super) fn assess(cx: &Context<'_>) -> Result<Assessment, Unread> {
    let mut assessment = Assessment {
        outcome: Outcome::Failed,
        reason: "TargetGone",
        probes: cx.before.map(|before| before.probes.clone()).unwrap_or_default(),
        ..Assessment::default()
    };
    let name = format!("{}/{}", place(cx).0, place(cx).1);
    let found = pod(cx)?;
    let before = cx.before.map_or(Outcome::Pending, |before| before.outcome);
    if let Some(pod) = found
        && let Some(Refusal { reason, message }) = beyond::out_of_reach(cx.world, pod)?
        && (reason != beyond::FINISHED || matches!(before, Outcome::Pending | Outcome::Skipped))
    {
        let is_over = reason == beyond::FINISHED;
        assessment.outcome = if is_over { Outcome::Skipped } else { Outcome::Failed };
        assessment.contained = (!is_over).then_some(Contained::Open);
        if !is_over {
            assessment.residual = residual(&name, Engine::Silent, Contained::Open);
        }
        (assessment.reason, assessment.message) = (reason, message);
        return Ok(assessment);
    }
    let Some(pod) = found.filter(|pod| !finished(pod)) else {
        assessment.outcome = if before == Outcome::Done { Outcome::Done } else { Outcome::Failed };
        assessment.message = format!("pod {name} no longer runs; there is nothing left to hold");
        return Ok(assessment);
    };
    if scope(cx) == Scope::Namespace && !has_network(pod) {
        assessment.outcome = Outcome::Skipped;
        assessment.reason = "NotStarted";
        assessment.message = format!("pod {name} has no network yet; what isolates its namespace is there already");
        return Ok(assessment);
    }

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
            probe.at = Some(Time(reach.since));
        }
    }
    let due = containment::policies_are_due(cx, pod)?;
    let mut engine = Engine::Silent;
    let mut tier = None;
    let policies = if due {
        let all = cx.world.network_policies(place(cx).0)?;
        let allowing = policies::allowing(pod, all);
        engine = peers::engine(cx)?;
        // What Cilium reports wins.
        if engine == Engine::Silent {
            tier = calico::seen(cx, calico::admits_everybody(pod, all))?;
        }
        // What was silent may have been so by a cut that has failed since.
        let uncertain = containment::is_uncertain(cx)?;
        Some(judge(&Seen {
            engine,
            after,
            controlled: !assessment.watch.is_empty(),
            others: policies::others_hold(cx, pod, all) || containment::is_being_lifted(cx)?,
            uncertain,
            in_place: peers::is_in_place(cx, pod)?,
            allowing: &allowing,
            tier: tier.as_ref(),
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
        cut_residual(&name, &assessment.probes, containment(cx)?)
    } else {
        residual(&name, engine, verdict.contained)
    };
    assessment.residual.extend(tier.and_then(|tier| tier.residual(&format!("pod {name}"))));
    Ok(assessment)
}

pub(super) fn undo(cx: &Context<'_>) -> Result<Undo, Unread> {
    let pod = pod(cx)?;
    let mut undo = Undo::default();
    if let Some(pod) = pod.filter(|pod| !finished(pod)) {
        for peer in peers::of(cx)? {
            if peers::holds(cx, pod, &peer)? {
                undo.held_by.get_or_insert(peer.response.name.clone());
            } else if peers::contributes(cx, pod)? {
                let (namespace, name) = place(cx);
                let peer = &peer.response.name;
                let message = format!("response {peer} also isolates pod {namespace}/{name} and is not in force yet");
                undo.waits.get_or_insert(("WaitingForHolder", message));
            }
        }
        if undo.held_by.is_some() {
            undo.waits = None;
        }
    }
    (undo.effects, undo.blocked) = policies::withdraw(cx)?;
    if let Some(pod) = pod.filter(|_| scope(cx) == Scope::Labelled) {
        undo.effects.extend(policies::withdraw_labels(cx, pod));
    }
    // The cut last, when nothing else of ours is there any more: until then it is what holds.
    if undo.effects.is_empty() && undo.blocked.is_none() {
        containment::leave(cx, pod.is_some(), &mut undo)?;
    }
    Ok(undo)
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
pub(super) fn has_address(pod: &Pod, ip: IpAddr) -> bool {
    let Some(status) = &pod.status else { return false };
    let several = status.pod_ips.iter().flatten().map(|address| address.ip.as_str());
    several.chain(status.pod_ip.as_deref()).any(|address| address.parse() == Ok(ip))
}

//! A namespace: policies that select all of it, and what is in it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use tourniquet_api::{Assurance, Containment, Outcome, PinnedTarget, Residual, names};

use super::calico;
use super::containment::of_pod_that_is_gone;
use super::policies;
use super::seen::{finished, has_network};
use crate::action::{Assessment, Contained, Context, Plan, Undo, gone};
use crate::effect::ObjectRef;
use crate::pass::full_name;
use crate::settings::Agents;
use crate::target;
use crate::world::{Read, Unread, World};

/// How many losses are named.
const LOST_NAMED: usize = 16;

/// How long Cilium may take to look at a policy.
const CILIUM_JUDGES: SignedDuration = super::verdict::CILIUM_JUDGES;

pub(super) fn containments_read(cx: &Context<'_>) -> Option<Read> {
    let agents = cx.agents?.namespace.clone();
    Some(Read::NamespaceContainments { namespace: cx.target.name.clone(), agents })
}

/// The pods of the namespace; none of another one of the same name.
fn pods<'a>(cx: &Context<'a>) -> Result<Option<&'a BTreeMap<String, Pod>>, Unread> {
    match target::fields(cx.target, cx.world)? {
        Some(_) => cx.world.namespace_pods(&cx.target.name).map(Some),
        None => Ok(None),
    }
}

/// The pods of an isolated namespace, each as a target; none of another one of the same name.
pub(crate) fn pods_in<'a>(world: &'a World, target: &PinnedTarget) -> Result<Vec<(PinnedTarget, &'a Pod)>, Unread> {
    if target::fields(target, world)?.is_none() {
        return Ok(Vec::new());
    }
    Ok(world.namespace_pods(&target.name)?.values().map(|pod| (member(target, pod), pod)).collect())
}

fn uids<'a>(pods: impl Iterator<Item = &'a Pod>) -> BTreeSet<&'a str> {
    pods.filter_map(|pod| pod.metadata.uid.as_deref()).collect()
}

fn member(namespace: &PinnedTarget, pod: &Pod) -> PinnedTarget {
    PinnedTarget {
        kind: "Pod".to_owned(),
        namespace: Some(namespace.name.clone()),
        name: pod.metadata.name.clone().unwrap_or_default(),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        ..PinnedTarget::default()
    }
}

/// The pods that run there now. When undoing, those that are cut for this response and are gone as well; of another namespace of the
/// same name none, whoever has let go of them a moment ago.
pub(super) fn members(cx: &Context<'_>, undoing: bool) -> Result<Vec<PinnedTarget>, Unread> {
    let running = pods_in(cx.world, cx.target)?.into_iter().filter(|(_, pod)| !finished(pod));
    let mut members: Vec<PinnedTarget> = running.map(|(member, _)| member).collect();
    if undoing {
        let known: BTreeSet<&str> = match pods(cx)? {
            Some(pods) => uids(pods.values().filter(|pod| !finished(pod))),
            None => uids(cx.world.namespace_pods(&cx.target.name)?.values()),
        };
        let uid = cx.response_uid;
        let ours = all(cx)?.filter(|found| {
            let holders = &found.spec.holders;
            // One that nobody holds may have been ours a moment ago.
            (holders.contains_key(uid) || holders.is_empty()) && !known.contains(found.spec.pod.uid.as_str())
        });
        members.extend(ours.map(|found| PinnedTarget {
            kind: "Pod".to_owned(),
            namespace: Some(found.spec.pod.namespace.clone()),
            name: found.spec.pod.name.clone(),
            uid: found.spec.pod.uid.clone(),
            ..PinnedTarget::default()
        }));
    }
    Ok(members)
}

/// The Containments of pods of the namespace, whoever holds them.
fn all<'a>(cx: &Context<'a>) -> Result<impl Iterator<Item = &'a Containment>, Unread> {
    let all = match cx.agents {
        Some(agents) => Some(cx.world.namespace_containments(&cx.target.name, &agents.namespace)?),
        None => None,
    };
    Ok(all.into_iter().flat_map(BTreeMap::values))
}

/// Whether the deny tier is to be had: its kind is served, and something reports on the pods, as far as there are any.
fn has_deny_tier(cx: &Context<'_>, pods: &BTreeMap<String, Pod>) -> Result<bool, Unread> {
    let is_reported = !cx.world.namespace_endpoints(&cx.target.name)?.is_empty();
    Ok(cx.world.engines()?.cilium && (is_reported || !pods.values().any(has_network)))
}

pub(super) fn plan(cx: &Context<'_>) -> Result<Plan, Unread> {
    let mut plan = Plan::default();
    let known = uids(cx.world.namespace_pods(&cx.target.name)?.values());
    let gone = all(cx)?.filter(|found| !known.contains(found.spec.pod.uid.as_str()));
    plan.tidying.extend(gone.filter_map(|found| of_pod_that_is_gone(cx, found)));
    let Some(pods) = pods(cx)? else {
        // The deny tiers' policies select by the namespace's name, and would hold another one of that name (law 3).
        plan.tidying.extend(policies::withdraw(cx)?.0);
        return Ok(plan);
    };
    let name = names::policy(cx.response_uid);
    let mut beside = None;
    if has_deny_tier(cx, pods)? {
        plan.effects.extend(policies::put_clusterwide(cx, cx.world.clusterwide_policy(&name)?));
    } else if cx.world.engines()?.calico {
        plan.effects.extend(calico::put_in_place(cx)?);
        beside = Some(calico::NOTED);
    }
    plan.effects.extend(policies::put_network_policy(cx, cx.world.network_policy(&cx.target.name, &name)?, beside));
    Ok(plan)
}

pub(super) fn meets(cx: &Context<'_>) -> Result<Vec<(ObjectRef, String)>, Unread> {
    let Some(pods) = pods(cx)? else { return Ok(Vec::new()) };
    let allowing = policies::allowing_any(cx.world.network_policies(&cx.target.name)?).join(", ");
    if allowing.is_empty() {
        return Ok(Vec::new());
    }
    let is_cilium = has_deny_tier(cx, pods)?;
    Ok(vec![if !is_cilium && cx.world.engines()?.calico {
        calico::meets(cx, &allowing)
    } else {
        policies::meets(cx, &allowing, is_cilium)
    }])
}

pub(super) fn assess(cx: &Context<'_>) -> Result<Assessment, Unread> {
    let Some(pods) = pods(cx)? else { return Ok(gone(cx)) };
    let name = &cx.target.name;
    let running = pods.values().filter(|pod| !finished(pod) && has_network(pod)).count();
    let mut assessment = Assessment { assurance: Assurance::Accepted, ..Assessment::default() };
    if has_deny_tier(cx, pods)? {
        let policy = cx.world.clusterwide_policy(&names::policy(cx.response_uid))?;
        if policy.is_some_and(|policy| policy.valid && !policy.terminating) {
            assessment.outcome = Outcome::Done;
            assessment.reason = "DenyTier";
            assessment.assurance = Assurance::EngineReported;
            assessment.message = format!(
                "Cilium denies all new connections of all pods of namespace {name}, but from their own nodes, and of those that start \
                 later from their first packet"
            );
            assessment.contained = (running == 0).then_some(Contained::Held);
            return Ok(assessment);
        }
        if cx.elapsed() < CILIUM_JUDGES {
            assessment.outcome = Outcome::Running;
            assessment.reason = "Settling";
            assessment.message =
                format!("the policies of namespace {name} are accepted; Cilium has not looked at them yet");
            assessment.contained = Some(Contained::Unseen);
            assessment.again_after = Some(CILIUM_JUDGES - cx.elapsed());
            return Ok(assessment);
        }
    }
    let allowing = policies::allowing_any(cx.world.network_policies(name)?);
    let policies = allowing.join(", ");
    let by_agent = if cx.agents.is_some() { "; each is cut off as soon as it is seen" } else { "" };
    let tier = if has_deny_tier(cx, pods)? { None } else { calico::seen(cx, None)? };
    assessment.reason = match &tier {
        Some(_) => "NotObserved",
        None if allowing.is_empty() => "NetworkPolicy",
        None => "AllowedByPolicy",
    };
    assessment.message = if let Some(tier) = &tier {
        format!("{}{by_agent}", tier.of_namespace(name, &policies))
    } else if allowing.is_empty() {
        format!(
            "a NetworkPolicy denies all traffic of namespace {name}; no engine reports on it, so whether pods that start later are denied \
             theirs from the first packet is not known{by_agent}"
        )
    } else {
        format!(
            "policies add up, and no deny tier is known here: in namespace {name} NetworkPolicy {policies} goes on allowing traffic of pods \
             that start later{by_agent}"
        )
    };
    assessment.residual.push(Residual {
        code: "NewPodsOpenAtFirst".to_owned(),
        severity: if cx.agents.is_some() { "Medium" } else { "High" }.to_owned(),
        message: assessment.message.clone(),
        remedy: Some(if allowing.is_empty() {
            format!("keep new pods away for the time being: kubectl --namespace {name} create quota no-new-pods --hard=pods=0")
        } else {
            format!("delete them or their rules: kubectl --namespace {name} get networkpolicy")
        }),
    });
    assessment.residual.extend(tier.as_ref().and_then(|tier| tier.residual(&format!("namespace {name}"))));
    // What runs there says itself how far it is held.
    let said_by_pods = running > 0 && (allowing.is_empty() || tier.is_some() || cx.agents.is_some());
    assessment.outcome = if said_by_pods { Outcome::Done } else { Outcome::Partial };
    if running == 0 {
        assessment.contained =
            Some(if allowing.is_empty() || tier.is_some() { Contained::Unseen } else { Contained::Open });
        assessment.message += "; no pod runs there now";
    }
    Ok(assessment)
}

pub(super) fn undo(cx: &Context<'_>) -> Result<Undo, Unread> {
    let (effects, blocked) = policies::withdraw(cx)?;
    Ok(Undo { effects, blocked, ..Undo::default() })
}

/// What of the evidence in an isolated namespace is lost: containers that restarted while it was held, and pods that were cut and are gone.
/// Nothing is remembered of the pods of a namespace, so it is told from what they say themselves.
pub(crate) fn lost_in(
    world: &World,
    target: &PinnedTarget,
    agents: Option<&Agents>,
    response_uid: &str,
    began: Option<Timestamp>,
) -> Result<Vec<String>, Unread> {
    let mut lost = Vec::new();
    if target::fields(target, world)?.is_none() {
        return Ok(vec![format!("{} is gone", target::describe(target))]);
    }
    let pods = world.namespace_pods(&target.name)?;
    for pod in pods.values() {
        let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        for status in statuses.filter(|status| status.restart_count > 0) {
            let ended = status.last_state.as_ref().and_then(|last| last.terminated.as_ref()?.finished_at.as_ref());
            if ended.zip(began).is_some_and(|(ended, began)| ended.0 > began) {
                lost.push(format!("container {} of pod {} was restarted", status.name, full_name(&pod.metadata)));
            }
        }
    }
    if let Some(agents) = agents {
        let known = uids(pods.values());
        let cut = world.namespace_containments(&target.name, &agents.namespace)?.values();
        let cut = cut.filter(|found| found.spec.holders.contains_key(response_uid)).map(|found| &found.spec.pod);
        let gone = cut.filter(|pod| !known.contains(pod.uid.as_str()));
        lost.extend(gone.map(|pod| format!("pod {}/{} is gone", pod.namespace, pod.name)));
    }
    // A namespace can lose any number.
    let more = lost.len().saturating_sub(LOST_NAMED);
    lost.truncate(LOST_NAMED);
    if more > 0 {
        lost.push(format!("and {more} more"));
    }
    Ok(lost)
}

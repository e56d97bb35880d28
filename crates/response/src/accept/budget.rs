//! How much may be contained at once, and how fast. It is asked once, before anything is touched, and never of a release.
//!
//! Two responses that are decided at the same moment do not both count the other one, or both could be refused: the earlier one counts.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use tourniquet_api::{IncidentResponse, PinnedTarget};

use crate::action::Refusal;
use crate::isolate;
use crate::recent::MINUTE;
use crate::settings::Budget;
use crate::status;
use crate::world::{PeerResponse, Read, Unread, World};

/// A pod, as the name of one.
type Name = (String, String);

/// Why the response is more than the budget allows, if so. With overrideProtection there is none.
pub(super) fn exceeded(
    response: &IncidentResponse,
    found: &[(PinnedTarget, Option<&Pod>)],
    world: &World,
    budget: &Budget,
) -> Result<Option<Refusal>, Unread> {
    if *budget == Budget::default() || response.spec.override_protection {
        return Ok(None);
    }
    let isolates = status::isolates(response);
    let namespaces = found.iter().filter(|(target, _)| isolates && target.kind == "Namespace");
    let namespaces = namespaces.map(|(target, _)| Read::NamespacePods { namespace: target.name.clone() });
    let recent = budget.responses_per_minute.map(|_| Read::Recent);
    world.require(namespaces.chain([Read::Responses]).chain(recent))?;

    let before: Vec<&PeerResponse> = world.responses()?.iter().filter(|peer| comes_first(peer, response)).collect();
    if let Some(refusal) = too_fast(response, &before, world, budget)? {
        return Ok(Some(refusal));
    }
    if !isolates {
        return Ok(None);
    }
    let held = Held::by(&before);
    let pods = pods(found, world)?;
    let more: Vec<&Pod> = pods.into_iter().filter(|pod| !held.holds(&name(pod))).collect();
    if let Some(refusal) = too_many(&held, &more, budget) {
        return Ok(Some(refusal));
    }
    too_much_of_a_workload(&held, &more, world, budget)
}

/// Whether another response counts for this one: it was decided upon, or was created before it.
fn comes_first(peer: &PeerResponse, response: &IncidentResponse) -> bool {
    let uid = response.metadata.uid.as_deref().unwrap_or_default();
    if peer.uid == uid {
        return false;
    }
    peer.decided || (peer.created, peer.uid.as_str()) < (created(response), uid)
}

fn created(response: &IncidentResponse) -> Option<Timestamp> {
    response.metadata.creation_timestamp.as_ref().map(|at| at.0)
}

fn refuse(message: String) -> Refusal {
    let way_out =
        "release what need not be held, raise it in the chart, or, with the right to, set overrideProtection: true";
    Refusal { reason: "BudgetExceeded", message: format!("{message}; nothing was touched: {way_out}") }
}

fn too_fast(
    response: &IncidentResponse,
    before: &[&PeerResponse],
    world: &World,
    budget: &Budget,
) -> Result<Option<Refusal>, Unread> {
    // A plan does nothing, however many there are.
    let limit = budget.responses_per_minute.filter(|_| !response.spec.dry_run);
    let (Some(limit), Some(created)) = (limit, created(response)) else { return Ok(None) };
    let within = |at: Timestamp| created.duration_since(at) < MINUTE && at.duration_since(created) < MINUTE;
    let there =
        before.iter().filter(|peer| peer.carried_out).filter_map(|peer| Some((peer.uid.as_str(), peer.created?)));
    // Those that were deleted since count as well.
    let remembered = world.recent()?.iter().map(|(uid, at)| (uid.as_str(), *at));
    let own = response.metadata.uid.as_deref().unwrap_or_default();
    let recent = there.chain(remembered).filter(|(uid, at)| *uid != own && within(*at)).map(|(uid, _)| uid);
    let recent = recent.collect::<BTreeSet<_>>().len();
    Ok((recent >= limit).then(|| {
        refuse(format!("{recent} responses were created within a minute before, and the budget is {limit} (budget.responsesPerMinute)"))
    }))
}

/// What is isolated already, or is about to be.
struct Held {
    pods: BTreeSet<Name>,
    /// With how many pods run in it.
    namespaces: BTreeMap<String, usize>,
}

impl Held {
    fn by(peers: &[&PeerResponse]) -> Self {
        let live = || peers.iter().filter(|peer| peer.live);
        let mut namespaces = BTreeMap::new();
        for peer in live() {
            if let Some(namespace) = &peer.isolates_namespace {
                let pods: &mut usize = namespaces.entry(namespace.clone()).or_default();
                *pods = peer.namespace_pods.max(*pods);
            }
        }
        let pods = live().flat_map(|peer| &peer.isolates).map(|(namespace, name, _)| (namespace.clone(), name.clone()));
        let pods = pods.filter(|(namespace, _)| !namespaces.contains_key(namespace)).collect();
        Self { pods, namespaces }
    }

    fn holds(&self, (namespace, name): &Name) -> bool {
        self.namespaces.contains_key(namespace) || self.pods.contains(&(namespace.clone(), name.clone()))
    }

    fn count(&self) -> usize {
        self.pods.len() + self.namespaces.values().sum::<usize>()
    }
}

/// The pods that the response isolates.
fn pods<'a>(found: &[(PinnedTarget, Option<&'a Pod>)], world: &'a World) -> Result<Vec<&'a Pod>, Unread> {
    let mut pods = Vec::new();
    for (target, pod) in found {
        pods.extend(*pod);
        if target.kind == "Namespace" {
            let running = isolate::pods_in(world, target)?.into_iter().filter(|(_, pod)| !isolate::finished(pod));
            pods.extend(running.map(|(_, pod)| pod));
        }
    }
    Ok(pods)
}

fn name(pod: &Pod) -> Name {
    (pod.metadata.namespace.clone().unwrap_or_default(), pod.metadata.name.clone().unwrap_or_default())
}

fn too_many(held: &Held, more: &[&Pod], budget: &Budget) -> Option<Refusal> {
    let (limit, count) = (budget.contained_pods?, held.count());
    (!more.is_empty() && count + more.len() > limit).then(|| {
        refuse(format!(
            "{count} pods are isolated, {} more would be, and the budget is {limit} (budget.containedPods)",
            more.len()
        ))
    })
}

/// How many pods of the workload may be isolated: a share of them, but one in any case.
const fn allowed(pods: usize, percent: usize) -> usize {
    let share = pods * percent / 100;
    if share == 0 { 1 } else { share }
}

fn too_much_of_a_workload(
    held: &Held,
    more: &[&Pod],
    world: &World,
    budget: &Budget,
) -> Result<Option<Refusal>, Unread> {
    let Some(percent) = budget.workload_share else { return Ok(None) };
    let mut workloads: BTreeMap<(&str, &str, &str), usize> = BTreeMap::new();
    for pod in more {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        if let Some(owner) = workload(pod) {
            *workloads.entry((namespace, &owner.kind, &owner.name)).or_default() += 1;
        }
    }
    world.require(workloads.keys().map(|(namespace, kind, name)| Read::OwnedPods {
        namespace: (*namespace).to_owned(),
        kind: (*kind).to_owned(),
        name: (*name).to_owned(),
    }))?;
    for ((namespace, kind, owner), count) in workloads {
        // Gone since: nothing is left to share.
        let Some(all) = world.owned_pods(namespace, kind, owner)? else { continue };
        let before = all.iter().filter(|pod| held.holds(&name(pod))).count();
        let limit = allowed(all.len(), percent);
        if before + count > limit {
            return Ok(Some(refuse(format!(
                "{kind} {namespace}/{owner} has {} pods, of which {before} are isolated and {count} more would be, and the budget is {limit}: \
                 {percent} percent, and one in any case (budget.workloadShare)",
                all.len()
            ))));
        }
    }
    Ok(None)
}

/// The workload that a pod is one of. Of other kinds nobody can say how many pods they have.
fn workload(pod: &Pod) -> Option<&OwnerReference> {
    let owner = pod.metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))?;
    ["ReplicaSet", "StatefulSet", "DaemonSet", "Job"].contains(&owner.kind.as_str()).then_some(owner)
}

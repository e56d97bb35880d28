//! Isolate: cut pods off from the network: one, several, or all of a namespace and those to come.
//!
//! Cilium's deny tier where Cilium serves the pod, else Calico's where its kinds are served, and a network policy everywhere. What is claimed follows observation: the
//! engine's own report for this pod, and the operator's own connection attempts before and after.
//!
//! Several pods have one pair of policies, which select them by their label. A namespace has one that selects all of it; the cut
//! is asked for each of its pods, those that start later included.

mod beyond;
mod calico;
pub(crate) mod containment;
mod namespace;
mod peers;
mod pod;
mod policies;
mod probes;
mod seen;
mod verdict;

use k8s_openapi::api::rbac::v1::PolicyRule;
use tourniquet_api::{PinnedTarget, Verb, names};

pub(crate) use self::namespace::{lost_in, pods_in};
use self::policies::Scope;
pub(crate) use self::seen::finished;
use self::seen::{containment_read, endpoint_read, peers_read};
use crate::action::{Act, Asked, Assessment, Context, Plan, Refusal, Undo};
use crate::effect::{Kind, ObjectRef};
use crate::rbac::rule;
use crate::target;
use crate::world::{Read, Unread};

pub(crate) const ISOLATE: Isolate = Isolate;

/// The action.
pub(crate) struct Isolate;

impl Act for Isolate {
    fn verb(&self) -> Verb {
        Verb::Isolate
    }

    fn targets(&self) -> &'static [Kind] {
        &[Kind::Pod, Kind::Namespace]
    }

    fn refuses(&self, asked: &Asked<'_>) -> Result<Option<Refusal>, Unread> {
        beyond::keeps_the_api(asked)
    }

    fn passes_over(&self, asked: &Asked<'_>) -> Result<Option<Refusal>, Unread> {
        asked.pod.map_or(Ok(None), |pod| beyond::out_of_reach(asked.world, pod))
    }

    fn members(&self, cx: &Context<'_>, undoing: bool) -> Result<Vec<PinnedTarget>, Unread> {
        if is_whole_namespace(cx) { namespace::members(cx, undoing) } else { Ok(Vec::new()) }
    }

    fn rbac(&self) -> Vec<PolicyRule> {
        // An apply that creates is a patch and a create; what replaces is an update.
        let own = ["get", "list", "watch", "create", "patch", "update", "delete"];
        vec![
            rule("internal.tourniquet.dev", &["containments"], &["get", "list", "watch", "create", "patch", "delete"]),
            // Whether the node is gone for good, whose agent would have to lift a cut; and whether it is a virtual one.
            rule("", &["nodes"], &["get"]),
            rule("", &["namespaces"], &["get"]),
            rule("", &["pods"], &["get", "list", "watch", "patch"]),
            rule("networking.k8s.io", &["networkpolicies"], &own),
            rule("cilium.io", &["ciliumclusterwidenetworkpolicies"], &own),
            rule("projectcalico.org", &["tiers", "globalnetworkpolicies"], &own),
            // Who may do what in which tier Calico checks by a resource that there is not (apiserver, authorizer.go).
            rule("projectcalico.org", &["tier.globalnetworkpolicies"], &own),
            rule("cilium.io", &["ciliumendpoints"], &["get", "list", "watch"]),
        ]
    }

    fn reads(&self, cx: &Context<'_>, undoing: bool) -> Vec<Read> {
        if cx.namespace.is_some() {
            // Listed for the whole namespace.
            return Vec::new();
        }
        let whole = is_whole_namespace(cx);
        let namespace = policies::namespace(cx).to_owned();
        let mut reads: Vec<Read> = target::read(cx.target).into_iter().collect();
        if whole {
            reads.push(Read::NamespacePods { namespace: namespace.clone() });
            reads.extend(namespace::containments_read(cx));
        } else {
            reads.extend(containment_read(cx));
            if cx.agents.is_some() && !undoing {
                // Of the policies nothing matters in the first minute of a cut.
                return reads;
            }
        }
        if undoing {
            reads.push(if whole {
                Read::ResponsesOn { namespace: namespace.clone(), pod: None }
            } else {
                peers_read(cx)
            });
        }
        reads.extend([
            Read::Engines,
            Read::NetworkPolicy { namespace: namespace.clone(), name: names::policy(cx.response_uid) },
            Read::NetworkPolicies { namespace: namespace.clone() },
            if whole { Read::NamespaceEndpoints { namespace } } else { endpoint_read(cx) },
            Read::ClusterwidePolicy { name: names::policy(cx.response_uid) },
        ]);
        reads
    }

    fn plan(&self, cx: &Context<'_>) -> Result<Plan, Unread> {
        if is_whole_namespace(cx) { namespace::plan(cx) } else { pod::plan(cx) }
    }

    fn meets(&self, cx: &Context<'_>) -> Result<Vec<(ObjectRef, String)>, Unread> {
        if is_whole_namespace(cx) { namespace::meets(cx) } else { pod::meets(cx) }
    }

    fn assess(&self, cx: &Context<'_>) -> Result<Assessment, Unread> {
        if is_whole_namespace(cx) { namespace::assess(cx) } else { pod::assess(cx) }
    }

    fn undo(&self, cx: &Context<'_>) -> Result<Undo, Unread> {
        if is_whole_namespace(cx) { namespace::undo(cx) } else { pod::undo(cx) }
    }
}

/// Whether this is about a namespace, and not about a pod in it.
fn is_whole_namespace(cx: &Context<'_>) -> bool {
    cx.namespace.is_none() && policies::scope(cx) == Scope::Namespace
}

//! Cordon: keep new pods off a node.
//!
//! `spec.unschedulable` by server-side apply under the response's own manager: a node that somebody cordoned before stays cordoned
//! afterwards, and goes on being cordoned while another response holds it. Who uncordons it meanwhile is not fought. It
//! contains nothing: what runs on the node goes on running.

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::rbac::v1::PolicyRule;
use serde_json::json;
use tourniquet_api::{Outcome, Residual, Verb, names};

use crate::action::{Act, Assessment, Context, DRIFTED, Plan, Undo, gone, was_in_place};
use crate::effect::{Effect, Kind, ObjectRef};
use crate::fields::{Fields, named};
use crate::rbac::rule;
use crate::target::{self, describe};
use crate::world::{Read, Unread};

pub(crate) const CORDON: Cordon = Cordon;

/// The action.
pub(crate) struct Cordon;

impl Act for Cordon {
    fn verb(&self) -> Verb {
        Verb::Cordon
    }

    fn targets(&self) -> &'static [Kind] {
        &[Kind::Node]
    }

    fn rbac(&self) -> Vec<PolicyRule> {
        vec![rule("", &["nodes"], &["get", "list", "watch", "patch"])]
    }

    fn reads(&self, cx: &Context<'_>, undoing: bool) -> Vec<Read> {
        let nodes = (!undoing).then_some(Read::Nodes);
        target::read(cx.target).into_iter().chain(nodes).collect()
    }

    fn plan(&self, cx: &Context<'_>) -> Result<Plan, Unread> {
        let mut plan = Plan::default();
        let Some(node) = target::fields(cx.target, cx.world)? else { return Ok(plan) };
        plan.residual = residual(cx)?;
        let manager = names::field_manager(cx.response_uid);
        // Who has uncordoned it since is not fought.
        let is_in_place = is_cordoned(&node) && is_ours(&node, &manager);
        if !is_in_place && !was_in_place(cx.before) {
            let object = target::object(cx.target, Kind::Node);
            plan.effects.push(node.apply(object, &manager, &json!({ "spec": { "unschedulable": true } })));
        }
        Ok(plan)
    }

    fn meets(&self, cx: &Context<'_>) -> Result<Vec<(ObjectRef, String)>, Unread> {
        let Some(node) = target::fields(cx.target, cx.world)?.filter(is_cordoned) else { return Ok(Vec::new()) };
        let holders = named(&node.holders_of_unschedulable());
        let joins = format!("cordoned already{holders}: it stays so after a release");
        Ok(vec![(target::object(cx.target, Kind::Node), joins)])
    }

    fn assess(&self, cx: &Context<'_>) -> Result<Assessment, Unread> {
        let Some(node) = target::fields(cx.target, cx.world)? else { return Ok(gone(cx)) };
        let name = describe(cx.target);
        let ours = is_ours(&node, &names::field_manager(cx.response_uid));
        let (outcome, reason, message) = if !is_cordoned(&node) {
            let message = format!(
                "{name} was cordoned, and somebody has uncordoned it since, which is kept: new pods can come there; to cordon it again, \
                 create another response"
            );
            (Outcome::Partial, DRIFTED, message)
        } else if ours {
            (Outcome::Done, "Cordoned", format!("{name} takes no new pods; what runs there goes on"))
        } else {
            let message = format!(
                "{name} takes no new pods; somebody else has cordoned it anew, and it stays so after the release"
            );
            (Outcome::Done, "Cordoned", message)
        };
        Ok(Assessment { outcome, reason, message, residual: residual(cx)?, ..Assessment::default() })
    }

    fn undo(&self, cx: &Context<'_>) -> Result<Undo, Unread> {
        let mut undo = Undo::default();
        let Some(node) = target::fields(cx.target, cx.world)? else { return Ok(undo) };
        let manager = names::field_manager(cx.response_uid);
        if node.is_applied_by(&manager) {
            undo.effects.push(Effect::Withdraw { object: target::object(cx.target, Kind::Node), manager });
        }
        Ok(undo)
    }
}

fn is_cordoned(node: &Fields<'_>) -> bool {
    node.unschedulable == Some(true)
}

fn is_ours(node: &Fields<'_>, manager: &str) -> bool {
    node.holders_of_unschedulable().iter().any(|holder| holder.manager == manager && holder.applied)
}

fn residual(cx: &Context<'_>) -> Result<Vec<Residual>, Unread> {
    let name = &cx.target.name;
    let mut residual = vec![Residual {
        code: "CordonContainsNothing".to_owned(),
        severity: "Medium".to_owned(),
        message: format!("pods that run on node {name} go on running, and talking; only new ones are kept off"),
        remedy: Some(format!(
            "see which they are with kubectl get pods --all-namespaces --field-selector spec.nodeName={name}, and isolate those in question"
        )),
    }];
    if !cx.world.nodes()?.iter().any(|node| node.metadata.name.as_ref() != Some(name) && takes_pods(node)) {
        residual.push(Residual {
            code: "NoPlaceForOperator".to_owned(),
            severity: "High".to_owned(),
            message: format!(
                "no other node than {name} takes new pods: if tourniquet's own pod ends, nobody carries out or undoes responses until one does"
            ),
            remedy: Some("add a node, or uncordon another one, before anything restarts the operator".to_owned()),
        });
    }
    Ok(residual)
}

/// Whether an ordinary pod, such as the operator's, can be placed there. It tolerates no taints.
fn takes_pods(node: &Node) -> bool {
    let spec = node.spec.clone().unwrap_or_default();
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let labels = node.metadata.labels.as_ref();
    spec.unschedulable != Some(true)
        && spec.taints.iter().flatten().all(|taint| taint.effect == "PreferNoSchedule")
        && conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
        && labels.and_then(|labels| labels.get("kubernetes.io/os")).is_none_or(|os| os == "linux")
}

//! Whether a response is carried out at all. Decided once, stored, and final.

mod budget;
mod wanted;

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;
use tourniquet_api::{IncidentResponse, IncidentResponseSpec, PinnedTarget};

use self::wanted::Wanted;
pub(crate) use self::wanted::{containers, describe};
use crate::action::{self, Asked, Refusal};
use crate::effect::Kind;
use crate::pass;
use crate::power;
use crate::settings::Settings;
use crate::status;
use crate::world::{Read, Unread, World};

/// The decision.
#[derive(Debug)]
pub(crate) enum Decision {
    /// Carried out, on these and only these.
    Accepted(Vec<PinnedTarget>),
    /// Not carried out; nothing is touched.
    Refused {
        /// The condition's reason.
        reason: &'static str,
        /// What is wrong, and what to do instead.
        message: String,
    },
}

impl From<Refusal> for Decision {
    fn from(Refusal { reason, message }: Refusal) -> Self {
        Self::Refused { reason, message }
    }
}

fn refuse(reason: &'static str, message: impl Into<String>) -> Decision {
    Decision::Refused { reason, message: message.into() }
}

/// Decides. A chain of reasons to refuse; the first that holds is the one reported.
pub(crate) fn decide(response: &IncidentResponse, world: &World, settings: &Settings) -> Result<Decision, Unread> {
    let spec = &response.spec;
    if let Some(message) = misshapen(spec) {
        return Ok(refuse("Invalid", message));
    }
    let Some(wanted) = Wanted::of(&spec.target) else {
        return Ok(refuse("Invalid", "a target is exactly one of pod, pods, namespace and node"));
    };
    if let Some(refusal) = unsupported(spec, wanted.kind()) {
        return Ok(refusal);
    }
    if let Some(refusal) = power::refuses(spec, wanted.kind(), settings) {
        return Ok(refusal.into());
    }
    if let Some(refusal) = refuse_place(response, &wanted, settings) {
        return Ok(refusal);
    }
    if !settings.blast_radius.accept_new && !spec.dry_run {
        return Ok(refuse(
            "NotAccepting",
            "no new responses are carried out at the moment (acceptNew in the chart's values); a dry run is planned, and what is in force can be released",
        ));
    }
    let namespace = wanted.namespace().filter(|_| status::isolates(response));
    let mut reads = vec![wanted.read()];
    reads.extend(namespace.map(|namespace| Read::AdmissionBackends { namespace: namespace.to_owned() }));
    world.require(reads)?;
    match wanted.found(world)? {
        Ok(found) => match refuse_actions(spec, &found, world)? {
            Decision::Accepted(targets) => {
                if let Some(message) = pass::too_large(response, &targets) {
                    return Ok(refuse("TooLarge", message));
                }
                let refusal = budget::exceeded(response, &found, world, &settings.blast_radius.budget)?;
                Ok(refusal.map_or(Decision::Accepted(targets), Decision::from))
            }
            refused @ Decision::Refused { .. } => Ok(refused),
        },
        Err(refusal) => Ok(refusal.into()),
    }
}

/// What actions have against the targets. What is so of some of several is their own result.
fn refuse_actions(
    spec: &IncidentResponseSpec,
    found: &[(PinnedTarget, Option<&Pod>)],
    world: &World,
) -> Result<Decision, Unread> {
    let mut missing = Unread::default();
    let mut refusals = Vec::new();
    for action in &spec.actions {
        let Some(act) = action.verb().and_then(action::action) else { continue };
        let mut passed_over = Vec::new();
        for (target, pod) in found {
            let asked = Asked { world, spec, action, target, pod: *pod };
            match act.passes_over(&asked) {
                Ok(Some(refusal)) => passed_over.push(refusal),
                Ok(None) => match act.refuses(&asked) {
                    Ok(refusal) => refusals.extend(refusal),
                    Err(unread) => missing.0.extend(unread.0),
                },
                Err(unread) => missing.0.extend(unread.0),
            }
        }
        if passed_over.len() == found.len() {
            refusals.extend(passed_over.into_iter().next());
        }
    }
    if !missing.0.is_empty() {
        return Err(missing);
    }
    Ok(refusals
        .into_iter()
        .next()
        .map_or_else(|| Decision::Accepted(found.iter().map(|(target, _)| target.clone()).collect()), Decision::from))
}

/// The first verb that is not built, or not for this kind of target.
fn unsupported(spec: &IncidentResponseSpec, kind: Kind) -> Option<Decision> {
    for each in &spec.actions {
        let Some(verb) = each.verb() else {
            return Some(refuse("Invalid", format!("action {} has no verb", each.effective_name())));
        };
        let Some(act) = action::action(verb) else {
            return Some(refuse(
                "VerbNotSupported",
                format!(
                    "this version of tourniquet does not carry out {verb}; delete this response and create one without it"
                ),
            ));
        };
        if !act.targets().contains(&kind) {
            let list = |kinds: Vec<String>| kinds.join(" or ");
            let of_verb =
                list(act.targets().iter().map(|kind| format!("a {}", kind.as_str().to_lowercase())).collect());
            let of_kind = action::ACTIONS.iter().filter(|act| act.targets().contains(&kind));
            let of_kind = list(of_kind.map(|act| act.verb().to_string()).collect());
            let kind = kind.as_str().to_lowercase();
            return Some(refuse(
                "VerbNotSupported",
                format!(
                    "this version of tourniquet carries out {verb} on {of_verb}, and on a {kind} only {of_kind}; delete this response and \
                     create one with these"
                ),
            ));
        }
    }
    None
}

/// Where a response may act, by where it is itself, and by what is protected.
fn refuse_place(response: &IncidentResponse, wanted: &Wanted<'_>, settings: &Settings) -> Option<Decision> {
    let own = response.metadata.namespace.as_deref().unwrap_or_default();
    let privileged = own == settings.response_namespace;
    let Some(namespace) = wanted.namespace() else {
        return (!privileged).then(|| {
            refuse(
                "OutsideResponseNamespace",
                format!(
                    "a response in namespace {own} acts on its own namespace only, and nodes are in none; to act on node {}, create it in {}",
                    response.spec.target.node.as_ref().map_or("", |node| &node.name),
                    settings.response_namespace
                ),
            )
        });
    };
    if !privileged && own != namespace {
        return Some(refuse(
            "OutsideResponseNamespace",
            format!(
                "a response in namespace {own} acts on its own namespace only; to act on {namespace}, create it in {} (or in {namespace})",
                settings.response_namespace
            ),
        ));
    }
    if namespace == settings.own_namespace {
        return Some(refuse(
            "ProtectedNamespace",
            format!(
                "namespace {namespace} is the operator's own: cut off, it could not undo what it did; this cannot be overridden"
            ),
        ));
    }
    if settings.agents.as_ref().is_some_and(|agents| agents.namespace == namespace) {
        return Some(refuse(
            "ProtectedNamespace",
            format!(
                "namespace {namespace} is the agents' own: cut off, an agent could not let go of what it has cut; this cannot be \
                 overridden"
            ),
        ));
    }
    (settings.protected_namespaces.contains(namespace) && !response.spec.override_protection).then(|| {
        refuse(
            "ProtectedNamespace",
            format!(
                "namespace {namespace} is protected; who has the right override-protection sets overrideProtection: true"
            ),
        )
    })
}

/// What the API server refuses today, of an object that was stored under another schema. Carried out in part, it would not be
/// what was asked for.
fn misshapen(spec: &IncidentResponseSpec) -> Option<String> {
    let target = &spec.target;
    let targets = [target.pod.is_some(), target.pods.is_some(), target.namespace.is_some(), target.node.is_some()];
    if targets.iter().filter(|there| **there).count() != 1 {
        return Some("a target is exactly one of pod, pods, namespace and node".to_owned());
    }
    if spec.actions.is_empty() {
        return Some("there is no action".to_owned());
    }
    let mut names = BTreeSet::new();
    for action in &spec.actions {
        let name = action.effective_name();
        let verbs = [
            action.label.is_some(),
            action.isolate.is_some(),
            action.cordon.is_some(),
            action.collect.is_some(),
            action.run.is_some(),
        ];
        if verbs.iter().filter(|there| **there).count() != 1 {
            return Some(format!("action {name} does not have exactly one verb"));
        }
        if !names.insert(name) {
            return Some(format!("two actions are called {name}"));
        }
    }
    None
}

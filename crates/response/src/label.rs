//! Label: set labels on a pod, a namespace or a node.
//!
//! By server-side apply under the response's own manager, never forced: what somebody else holds with another value stays, and is
//! reported. With `overwrite` the value is replaced, and put back on undo as long as nobody has changed it since.

mod detach;
mod holder;

use k8s_openapi::api::rbac::v1::PolicyRule;
use serde_json::{Map, Value, json};
use tourniquet_api::{Change, Outcome, Residual, Verb, names};

use self::holder::{Held, State, state};
use crate::action::{Act, Asked, Assessment, Context, DRIFTED, Plan, Refusal, Undo, gone, was_in_place};
use crate::effect::{Effect, Kind, ObjectRef};
use crate::fields::{Fields, named};
use crate::rbac::rule;
use crate::target::{self, describe};
use crate::world::{Read, Unread};

pub(crate) const LABEL: Label = Label;

/// The action.
pub(crate) struct Label;

/// Labels with these prefixes, and with subdomains of them, mean something to Kubernetes or to AKS: a node would move to another pool, a
/// namespace would lose its Pod Security Standard.
const RESERVED: [&str; 3] = ["kubernetes.io", "k8s.io", "kubernetes.azure.com"];

/// Of a journal entry: `label KEY`.
const WHAT: &str = "label ";

/// The reason of labels that somebody else holds with another value.
const HELD: &str = "LabelHeld";

impl Act for Label {
    fn verb(&self) -> Verb {
        Verb::Label
    }

    fn targets(&self) -> &'static [Kind] {
        &[Kind::Pod, Kind::Namespace, Kind::Node]
    }

    fn rbac(&self) -> Vec<PolicyRule> {
        vec![
            rule("", &["pods", "namespaces", "nodes"], &["get", "list", "watch", "patch"]),
            // What selects a pod by the labels that would be replaced.
            rule("", &["services"], &["list"]),
            rule("apps", &["replicasets", "statefulsets", "daemonsets"], &["get"]),
            rule("batch", &["jobs"], &["get"]),
        ]
    }

    fn refuses(&self, asked: &Asked<'_>) -> Result<Option<Refusal>, Unread> {
        let Some(label) = &asked.action.label else { return Ok(None) };
        for (key, value) in &label.set {
            if let Some(message) = reserved(key) {
                return Ok(Some(Refusal { reason: "ReservedLabel", message }));
            }
            let others = asked.spec.actions.iter().filter_map(|action| action.label.as_ref());
            if others.filter_map(|other| other.set.get(key)).any(|other| other != value) {
                let message = format!("two actions give label {key} different values: leave one of them out");
                return Ok(Some(Refusal { reason: "Invalid", message }));
            }
        }
        detach::refuses(asked, label)
    }

    fn reads(&self, cx: &Context<'_>, _: bool) -> Vec<Read> {
        target::read(cx.target).into_iter().collect()
    }

    fn plan(&self, cx: &Context<'_>) -> Result<Plan, Unread> {
        let mut plan = Plan::default();
        let (Some(wanted), Some(fields)) = (wanted(cx), target::fields(cx.target, cx.world)?) else { return Ok(plan) };
        let Some(kind) = target::kind(cx.target) else { return Ok(plan) };
        // What others have changed since is kept.
        if was_in_place(cx.before) {
            return Ok(plan);
        }
        let (mut apply, mut replace) = (Map::new(), Map::new());
        let journal: Vec<&Change> = cx.before.iter().flat_map(|before| &before.changes).collect();
        let mut held = Vec::new();
        for (key, value) in &wanted.set {
            match state(cx, &fields, key, value, wanted.overwrite)? {
                State::Ours => {
                    // Replaced already: what it was before is what the journal says, and not what is there now.
                    let what = format!("{WHAT}{key}");
                    plan.changes.extend(journal.iter().copied().filter(|change| change.what == what).cloned());
                }
                State::Free => {
                    apply.insert(key.clone(), Value::from(value.as_str()));
                }
                State::Replaceable { before, manager } => {
                    let what = format!("{WHAT}{key}");
                    plan.changes.push(Change { what, before: Some(before.to_owned()), manager });
                    replace.insert(key.clone(), Value::from(value.as_str()));
                }
                State::Held(by) => held.push(by),
            }
        }
        if !held.is_empty() {
            // All or none: Failed means that nothing was put in place. A dry run has no outcomes, and says it this way.
            plan.residual.push(not_labelled(cx, &held));
            return Ok(plan);
        }
        let manager = names::field_manager(cx.response_uid);
        if !replace.is_empty() {
            plan.effects.push(Effect::Patch {
                object: target::object(cx.target, kind),
                manager: manager.clone(),
                version: fields.metadata.resource_version.clone(),
                fields: json!({ "metadata": { "labels": replace } }),
            });
        }
        if !apply.is_empty() {
            let object = target::object(cx.target, kind);
            plan.effects.push(fields.apply(object, &manager, &json!({ "metadata": { "labels": apply } })));
        }
        Ok(plan)
    }

    fn meets(&self, cx: &Context<'_>) -> Result<Vec<(ObjectRef, String)>, Unread> {
        let fields = target::fields(cx.target, cx.world)?;
        let (Some(wanted), Some(fields), Some(kind)) = (wanted(cx), fields, target::kind(cx.target)) else {
            return Ok(Vec::new());
        };
        let mut met = Vec::new();
        for (key, value) in &wanted.set {
            let by = by(&fields, key);
            match state(cx, &fields, key, value, wanted.overwrite)? {
                State::Free if fields.label(key).is_some() => {
                    met.push(format!("label {key} has the value already{by}: it stays after a release"));
                }
                State::Replaceable { before, .. } => {
                    met.push(format!("label {key} is {before:?}{by}: replaced, and put back on release"));
                }
                State::Ours | State::Free | State::Held(_) => {}
            }
        }
        let object = target::object(cx.target, kind);
        Ok(met.into_iter().map(|met| (object.clone(), met)).collect())
    }

    fn assess(&self, cx: &Context<'_>) -> Result<Assessment, Unread> {
        let fields = target::fields(cx.target, cx.world)?;
        let (Some(wanted), Some(fields)) = (wanted(cx), fields) else { return Ok(gone(cx)) };
        let name = describe(cx.target);
        let (mut held, mut drifted) = (Vec::new(), Vec::new());
        for (key, value) in &wanted.set {
            if was_in_place(cx.before) {
                let now = fields.label(key);
                if now != Some(value) {
                    let now = now.map_or_else(|| "was taken off".to_owned(), |now| format!("is {now:?} now"));
                    drifted.push(format!("label {key} {now}{}", by(&fields, key)));
                }
            } else if let State::Held(by) = state(cx, &fields, key, value, wanted.overwrite)? {
                held.push(by);
            }
        }
        let (outcome, reason, message) = if !drifted.is_empty() {
            let message = format!(
                "{name} was labelled, and somebody has changed that since, which is kept: {}; to label it again, create another response",
                drifted.join(", ")
            );
            (Outcome::Partial, DRIFTED, message)
        } else if !held.is_empty() {
            (Outcome::Failed, HELD, not_labelled(cx, &held).message)
        } else {
            let set: Vec<String> = wanted.set.iter().map(|(key, value)| format!("{key}={value}")).collect();
            let changes = cx.before.iter().flat_map(|before| &before.changes);
            let replaced: Vec<String> = changes
                .map(|change| format!("; {} was {:?}, and is put back on release", change.what, before(change)))
                .collect();
            (Outcome::Done, "Labelled", format!("{name} has {}{}", set.join(", "), replaced.concat()))
        };
        Ok(Assessment { outcome, reason, message, ..Assessment::default() })
    }

    fn undo(&self, cx: &Context<'_>) -> Result<Undo, Unread> {
        let mut undo = Undo::default();
        let (Some(kind), Some(fields)) = (target::kind(cx.target), target::fields(cx.target, cx.world)?) else {
            return Ok(undo);
        };
        let manager = names::field_manager(cx.response_uid);
        for change in cx.before.iter().flat_map(|before| &before.changes) {
            let Some(key) = change.what.strip_prefix(WHAT) else { continue };
            // Held by a plain write of ours: whoever changes the value takes it from us, also when it comes back to the same.
            if fields.holders_of_label(key).iter().any(|holder| holder.manager == manager && !holder.applied) {
                undo.effects.push(Effect::Patch {
                    object: target::object(cx.target, kind),
                    manager: change.manager.clone().unwrap_or_else(|| names::OPERATOR_MANAGER.to_owned()),
                    version: fields.metadata.resource_version.clone(),
                    fields: json!({ "metadata": { "labels": { key: change.before } } }),
                });
            }
        }
        if fields.is_applied_by(&manager) {
            undo.effects.push(Effect::Withdraw { object: target::object(cx.target, kind), manager });
        }
        Ok(undo)
    }
}

fn wanted<'a>(cx: &Context<'a>) -> Option<&'a tourniquet_api::Label> {
    cx.action?.label.as_ref()
}

fn before(change: &Change) -> &str {
    change.before.as_deref().unwrap_or_default()
}

fn by(fields: &Fields<'_>, key: &str) -> String {
    named(&fields.holders_of_label(key))
}

fn not_labelled(cx: &Context<'_>, held: &[Held]) -> Residual {
    let holders: Vec<String> = held.iter().map(ToString::to_string).collect();
    let by_response = held.iter().any(|held| held.by_response);
    Residual {
        code: HELD.to_owned(),
        severity: "Medium".to_owned(),
        message: format!("{} was not labelled: {}", describe(cx.target), holders.join(", ")),
        remedy: Some(
            if by_response {
                "use another label, or release the other response first"
            } else {
                "use another label, or create a response with overwrite: true, which puts the value back on release"
            }
            .to_owned(),
        ),
    }
}

/// Why nobody may set the label, if so.
fn reserved(key: &str) -> Option<String> {
    let (prefix, _) = key.split_once('/')?;
    let within = |domain: &str| {
        prefix == domain || prefix.strip_suffix(domain).is_some_and(|subdomain| subdomain.ends_with('.'))
    };
    if within(tourniquet_api::GROUP) {
        return Some(format!(
            "label {key} is one by which tourniquet itself finds what it did; use a prefix of your own"
        ));
    }
    RESERVED.into_iter().find(|domain| within(domain)).map(|domain| {
        format!("label {key} belongs to {domain}, whose labels mean something to the cluster; use a prefix of your own")
    })
}

//! Labels by which others know a pod: changed, they would let go of it. A ReplicaSet would start another pod in its place, and may
//! delete one of the two when the label comes back, which can be the evidence.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::core::{Selector, SelectorExt};
use tourniquet_api::{Label, PinnedTarget};

use crate::action::{Asked, Refusal};
use crate::target;
use crate::world::{Unread, service_selects};

type Labels = BTreeMap<String, String>;

pub(super) fn refuses(asked: &Asked<'_>, label: &Label) -> Result<Option<Refusal>, Unread> {
    let Some(pod) = asked.pod else { return Ok(None) };
    let before = pod.metadata.labels.clone().unwrap_or_default();
    let mut after = before.clone();
    for (key, value) in &label.set {
        // Without overwrite, what is there stays.
        if label.overwrite || !before.contains_key(key) {
            after.insert(key.clone(), value.clone());
        }
    }
    if before == after {
        return Ok(None);
    }
    let let_go = |by: String| Refusal {
        reason: "WouldDetach",
        message: format!(
            "with {}, {} would no longer belong to {by}, which selects it by its labels; use labels that nothing selects by (isolate cuts a \
             pod off and leaves it where it is)",
            changed(&before, &after),
            target::describe(asked.target)
        ),
    };
    if let Some(owner) = owner(asked, &pod.metadata, &before, &after)? {
        return Ok(Some(let_go(owner)));
    }
    Ok(service(asked.target, asked, &before, &after)?.map(let_go))
}

fn changed(before: &Labels, after: &Labels) -> String {
    let changed = after.iter().filter(|(key, value)| before.get(*key) != Some(value));
    changed.map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", ")
}

fn service(
    target: &PinnedTarget,
    asked: &Asked<'_>,
    before: &Labels,
    after: &Labels,
) -> Result<Option<String>, Unread> {
    let services = asked.world.service_selectors(target.namespace.as_deref().unwrap_or_default())?;
    let mut losing: Vec<&str> = services
        .iter()
        .filter(|service| service_selects(&service.selector, before) && !service_selects(&service.selector, after))
        .map(|service| service.name.as_str())
        .collect();
    losing.sort_unstable();
    Ok(losing.first().map(|name| format!("Service {name}")))
}

fn owner(asked: &Asked<'_>, pod: &ObjectMeta, before: &Labels, after: &Labels) -> Result<Option<String>, Unread> {
    let owners = pod.owner_references.iter().flatten();
    let Some(owner) = owners.into_iter().find(|owner| owner.controller == Some(true)) else { return Ok(None) };
    let namespace = asked.target.namespace.as_deref().unwrap_or_default();
    let selector = asked.world.owner_selector(&owner.kind, namespace, &owner.name, &owner.uid)?;
    let Some(selector) = selector else { return Ok(None) };
    // One that cannot be read may select by what is changed.
    let selects = |labels: &Labels| matches(selector, labels);
    let loses = selects(before).unwrap_or(true) && !selects(after).unwrap_or(false);
    Ok(loses.then(|| format!("{} {}", owner.kind, owner.name)))
}

fn matches(selector: &LabelSelector, labels: &Labels) -> Option<bool> {
    Some(Selector::try_from(selector.clone()).ok()?.matches(labels))
}

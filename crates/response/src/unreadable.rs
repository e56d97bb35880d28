//! Stored objects that this version cannot read: what is said of them, and how they are undone all the same.
//!
//! The API server keeps what an older or a newer schema allowed. Such an object is never carried out. One that a version
//! which could read it has carried out keeps its record untouched, and is undone when it is deleted: names derive from the
//! UID, and the targets are in its status.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use serde_json::{Value, json};
use tourniquet_api::{ActionStatus, PinnedTarget, TargetResult};

use crate::action::{ACTIONS, Context};
use crate::conditions::{Conditions, Is, is_true};
use crate::effect::Effect;
use crate::pass::full_name;
use crate::settings::Settings;
use crate::target;
use crate::world::{Unread, World};

/// A parser's message can hold the whole object.
const MESSAGE_LIMIT: usize = 1024;

/// The status to write: as it is stored, but for the conditions.
#[must_use]
pub fn mark_unreadable(status: &Value, error: &str, generation: Option<i64>, now: Timestamp) -> Value {
    let message: String =
        format!("this version of tourniquet cannot read the object: {error}").chars().take(MESSAGE_LIMIT).collect();
    let mut list = list::<Condition>(status, "conditions");
    let carried_out = is_true(&list, "Accepted");
    let mut conditions = Conditions { list: &mut list, now, generation };
    if carried_out {
        conditions.set("Contained", Is::Unknown, "Invalid", message.clone());
    } else {
        conditions.set("Accepted", Is::False, "Invalid", message.clone());
        conditions.set("Contained", Is::False, "Invalid", "nothing was touched");
    }
    conditions.set("Ready", Is::False, "Invalid", message.clone());
    conditions.set("Stalled", Is::True, "Invalid", message);
    conditions.remove("Reconciling");
    let mut status = if status.is_object() { status.clone() } else { json!({}) };
    status["conditions"] = json!(list);
    status["observedGeneration"] = json!(generation);
    status
}

/// What is left of an object that cannot be read.
#[derive(Debug, Default)]
pub struct Leftover {
    /// What to do about it; look again afterwards.
    pub effects: Vec<Effect>,
    /// What only somebody else can undo. The finalizer stays until that is done.
    pub blocked: Option<String>,
}

/// What is left to do so that nothing of it is left; nothing when nothing is.
///
/// # Errors
/// [`Unread`] names what has to be looked at first.
pub fn undo_unreadable(
    metadata: &ObjectMeta,
    status: &Value,
    world: &World,
    settings: &Settings,
) -> Result<Leftover, Unread> {
    let uid = metadata.uid.as_deref().unwrap_or_default();
    let name = full_name(metadata);
    let mut left = Leftover::default();
    let actions = list::<ActionStatus>(status, "actions");
    for target in list::<PinnedTarget>(status, "targets") {
        let Some(kind) = target::kind(&target) else { continue };
        // The journal of all actions: which of them is whose does not matter to whoever puts the values back.
        let results = actions.iter().flat_map(|action| &action.results);
        let mine = results.filter(|result| result.target_uid == target.uid);
        let changes = mine.flat_map(|result| result.changes.clone()).collect();
        let before = TargetResult { target_uid: target.uid.clone(), changes, ..TargetResult::default() };
        for action in ACTIONS.iter().rev().filter(|action| action.targets().contains(&kind)) {
            let own = Context {
                world,
                response_uid: uid,
                response_name: &name,
                action: None,
                target: &target,
                namespace: None,
                listed: false,
                spec: None,
                deleted: true,
                outputs: 0,
                may_exec: false,
                agents: settings.agents.as_ref(),
                before: Some(&before),
                applied_at: world.now,
            };
            world.require(action.reads(&own, true))?;
            let members = action.members(&own, true)?;
            let members = members.iter().map(|member| own.of_member(member, None));
            for cx in std::iter::once(own).chain(members) {
                let undo = action.undo(&cx)?;
                // What one manager holds is withdrawn once, whichever verbs put it there.
                for effect in undo.effects {
                    if !left.effects.contains(&effect) {
                        left.effects.push(effect);
                    }
                }
                left.blocked = left.blocked.or(undo.blocked);
            }
        }
    }
    Ok(left)
}

/// The members of a list that can be read.
pub(crate) fn list<T: serde::de::DeserializeOwned>(status: &Value, field: &str) -> Vec<T> {
    let values = status.get(field).and_then(Value::as_array).into_iter().flatten();
    values.filter_map(|value| serde_json::from_value(value.clone()).ok()).collect()
}

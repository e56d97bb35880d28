//! Who is in the way of a label.

use std::fmt;

use tourniquet_api::names;

use crate::action::Context;
use crate::fields::{Fields, Holder};
use crate::world::Unread;

/// What stands between a label and the value that it is to have.
pub(super) enum State<'a> {
    /// It has the value, and this response is among those who hold it.
    Ours,
    /// Nobody holds it with another value.
    Free,
    /// Somebody does who may be overwritten.
    Replaceable {
        /// The value.
        before: &'a str,
        /// Who had written it, if it was by a plain write: nothing else can be given back.
        manager: Option<String>,
    },
    /// Somebody does who may not.
    Held(Held),
}

/// A label that somebody else holds.
pub(super) struct Held {
    key: String,
    value: String,
    by: Vec<String>,
    /// Another response is among them: not to be overwritten.
    pub(super) by_response: bool,
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = if self.by.is_empty() { "nobody on record".to_owned() } else { self.by.join(", ") };
        write!(f, "label {} is {:?}, held by {by}", self.key, self.value)
    }
}

pub(super) fn state<'a>(
    cx: &Context<'_>,
    fields: &Fields<'a>,
    key: &str,
    value: &str,
    overwrite: bool,
) -> Result<State<'a>, Unread> {
    let Some(now) = fields.label(key) else { return Ok(State::Free) };
    let mine = names::field_manager(cx.response_uid);
    let holders = fields.holders_of_label(key);
    if now == value && holders.iter().any(|holder| holder.manager == mine) {
        return Ok(State::Ours);
    }
    let is_others = |holder: &&Holder<'_>| holder.response().is_some_and(|uid| uid != cx.response_uid);
    let responses: Vec<&Holder<'_>> = holders.iter().filter(is_others).collect();
    // A value that another response has put in the place of somebody's goes when that one is released, so it is nothing to join.
    if now == value && responses.iter().all(|holder| holder.applied) {
        return Ok(State::Free);
    }
    if now != value && responses.is_empty() && overwrite {
        let written = holders.iter().find(|holder| !holder.applied && holder.manager != mine);
        return Ok(State::Replaceable { before: now, manager: written.map(|holder| holder.manager.to_owned()) });
    }
    let by: Result<Vec<String>, Unread> = holders.iter().map(|holder| name(cx, holder)).collect();
    Ok(State::Held(Held { key: key.to_owned(), value: now.to_owned(), by: by?, by_response: !responses.is_empty() }))
}

/// A holder, as a responder knows it.
fn name(cx: &Context<'_>, holder: &Holder<'_>) -> Result<String, Unread> {
    let Some(uid) = holder.response() else { return Ok(holder.manager.to_owned()) };
    let response = cx.world.responses()?.iter().find(|response| response.uid == uid);
    Ok(response.map_or_else(
        || format!("the traces of a response that is gone (UID {uid})"),
        |response| format!("response {}", response.name),
    ))
}

//! What was told of responses and still holds, so that it is told once.
//!
//! A policy that somebody deletes is put back: `Partial`, `Running`, `Partial` again, of which no status says that the second one is
//! no news. After a restart of the operator it can be told once more.

use std::collections::{BTreeMap, BTreeSet};

use tourniquet_api::IncidentResponseStatus;

use crate::conditions::{find, is_true};
use crate::events::{About, CONTAINED, NOT_DONE, NOT_ISOLATED, Note};

/// By the response's UID: where it was told that something is not done, and how.
#[derive(Clone, Debug, Default)]
pub struct Told(BTreeMap<String, BTreeSet<(About, String)>>);

impl Told {
    /// The notes without those that still hold. `after` is the status that they come with.
    pub fn news(&mut self, response_uid: &str, after: &IncidentResponseStatus, notes: Vec<Note>) -> Vec<Note> {
        // In force or let go: what comes after that is news again.
        let in_force = is_true(&after.conditions, "Ready") || notes.iter().any(|note| note.reason == CONTAINED);
        if in_force || find(&after.conditions, "Reverted").is_some() {
            self.forget(response_uid);
        }
        let lasts = |note: &Note| [NOT_DONE, NOT_ISOLATED].contains(&note.reason.as_str());
        let mark = |note: &Note| (note.about.clone(), note.note.clone());
        let told = self.0.get(response_uid);
        let is_old = |note: &Note| lasts(note) && told.is_some_and(|told| told.contains(&mark(note)));
        let all: BTreeSet<_> = notes.iter().filter(|note| lasts(note)).map(mark).collect();
        let news: Vec<Note> = notes.into_iter().filter(|note| !is_old(note)).collect();
        if !all.is_empty() {
            self.0.insert(response_uid.to_owned(), all);
        }
        news
    }

    /// A response that is gone.
    pub fn forget(&mut self, response_uid: &str) {
        self.0.remove(response_uid);
    }
}

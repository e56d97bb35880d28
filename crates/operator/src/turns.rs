//! Whose turn it is. Of a hundred responses that are created at once, each is looked at four times until its outcome is stored, and an API server
//! answers so many looks in a second: the second look at the first one, which only says what came of it, would come before the first look
//! at the last one, whose pod is still open. So a look that is not about something to be put in place or undone waits, for a moment, while there
//! are responses of which nothing was decided yet.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kube::ResourceExt;
use kube::runtime::watcher::Event;
use tourniquet_api::IncidentResponse;

use crate::triggers::Stored;

/// How long a look waits at most: what is held may have been opened, and has to be closed within a second.
const LONGEST: Duration = Duration::from_millis(500);
/// How soon one that waits asks again.
pub(crate) const AGAIN: Duration = Duration::from_millis(50);
/// For how long a response counts as one that comes first. One that cannot be decided for longer, since what has to be seen cannot be, holds
/// nobody up for ever.
const FRESH: Duration = Duration::from_secs(10);

/// The turns of all responses.
#[derive(Clone, Default)]
pub(crate) struct Turns(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    /// Of which nothing was decided yet, by UID, and since when that is known.
    undecided: BTreeMap<String, Instant>,
    /// That wait, and since when.
    waiting: BTreeMap<String, Instant>,
}

impl Turns {
    /// What the watch of responses says.
    pub(crate) fn watched(&self, event: &Event<Stored>) {
        match event {
            Event::Apply(stored) | Event::InitApply(stored) => {
                if let Ok(response) = &stored.0 {
                    self.know(response);
                }
            }
            Event::Delete(stored) => self.forget(&stored.uid().unwrap_or_default()),
            Event::Init | Event::InitDone => {}
        }
    }

    fn know(&self, response: &IncidentResponse) {
        let uid = response.uid().unwrap_or_default();
        let mut table = self.lock();
        if response.status.is_none() && response.metadata.deletion_timestamp.is_none() {
            table.undecided.entry(uid).or_insert_with(Instant::now);
        } else {
            // What was written here is in the watch only a moment later.
            table.undecided.remove(&uid);
        }
    }

    /// It was decided, and what was to be done at once is done.
    pub(crate) fn decided(&self, uid: &str) {
        self.lock().undecided.remove(uid);
    }

    /// Nothing more is to be done about it.
    pub(crate) fn forget(&self, uid: &str) {
        let mut table = self.lock();
        table.undecided.remove(uid);
        table.waiting.remove(uid);
    }

    /// Whether a look at this one waits, since others come first.
    pub(crate) fn waits(&self, uid: &str) -> bool {
        let mut table = self.lock();
        table.undecided.retain(|_, since| since.elapsed() < FRESH);
        let others = table.undecided.keys().any(|other| other != uid);
        if others && table.waiting.entry(uid.to_owned()).or_insert_with(Instant::now).elapsed() < LONGEST {
            return true;
        }
        table.waiting.remove(uid);
        false
    }

    /// A thread that panicked while it held the lock left the table whole: each change of it is one assignment.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests: a panic is a failed test")]
mod tests {
    use super::*;
    use kube::core::DeserializeGuard;
    use serde_json::json;

    fn response(uid: &str, status: Option<&str>) -> Event<Stored> {
        let mut response = json!({
            "apiVersion": "tourniquet.dev/v1alpha1", "kind": "IncidentResponse", "metadata": { "name": uid, "namespace": "n", "uid": uid },
            "spec": { "target": { "node": { "name": "n" } }, "actions": [{ "cordon": {} }] },
        });
        if let Some(target) = status {
            response["status"] = json!({ "target": target });
        }
        Event::Apply(serde_json::from_value::<DeserializeGuard<IncidentResponse>>(response).unwrap())
    }

    #[test]
    fn one_that_is_decided_waits_for_those_that_are_not_and_no_longer() {
        let turns = Turns::default();
        turns.watched(&response("old", Some("node n")));
        assert!(!turns.waits("old"), "there is nobody else");
        turns.watched(&response("new", None));
        assert!(turns.waits("old"));
        assert!(!turns.waits("new"), "not for itself");
        turns.decided("new");
        assert!(!turns.waits("old"));
    }

    #[test]
    fn nobody_waits_for_one_that_is_gone() {
        let turns = Turns::default();
        turns.watched(&response("new", None));
        assert!(turns.waits("old"));
        let Event::Apply(stored) = response("new", None) else { unreachable!() };
        turns.watched(&Event::Delete(stored));
        assert!(!turns.waits("old"));
    }
}

//! Whose turn it is. Of a hundred responses that are created at once, each is looked at four times until its outcome is stored, and an API server
//! answers so many looks in a second: the second look at the first one, which only says what came of it, would come before the first look
//! at the last one, whose pod is still open. So a look that is not about something to be put in place or undone waits, for a moment, while there
//! are responses of which nothing was decided yet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kube::ResourceExt;
use kube::runtime::watcher::Event;
use tourniquet_api::IncidentResponse;

use crate::metrics::Metrics;
use crate::triggers::Stored;

/// How many of those that would wait look all the same, each after the other: what is held may have been opened, and has to be closed soon. A limit of time
/// alone does not do: after it all of them came at once, before those that had not begun (100 isolations beside 10,000 pods were in force after 12.7 s).
const AT_A_TIME: usize = 2;
/// How soon one that waits asks again.
pub(crate) const AGAIN: Duration = Duration::from_millis(50);
/// For how long a response counts as one that comes first. One that cannot be decided for longer, since what has to be seen cannot be, holds
/// nobody up for ever.
const FRESH: Duration = Duration::from_secs(10);

/// The turns of all responses.
#[derive(Clone)]
pub(crate) struct Turns {
    table: Arc<Mutex<Table>>,
    metrics: Metrics,
}

#[derive(Default)]
struct Table {
    /// Of which nothing was decided yet, by UID, and since when that is known.
    undecided: BTreeMap<String, Instant>,
    /// That look though others come first.
    looking: BTreeSet<String>,
}

/// A look that goes on. Dropped, it is over.
pub(crate) struct Turn {
    turns: Turns,
    uid: String,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.lock().looking.remove(&self.uid);
    }
}

impl Turns {
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self { table: Arc::default(), metrics }
    }

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
        self.metrics.waiting(table.undecided.len());
    }

    /// It was decided, and what was to be done at once is done.
    pub(crate) fn decided(&self, uid: &str) {
        self.forget(uid);
    }

    /// Nothing more is to be done about it.
    pub(crate) fn forget(&self, uid: &str) {
        let mut table = self.lock();
        table.undecided.remove(uid);
        self.metrics.waiting(table.undecided.len());
    }

    /// The turn of one of which something was decided; `None` when others come first.
    pub(crate) fn take(&self, uid: &str) -> Option<Turn> {
        let mut table = self.lock();
        table.undecided.retain(|_, since| since.elapsed() < FRESH);
        if table.undecided.keys().any(|other| other != uid) && table.looking.len() >= AT_A_TIME {
            return None;
        }
        table.looking.insert(uid.to_owned());
        Some(Turn { turns: self.clone(), uid: uid.to_owned() })
    }

    /// A thread that panicked while it held the lock left the table whole: each change of it is one assignment.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// As many looks as may go on beside those that come first.
    fn taken(turns: &Turns) -> Vec<Turn> {
        (0..AT_A_TIME).map(|index| turns.take(&format!("other-{index}")).unwrap()).collect()
    }

    #[test]
    fn those_that_are_decided_wait_for_those_that_are_not_but_for_a_few() {
        let turns = Turns::new(Metrics::new());
        turns.watched(&response("old", Some("node n")));
        let others = taken(&turns);
        assert!(turns.take("old").is_some(), "there is nobody who comes first");
        turns.watched(&response("new", None));
        assert!(turns.take("old").is_none());
        assert!(turns.take("new").is_some(), "not for itself");
        drop(others);
        assert!(turns.take("old").is_some(), "it is its turn");
        let _others = taken(&turns);
        turns.decided("new");
        assert!(turns.take("old").is_some());
    }

    #[test]
    fn nobody_waits_for_one_that_is_gone() {
        let turns = Turns::new(Metrics::new());
        turns.watched(&response("new", None));
        let _others = taken(&turns);
        assert!(turns.take("old").is_none());
        let Event::Apply(stored) = response("new", None) else { unreachable!() };
        turns.watched(&Event::Delete(stored));
        assert!(turns.take("old").is_some());
    }
}

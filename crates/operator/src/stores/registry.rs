//! The stores by name, for whoever stores evidence.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};
use tokio::sync::watch;
use tokio::time::Instant;
use tourniquet_evidence::store::Checked;
use tourniquet_evidence::{Store, Trouble};

use super::Stored;
use super::open::Opened;
use super::report::{Outcome, Pass, news};

/// The stores that there are, as of now. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Stores {
    table: Arc<Mutex<Table>>,
    changed: Arc<watch::Sender<()>>,
}

#[derive(Default)]
struct Table {
    /// Whether those that there are have all been heard of.
    listed: bool,
    /// What the list that is under way has.
    listing: BTreeSet<String>,
    entries: BTreeMap<String, Entry>,
}

struct Entry {
    uid: String,
    opened: Option<Opened>,
    outcome: Option<Outcome>,
    /// How often in a row it was not ready.
    failures: u32,
}

/// A store to use.
#[derive(Clone, Debug)]
pub(crate) struct OpenStore {
    pub(crate) store: Store,
    /// What the last try showed. One that is not ready can be used all the same: an upload bears faults that pass, and waits for another credential; what was
    /// wrong may have been mended since.
    pub(crate) outcome: Result<Checked, Trouble>,
}

/// Why there is none to use, in words for a responder.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoStore {
    #[error("EvidenceStore {0} was not looked at yet: the operator has just started, or it was just created")]
    Untried(String),
    #[error("there is no EvidenceStore {0}: create it, or name one that kubectl get evidencestores shows")]
    NotFound(String),
    #[error("EvidenceStore {0} cannot be used: {1}")]
    Unusable(String, Trouble),
}

impl Stores {
    /// The store of this name, if it could be opened.
    ///
    /// # Errors
    /// Why there is none, as of now.
    pub(crate) fn get(&self, name: &str) -> Result<OpenStore, NoStore> {
        let table = self.lock();
        let Some(entry) = table.entries.get(name) else {
            let name = name.to_owned();
            return Err(if table.listed { NoStore::NotFound(name) } else { NoStore::Untried(name) });
        };
        match (&entry.opened, &entry.outcome) {
            (_, None) | (None, Some(Ok(_))) => Err(NoStore::Untried(name.to_owned())),
            (None, Some(Err(trouble))) => Err(NoStore::Unusable(name.to_owned(), trouble.clone())),
            (Some(opened), Some(outcome)) => Ok(OpenStore { store: opened.store.clone(), outcome: outcome.clone() }),
        }
    }

    /// The same, once it has been tried for the first time, or it is known that there is none; at the latest as of `until`.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) async fn tried_by(&self, name: &str, until: Instant) -> Result<OpenStore, NoStore> {
        let mut changed = self.changed.subscribe();
        loop {
            match self.get(name) {
                Err(NoStore::Untried(_)) => {}
                decided => return decided,
            }
            if !matches!(tokio::time::timeout_at(until, changed.changed()).await, Ok(Ok(()))) {
                return self.get(name);
            }
        }
    }
}

impl Stores {
    /// What the watch of evidence stores says.
    pub(super) fn watched(&self, event: &Event<Stored>) {
        let mut table = self.lock();
        match event {
            Event::Init => table.listing.clear(),
            Event::InitApply(stored) => {
                table.listing.insert(stored.name_any());
                table.know(stored);
            }
            Event::InitDone => {
                let listing = std::mem::take(&mut table.listing);
                table.entries.retain(|name, _| listing.contains(name));
                table.listed = true;
            }
            Event::Apply(stored) => table.know(stored),
            Event::Delete(stored) => drop(table.entries.remove(&stored.name_any())),
        }
        drop(table);
        self.changed.send_replace(());
    }

    pub(super) fn opened(&self, name: &str, uid: &str) -> Option<Opened> {
        self.lock().entry(name, uid)?.opened.clone()
    }

    /// This is what is used from now on.
    pub(super) fn open(&self, name: &str, uid: &str, opened: Opened) {
        if let Some(entry) = self.lock().entry(name, uid) {
            entry.opened = Some(opened);
        }
    }

    /// What a try showed. None when it is of a store that has gone.
    pub(super) fn tried(&self, name: &str, uid: &str, outcome: Outcome) -> Option<Pass> {
        let mut table = self.lock();
        let entry = table.entry(name, uid)?;
        entry.failures = if outcome.is_ok() { 0 } else { entry.failures.saturating_add(1) };
        let pass = Pass { failures: entry.failures, news: news(entry.outcome.as_ref(), &outcome) };
        entry.outcome = Some(outcome);
        drop(table);
        self.changed.send_replace(());
        Some(pass)
    }

    pub(super) fn is_ready(&self, name: &str, uid: &str) -> bool {
        self.lock().entry(name, uid).is_some_and(|entry| matches!(entry.outcome, Some(Ok(_))))
    }

    /// A thread that panicked while it held the lock left the table whole: each change of it is one assignment.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn entry(&mut self, name: &str, uid: &str) -> Option<&mut Entry> {
        self.entries.get_mut(name).filter(|entry| entry.uid == uid)
    }

    /// One of the same name with another UID is another store.
    fn know(&mut self, stored: &Stored) {
        let (name, uid) = (stored.name_any(), stored.meta().uid.clone().unwrap_or_default());
        if self.entry(&name, &uid).is_none() {
            self.entries.insert(name, Entry { uid, opened: None, outcome: None, failures: 0 });
        }
    }
}

#[cfg(test)]
impl Stores {
    /// One store that is ready, as far as anybody has tried.
    pub(crate) fn ready(name: &str, blob: &tourniquet_api::AzureBlob, sas: secrecy::SecretString) -> Self {
        let stores = Self::default();
        let checked = Checked {
            immutability: tourniquet_evidence::store::Immutability::Absent,
            clock_offset: jiff::SignedDuration::ZERO,
        };
        let opened = super::open::open(None, blob, Some(sas)).unwrap();
        let entry = Entry { uid: "1".to_owned(), opened: Some(opened), outcome: Some(Ok(checked)), failures: 0 };
        stores.lock().entries.insert(name.to_owned(), entry);
        stores
    }
}

#[cfg(test)]
mod tests {
    use kube::core::DeserializeGuard;
    use serde_json::json;
    use tourniquet_api::AzureBlob;

    use super::super::open::open;
    use super::super::report::trouble;
    use super::*;

    fn stored(name: &str, uid: &str) -> Stored {
        let blob = json!({ "endpoint": "https://a.blob.core.windows.net", "container": "evidence", "auth": {} });
        DeserializeGuard(Ok(serde_json::from_value(json!({
            "apiVersion": "tourniquet.dev/v1alpha1", "kind": "EvidenceStore",
            "metadata": { "name": name, "uid": uid }, "spec": { "azureBlob": blob },
        }))
        .unwrap()))
    }

    fn listed(all: &[(&str, &str)]) -> Stores {
        let stores = Stores::default();
        list(&stores, all);
        stores
    }

    fn list(stores: &Stores, all: &[(&str, &str)]) {
        stores.watched(&Event::Init);
        for (name, uid) in all {
            stores.watched(&Event::InitApply(stored(name, uid)));
        }
        stores.watched(&Event::InitDone);
    }

    fn open_one(stores: &Stores, name: &str, uid: &str) {
        let blob = AzureBlob {
            endpoint: "https://a.blob.core.windows.net".to_owned(),
            container: "evidence".to_owned(),
            ..AzureBlob::default()
        };
        stores.open(name, uid, open(None, &blob, Some("sv=1&sig=x".into())).unwrap());
    }

    fn unreachable() -> Outcome {
        Err(trouble("CannotConnect", "no way"))
    }

    #[test]
    fn before_the_list_nobody_knows_and_after_it_what_is_not_there_is_not() {
        let stores = Stores::default();
        assert_eq!(stores.get("soc").unwrap_err(), NoStore::Untried("soc".to_owned()));
        list(&stores, &[("soc", "1")]);
        assert_eq!(stores.get("soc").unwrap_err(), NoStore::Untried("soc".to_owned()));
        assert_eq!(stores.get("other").unwrap_err(), NoStore::NotFound("other".to_owned()));
    }

    #[test]
    fn one_that_could_not_be_opened_says_why() {
        let stores = listed(&[("soc", "1")]);
        stores.tried("soc", "1", Err(trouble("SecretNotFound", "create it")));
        let why = stores.get("soc").unwrap_err().to_string();
        assert_eq!(why, "EvidenceStore soc cannot be used: create it");
    }

    #[test]
    fn one_that_is_open_is_handed_out_with_what_the_last_try_showed() {
        let stores = listed(&[("soc", "1")]);
        open_one(&stores, "soc", "1");
        stores.tried("soc", "1", unreachable());
        assert_eq!(stores.get("soc").unwrap().outcome, unreachable());
        assert!(!stores.is_ready("soc", "1"));
    }

    #[test]
    fn failures_are_counted_until_it_is_ready() {
        let stores = listed(&[("soc", "1")]);
        let checked = Checked {
            immutability: tourniquet_evidence::store::Immutability::Absent,
            clock_offset: jiff::SignedDuration::ZERO,
        };
        let failures = |outcome| stores.tried("soc", "1", outcome).unwrap().failures;
        assert_eq!([failures(unreachable()), failures(unreachable())], [1, 2]);
        assert_eq!([failures(Ok(checked)), failures(unreachable())], [0, 1]);
    }

    #[test]
    fn another_one_of_the_same_name_has_nothing_of_the_former_one() {
        let stores = listed(&[("soc", "1")]);
        open_one(&stores, "soc", "1");
        stores.tried("soc", "1", unreachable());
        stores.watched(&Event::Apply(stored("soc", "2")));
        assert_eq!(stores.get("soc").unwrap_err(), NoStore::Untried("soc".to_owned()));
        // A try of the former one that ends now is of nobody.
        assert!(stores.tried("soc", "1", unreachable()).is_none());
        open_one(&stores, "soc", "1");
        assert!(stores.opened("soc", "2").is_none());
    }

    #[test]
    fn one_that_is_deleted_is_gone_also_when_nobody_watched() {
        let stores = listed(&[("one", "1"), ("two", "2")]);
        stores.watched(&Event::Delete(stored("one", "1")));
        assert_eq!(stores.get("one").unwrap_err(), NoStore::NotFound("one".to_owned()));
        list(&stores, &[]);
        assert_eq!(stores.get("two").unwrap_err(), NoStore::NotFound("two".to_owned()));
    }
}

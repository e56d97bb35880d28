//! The folder of a task: opened as soon as its store takes it, and sealed in the end with what is known of the circumstances by then.

mod facts;

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use kube::runtime::reflector;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tourniquet_cluster::Cluster;
use tourniquet_evidence::folder::{Deed, Facts, Folder, Opening, Place, Sealed};
use tourniquet_response::{Custody, ObjectRef, TaskKey};
use tracing::warn;

use crate::stores::Stores;
use crate::triggers::Stored;

/// How long sealing may go on after the time is over, or it was told to end: a deletion waits for it, half a minute together with what [`super::release`] takes.
pub(super) const TO_SEAL: Duration = Duration::from_secs(20);
/// How long is looked for what was done meanwhile: the seal does not wait for an API server that hangs.
const TO_LOOK: Duration = Duration::from_secs(5);
/// The pause before a store that does not take anything is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// What a folder is of, and where it goes.
pub(super) struct Case<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) stores: &'a Stores,
    /// All responses, as far as the watch of them has come.
    pub(super) responses: &'a reflector::Store<Stored>,
    pub(super) cluster_name: &'a str,
    pub(super) object: &'a ObjectRef,
    pub(super) key: &'a TaskKey,
    pub(super) custody: &'a Custody,
}

/// Where the folder of an action on a target is.
pub(super) fn place(cluster_name: &str, key: &TaskKey, response: &str, target_name: &str) -> Place {
    let (namespace, name) = response.split_once('/').unwrap_or(("", response));
    Place {
        cluster: cluster_name.to_owned(),
        response_namespace: namespace.to_owned(),
        response_name: name.to_owned(),
        response_uid: key.response.clone(),
        target_name: target_name.to_owned(),
        target_uid: key.target.clone(),
        action: key.action.clone(),
    }
}

impl Case<'_> {
    /// Tries until the folder is open, the time is over, or it is told to end; then what stood in the way. `began` says what the task does from then on.
    pub(super) async fn open(
        &self,
        planned: Vec<String>,
        began: &str,
        deadline: Instant,
        end: &CancellationToken,
    ) -> Result<(Folder, Facts), String> {
        let began = self.began(began);
        self.tried(|| self.try_to_open(&planned, &began).boxed(), deadline, end.cancelled()).await
    }

    /// The same with the folder that another instance of the operator has opened; none, when there is none. Told to end, it goes on for a while: there is nothing
    /// else to be done.
    pub(super) async fn reopen(
        &self,
        began: &str,
        deadline: Instant,
        end: &CancellationToken,
    ) -> Result<Option<(Folder, Facts)>, String> {
        let began = self.began(began);
        let given_up = async {
            end.cancelled().await;
            sleep(TO_SEAL / 2).await;
        };
        self.tried(|| self.try_to_reopen(&began).boxed(), deadline, given_up).await
    }

    fn began(&self, what: &str) -> Deed {
        Deed { at: Timestamp::now(), what: format!("action {} {what}", self.key.action) }
    }

    /// Tries until it succeeds, the time is over, or it is given up.
    async fn tried<'a, T>(
        &self,
        attempt: impl Fn() -> BoxFuture<'a, Result<T, String>>,
        deadline: Instant,
        given_up: impl Future<Output = ()>,
    ) -> Result<T, String> {
        tokio::pin!(given_up);
        let mut last = "its time was over before it began".to_owned();
        loop {
            let tried = tokio::select! {
                tried = timeout_at(deadline, attempt()) => tried,
                () = &mut given_up => return Err(self.trouble().unwrap_or(last)),
            };
            match tried {
                Ok(Ok(opened)) => return Ok(opened),
                Ok(Err(why)) => {
                    if last != why {
                        warn!(why, "evidence cannot be stored yet; it is tried again");
                    }
                    last = why;
                }
                Err(_) => return Err(self.trouble().unwrap_or(last)),
            }
            if Instant::now() + AGAIN >= deadline {
                return Err(last);
            }
            tokio::select! {
                () = sleep(AGAIN) => {}
                () = &mut given_up => return Err(last),
            }
        }
    }

    async fn try_to_open(&self, planned: &[String], began: &Deed) -> Result<(Folder, Facts), String> {
        let open = self.stores.tried_by(&self.custody.store, Instant::now() + AGAIN).await;
        let open = open.map_err(|error| error.to_string())?;
        let facts = facts::of(self, open.outcome.as_ref().ok(), began).await;
        let place = self.place();
        let opening = Opening { opened_at: Timestamp::now(), facts: facts.clone(), planned: planned.to_vec() };
        let folder = Folder::open(&open.store, &place, &opening).await.map_err(|trouble| trouble.to_string())?;
        Ok((folder, facts))
    }

    async fn try_to_reopen(&self, began: &Deed) -> Result<Option<(Folder, Facts)>, String> {
        let open = self.stores.tried_by(&self.custody.store, Instant::now() + AGAIN).await;
        let open = open.map_err(|error| error.to_string())?;
        let folder = Folder::resume(&open.store, &self.place()).await.map_err(|trouble| trouble.to_string())?;
        let Some(folder) = folder else { return Ok(None) };
        Ok(Some((folder, facts::of(self, open.outcome.as_ref().ok(), began).await)))
    }

    fn place(&self) -> Place {
        place(self.cluster_name, self.key, &self.custody.response, &self.object.name)
    }

    /// Seals it, with what was done to the target meanwhile. Also when it was told to end: what was received is worth a seal.
    pub(super) async fn seal(&self, folder: &Folder, facts: Facts, until: Instant) -> Result<Sealed, String> {
        let soon = until.min(Instant::now() + TO_LOOK);
        let facts = match timeout_at(soon, facts::as_of_now(self, facts.clone())).await {
            Ok(now) => now,
            Err(_) => {
                let mut facts = facts;
                facts.notes.push(
                    "what was done to the target since the folder was opened could not be read in time".to_owned(),
                );
                facts
            }
        };
        loop {
            let why = match timeout_at(until, folder.seal(facts.clone())).await {
                Ok(Ok(sealed)) => return Ok(sealed),
                Ok(Err(trouble)) => trouble.to_string(),
                Err(_) => return Err("the store did not take the seal in time".to_owned()),
            };
            if Instant::now() + AGAIN >= until {
                return Err(why);
            }
            warn!(why, "the folder cannot be sealed yet; it is tried again");
            sleep(AGAIN).await;
        }
    }

    /// What the store is held up by at the moment.
    pub(super) fn trouble(&self) -> Option<String> {
        match self.stores.get(&self.custody.store) {
            Ok(open) => open.store.held_up().borrow().as_ref().map(ToString::to_string),
            Err(why) => Some(why.to_string()),
        }
    }
}

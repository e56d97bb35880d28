//! The evidence stores: opened, tried at intervals, and handed out by name.
//!
//! Whether one is ready is what became of storing something there. It is tried at the start, on each change, when an upload is held up, and every 5 minutes; more often while it is not ready. The
//! Secret that it names is read anew each time, so that it recovers by itself. Nothing is kept, opened or asked while there is no store, but the one watch that would tell of it.

mod open;
mod registry;
mod report;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::channel::mpsc::{self, UnboundedSender};
use futures::{StreamExt, TryStreamExt};
use kube::api::Api;
use kube::core::DeserializeGuard;
use kube::runtime::controller::{self, Action, Config, Controller};
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::{WatchStreamExt, predicates, watcher};
use kube::{Client, Resource, ResourceExt};
use tokio::sync::watch;
use tourniquet_api::{EvidenceStore, EvidenceStoreStatus, SecretKeyRef};
use tourniquet_cluster::{Cluster, Error, SecretValue, Written};
use tourniquet_evidence::Trouble;
use tracing::{Instrument, debug, info, info_span, warn};

use crate::events::Publisher;
use crate::pause::{self, Pauses};
use crate::triggers::{NOT_SERVED, not_served};
use open::{Opened, open};
pub(crate) use registry::Stores;
use report::{Outcome, Pass};

/// Stores that are tried at the same time. One that does not answer takes [`LIMIT`].
const CONCURRENCY: u16 = 8;
/// How long one try may take: a server that takes connections and does not answer is not ready.
const LIMIT: Duration = Duration::from_secs(30);
/// After a fault of the API server. What is done again then is a request to the store as well, which has no part in it.
const AFTER_A_FAULT: Duration = Duration::from_secs(5);
/// After a store was tried because something was held up: an upload that is held up again and again must not have it tried without end.
const HELD_UP_AGAIN: Duration = Duration::from_secs(10);

/// An evidence store as it is stored, readable or not.
type Stored = DeserializeGuard<EvidenceStore>;

struct Context {
    cluster: Cluster,
    /// Where the Secrets are: the operator's own namespace.
    namespace: String,
    may_read_secrets: bool,
    stores: Stores,
    publisher: Publisher,
    pauses: Pauses,
    again: UnboundedSender<ObjectRef<Stored>>,
}

/// Starts to keep the condition of each evidence store true, for as long as the operator runs. Secrets are said by their namespace, and whether the operator
/// has the power to read them.
pub(crate) fn start(
    client: Client,
    cluster: Cluster,
    (namespace, may_read_secrets): (String, bool),
    publisher: Publisher,
) -> Stores {
    let stores = Stores::default();
    let (again, asked) = mpsc::unbounded();
    let (pauses, known) = (Pauses::default(), stores.clone());
    let context = Context { cluster, namespace, may_read_secrets, stores: known, publisher, pauses, again };
    tokio::spawn(run(client, asked, Arc::new(context)));
    stores
}

async fn run(client: Client, asked: mpsc::UnboundedReceiver<ObjectRef<Stored>>, cx: Arc<Context>) {
    let (reader, writer) = reflector::store::<Stored>();
    let known = cx.stores.clone();
    let stored = watcher(Api::<Stored>::all(client), watcher::Config::default())
        .then(|event| async move {
            // Helm leaves CRDs as they are: after an upgrade this one may not be there yet.
            if event.as_ref().is_err_and(not_served) {
                debug!(kind = "EvidenceStore", "not served");
                tokio::time::sleep(NOT_SERVED).await;
            }
            event
        })
        .backoff(pause::watch())
        .reflect(writer)
        .inspect_ok(move |event| known.watched(event))
        .applied_objects()
        // Our own status writes are no reason to try again.
        .predicate_filter(predicates::generation, Default::default());
    Controller::for_stream(stored, reader)
        .with_config(Config::default().concurrency(CONCURRENCY))
        .trigger_backoff(pause::triggers())
        .reconcile_on(asked)
        .run(reconcile, retry, cx)
        .for_each(|result| async move {
            match result {
                Ok(_) => {}
                Err(controller::Error::QueueError(error)) if not_served(&error) => {}
                Err(controller::Error::QueueError(error)) => {
                    warn!(%error, "evidence stores are not watched at the moment; it is tried again");
                }
                // A store's own errors were logged with its name; one that has gone meanwhile is none.
                Err(error) => debug!(%error, "queue"),
            }
        })
        .await;
}

fn retry(stored: Arc<Stored>, error: &Error, cx: Arc<Context>) -> Action {
    Action::requeue(cx.pauses.after(&stored.uid().unwrap_or_default(), error.into()).max(AFTER_A_FAULT))
}

async fn reconcile(stored: Arc<Stored>, cx: Arc<Context>) -> Result<Action, Error> {
    let (name, uid) = (stored.name_any(), stored.uid().unwrap_or_default());
    let span = info_span!("evidence_store", store = name, uid);
    async {
        let result = cx.keep(&stored, &name, &uid).await;
        match &result {
            Ok(_) => cx.pauses.forget(&uid),
            Err(error) => warn!(%error, "tried again later"),
        }
        result
    }
    .instrument(span)
    .await
}

impl Context {
    async fn keep(&self, stored: &Stored, name: &str, uid: &str) -> Result<Action, Error> {
        let outcome = match &stored.0 {
            Ok(store) => self.try_out(store, name, uid).await?,
            Err(invalid) => Err(report::unreadable(&invalid.error)),
        };
        let Some(Pass { failures, news }) = self.stores.tried(name, uid, outcome.clone()) else {
            // It went, or became another one, meanwhile.
            return Ok(Action::await_change());
        };
        match &outcome {
            Ok(_) if news => info!("ready"),
            Err(trouble) if news => warn!(code = trouble.code, "not ready: {trouble}"),
            _ => {}
        }
        let (generation, now) = (stored.meta().generation, jiff::Timestamp::now());
        let about = stored.0.as_ref().ok().map(|store| &store.spec.azure_blob);
        let note = Mutex::new(None);
        let decide = |before: &EvidenceStoreStatus| {
            let after = report::status(before, about, generation, &outcome, now);
            *note.lock().unwrap_or_else(PoisonError::into_inner) = report::note(before, &after);
            after
        };
        Ok(Action::requeue(match self.cluster.write_store_status(name, uid, decide).await? {
            Written::Done(()) => {
                if let Some(note) = note.into_inner().unwrap_or_else(PoisonError::into_inner) {
                    self.publisher.publish_store(name, uid, note);
                }
                report::pause(&outcome, failures)
            }
            // Others change it as fast as it is written; or it is gone, and then this comes to nothing.
            Written::Stale => AFTER_A_FAULT,
        }))
    }

    /// Opens it, or uses another credential with what is open, and tries it.
    async fn try_out(&self, store: &EvidenceStore, name: &str, uid: &str) -> Result<Outcome, Error> {
        let blob = &store.spec.azure_blob;
        let sas = match blob.auth.sas.as_ref() {
            None => None,
            Some(sas) => match self.signature(&sas.secret_ref).await? {
                Ok(sas) => Some(sas),
                Err(trouble) => return Ok(Err(trouble)),
            },
        };
        let before = self.stores.opened(name, uid);
        let was_open = before.as_ref().map(Opened::opening);
        let opened = match open(before, blob, sas) {
            Ok(opened) => opened,
            Err(trouble) => return Ok(Err(report::naming_secret(trouble, blob, &self.namespace))),
        };
        if was_open != Some(opened.opening()) {
            self.mind(name, uid, opened.store.held_up());
        }
        let store = opened.store.clone();
        self.stores.open(name, uid, opened);
        Ok(match tokio::time::timeout(LIMIT, store.check()).await {
            Ok(outcome) => outcome.map_err(|trouble| report::naming_secret(trouble, blob, &self.namespace)),
            Err(_) => Err(report::timed_out(blob, LIMIT)),
        })
    }

    /// The shared access signature, or what is wrong with its Secret.
    async fn signature(&self, at: &SecretKeyRef) -> Result<Result<secrecy::SecretString, Trouble>, Error> {
        let namespace = &self.namespace;
        if !self.may_read_secrets {
            return Ok(Err(report::no_power(namespace, at)));
        }
        match self.cluster.secret_value(namespace, &at.name, &at.key).await {
            Ok(SecretValue::Found(value)) => Ok(Ok(value)),
            Ok(missing) => Ok(Err(report::no_signature(&missing, namespace, at))),
            // It says nothing of the store: what was seen of it last still stands.
            Err(error) if error.passes() => Err(error),
            Err(error) => Ok(Err(report::secret_refused(&error))),
        }
    }

    /// Has a store tried when something begins to be held up that worked before: an upload whose credential is refused waits for another one, and only a
    /// try reads the Secret. Ends with the store.
    fn mind(&self, name: &str, uid: &str, mut held_up: watch::Receiver<Option<Trouble>>) {
        let (stores, again) = (self.stores.clone(), self.again.clone());
        let (name, uid) = (name.to_owned(), uid.to_owned());
        tokio::spawn(async move {
            while held_up.wait_for(Option::is_some).await.is_ok() {
                if stores.is_ready(&name, &uid) {
                    // The receiver ends with the operator.
                    let _ = again.unbounded_send(ObjectRef::new(&name));
                }
                tokio::time::sleep(HELD_UP_AGAIN).await;
            }
        });
    }
}

//! The watches, the queue and the shutdown.

use std::net::SocketAddr;
use std::sync::Arc;

use futures::StreamExt;
use futures::channel::mpsc;
use kube::api::Api;
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::{Predicate, WatchStreamExt, predicates, watcher};
use kube::{Client, Resource, ResourceExt};
use tokio::signal::unix::{SignalKind, signal};
use tourniquet_cluster::Cluster;
use tourniquet_response::Settings;
use tracing::{debug, info, warn};

use crate::health::{self, Readiness};
use crate::prober::Prober;
use crate::reconcile::{Context, reconcile};
use crate::triggers::{self, Stored};

/// Responses that are worked on at the same time.
const CONCURRENCY: u16 = 32;

/// Why the operator cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot listen for signals: {0}")]
    Signals(std::io::Error),
    #[error("cannot serve the health endpoints: {0}")]
    Health(std::io::Error),
}

/// Runs until it is told to stop. What is being reconciled then comes to its end first.
pub(crate) async fn run(client: Client, settings: Settings, health_address: SocketAddr) -> Result<(), Error> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signals)?;
    let ready = Readiness::default();

    let (responses, writer) = reflector::store::<Stored>();
    let api: Api<Stored> = Api::all(client.clone());
    let stored = watcher(api, watcher::Config::default())
        .default_backoff()
        .reflect(writer)
        .applied_objects()
        // Our own status writes are no reason to look again; finalizers are, since others may remove them.
        .predicate_filter(predicates::generation.combine(predicates::finalizers), Default::default());

    let (send, triggered) = mpsc::unbounded();
    triggers::spawn(&client, &responses, &send);
    let by_uid = responses.clone();
    let prober = Prober::new(move |uid| {
        let found = by_uid.find(|stored| stored.meta().uid.as_deref() == Some(uid));
        if let Some(stored) = found {
            // The receiver ends with the operator.
            let _ = send.unbounded_send(ObjectRef::from_obj(stored.as_ref()));
        }
    });
    let context =
        Arc::new(Context { cluster: Cluster::new(client), settings, prober, failures: std::sync::Mutex::default() });

    let synchronized = {
        let (responses, ready) = (responses.clone(), ready.clone());
        async move {
            if responses.wait_until_ready().await.is_ok() {
                info!(responses = responses.len(), "synchronized");
                ready.set();
            }
        }
    };
    tokio::spawn(synchronized);

    let controller = Controller::for_stream(stored, responses)
        .with_config(Config::default().concurrency(CONCURRENCY))
        .reconcile_on(triggered)
        .graceful_shutdown_on(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            info!("stopping: what is under way comes to its end");
        })
        .run(reconcile, retry, context)
        .for_each(|result| async move {
            if let Err(error) = result {
                // A response's own errors were logged with its name; what is left are watches and lookups.
                debug!(%error, "queue");
            }
        });
    tokio::select! {
        () = controller => Ok(()),
        served = health::serve(health_address, ready) => served.map_err(Error::Health),
    }
}

fn retry(stored: Arc<Stored>, _: &crate::reconcile::Error, context: Arc<Context>) -> Action {
    let after = context.retry(&stored.uid().unwrap_or_default());
    if after.as_secs() >= 30 {
        warn!(response = stored.name_any(), "failing for a while; see its status");
    }
    Action::requeue(after)
}

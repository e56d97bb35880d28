//! The watches, the queue and the shutdown.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::channel::mpsc;
use futures::{StreamExt, TryStreamExt};
use kube::api::Api;
use kube::runtime::controller::{self, Action, Config, Controller};
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::watcher::Event;
use kube::runtime::{Predicate, WatchStreamExt, predicates, watcher};
use kube::{Client, Resource, ResourceExt};
use tokio::signal::unix::{SignalKind, signal};
use tourniquet_cluster::Cluster;
use tourniquet_response::Settings;
use tracing::{debug, info, warn};

use crate::events::Publisher;
use crate::health::{self, Readiness};
use crate::leftovers::{Cause, Sweep};
use crate::pause;
use crate::prober::Prober;
use crate::reconcile::{Context, name, reconcile};
use crate::stores;
use crate::tasks::Tasks;
use crate::triggers::{Known, Stored, Triggers};
use crate::turns::Turns;

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
pub(crate) async fn run(
    client: Client,
    settings: Settings,
    cluster_name: &str,
    health_address: SocketAddr,
    sweep_every: Duration,
) -> Result<(), Error> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signals)?;
    let ready = Readiness::default();

    let (responses, writer) = reflector::store::<Stored>();
    let api: Api<Stored> = Api::all(client.clone());
    let synchronized = ready.clone();
    let cause = Cause::default();
    let causes = cause.clone();
    let known = Known::default();
    let watched = known.clone();
    let turns = Turns::default();
    let coming = turns.clone();
    let stored = watcher(api, watcher::Config::default())
        .backoff(pause::watch())
        .reflect(writer)
        // Not by `Store::wait_until_ready`: the controller waits by it too, and in kube-runtime 5.0.0 only one of two is woken.
        .inspect_ok(move |event| {
            watched.watched(event);
            coming.watched(event);
            match event {
                Event::InitDone => {
                    if synchronized.set() {
                        info!("synchronized");
                    }
                    causes.listed();
                }
                Event::Delete(response) => causes.gone(response),
                _ => {}
            }
        })
        .applied_objects()
        // Our own status writes are no reason to look again; finalizers are, since others may remove them.
        .predicate_filter(predicates::generation.combine(predicates::finalizers), Default::default());

    let (send, triggered) = mpsc::unbounded();
    let triggers =
        Triggers { client: client.clone(), responses: responses.clone(), known: known.clone(), send: send.clone() };
    triggers.spawn();
    let by_uid = responses.clone();
    let changed = move |uid: &str| {
        let found = by_uid.find(|stored| stored.meta().uid.as_deref() == Some(uid));
        if let Some(stored) = found {
            // The receiver ends with the operator.
            let _ = send.unbounded_send(ObjectRef::from_obj(stored.as_ref()));
        }
    };
    let (publisher, cluster) = (Publisher::start(client.clone()), Cluster::new(client.clone()));
    let stores = stores::start(client, cluster.clone(), settings.own_namespace.clone(), publisher.clone());
    let tasks = Tasks::new(cluster.clone(), stores, responses.clone(), cluster_name, changed.clone());
    let prober = Prober::new(changed);
    let sweep = Sweep {
        cluster: cluster.clone(),
        settings: settings.clone(),
        publisher: publisher.clone(),
        responses: responses.clone(),
        every: sweep_every,
    };
    tokio::spawn(sweep.run(cause));
    let (told, pauses) = Default::default();
    let context = Arc::new(Context { publisher, cluster, settings, prober, tasks, turns, known, told, pauses });

    let controller = Controller::for_stream(stored, responses)
        .with_config(Config::default().concurrency(CONCURRENCY))
        .trigger_backoff(pause::triggers())
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
            match result {
                Ok(_) => {}
                Err(controller::Error::QueueError(error)) => {
                    warn!(%error, "responses are not watched at the moment; it is tried again");
                }
                // A response's own errors were logged with its name; one that has gone meanwhile is none.
                Err(error) => debug!(%error, "queue"),
            }
        });
    tokio::select! {
        () = controller => Ok(()),
        served = health::serve(health_address, ready) => served.map_err(Error::Health),
    }
}

fn retry(stored: Arc<Stored>, error: &crate::reconcile::Error, context: Arc<Context>) -> Action {
    let after = context.pauses.after(&stored.uid().unwrap_or_default(), error.fault());
    if after >= pause::LONGEST {
        let (response, uid) = (name(&stored), stored.uid().unwrap_or_default());
        warn!(response, uid, "failing for a while; see its status");
    }
    Action::requeue(after)
}

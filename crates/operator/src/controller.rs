//! The watches, the queue and the shutdown.

use std::convert::Infallible;
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
use tokio_util::sync::CancellationToken;
use tourniquet_cluster::Cluster;
use tourniquet_response::{Power, Settings};
use tracing::{debug, info, warn};

use crate::events::Publisher;
use crate::health::{self, Readiness};
use crate::leader::{self, Led};
use crate::leftovers::{Cause, Sweep};
use crate::metrics::Metrics;
use crate::pause;
use crate::prober::Prober;
use crate::reconcile::{Context, name, reconcile};
use crate::stores;
use crate::tasks::Tasks;
use crate::triggers::{Known, Stored, Triggers, lighten};
use crate::turns::Turns;

/// Responses that are worked on at the same time. They mostly wait for the API server, and its storage takes what comes together together: a hundred at once
/// are to wait for each other no more than they have to.
const CONCURRENCY: u16 = 128;

/// Why the operator cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot listen for signals: {0}")]
    Signals(std::io::Error),
    #[error("cannot serve the health endpoints: {0}")]
    Health(std::io::Error),
}

/// What concerns this operator alone.
pub(crate) struct Options {
    /// How the cluster is called in evidence.
    pub(crate) cluster_name: String,
    pub(crate) pod_name: String,
    /// The name of the Lease that it acts by.
    pub(crate) lease: String,
    pub(crate) health_address: SocketAddr,
    pub(crate) sweep_every: Duration,
}

/// Runs until it is told to stop, or another one leads.
/// `lease_client` is the one that the lease is renewed by.
pub(crate) async fn run(
    client: Client,
    lease_client: Client,
    settings: Settings,
    options: Options,
) -> Result<Led<()>, Error> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signals)?;
    let stop = CancellationToken::new();
    let told = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        info!("stopping: what is under way comes to its end");
        stop.cancel();
        std::future::pending::<Infallible>().await
    };
    let (ready, metrics) = (Readiness::default(), Metrics::new());
    let namespace = settings.own_namespace.clone();
    let lease = (namespace.as_str(), options.lease.as_str());
    let work = Box::pin(act(client, settings, &options, (&ready, &metrics), &stop));
    tokio::select! {
        led = leader::lead(lease_client, lease, &options.pod_name, (&ready, &metrics), &stop, work) => Ok(led),
        served = health::serve(options.health_address, ready.clone(), metrics.clone()) => served.map(|()| Led::Stopped).map_err(Error::Health),
        never = told => match never {},
    }
}

/// Reconciles until it is told to stop. What is being reconciled then comes to its end first.
async fn act(
    client: Client,
    settings: Settings,
    options: &Options,
    (ready, metrics): (&Readiness, &Metrics),
    stop: &CancellationToken,
) {
    let (responses, writer) = reflector::store::<Stored>();
    let api: Api<Stored> = Api::all(client.clone());
    let synchronized = ready.clone();
    let listed = CancellationToken::new();
    let lists = listed.clone();
    let cause = Cause::default();
    let causes = cause.clone();
    let known = Known::default();
    let watched = known.clone();
    let turns = Turns::new(metrics.clone());
    let coming = turns.clone();
    let stored = watcher(api, watcher::Config::default())
        .backoff(pause::watch())
        .modify(lighten)
        .reflect(writer)
        // Not by `Store::wait_until_ready`: the controller waits by it too, and in kube-runtime 5.0.0 only one of two is woken.
        .inspect_ok(move |event| {
            watched.watched(event);
            coming.watched(event);
            match event {
                Event::InitDone => {
                    lists.cancel();
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
    let triggers = Triggers {
        client: client.clone(),
        responses: responses.clone(),
        known: known.clone(),
        send: send.clone(),
        cause: cause.clone(),
    };
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
    let secrets = (settings.own_namespace.clone(), !settings.powers_off.contains(&Power::Secrets));
    let stores = stores::start(client, cluster.clone(), secrets, publisher.clone());
    let tasks = Tasks::new(cluster.clone(), stores, responses.clone(), &options.cluster_name, changed.clone());
    let prober = Prober::new(changed);
    let sweep = Sweep {
        cluster: cluster.clone(),
        settings: settings.clone(),
        publisher: publisher.clone(),
        responses: responses.clone(),
        every: options.sweep_every,
    };
    tokio::spawn(sweep.run(cause));
    let (told, recent, pauses) = Default::default();
    let context = Arc::new(Context {
        publisher,
        cluster,
        settings,
        prober,
        tasks,
        turns,
        known,
        told,
        recent,
        pauses,
        metrics: metrics.clone(),
    });

    let controller = Controller::for_stream(stored, responses)
        .with_config(Config::default().concurrency(CONCURRENCY))
        .trigger_backoff(pause::triggers())
        .reconcile_on(triggered)
        .graceful_shutdown_on(stop.clone().cancelled_owned())
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
        () = controller => {}
        () = stopped_before(stop, &listed) => {}
    }
}

/// Ends when it is told to stop before the responses were listed. Nothing is under way then, and the graceful way has no end: kube-runtime 5.0.0 goes on
/// waiting for a list that nobody asks for any more, and whoever takes over for the lease.
async fn stopped_before(stop: &CancellationToken, listed: &CancellationToken) {
    stop.cancelled().await;
    if listed.is_cancelled() {
        std::future::pending::<()>().await;
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

#[cfg(test)]
mod tests {
    use kube::client::Body;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn told_to_stop_before_it_has_seen_anything_it_stops() {
        // An API server that takes its time.
        let silent = tower::service_fn(|_: http::Request<Body>| {
            std::future::pending::<Result<http::Response<Body>, std::io::Error>>()
        });
        let client = Client::new(silent, "default");
        let options = Options {
            cluster_name: "test".to_owned(),
            pod_name: "one".to_owned(),
            lease: "lease".to_owned(),
            health_address: ([127, 0, 0, 1], 0).into(),
            sweep_every: Duration::from_secs(600),
        };
        let (ready, metrics, stop) = (Readiness::default(), Metrics::new(), CancellationToken::new());
        let work = act(client, Settings::default(), &options, (&ready, &metrics), &stop);
        let told = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            stop.cancel();
        };
        let ended = tokio::time::timeout(Duration::from_secs(60), async { tokio::join!(work, told) }).await;
        assert!(ended.is_ok(), "it goes on waiting");
    }
}

//! One operator acts at a time: the one that holds a Lease. The others stand by.
//!
//! Whoever loses the lease starts over as a whole, by executing itself anew: whatever it had begun in the background ends with the process
//! image, and no part of a former leader goes on by oversight. The container is not restarted by that, so the kubelet has no cause to wait longer
//! from time to time. What a former leader wrote late, after a pause that it did not notice, is found and undone by the sweep.

use std::convert::Infallible;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_controller::LeaderElection;
use kube::Client;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::health::Readiness;
use crate::metrics::Metrics;

/// How long the others see the lease unchanged before one of them takes it. Longer than the leader tries to renew it: it has given up by then.
const DURATION: Duration = Duration::from_secs(10);
/// How long the leader tries. An API server that does not answer for this long would not let it do anything either.
const RENEW_FOR: Duration = Duration::from_secs(6);
/// How often the leader renews, and the others look: what an upgrade waits for, since who stops in good order lets go of the lease.
const RETRY: Duration = Duration::from_secs(1);

/// How leading ended.
pub(crate) enum Led<T> {
    /// The work came to its end.
    Ended(T),
    /// It was told to stop while others led.
    Stopped,
    /// Another one leads by now, or the lease could not be renewed.
    Lost,
}

/// Does the work as soon as the lease is held, and for as long as it is.
///
/// `identity` is the pod's name: of its containers one runs at a time, so one that is restarted has the lease already.
pub(crate) async fn lead<T>(
    client: Client,
    (namespace, lease): (&str, &str),
    identity: &str,
    (ready, metrics): (&Readiness, &Metrics),
    stop: &CancellationToken,
    work: impl Future<Output = T>,
) -> Led<T> {
    let election = LeaderElection::new(client, namespace, lease, identity)
        .with_lease_duration(DURATION)
        .with_renew_deadline(RENEW_FOR)
        .with_retry_period(RETRY);
    let leads = Arc::new(AtomicBool::new(false));
    let begins = Arc::clone(&leads);
    let work = async move {
        begins.store(true, Ordering::Relaxed);
        ready.leads();
        metrics.leads();
        info!("leading");
        work.await
    };
    let stopped_before = async {
        stop.cancelled().await;
        // What goes on comes to its end by itself.
        if leads.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    // Not at once: one that nobody is before leads in a moment, and is not ready until it has seen what there is.
    let stands_by = async {
        tokio::time::sleep(2 * RETRY).await;
        if !leads.load(Ordering::Relaxed) {
            ready.set();
            info!("standing by: another one leads");
        }
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        ended = election.with_lease(work) => ended.map_or(Led::Lost, Led::Ended),
        () = stopped_before => Led::Stopped,
        never = stands_by => match never {},
    }
}

/// Executes this program anew, with the arguments and the environment that it has.
///
/// # Errors
/// When it cannot; nothing has changed then.
pub(crate) fn start_over() -> Result<Infallible, std::io::Error> {
    Err(Command::new("/proc/self/exe").args(std::env::args_os().skip(1)).exec())
}

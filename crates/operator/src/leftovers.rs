//! The sweep: looks for what is left of responses that no longer live, at start, at intervals, and when one has vanished without having
//! been undone.

use std::sync::Arc;
use std::time::Duration;

use kube::Resource;
use kube::runtime::reflector::Store;
use tokio::sync::Notify;
use tokio::time::Instant;
use tourniquet_cluster::{Cluster, Error};
use tourniquet_response::{Leftovers, Remnant, Settings, Standing, leftovers, vanished_in_force};
use tracing::{info, warn};

use crate::events::Publisher;
use crate::triggers::Stored;

/// How often one sweep looks again at its own effects: policies and labels, holders, the cut's record, and one more to see.
const ROUNDS: usize = 6;
/// The first pause before what has to wait for an agent, or failed, is looked at again. It doubles, up to [`LONGEST`].
const AGAIN: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// After a response has vanished: many go together, and a request about one that was under way ends within 15 s.
const TOGETHER: Duration = Duration::from_millis(500);
const LATE: Duration = Duration::from_secs(20);
/// Between two sweeps that a trace of nobody gave cause to: anybody can write a label, as often as he likes.
const STRAYS: Duration = Duration::from_secs(10);

/// What gives cause to sweep.
#[derive(Clone, Default)]
pub(crate) struct Cause {
    gone: Arc<Notify>,
    stray: Arc<Notify>,
}

impl Cause {
    /// The watch has all responses that exist. Nothing is swept before that; what vanished while nobody watched is found then.
    pub(crate) fn listed(&self) {
        self.gone.notify_one();
    }

    /// Something carries a trace of a response that holds nothing.
    pub(crate) fn stray(&self) {
        self.stray.notify_one();
    }

    /// A response is gone.
    pub(crate) fn gone(&self, stored: &Stored) {
        // Of what cannot be read nobody knows whether it was undone.
        if stored.0.as_ref().map_or(true, vanished_in_force) {
            self.gone.notify_one();
        }
    }
}

/// What a sweep needs.
pub(crate) struct Sweep {
    pub(crate) cluster: Cluster,
    pub(crate) settings: Settings,
    pub(crate) publisher: Publisher,
    pub(crate) responses: Store<Stored>,
    /// Between two sweeps that nothing gave cause to.
    pub(crate) every: Duration,
}

impl Sweep {
    /// Sweeps for as long as the operator runs.
    pub(crate) async fn run(self, cause: Cause) {
        let mut said = Vec::new();
        let mut backoff = AGAIN;
        let mut hurried = false;
        let every = self.every.max(AGAIN);
        // Nothing is undone by an operator that has not seen which responses there are.
        cause.gone.notified().await;
        loop {
            let strays_from = Instant::now() + STRAYS;
            let unfinished = self.sweep(&mut said).await.unwrap_or_else(|error| {
                warn!(%error, "cannot look for what is left of former responses; nothing is undone, and it is tried again");
                true
            });
            let pause = match (unfinished, hurried) {
                (true, _) => backoff,
                (false, true) => LATE,
                (false, false) => every,
            };
            backoff = if unfinished { LONGEST.min(backoff * 2) } else { AGAIN };
            tokio::select! {
                () = tokio::time::sleep(pause.min(every)) => hurried = false,
                () = cause.gone.notified() => {
                    tokio::time::sleep(TOGETHER).await;
                    (hurried, backoff) = (true, AGAIN);
                }
                () = cause.stray.notified() => {
                    tokio::time::sleep_until(strays_from.max(Instant::now() + TOGETHER)).await;
                    hurried = false;
                }
            }
        }
    }

    /// Undoes what is left, and logs what stays when that has changed. True when there is more to do soon.
    async fn sweep(&self, said: &mut Vec<String>) -> Result<bool, Error> {
        for _ in 0..ROUNDS {
            let found = self.look().await?;
            if *said != found.left {
                for left in &found.left {
                    warn!(left, "left of a former response");
                }
                said.clone_from(&found.left);
            }
            let mut failed = false;
            for remnant in &found.undo {
                failed |= !self.undo(remnant).await;
            }
            if failed || found.undo.is_empty() {
                return Ok(failed || found.unfinished);
            }
        }
        Ok(true)
    }

    /// What `tourniquet_response::leftovers` says about the order of these looks is why they come in this one.
    async fn look(&self) -> Result<Leftovers, Error> {
        let before = self.cluster.standings().await?;
        let traces = self.cluster.traces(self.settings.agents.as_ref()).await?;
        let suspected = leftovers(&traces, &before, &before, self.settings.agents.as_ref());
        if suspected.is_empty() {
            return Ok(suspected);
        }
        let mut after = self.cluster.standings().await?;
        let watched = self.responses.state();
        after.extend(watched.iter().filter_map(|stored| stored.meta().uid.as_deref()).map(Standing::watched));
        Ok(leftovers(&traces, &before, &after, self.settings.agents.as_ref()))
    }

    async fn undo(&self, remnant: &Remnant) -> bool {
        let Remnant { effect, what, told_on } = remnant;
        if let Err(error) = self.cluster.perform(effect).await {
            warn!(%error, what, "not undone; it is tried again");
            return false;
        }
        info!(%effect, what, "undone");
        if let Some(object) = told_on {
            self.publisher.publish_leftover(object, what);
        }
        true
    }
}

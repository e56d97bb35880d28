//! One request, as often as it takes.

use std::sync::Arc;
use std::time::Duration;

use azure_storage_blob::BlobContainerClient;
use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use super::{Store, Trouble};

/// How long a request is tried.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    /// No longer than this.
    pub(super) until: Instant,
    /// Whether a credential that is refused is waited for.
    pub(super) credential: bool,
}

impl Store {
    /// The effort of a request that nothing else bounds.
    pub(super) fn usual(&self) -> Effort {
        Effort { until: Instant::now() + self.inner.times.patience, credential: false }
    }

    /// Makes a request until it is answered: faults that pass are borne for [`super::Times::patience`], and no longer than the effort.
    ///
    /// # Errors
    /// The last one.
    pub(super) async fn attempt<T, F, Fut>(&self, doing: &str, effort: Effort, request: F) -> Result<T, Trouble>
    where
        F: Fn(Arc<BlobContainerClient>) -> Fut,
        Fut: Future<Output = azure_core::Result<T>>,
    {
        let times = self.inner.times;
        let mut uses = self.inner.uses.subscribe();
        let pauses = ExponentialBuilder::default()
            .with_min_delay(times.first_pause)
            .with_max_delay(times.longest_pause)
            .with_jitter()
            .without_max_times();
        let (mut pauses_left, mut since) = (pauses.build(), None);
        loop {
            let client = Arc::clone(&uses.borrow_and_update().client);
            let trouble = match timeout(times.request, request(client)).await {
                Ok(Ok(answer)) => {
                    self.inner.held_up.send_if_modified(|held_up| held_up.take().is_some());
                    return Ok(answer);
                }
                Ok(Err(error)) => self.told(Trouble::of(error, doing, &self.inner.about)),
                Err(_) => Trouble::passing(
                    "TimedOut",
                    format!("cannot {doing} in {}: no answer within {} s", self.inner.about, times.request.as_secs()),
                ),
            };
            let now = Instant::now();
            if trouble.is_of_the_credential() && effort.credential {
                let until = effort.until.min(now + times.credential);
                warn!(code = %trouble.code, "{trouble}; another credential is waited for");
                self.inner.held_up.send_replace(Some(trouble.clone()));
                match tokio::time::timeout_at(until, uses.changed()).await {
                    Ok(Ok(())) => (pauses_left, since) = (pauses.build(), None),
                    _ => return Err(trouble),
                }
                continue;
            }
            let first = *since.get_or_insert(now);
            let pause = pauses_left.next().unwrap_or(times.longest_pause).max(trouble.retry_after.unwrap_or_default());
            let until = effort.until.min(first + times.patience);
            if !trouble.transient || now + pause > until {
                return Err(trouble);
            }
            warn!(code = %trouble.code, pause_ms = pause.as_millis(), "{trouble}; tried again");
            self.inner.held_up.send_replace(Some(trouble));
            pause_or_change(&mut uses, pause).await;
        }
    }
}

/// Another credential ends a pause: what comes of it is seen at once.
async fn pause_or_change(uses: &mut tokio::sync::watch::Receiver<super::Use>, pause: Duration) {
    let _ = tokio::select! {
        () = sleep(pause) => Ok(()),
        changed = uses.changed() => changed,
    };
}

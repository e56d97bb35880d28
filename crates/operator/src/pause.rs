//! How long to wait after something went wrong.
//!
//! Each response waits by itself, and none for another one. How long depends on what went wrong. A fault of the API server or of the
//! way to it passes by itself, and with one request in five failing a response that needs ten seldom comes to its end at the first try:
//! pauses that double up to half a minute would keep a pod open for minutes that the API server would have let us close. So
//! they end at two seconds; what an API server that is overloaded can bear, it says itself (`Retry-After`). What was
//! refused stays refused until somebody changes something, and is tried less and less often.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use backon::ExponentialBuilder;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::ExponentialBackoff;

/// The first pause.
const FIRST: Duration = Duration::from_millis(250);
/// The longest after a fault that passes by itself.
const PASSING: Duration = Duration::from_secs(2);
/// The longest after a refusal.
pub(crate) const LONGEST: Duration = Duration::from_secs(30);

/// What went wrong, as far as the pause depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fault {
    passes: bool,
    retry_after: Option<Duration>,
}

impl From<&tourniquet_cluster::Error> for Fault {
    fn from(error: &tourniquet_cluster::Error) -> Self {
        Self { passes: error.passes(), retry_after: error.retry_after() }
    }
}

impl Fault {
    /// Both went wrong. What passes is worth another try, whatever becomes of the rest.
    pub(crate) fn and(self, other: Self) -> Self {
        Self { passes: self.passes || other.passes, retry_after: self.retry_after.max(other.retry_after) }
    }
}

/// How often in a row each response failed.
#[derive(Debug, Default)]
pub(crate) struct Pauses(Mutex<BTreeMap<String, u32>>);

impl Pauses {
    /// It came to its end.
    pub(crate) fn forget(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }

    /// The pause before the next attempt, never shorter than what the API server asks for.
    pub(crate) fn after(&self, uid: &str, fault: Fault) -> Duration {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(uid.to_owned()).or_default();
        let longest = if fault.passes { PASSING } else { LONGEST };
        let pause = (FIRST * (1 << (*count).min(7))).min(longest);
        *count = count.saturating_add(1);
        pause.max(fault.retry_after.unwrap_or_default())
    }
}

/// The pauses of a watch that fails. What it does not tell, nobody acts on: a new response waits for it. An API server that comes
/// back hears of each kind within two seconds, which are eight requests.
pub(crate) fn watch() -> impl Backoff {
    // The jitter adds up to as much again.
    let pauses = ExponentialBuilder::default().with_min_delay(FIRST).with_max_delay(PASSING / 2).with_jitter();
    ExponentialBackoff::from(pauses.without_max_times())
}

/// The pause of all triggers after an error of one of them. The watches pause by themselves, and what the others have to tell, such as an
/// agent's answer, must not wait for them: by default they would for up to 30 s (kube-runtime 5.0.0, `Controller::trigger_backoff`).
pub(crate) fn triggers() -> impl Backoff {
    let none = Duration::from_millis(1);
    ExponentialBackoff::from(
        ExponentialBuilder::default().with_min_delay(none).with_max_delay(none).without_max_times(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSES: Fault = Fault { passes: true, retry_after: None };
    const REFUSED: Fault = Fault { passes: false, retry_after: None };

    fn pauses(fault: Fault, times: usize) -> Vec<u128> {
        let pauses = Pauses::default();
        (0..times).map(|_| pauses.after("uid", fault).as_millis()).collect()
    }

    #[test]
    fn what_passes_by_itself_is_soon_tried_again_however_often_it_fails() {
        assert_eq!(pauses(PASSES, 6), [250, 500, 1000, 2000, 2000, 2000]);
    }

    #[test]
    fn what_is_refused_is_tried_less_and_less_often() {
        assert_eq!(pauses(REFUSED, 9), [250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
    }

    #[test]
    fn the_api_server_can_ask_for_more_time_and_not_for_less() {
        let asks = |seconds| Fault { retry_after: Some(Duration::from_secs(seconds)), ..PASSES };
        assert_eq!(pauses(asks(10), 2), [10_000, 10_000]);
        assert_eq!(pauses(asks(1), 5), [1000, 1000, 1000, 2000, 2000]);
        assert_eq!(pauses(REFUSED.and(asks(10)), 5), [10_000; 5], "of several, the one that asks for most");
    }

    #[test]
    fn one_response_does_not_wait_for_another() {
        let pauses = Pauses::default();
        for _ in 0..20 {
            pauses.after("one", REFUSED);
        }
        assert_eq!(pauses.after("other", PASSES), FIRST);
        pauses.forget("one");
        assert_eq!(pauses.after("one", PASSES), FIRST, "it came to its end in between");
    }

    #[test]
    fn a_watch_is_soon_tried_again_however_often_it_fails() {
        let longest = watch().take(100).max();
        assert!(longest.is_some_and(|longest| longest <= PASSING), "{longest:?}");
        assert!(triggers().take(100).all(|pause| pause <= Duration::from_millis(1)));
    }
}

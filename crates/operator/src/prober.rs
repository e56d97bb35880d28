//! Connection attempts that go on in the background, beside reconciling, so that no response waits for one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tourniquet_api::Answer;
use tourniquet_response::Reach;

/// How long an attempt waits for an answer: a SYN that is lost is sent again after 1 s.
const LIMIT: Duration = Duration::from_millis(900);
/// The pause between attempts while the answer may be about to change.
const OFTEN: Duration = Duration::from_millis(250);
/// The pause between attempts of what has long been stable. Short enough that a containment which ends by itself is said to
/// within a quarter of a minute.
const SELDOM: Duration = Duration::from_secs(10);
/// How long after the start, or after a change, attempts are frequent. Cilium settles within 35 s.
const UNSETTLED: Duration = Duration::from_secs(150);
/// One lost packet is no containment: this many attempts in a row have to time out.
const SILENT_ATTEMPTS: u32 = 2;

type Key = (String, SocketAddr);
/// Called with a response's UID when one of its answers has changed.
type Changed = Arc<dyn Fn(&str) + Send + Sync>;

/// The attempts of all responses.
#[derive(Clone)]
pub(crate) struct Prober {
    watches: Arc<Mutex<BTreeMap<Key, Watch>>>,
    changed: Changed,
}

struct Watch {
    reach: Option<Reach>,
    task: JoinHandle<()>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Prober {
    pub(crate) fn new(changed: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self { watches: Arc::default(), changed: Arc::new(changed) }
    }

    /// Goes on trying exactly these addresses for a response; others of it are given up.
    pub(crate) fn watch(&self, uid: &str, addresses: &[SocketAddr]) {
        let mut watches = self.lock();
        watches.retain(|(of, address), _| of != uid || addresses.contains(address));
        for address in addresses {
            let key = (uid.to_owned(), *address);
            watches
                .entry(key.clone())
                .or_insert_with(|| Watch { reach: None, task: tokio::spawn(self.clone().attempts(key)) });
        }
    }

    /// The latest answer.
    pub(crate) fn reach(&self, uid: &str, address: SocketAddr) -> Option<Reach> {
        self.lock().get(&(uid.to_owned(), address)).and_then(|watch| watch.reach)
    }

    /// A thread that panicked while it held the lock left the table whole: each change of it is one assignment.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Watch>> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn attempts(self, key: Key) {
        let mut silent = 0;
        let mut changed_at = Instant::now();
        loop {
            let at = jiff::Timestamp::now();
            let answer = tourniquet_cluster::attempt(key.1, LIMIT).await;
            silent = if answer == Answer::TimedOut { silent + 1 } else { 0 };
            if (silent == 0 || silent >= SILENT_ATTEMPTS) && self.record(&key, Reach { answer, since: at }) {
                changed_at = Instant::now();
                (self.changed)(&key.0);
            }
            let undecided = silent == 1 || changed_at.elapsed() < UNSETTLED;
            tokio::time::sleep(if undecided { OFTEN } else { SELDOM }).await;
        }
    }

    /// True when the answer is another one than before.
    fn record(&self, key: &Key, reach: Reach) -> bool {
        let mut watches = self.lock();
        let Some(watch) = watches.get_mut(key) else { return false };
        if watch.reach.is_some_and(|before| before.answer == reach.answer) {
            return false;
        }
        watch.reach = Some(reach);
        true
    }
}

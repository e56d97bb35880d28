//! One look for everybody who asks for the same meanwhile.
//!
//! A hundred responses that are created or released at once all want the list of responses, and of the webhooks. One list for each
//! of them would be a hundred lists of a hundred.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

/// The latest look, and whoever waits for the next.
pub(crate) struct Shared<T> {
    latest: Mutex<Option<(Instant, Arc<T>)>>,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self { latest: Mutex::new(None) }
    }
}

impl<T> Shared<T> {
    /// What a look sees that begins no earlier than now: as good as one of one's own. Whoever comes while one is under way waits
    /// for the next, together with all others who do.
    pub(crate) async fn get<E>(&self, look: impl AsyncFnOnce() -> Result<T, E>) -> Result<Arc<T>, E> {
        self.get_of_late(Duration::ZERO, look).await
    }

    /// The same, or what was seen by a look that began at most `age` ago.
    pub(crate) async fn get_of_late<E>(
        &self,
        age: Duration,
        look: impl AsyncFnOnce() -> Result<T, E>,
    ) -> Result<Arc<T>, E> {
        let asked = Instant::now();
        let mut latest = self.latest.lock().await;
        if let Some((_, seen)) = latest.as_ref().filter(|(began, _)| *began + age >= asked) {
            return Ok(Arc::clone(seen));
        }
        let began = Instant::now();
        let seen = Arc::new(look().await?);
        *latest = Some((began, Arc::clone(&seen)));
        Ok(seen)
    }
}

/// One [`Shared`] for each key, a namespace say.
pub(crate) struct SharedBy<K, T>(std::sync::Mutex<BTreeMap<K, Arc<Shared<T>>>>);

impl<K, T> Default for SharedBy<K, T> {
    fn default() -> Self {
        Self(std::sync::Mutex::default())
    }
}

impl<K: Ord + Clone, T> SharedBy<K, T> {
    /// As [`Shared::get_of_late`]. What was seen of another key is forgotten as soon as nobody looks at it: a hundred responses in a hundred
    /// namespaces are not to keep what is in each of them.
    pub(crate) async fn get_of_late<E>(
        &self,
        key: &K,
        age: Duration,
        look: impl AsyncFnOnce() -> Result<T, E>,
    ) -> Result<Arc<T>, E> {
        let of_key = {
            // A thread that panicked while it held the lock left the table whole.
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|other, shared| other == key || Arc::strong_count(shared) > 1);
            Arc::clone(all.entry(key.clone()).or_default())
        };
        of_key.get_of_late(age, look).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures::future::join_all;

    use super::*;

    #[tokio::test]
    async fn whoever_asks_during_a_look_gets_what_the_next_one_sees() {
        let (shared, looks) = (Shared::<u32>::default(), AtomicU32::new(0));
        let look = async || {
            let this = looks.fetch_add(1, Ordering::Relaxed) + 1;
            tokio::task::yield_now().await;
            Ok::<_, ()>(this)
        };
        let seen = join_all((0..10).map(|_| shared.get(look))).await;
        let seen: Vec<u32> = seen.into_iter().map(|seen| *seen.unwrap()).collect();
        assert_eq!(seen, [1, 2, 2, 2, 2, 2, 2, 2, 2, 2]);
        assert_eq!(*shared.get(look).await.unwrap(), 3, "a look of before is none");
        let late = shared.get_of_late(Duration::from_secs(60), look).await.unwrap();
        assert_eq!(*late, 3, "unless it is new enough");
    }

    #[tokio::test]
    async fn a_look_that_fails_is_nobody_elses() {
        let shared = Shared::<u32>::default();
        assert_eq!(shared.get(async || Err("refused")).await, Err("refused"));
        assert_eq!(shared.get(async || Ok::<_, &str>(1)).await.map(|seen| *seen), Ok(1));
    }

    #[tokio::test]
    async fn what_was_seen_of_another_key_is_forgotten() {
        let shared = SharedBy::<&str, u32>::default();
        let minute = Duration::from_secs(60);
        let mut seen = Vec::new();
        for (key, brings) in [("shop", 1), ("shop", 2), ("bank", 3), ("shop", 4)] {
            seen.push(*shared.get_of_late(&key, minute, async || Ok::<_, ()>(brings)).await.unwrap());
        }
        assert_eq!(seen, [1, 1, 3, 4]);
        assert_eq!(shared.0.lock().unwrap().len(), 1);
    }
}

//! Waiting for something to become true.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep};

/// Asks again and again until there is an answer; what it was waiting for is in the error.
///
/// Between two questions it rests for 50 ms: the API server has better things to do.
pub async fn until<T>(what: &str, limit: Duration, mut ask: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = ask().await? {
            return Ok(answer);
        }
        if Instant::now() > end {
            bail!("not within {} s: {what}", limit.as_secs());
        }
        sleep(Duration::from_millis(50)).await;
    }
}

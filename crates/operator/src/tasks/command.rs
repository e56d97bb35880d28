//! A command in a container: begun once, its outputs read to their end, and what is left of them.

use std::collections::VecDeque;
use std::time::Duration;

use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_util::sync::CancellationToken;
use tourniquet_api::RunResult;
use tourniquet_cluster::{Cluster, ContainerRef, Process};
use tourniquet_response::{Command, CommandReport, Ended};

/// How long is waited for who says that the container is still the one that was meant, before and after.
const CHECK_LIMIT: Duration = Duration::from_secs(5);
/// What is read of an output at a time, in bytes.
const CHUNK: usize = 32 * 1024;

/// Runs it. However it ends, that is what the report says.
pub(super) async fn run(
    cluster: &Cluster,
    place: &ContainerRef,
    command: &Command,
    end: &CancellationToken,
) -> CommandReport {
    let mut tails = (Tail::new(command.tail), Tail::new(command.tail));
    let deadline = tokio::time::sleep(command.timeout);
    let ended = tokio::select! {
        ended = attempt(cluster, place, command, &mut tails) => ended,
        () = deadline => Ended::TimedOut,
        () = end.cancelled() => Ended::Cancelled,
    };
    let asked = !matches!(ended, Ended::NotAsked(_) | Ended::NotBegun(_));
    let replaced = match tokio::time::timeout(CHECK_LIMIT, cluster.replaced(place)).await {
        Ok(Ok(replaced)) => replaced,
        Ok(Err(error)) => Some(format!("whether the container was restarted cannot be seen ({error})")),
        Err(_) => Some("whether the container was restarted cannot be seen in time".to_owned()),
    };
    let result = RunResult { stdout_tail: tails.0.text(), stderr_tail: tails.1.text(), ..RunResult::default() };
    CommandReport { at: Timestamp::now(), ended, result, replaced: replaced.filter(|_| asked) }
}

async fn attempt(cluster: &Cluster, place: &ContainerRef, command: &Command, tails: &mut (Tail, Tail)) -> Ended {
    match tokio::time::timeout(CHECK_LIMIT, cluster.replaced(place)).await {
        Ok(Ok(None)) => {}
        Ok(Ok(Some(why))) => return Ended::NotAsked(why),
        Ok(Err(error)) => return Ended::NotAsked(error.to_string()),
        Err(_) => return Ended::NotAsked("the API server did not answer in time".to_owned()),
    }
    let mut process = match cluster.exec(place, &command.argv).await {
        Ok(process) => process,
        Err(ended) => return ended,
    };
    let Process { stdout, stderr, .. } = &mut process;
    // Together: one that is not read blocks the other.
    tokio::join!(tails.0.read(stdout), tails.1.read(stderr));
    process.ended().await
}

/// The end of an output.
struct Tail {
    last: VecDeque<u8>,
    limit: usize,
}

impl Tail {
    const fn new(limit: usize) -> Self {
        Self { last: VecDeque::new(), limit }
    }

    async fn read(&mut self, output: &mut (impl AsyncRead + Unpin)) {
        let mut buffer = vec![0; CHUNK];
        // An output that breaks off has ended; how the command ended is said by its status.
        while let Ok(count @ 1..) = output.read(&mut buffer).await {
            let chunk = buffer.get(..count).unwrap_or_default();
            self.last.extend(chunk.iter().skip(count.saturating_sub(self.limit)));
            let surplus = self.last.len().saturating_sub(self.limit);
            self.last.drain(..surplus);
        }
    }

    /// As text that takes at most the limit in JSON, where a control character can take six bytes. `None` when nothing was written.
    fn text(&mut self) -> Option<String> {
        let bytes = self.last.make_contiguous();
        // A character that was cut in half at the beginning.
        let start = bytes.iter().position(|byte| byte & 0xC0 != 0x80).unwrap_or(0);
        let text = String::from_utf8_lossy(bytes.get(start..).unwrap_or_default());
        let in_json = |letter: char| match letter {
            '"' | '\\' | '\n' | '\r' | '\t' => 2,
            letter if letter.is_control() => 6,
            letter => letter.len_utf8(),
        };
        let mut room = self.limit;
        let mut kept = text.char_indices().rev().take_while(|(_, letter)| {
            let size = in_json(*letter);
            let fits = size <= room;
            room = room.saturating_sub(size);
            fits
        });
        let from = kept.by_ref().last().map(|(at, _)| at)?;
        text.get(from..).map(str::to_owned)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests: a panic is a failed test")]
mod tests {
    use super::*;

    async fn tail_of(output: &[u8], limit: usize) -> Option<String> {
        let mut tail = Tail::new(limit);
        tail.read(&mut { output }).await;
        tail.text()
    }

    #[tokio::test]
    async fn a_tail_is_the_end_and_within_its_limit_in_json() {
        assert_eq!(tail_of(b"", 8).await, None);
        assert_eq!(tail_of(b"hello", 8).await.as_deref(), Some("hello"));
        assert_eq!(tail_of(b"0123456789", 4).await.as_deref(), Some("6789"));
        assert_eq!(tail_of("aä".as_bytes(), 2).await.as_deref(), Some("ä"));
        assert_eq!(tail_of("ä".as_bytes(), 1).await, None);
        let garbage = [0xff_u8; 100_000];
        let control = [1_u8; 100_000];
        for output in [&garbage[..], &control[..], "\"\\\n".repeat(50_000).as_bytes(), "😀".repeat(5000).as_bytes()] {
            let tail = tail_of(output, 4096).await.unwrap();
            let stored = serde_json::to_string(&tail).unwrap().len() - 2;
            assert!(stored <= 4096 && stored > 4000, "{stored}");
        }
    }
}

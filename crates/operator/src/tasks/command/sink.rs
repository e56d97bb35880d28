//! An output's way into the store, which never holds up the command for long.
//!
//! A store that is slower than the output slows the command down, as a pipe would: what was asked for is the whole of it. But a command that kills
//! something must not hang for the sake of its output. So a store that takes nothing for a while is given up, and so is one that has held the command up for
//! half of its time in all: what comes after that is in the status by its end only, and what is stored is marked as truncated.

use std::time::Duration;

use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use tourniquet_evidence::folder::SourceReport;

/// What is under way between the command and the store, in bytes. Fifty pods with two outputs each have 6 MiB of it.
const PIPE: usize = 64 * 1024;
/// The longest that the store may take nothing. A block that is tried again after a fault takes less, most of the time.
const STALL: Duration = Duration::from_secs(10);

/// Where an output is put in.
pub(super) struct Sink {
    way: Option<DuplexStream>,
    report: Option<oneshot::Sender<SourceReport>>,
    /// For how long it may still hold up the command.
    patience: Duration,
}

/// Where it comes out, and what is said of it at its end.
pub(super) struct Outlet {
    pub(super) reader: DuplexStream,
    pub(super) report: oneshot::Receiver<SourceReport>,
}

impl Sink {
    /// Of a command that may take so long.
    pub(super) fn new(limit: Duration) -> (Self, Outlet) {
        let (way, reader) = duplex(PIPE);
        let (send, report) = oneshot::channel();
        (Self { way: Some(way), report: Some(send), patience: limit / 2 }, Outlet { reader, report })
    }

    /// Puts this in, as far as it is taken in time.
    pub(super) async fn write(&mut self, chunk: &[u8]) {
        let Some(way) = &mut self.way else { return };
        let since = Instant::now();
        let taken = timeout(STALL.min(self.patience), way.write_all(chunk)).await;
        self.patience = self.patience.saturating_sub(since.elapsed());
        match taken {
            Ok(Ok(())) => {}
            // It has taken as much as it takes, or nothing at all: it says so itself.
            Ok(Err(_)) => self.end(SourceReport::default()),
            Err(_) => {
                let why =
                    "the store did not take the output as fast as it came, and the command was not held up for longer";
                self.end(SourceReport { truncated: Some(why.to_owned()), ..SourceReport::default() });
            }
        }
    }

    /// That was all, and this is to be said of it, unless it has ended before.
    pub(super) fn end(&mut self, report: SourceReport) {
        if let Some(send) = self.report.take() {
            // Nobody minds any more when the store has given it up.
            let _ = send.send(report);
        }
        self.way = None;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn what_is_put_in_comes_out_and_so_does_what_is_said_of_it() {
        let (mut sink, mut outlet) = Sink::new(MINUTE);
        sink.write(b"hello ").await;
        sink.write(b"world").await;
        sink.end(SourceReport { exit_code: Some(3), ..SourceReport::default() });
        let mut text = String::new();
        outlet.reader.read_to_string(&mut text).await.unwrap();
        assert_eq!((text.as_str(), outlet.report.await.unwrap().exit_code), ("hello world", Some(3)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_takes_nothing_holds_the_command_up_for_a_moment_and_gets_no_more() {
        let (mut sink, mut outlet) = Sink::new(MINUTE);
        let began = Instant::now();
        for _ in 0..100 {
            sink.write(&[0; PIPE]).await;
        }
        assert_eq!(began.elapsed().as_secs(), STALL.as_secs());
        sink.end(SourceReport::default());
        let mut stored = Vec::new();
        outlet.reader.read_to_end(&mut stored).await.unwrap();
        assert_eq!(stored.len(), PIPE, "what came before is kept");
        assert!(outlet.report.await.unwrap().truncated.is_some_and(|why| why.contains("as fast as it came")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_is_slow_holds_the_command_up_for_half_of_its_time_at_most() {
        let (mut sink, outlet) = Sink::new(MINUTE);
        let Outlet { mut reader, report } = outlet;
        tokio::spawn(async move {
            let mut piece = vec![0; PIPE];
            while reader.read_exact(&mut piece).await.is_ok() {
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
        });
        let began = Instant::now();
        for _ in 0..100 {
            sink.write(&[0; PIPE]).await;
        }
        assert_eq!(began.elapsed().as_secs(), 30);
        assert!(report.await.unwrap().truncated.is_some());
    }

    #[tokio::test]
    async fn one_that_takes_no_more_holds_nothing_up() {
        let (mut sink, outlet) = Sink::new(MINUTE);
        drop(outlet.reader);
        for _ in 0..3 {
            sink.write(&[0; PIPE]).await;
        }
        assert_eq!(outlet.report.await.unwrap(), SourceReport::default());
    }
}

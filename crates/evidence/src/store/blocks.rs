//! A source, taken in blocks, until it ends or is given up.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use md5::Md5;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::put::{Ended, PutOptions, Received};

/// Bytes in a block.
pub(super) const BLOCK: usize = 4 * 1024 * 1024;

/// Read at a time. It is hashed before anything else is done, and 256 KiB take less than a millisecond.
const PIECE: usize = 256 * 1024;

/// What is staged.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub(super) bytes: Bytes,
    pub(super) md5: Vec<u8>,
}

/// A source that is being read. Memory: one block.
pub(super) struct Intake<R> {
    reader: R,
    limit: u64,
    idle: Duration,
    stop: Stop,
    length: u64,
    sha256: Sha256,
    md5: Md5,
    buffer: BytesMut,
    ended: Option<Ended>,
}

/// What gives a source up.
#[derive(Clone, Debug)]
pub(super) struct Stop {
    deadline: Instant,
    cancel: CancellationToken,
}

impl Stop {
    pub(super) fn of(options: &PutOptions) -> Self {
        Self { deadline: options.deadline, cancel: options.cancel.clone() }
    }

    /// Waits until the source is to be given up. Can be dropped and called again.
    pub(super) async fn comes(&self) -> Ended {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Ended::Cancelled,
            () = sleep_until(self.deadline) => Ended::TimedOut,
        }
    }
}

impl<R: AsyncRead + Unpin> Intake<R> {
    pub(super) fn new(reader: R, options: &PutOptions) -> Self {
        Self {
            reader,
            limit: options.limit,
            idle: options.idle,
            stop: Stop::of(options),
            length: 0,
            sha256: Sha256::new(),
            md5: Md5::new(),
            buffer: BytesMut::new(),
            ended: None,
        }
    }

    /// The next block: a full one, or what there is when the source ends; none, when nothing is left. Can be dropped and called again.
    pub(super) async fn next(&mut self) -> Option<Block> {
        while self.ended.is_none() && self.buffer.len() < BLOCK {
            if self.buffer.capacity() == 0 {
                self.buffer.reserve(BLOCK);
            }
            let left = usize::try_from(self.limit - self.length).unwrap_or(usize::MAX);
            let room = (BLOCK - self.buffer.len()).min(PIECE).min(left);
            let before = self.buffer.len();
            let idle = self.idle;
            let read = async {
                // At the limit, one byte more tells whether there is more.
                let read = match room {
                    0 => timeout(idle, self.reader.read(&mut [0])).await,
                    _ => timeout(idle, self.reader.read_buf(&mut (&mut self.buffer).limit(room))).await,
                };
                match read {
                    Ok(Ok(0)) => Some(Ended::Whole),
                    Ok(Ok(_)) if room == 0 => Some(Ended::Truncated),
                    Ok(Ok(_)) => None,
                    Ok(Err(error)) => Some(Ended::Broken(error.to_string())),
                    Err(_) => Some(Ended::TimedOut),
                }
            };
            let ended = tokio::select! {
                biased;
                ended = self.stop.comes() => Some(ended),
                ended = read => ended,
            };
            let new = self.buffer.get(before..).unwrap_or_default();
            self.sha256.update(new);
            self.md5.update(new);
            self.length += new.len() as u64;
            self.ended = ended;
        }
        (!self.buffer.is_empty())
            .then(|| Block { bytes: self.buffer.split().freeze(), md5: self.md5.finalize_reset().to_vec() })
    }

    /// Reads no more.
    pub(super) fn give_up(&mut self, how: Ended) {
        self.ended.get_or_insert(how);
    }

    /// Lets go of the source, and says what was received of it.
    pub(super) fn finish(self) -> Received {
        Received {
            length: self.length,
            sha256: hex(&self.sha256.finalize()),
            ended: self.ended.unwrap_or(Ended::Whole),
        }
    }
}

/// In hex, as checksum files have it.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

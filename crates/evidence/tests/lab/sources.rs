//! Sources that end in every way.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, ReadBuf};

/// The same bytes each time, and no two blocks of them alike.
pub(crate) fn bytes(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Gives these bytes, and then does this.
pub(crate) struct Then {
    bytes: io::Cursor<Vec<u8>>,
    then: Option<io::Error>,
}

/// Breaks after these bytes.
pub(crate) fn breaks(bytes: Vec<u8>, why: &str) -> Then {
    Then { bytes: io::Cursor::new(bytes), then: Some(io::Error::other(why.to_owned())) }
}

/// Says nothing more after these bytes.
pub(crate) fn falls_silent(bytes: Vec<u8>) -> Then {
    Then { bytes: io::Cursor::new(bytes), then: None }
}

impl AsyncRead for Then {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        match Pin::new(&mut self.bytes).poll_read(cx, buf) {
            Poll::Ready(Ok(())) if buf.filled().len() == before => match self.then.take() {
                Some(error) => Poll::Ready(Err(error)),
                None => Poll::Pending,
            },
            other => other,
        }
    }
}

/// A source that only counts: `length` bytes that are never in memory at once.
pub(crate) struct Endless {
    left: u64,
    state: u64,
}

pub(crate) fn endless(length: u64) -> Endless {
    Endless { left: length, state: 1 }
}

impl AsyncRead for Endless {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let take = buf.remaining().min(4096).min(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let filling = self.state.to_le_bytes();
        let piece: Vec<u8> = filling.iter().copied().cycle().take(take).collect();
        buf.put_slice(&piece);
        self.left -= take as u64;
        Poll::Ready(Ok(()))
    }
}

//! Where an artifact goes: what was taken is counted and hashed.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};

/// What was written so far. Shared, so that it can be told while a read hangs.
#[derive(Clone, Default)]
pub(crate) struct Written(Arc<Mutex<(Sha256, u64)>>);

impl Written {
    /// Length and SHA-256.
    pub(crate) fn so_far(&self) -> (u64, String) {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (state.1, hex(&state.0.clone().finalize()))
    }

    fn add(&self, bytes: &[u8]) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.0.update(bytes);
        state.1 = state.1.saturating_add(bytes.len() as u64);
    }
}

/// An artifact that is being written.
pub(crate) struct Output<W> {
    inner: W,
    written: Written,
}

impl<W: Write> Output<W> {
    pub(crate) fn new(inner: W, written: Written) -> Self {
        Self { inner, written }
    }
}

impl<W: Write> Write for Output<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.inner.write(bytes)?;
        self.written.add(bytes.get(..taken).unwrap_or(bytes));
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

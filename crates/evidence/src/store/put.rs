//! A stream of unknown length becomes a blob: streamed in blocks, committed once, never over something else.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::io::AsyncRead;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::attempts::Effort;
use super::blocks::{BLOCK, Intake, Stop};
use super::commit::Blob;
use super::upload::Upload;
use super::{Store, Trouble};

/// How much of a source is taken, and for how long.
#[derive(Clone, Debug)]
pub struct PutOptions {
    /// At most this many bytes; what is more is left, and the blob marked [`Ended::Truncated`]. Cannot be above [`LARGEST`].
    pub limit: u64,
    /// The source is given up when nothing comes for this long.
    pub idle: Duration,
    /// The source is given up then.
    pub deadline: Instant,
    /// How long storing may go on after the source has ended, was given up or was cancelled.
    pub grace: Duration,
    /// Ends the source; what was received is stored within `grace`.
    pub cancel: CancellationToken,
    /// Tells this upload from any other: a blob that carries it is this upload's own. The same in every attempt.
    pub nonce: Uuid,
}

impl PutOptions {
    /// At most `limit` bytes, until `deadline`; 60 s of silence end it, and storing may then take 30 s more.
    #[must_use]
    pub fn new(limit: u64, deadline: Instant) -> Self {
        Self {
            limit,
            idle: Duration::from_secs(60),
            deadline,
            grace: Duration::from_secs(30),
            cancel: CancellationToken::new(),
            nonce: Uuid::new_v4(),
        }
    }
}

/// The largest blob: 50,000 blocks, the service's limit, of 4 MiB.
pub const LARGEST: u64 = 50_000 * BLOCK as u64;

/// What was received of a source, when it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Bytes.
    pub length: u64,
    /// Of those bytes, in hex.
    pub sha256: String,
    /// How it ended, as far as the stream tells.
    pub ended: Ended,
}

/// What is known of a source once its stream has ended: an end of file says nothing of whether the program behind it succeeded.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Why it is not whole after all, though the stream just ended.
    pub broken: Option<String>,
    /// Whether the source itself said that there was more than it gave. What is broken is that, and not this.
    pub truncated: bool,
    /// To be stored as the blob's metadata. Names are lower-case letters, digits and underscores; values printable ASCII; together at most [`METADATA`] bytes.
    pub metadata: BTreeMap<String, String>,
}

/// The most that [`Verdict::metadata`] may come to. The service takes 8 KiB, with our own.
pub const METADATA: usize = 6 * 1024;

/// How a source ended. Whatever it is, what was received is stored, and the blob's metadata say it too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself; these are all its bytes.
    Whole,
    /// There was more than the limit.
    Truncated,
    /// It broke off, and why.
    Broken(String),
    /// Nothing came for too long, or the deadline passed.
    TimedOut,
    /// It was cancelled.
    Cancelled,
}

/// A blob that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its URL, without a signature.
    pub url: String,
    /// Its name below the store's prefix.
    pub path: String,
    /// Bytes.
    pub length: u64,
    /// Of those bytes as they were received, in hex; each block was verified by the service against an MD5 made beside it.
    pub sha256: String,
    /// As the service gave it.
    pub etag: String,
    /// As the service gave it, where the account keeps versions.
    pub version_id: Option<String>,
    /// How its source ended.
    pub ended: Ended,
    /// Whether it was found to be stored by an earlier attempt, or by a request whose answer was lost.
    pub recognised: bool,
}

impl Stored {
    /// Whether there was more than the limit.
    #[must_use]
    pub fn truncated(&self) -> bool {
        self.ended == Ended::Truncated
    }
}

impl Store {
    /// Stores what `reader` gives at `path`, which must not exist yet.
    ///
    /// Memory: at most four blocks of 4 MiB, whatever the length. `verdict` is called when the stream has ended, with what was received, and tells what the
    /// stream cannot: whether the program behind it succeeded, and what else is to be kept with the blob. The reader is dropped before: a program that is given
    /// up ends by that. It is awaited for at most `options.grace`; without its answer the blob is marked [`Ended::Broken`].
    ///
    /// A source that ends badly is not an error of the store: see [`Stored::ended`].
    ///
    /// # Errors
    /// When the bytes could not be stored: nothing is at `path` then, or (code `BlobAlreadyExists`) something that is not this upload's. After `TimedOut` or
    /// `ConnectionLost` of the last request nobody knows; the same bytes put again with the same nonce are recognised.
    pub async fn put<R, V, F>(&self, path: &str, reader: R, verdict: V, options: PutOptions) -> Result<Stored, Trouble>
    where
        R: AsyncRead + Unpin + Send,
        V: FnOnce(Received) -> F + Send,
        F: Future<Output = Verdict> + Send,
    {
        self.put_with(path, reader, verdict, options, true).await
    }

    /// The same, and whether a credential that is refused is waited for.
    pub(super) async fn put_with<R, V, F>(
        &self,
        path: &str,
        reader: R,
        verdict: V,
        options: PutOptions,
        credential: bool,
    ) -> Result<Stored, Trouble>
    where
        R: AsyncRead + Unpin + Send,
        V: FnOnce(Received) -> F + Send,
        F: Future<Output = Verdict> + Send,
    {
        let name = self.name(path)?;
        if options.limit > LARGEST {
            return Err(Trouble::new(
                "TooLarge",
                format!("a blob has at most {LARGEST} bytes; the limit is {}", options.limit),
            ));
        }
        let stop = Stop::of(&options);
        let mut intake = Intake::new(reader, &options);
        let effort = Effort { until: options.deadline + options.grace, credential };
        let mut upload = Upload::new(self, &name, options.nonce, effort);
        upload.take(&mut intake, &stop).await?;
        let received = intake.finish();

        let until = match received.ended {
            Ended::Cancelled => Instant::now() + options.grace,
            _ => options.deadline.max(Instant::now()) + options.grace,
        };
        let held_up = self.held_up();
        let commit = async {
            let verdict = timeout(options.grace, verdict(received.clone())).await.unwrap_or_else(|_| Verdict {
                broken: Some(format!("its source did not say within {} s how it ended", options.grace.as_secs())),
                ..Verdict::default()
            });
            upload.settle().await?;
            let blob = Blob::new(path, &name, received, verdict, options.nonce)?;
            blob.commit(self, upload.ids(), Effort { until, credential }).await
        };
        timeout_at(until, commit).await.unwrap_or_else(|_| {
            let why = held_up.borrow().as_ref().map(|trouble| format!(": {trouble}")).unwrap_or_default();
            Err(Trouble::passing("TimedOut", format!("{name} could not be stored before its time was up{why}")))
        })
    }

    /// Stores what is in memory, by the nonce that tells it from another.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub async fn put_small(&self, path: &str, content: &[u8], nonce: Uuid, until: Instant) -> Result<Stored, Trouble> {
        let mut options = PutOptions::new(content.len() as u64, until);
        options.nonce = nonce;
        self.put(path, content, |_| std::future::ready(Verdict::default()), options).await
    }
}

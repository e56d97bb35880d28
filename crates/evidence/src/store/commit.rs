//! The one request by which a blob comes to be, with all that is said of it, and what becomes of it when its answer is lost.

use std::collections::{BTreeMap, HashMap};

use azure_storage_blob::models::{
    BlockBlobClientCommitBlockListOptions, BlockBlobClientCommitBlockListResultHeaders, BlockLookupList,
};
use uuid::Uuid;

use super::attempts::Effort;
use super::put::{Ended, METADATA, Received, Stored, Verdict};
use super::read::Properties;
use super::{Store, Trouble};

/// Names of metadata that are ours: what was received, and by which upload.
const SHA256: &str = "sha256";
const LENGTH: &str = "length";
const NONCE: &str = "nonce";
const ENDED: &str = "ended";
const WHY: &str = "why";
const OURS: [&str; 5] = [SHA256, LENGTH, NONCE, ENDED, WHY];

/// How much of a reason is kept, in bytes.
const REASON: usize = 512;

/// A blob that is about to be.
pub(super) struct Blob<'a> {
    path: &'a str,
    name: &'a str,
    received: Received,
    nonce: Uuid,
    metadata: HashMap<String, String>,
}

impl<'a> Blob<'a> {
    pub(super) fn new(
        path: &'a str,
        name: &'a str,
        mut received: Received,
        verdict: Verdict,
        nonce: Uuid,
    ) -> Result<Self, Trouble> {
        // One that was given up is not made worse by a program that minds.
        match (&received.ended, verdict.broken) {
            (Ended::Whole, Some(why)) => received.ended = Ended::Broken(why),
            (Ended::Whole, None) if verdict.truncated => received.ended = Ended::Truncated,
            _ => {}
        }
        check(&verdict.metadata)?;
        let mut metadata: HashMap<_, _> = verdict.metadata.into_iter().collect();
        let mut put = |name: &str, value: String| metadata.insert(name.to_owned(), value);
        put(SHA256, received.sha256.clone());
        put(LENGTH, received.length.to_string());
        put(NONCE, nonce.to_string());
        put(ENDED, word(&received.ended).to_owned());
        if let Ended::Broken(why) = &received.ended {
            put(WHY, printable(why));
        }
        Ok(Self { path, name, received, nonce, metadata })
    }

    /// Makes it be, unless something is there.
    ///
    /// # Errors
    /// `BlobAlreadyExists`, when that is not this very upload.
    pub(super) async fn commit(self, store: &Store, ids: Vec<Vec<u8>>, effort: Effort) -> Result<Stored, Trouble> {
        let name = self.name;
        let list = BlockLookupList { latest: Some(ids), ..BlockLookupList::default() };
        let committed = store
            .attempt(&format!("store {name}"), effort, |container| {
                let (list, metadata) = (list.clone(), self.metadata.clone());
                async move {
                    let options = BlockBlobClientCommitBlockListOptions {
                        if_none_match: Some("*".into()),
                        metadata: Some(metadata),
                        blob_content_type: Some("application/octet-stream".to_owned()),
                        ..BlockBlobClientCommitBlockListOptions::default()
                    };
                    let client = container.blob_client(name).block_blob_client();
                    let answer = client.commit_block_list(list.try_into()?, Some(options)).await?;
                    Ok((answer.etag()?, answer.version_id()?))
                }
            })
            .await;
        let trouble = match committed {
            Ok((etag, version_id)) => {
                return Ok(self.stored(
                    store,
                    etag.map(|etag| etag.to_string()).unwrap_or_default(),
                    version_id,
                    false,
                ));
            }
            Err(trouble) => trouble,
        };
        if !trouble.is_taken() {
            return Err(trouble);
        }
        match store.properties_within(self.path, effort).await? {
            Some(found) if self.is(&found) => Ok(self.stored(store, found.etag, found.version_id, true)),
            _ => Err(Trouble::new(
                "BlobAlreadyExists",
                format!("{} is there already, and is something else: it was left as it is", store.url(self.path)),
            )),
        }
    }

    /// Whether it is what an earlier attempt of this upload left.
    fn is(&self, found: &Properties) -> bool {
        let says = |name: &str, value: &str| found.metadata.get(name).is_some_and(|found| found == value);
        found.length == self.received.length
            && says(NONCE, &self.nonce.to_string())
            && says(SHA256, &self.received.sha256)
    }

    fn stored(self, store: &Store, etag: String, version_id: Option<String>, recognised: bool) -> Stored {
        Stored {
            url: store.url(self.path),
            path: self.path.to_owned(),
            length: self.received.length,
            sha256: self.received.sha256,
            etag,
            version_id,
            ended: self.received.ended,
            recognised,
        }
    }
}

impl Properties {
    /// What was stored here, as far as the blob says it: not when it was not stored by [`Store::put`].
    #[must_use]
    pub fn stored(&self, path: &str) -> Option<Stored> {
        let sha256 = self.metadata.get(SHA256)?.clone();
        let length: u64 = self.metadata.get(LENGTH)?.parse().ok()?;
        let ended = match self.metadata.get(ENDED)?.as_str() {
            "whole" => Ended::Whole,
            "truncated" => Ended::Truncated,
            "timedout" => Ended::TimedOut,
            "cancelled" => Ended::Cancelled,
            _ => Ended::Broken(self.metadata.get(WHY).cloned().unwrap_or_default()),
        };
        (length == self.length).then(|| Stored {
            url: self.url.clone(),
            path: path.to_owned(),
            length,
            sha256,
            etag: self.etag.clone(),
            version_id: self.version_id.clone(),
            ended,
            recognised: true,
        })
    }
}

const fn word(ended: &Ended) -> &'static str {
    match ended {
        Ended::Whole => "whole",
        Ended::Truncated => "truncated",
        Ended::Broken(_) => "broken",
        Ended::TimedOut => "timedout",
        Ended::Cancelled => "cancelled",
    }
}

/// Metadata are headers: what is not printable ASCII becomes a question mark, and what is long is cut.
fn printable(text: &str) -> String {
    let clean = text.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' });
    clean.take(REASON).collect::<String>().trim().to_owned()
}

fn check(metadata: &BTreeMap<String, String>) -> Result<(), Trouble> {
    let bad = |why: String| Err(Trouble::new("InvalidName", why));
    let mut size = 0;
    for (name, value) in metadata {
        size += name.len() + value.len();
        let named = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            && name.starts_with(|c: char| c.is_ascii_lowercase());
        if !named || OURS.contains(&name.as_str()) {
            return bad(format!(
                "{name:?} is no name for metadata: lower-case letters, digits and underscores, and none of {OURS:?}"
            ));
        }
        if !value.bytes().all(|b| b.is_ascii_graphic() || b == b' ') {
            return bad(format!("the metadata {name} are not printable ASCII"));
        }
    }
    if size > METADATA {
        return bad(format!("the metadata have {size} bytes; at most {METADATA} are kept with a blob"));
    }
    Ok(())
}

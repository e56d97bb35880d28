//! Whether a store can be used: by using it.

use std::future::ready;
use std::time::Duration;

use azure_storage_blob::models::{BlobClientGetPropertiesResultHeaders, BlobContainerClientGetPropertiesResultHeaders};
use jiff::SignedDuration;
use tokio::time::Instant;
use uuid::Uuid;

use super::attempts::Effort;
use super::put::{PutOptions, Verdict};
use super::{Store, Trouble, trouble};

/// How long faults that pass are borne: whoever checks tries again by themselves, and wants to say what is wrong by then.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a round trip showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Whether what is stored can be changed or deleted.
    pub immutability: Immutability,
    /// The store's clock less ours; the service tells seconds, so it is true within one second and half of the round trip.
    pub clock_offset: SignedDuration,
}

/// What the service reports of write-once protection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Immutability {
    /// An immutability policy or a legal hold is in force on the container, or on the blob that the check stored.
    Verified,
    /// The service says that there is none.
    Absent,
    /// The service did not say, or this credential may not ask.
    Unknown,
}

/// The blob of [`Store::check`], below the prefix. The same each time, so that checks leave one blob, not one each.
pub const CHECK_BLOB: &str = "tourniquet-check.txt";

const CONTENT: &str =
    "Written once by tourniquet, to see whether evidence can be stored here. Evidence is in the folders beside it.\n";

impl Store {
    /// A real round trip: a small blob of fixed name and content is staged and committed unless it exists, read back, and compared.
    ///
    /// A check after the first one finds the blob there: the service looks at rights first, so its refusal to overwrite shows that writing is allowed.
    ///
    /// # Errors
    /// What a responder has to do something about, or wait for.
    pub async fn check(&self) -> Result<Checked, Trouble> {
        let effort = Effort { until: Instant::now() + PATIENCE.min(self.inner.times.patience), credential: false };
        self.write_check(effort).await?;
        let name = self.name(CHECK_BLOB)?;
        let content = self.get_small_within(CHECK_BLOB, effort).await?.unwrap_or_default();
        if content != CONTENT.as_bytes() {
            let message = format!(
                "{} is not what was stored there: somebody else wrote it, or something in between changes what is stored",
                self.url(CHECK_BLOB)
            );
            return Err(Trouble::new("ReadBackDiffers", message));
        }
        let (blob, clock_offset) = self
            .attempt(&format!("look at {name}"), effort, |container| {
                let name = name.clone();
                async move {
                    let found = container.blob_client(&name).get_properties(None).await?;
                    let held = found.legal_hold()?.unwrap_or(false) || found.immutability_policy_mode()?.is_some();
                    Ok((held, trouble::clock_offset(found.headers())))
                }
            })
            .await?;
        let container = self
            .attempt("look at the container", effort, |container| async move {
                let found = container.get_properties(None).await?;
                Ok((found.has_immutability_policy()?, found.has_legal_hold()?))
            })
            .await;
        let immutability = match container {
            _ if blob => Immutability::Verified,
            Ok((Some(true), _) | (_, Some(true))) => Immutability::Verified,
            Ok((Some(false), Some(false))) => Immutability::Absent,
            // A signature for a container may not ask for the container's properties.
            _ => Immutability::Unknown,
        };
        Ok(Checked { immutability, clock_offset: clock_offset.unwrap_or_default() })
    }

    /// Stages and commits, as an upload does; what is there already is what it should be.
    async fn write_check(&self, effort: Effort) -> Result<(), Trouble> {
        let mut options = PutOptions::new(CONTENT.len() as u64, effort.until);
        options.nonce = Uuid::nil();
        options.grace = Duration::ZERO;
        let stored = self.put_with(CHECK_BLOB, CONTENT.as_bytes(), |_| ready(Verdict::default()), options, false).await;
        match stored {
            Err(trouble) if trouble.is_taken() => Ok(()),
            stored => stored.map(drop),
        }
    }
}

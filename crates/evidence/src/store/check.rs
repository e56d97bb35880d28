//! Whether a store can be used: by using it.

use jiff::SignedDuration;

use super::{Store, Trouble};

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

impl Store {
    /// A real round trip: a small blob of fixed name and content is staged and committed unless it exists, read back, and compared.
    ///
    /// A check after the first one finds the blob there: the service looks at rights first, so its refusal to overwrite shows that writing is allowed.
    ///
    /// # Errors
    /// What a responder has to do something about, or wait for.
    pub async fn check(&self) -> Result<Checked, Trouble> {
        todo!()
    }
}

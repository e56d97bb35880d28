//! What is there already.

use std::collections::BTreeMap;

use super::{Store, Trouble};

/// A blob that [`Store::list`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name below the store's prefix.
    pub path: String,
    /// Bytes.
    pub length: u64,
}

/// What a blob says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Properties {
    /// Its URL, without a signature.
    pub url: String,
    /// Bytes.
    pub length: u64,
    /// As the service gives it.
    pub etag: String,
    /// As the service gives it, where the account keeps versions.
    pub version_id: Option<String>,
    /// By name, in lower case.
    pub metadata: BTreeMap<String, String>,
}

/// The most blobs that [`Store::list`] returns.
pub const MOST_LISTED: usize = 10_000;

/// The most that [`Store::get_small`] reads.
pub const SMALL: u64 = 16 * 1024 * 1024;

impl Store {
    /// The blobs whose names begin with this, by name.
    ///
    /// # Errors
    /// When the service refuses, or there are more than [`MOST_LISTED`] (`TooMany`).
    pub async fn list(&self, prefix: &str) -> Result<Vec<Listed>, Trouble> {
        let _ = prefix;
        todo!()
    }

    /// What a blob says of itself; none, when it does not exist.
    ///
    /// # Errors
    /// When the service refuses.
    pub async fn properties(&self, path: &str) -> Result<Option<Properties>, Trouble> {
        let _ = path;
        todo!()
    }

    /// The content of a small blob; none, when it does not exist.
    ///
    /// # Errors
    /// When the service refuses, or it is larger than [`SMALL`] (`TooLarge`).
    pub async fn get_small(&self, path: &str) -> Result<Option<Vec<u8>>, Trouble> {
        let _ = path;
        todo!()
    }
}

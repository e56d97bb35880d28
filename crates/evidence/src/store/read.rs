//! What is there already.

use std::collections::BTreeMap;
use std::num::NonZero;

use azure_storage_blob::models::{
    BlobClientDownloadOptions, BlobClientGetPropertiesResultHeaders, BlobContainerClientListBlobsOptions,
};
use futures::TryStreamExt;

use super::attempts::Effort;
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
        let full = self.full(prefix);
        let cut = full.len() - prefix.len();
        // From the beginning after a fault: it is a page or two.
        let listed = self
            .attempt(&format!("list {full}"), self.usual(), |container| {
                let full = full.clone();
                async move {
                    let options = BlobContainerClientListBlobsOptions {
                        prefix: Some(full),
                        ..BlobContainerClientListBlobsOptions::default()
                    };
                    let mut items = container.list_blobs(Some(options))?;
                    let mut listed = Vec::new();
                    while let Some(item) = items.try_next().await? {
                        let (Some(name), Some(properties)) = (item.name, item.properties) else { continue };
                        let path = name.get(cut..).unwrap_or_default().to_owned();
                        listed.push(Listed { path, length: properties.content_length.unwrap_or_default() });
                        if listed.len() > MOST_LISTED {
                            break;
                        }
                    }
                    Ok(listed)
                }
            })
            .await?;
        if listed.len() > MOST_LISTED {
            return Err(Trouble::new(
                "TooMany",
                format!("{full} has more than {MOST_LISTED} blobs in {}", self.inner.about),
            ));
        }
        Ok(listed)
    }

    /// What a blob says of itself; none, when it does not exist.
    ///
    /// # Errors
    /// When the service refuses.
    pub async fn properties(&self, path: &str) -> Result<Option<Properties>, Trouble> {
        self.properties_within(path, self.usual()).await
    }

    /// The content of a small blob; none, when it does not exist.
    ///
    /// # Errors
    /// When the service refuses, or it is larger than [`SMALL`] (`TooLarge`).
    pub async fn get_small(&self, path: &str) -> Result<Option<Vec<u8>>, Trouble> {
        self.get_small_within(path, self.usual()).await
    }

    pub(super) async fn properties_within(&self, path: &str, effort: Effort) -> Result<Option<Properties>, Trouble> {
        let name = self.name(path)?;
        let found = self
            .attempt(&format!("look at {name}"), effort, |container| {
                let name = name.clone();
                async move {
                    let found = container.blob_client(&name).get_properties(None).await?;
                    let metadata = found.metadata()?;
                    Ok(Properties {
                        url: String::new(),
                        length: found.content_length()?.unwrap_or_default(),
                        etag: found.etag()?.map(|etag| etag.to_string()).unwrap_or_default(),
                        version_id: found.version_id()?,
                        metadata: metadata.into_iter().map(|(name, value)| (name.to_lowercase(), value)).collect(),
                    })
                }
            })
            .await;
        match found {
            Ok(found) => Ok(Some(Properties { url: self.url(path), ..found })),
            Err(trouble) if trouble.is_no_blob() => Ok(None),
            Err(trouble) => Err(trouble),
        }
    }

    pub(super) async fn get_small_within(&self, path: &str, effort: Effort) -> Result<Option<Vec<u8>>, Trouble> {
        let Some(found) = self.properties_within(path, effort).await? else { return Ok(None) };
        if found.length > SMALL {
            return Err(Trouble::new(
                "TooLarge",
                format!("{} has {} bytes: no more than {SMALL} are read", found.url, found.length),
            ));
        }
        let name = self.name(path)?;
        let content = self
            .attempt(&format!("read {name}"), effort, |container| {
                let name = name.clone();
                async move {
                    let options =
                        BlobClientDownloadOptions { parallel: NonZero::new(1), ..BlobClientDownloadOptions::default() };
                    let download = container.blob_client(&name).download(Some(options)).await?;
                    Ok(download.body.collect().await?.to_vec())
                }
            })
            .await?;
        Ok(Some(content))
    }
}

//! Azurite with TLS and an authority of its own, one for each test program; a container for each test; a proxy in front of it that breaks things.

#![allow(dead_code, reason = "each test program uses a part of it")]

pub(crate) mod bagit;
pub(crate) mod entra;
pub(crate) mod folders;
pub(crate) mod sources;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use secrecy::SecretString;
use tempfile::TempDir;
use tokio::time::Instant;
pub(crate) use tourniquet_azurite::{Azurite, Sas, proxy};
use tourniquet_evidence::store::{Ended, PutOptions, Received, Stored, Verdict};
use tourniquet_evidence::{Auth, Store, StoreConfig, Trouble};

use proxy::{Proxy, Rule};

/// What has to happen happens well before this.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A container of one's own.
pub(crate) struct Lab {
    pub(crate) azurite: &'static Azurite,
    pub(crate) container: String,
}

impl Lab {
    pub(crate) async fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let azurite = Azurite::running();
        let container = format!("test-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        azurite.create_container(&container).await;
        Self { azurite, container }
    }

    /// A signature for this container, as a responder would make one.
    pub(crate) fn sas(&self) -> Sas<'_> {
        Sas::new(&self.container)
    }

    pub(crate) fn config(&self) -> StoreConfig {
        self.config_at(&self.azurite.endpoint(), self.sas().sign())
    }

    pub(crate) fn config_at(&self, endpoint: &str, sas: SecretString) -> StoreConfig {
        let mut config = StoreConfig::new(endpoint, &self.container, Auth::Sas(sas));
        config.prefix = "prod".to_owned();
        config.ca_bundle = Some(self.azurite.pki.ca.clone());
        config.times.first_pause = Duration::from_millis(10);
        config.times.longest_pause = Duration::from_millis(100);
        config
    }

    /// A store that reaches Azurite as it is.
    pub(crate) fn store(&self) -> Store {
        Store::open(&self.config()).unwrap()
    }

    /// A store behind a proxy that does this to each request.
    pub(crate) async fn behind(&self, rule: impl Rule) -> (Store, Proxy) {
        let proxy = Proxy::start(self.azurite, rule).await;
        (self.store_at(&proxy), proxy)
    }

    /// A store behind this proxy.
    pub(crate) fn store_at(&self, proxy: &Proxy) -> Store {
        Store::open(&self.config_at(&proxy.endpoint(), self.sas().sign())).unwrap()
    }

    /// A folder as an auditor gets it: all its blobs as files.
    pub(crate) async fn download(&self, path: &str) -> TempDir {
        let dir = TempDir::new().unwrap();
        for blob in self.store().list(&format!("{path}/")).await.unwrap() {
            let file = dir.path().join(blob.path.strip_prefix(path).unwrap().trim_start_matches('/'));
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, self.content(&blob.path).await.unwrap()).unwrap();
        }
        dir
    }

    /// What is there, whoever asks.
    pub(crate) async fn content(&self, path: &str) -> Option<Vec<u8>> {
        self.azurite.blob(&self.container, &format!("prod/{path}")).await
    }
}

pub(crate) fn options() -> PutOptions {
    PutOptions::new(1 << 37, Instant::now() + PATIENCE)
}

/// Nothing more to say of it.
pub(crate) fn well(_: Received) -> std::future::Ready<Verdict> {
    std::future::ready(Verdict::default())
}

pub(crate) async fn put(store: &Store, path: &str, content: &[u8]) -> Result<Stored, Trouble> {
    store.put(path, content, well, options()).await
}

/// The blob is there with these bytes, says so itself, and what was told of it is true.
pub(crate) async fn assert_stored(lab: &Lab, stored: &Stored, content: &[u8], ended: &Ended) {
    assert_eq!(&stored.ended, ended);
    assert_eq!(stored.length, content.len() as u64);
    assert_eq!(stored.sha256, sources::sha256(content));
    assert!(lab.content(&stored.path).await.is_some_and(|found| found == content), "other bytes are stored");
    let said = lab.store().properties(&stored.path).await.unwrap().unwrap().stored(&stored.path).unwrap();
    assert_eq!((said.length, &said.sha256, &said.ended), (stored.length, &stored.sha256, ended));
    assert_eq!(said.etag, stored.etag);
}

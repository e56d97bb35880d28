//! One container of one storage account.

mod attempts;
mod blocks;
mod check;
mod clients;
mod commit;
mod config;
mod names;
mod put;
mod read;
mod transport;
mod trouble;
mod upload;

use std::fmt;
use std::sync::Arc;

use azure_core::http::Url;
use azure_storage_blob::BlobContainerClient;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::watch;

pub(crate) use blocks::hex;
pub use check::{CHECK_BLOB, Checked, Immutability};
pub use clients::connection;
pub use config::{Auth, StoreConfig, Times};
pub(crate) use names::is_name;
pub use put::{Ended, LARGEST, METADATA, PutOptions, Received, Stored, Verdict};
pub use read::{Listed, MOST_LISTED, Properties, SMALL};
pub use trouble::Trouble;

/// A container to store evidence in. Cheap to clone; clones share connections and the credential.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    /// Of the container, without a signature.
    url: Url,
    /// Account and container, for messages.
    about: String,
    prefix: String,
    times: Times,
    https: reqwest::Client,
    uses: watch::Sender<Use>,
    held_up: watch::Sender<Option<Trouble>>,
}

/// What is used at the moment.
struct Use {
    client: Arc<BlobContainerClient>,
    /// The signature proper, as it is written in a URL and as it is, to be kept out of what others say of it.
    secrets: Vec<SecretString>,
    /// When the signature says that it is valid, for messages.
    validity: String,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("url", &self.inner.url.as_str())
            .field("prefix", &self.inner.prefix)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// A store that nothing was asked of yet; [`Store::check`] does.
    ///
    /// # Errors
    /// `BadConfiguration`: what is wrong with it.
    pub fn open(config: &StoreConfig) -> Result<Self, Trouble> {
        let bad = |why: String| Trouble::new("BadConfiguration", why);
        let url = clients::container_url(config).map_err(bad)?;
        let about = format!("{}, container {}", url.host_str().unwrap_or_default(), config.container);
        if !config.prefix.is_empty() && !is_name(&config.prefix) {
            return Err(bad(format!("the prefix {:?} has to be {}", config.prefix, names::WANTED)));
        }
        let https = transport::https(config.ca_bundle.as_deref(), config.times.connect).map_err(bad)?;
        let uses = Use::new(&url, &config.auth, &https, &config.times)?;
        Ok(Self {
            inner: Arc::new(Inner {
                url,
                about,
                prefix: config.prefix.clone(),
                times: config.times,
                https,
                uses: watch::Sender::new(uses),
                held_up: watch::Sender::new(None),
            }),
        })
    }

    /// Uses another credential from now on, also for uploads that are under way: those whose credential was refused go on with it.
    ///
    /// # Errors
    /// `BadConfiguration`: what is wrong with it; the former one stays.
    pub fn replace_auth(&self, auth: &Auth) -> Result<(), Trouble> {
        let uses = Use::new(&self.inner.url, auth, &self.inner.https, &self.inner.times)?;
        self.inner.uses.send_replace(uses);
        Ok(())
    }

    /// What requests are held up by at the moment: the last fault that is being borne, or that another credential is waited for; none, when the last request was answered.
    #[must_use]
    pub fn held_up(&self) -> watch::Receiver<Option<Trouble>> {
        self.inner.held_up.subscribe()
    }

    /// The URL of what is at this path below the prefix, without a signature.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("{}/{}", self.inner.url, self.full(path))
    }

    /// The name of a blob in the container.
    fn full(&self, path: &str) -> String {
        if self.inner.prefix.is_empty() { path.to_owned() } else { format!("{}/{path}", self.inner.prefix) }
    }

    /// The name of a blob in the container, if it is one that is safe.
    fn name(&self, path: &str) -> Result<String, Trouble> {
        let full = self.full(path);
        if is_name(&full) {
            Ok(full)
        } else {
            Err(Trouble::new("InvalidName", format!("{full:?} is no name for a blob: it has to be {}", names::WANTED)))
        }
    }

    /// The same without the signature, should somebody have quoted it.
    fn told(&self, trouble: Trouble) -> Trouble {
        let uses = self.inner.uses.borrow();
        let trouble = if trouble.is_of_the_credential() { trouble.with(&uses.validity) } else { trouble };
        uses.secrets.iter().fold(trouble, |trouble, secret| trouble.without(secret.expose_secret()))
    }
}

impl Use {
    fn new(url: &Url, auth: &Auth, https: &reqwest::Client, times: &Times) -> Result<Self, Trouble> {
        let client =
            clients::container(url, auth, https, times).map_err(|why| Trouble::new("BadConfiguration", why))?;
        let (secrets, validity) = match auth {
            Auth::Sas(sas) => (signatures(sas.expose_secret()), validity(sas.expose_secret())),
            _ => (Vec::new(), String::new()),
        };
        Ok(Self { client: Arc::new(client), secrets, validity })
    }
}

fn signatures(sas: &str) -> Vec<SecretString> {
    let written = sas.split(['?', '&']).filter_map(|pair| pair.trim().strip_prefix("sig="));
    let meant = url::form_urlencoded::parse(sas.as_bytes()).filter(|(name, _)| name == "sig" || name == "?sig");
    written.map(str::to_owned).chain(meant.map(|(_, sig)| sig.into_owned())).map(SecretString::from).collect()
}

fn validity(sas: &str) -> String {
    let pairs: Vec<_> = url::form_urlencoded::parse(sas.trim().trim_start_matches('?').as_bytes()).collect();
    let field = |wanted: &str| pairs.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_ref());
    match (field("st"), field("se")) {
        (Some(from), Some(to)) => format!(". The signature says that it is valid from {from} until {to}"),
        (None, Some(to)) => format!(". The signature says that it is valid until {to}"),
        // A stored access policy has the times.
        _ => String::new(),
    }
}

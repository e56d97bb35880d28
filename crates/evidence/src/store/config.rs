//! Where evidence goes, and as whom.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

/// One container of one storage account.
///
/// It is always reached by https, TLS 1.2 or newer; redirects are not followed. `HTTPS_PROXY` and `NO_PROXY` are honoured.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The account's blob endpoint, such as `https://evidence4711.blob.core.windows.net`. Without a query: a shared access signature belongs into
    /// [`Auth::Sas`].
    pub endpoint: String,
    /// The container. It must exist: whoever stores evidence must not need the right to create containers.
    pub container: String,
    /// What the name of each blob begins with, without a slash at either end; empty for none.
    pub prefix: String,
    /// As whom.
    pub auth: Auth,
    /// Certificate authorities to trust besides the system's, as PEM; for a proxy that inspects TLS, or a private endpoint.
    pub ca_bundle: Option<String>,
    /// How long things may take.
    pub times: Times,
}

impl StoreConfig {
    /// A store with the usual [`Times`], without a prefix and with the system's certificate authorities.
    #[must_use]
    pub fn new(endpoint: impl Into<String>, container: impl Into<String>, auth: Auth) -> Self {
        Self {
            endpoint: endpoint.into(),
            container: container.into(),
            prefix: String::new(),
            auth,
            ca_bundle: None,
            times: Times::default(),
        }
    }
}

/// As whom the store is used.
#[derive(Clone)]
pub enum Auth {
    /// The pod's federated service account token, exchanged for one of Microsoft Entra's. What is not given comes from the environment that the
    /// workload identity webhook sets.
    WorkloadIdentity {
        /// The client ID of the identity; else `AZURE_CLIENT_ID`.
        client_id: Option<String>,
        /// Its tenant; else `AZURE_TENANT_ID`.
        tenant_id: Option<String>,
        /// The sign-in service, such as `https://login.microsoftonline.us`; else `AZURE_AUTHORITY_HOST`, else that of Azure's public cloud.
        authority_host: Option<String>,
        /// The service account token; else `AZURE_FEDERATED_TOKEN_FILE`.
        token_file: Option<PathBuf>,
    },
    /// The identity of the node, by its metadata service.
    ManagedIdentity {
        /// The client ID of a user-assigned identity; else the system-assigned one.
        client_id: Option<String>,
    },
    /// A shared access signature: the query string, with or without a leading `?`. It needs create, write, read and list (`cwrl`) on the container.
    Sas(SecretString),
}

/// Names the kind and whom it is for, never the signature.
impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WorkloadIdentity { client_id, tenant_id, .. } => f
                .debug_struct("WorkloadIdentity")
                .field("client_id", client_id)
                .field("tenant_id", tenant_id)
                .finish_non_exhaustive(),
            Self::ManagedIdentity { client_id } => {
                f.debug_struct("ManagedIdentity").field("client_id", client_id).finish()
            }
            Self::Sas(_) => f.write_str("Sas(..)"),
        }
    }
}

/// How long things may take. The defaults are for use; tests shorten them.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// For a connection to come about, its TLS included.
    pub connect: Duration,
    /// For one request, its answer included. A block of 4 MiB takes a minute at 70 KiB/s.
    pub request: Duration,
    /// For how long faults that pass by themselves (a lost connection, 503, no answer) are borne in one request, with pauses in between.
    pub patience: Duration,
    /// The first pause, which doubles.
    pub first_pause: Duration,
    /// The longest pause, unless the service asks for a longer one.
    pub longest_pause: Duration,
    /// How long an upload waits, holding what it has, for another credential ([`Store::replace_auth`](super::Store::replace_auth)) after the service refused this one.
    pub credential: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            request: Duration::from_secs(60),
            patience: Duration::from_secs(180),
            first_pause: Duration::from_millis(250),
            longest_pause: Duration::from_secs(10),
            credential: Duration::from_secs(600),
        }
    }
}

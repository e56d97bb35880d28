//! From a configuration to the SDK's client.

use std::sync::Arc;

use azure_core::cloud::{CloudConfiguration, CustomConfiguration};
use azure_core::credentials::TokenCredential;
use azure_core::http::{ClientOptions, RetryOptions, Transport as SdkTransport, Url};
use azure_identity::{
    ClientAssertionCredentialOptions, ManagedIdentityCredential, ManagedIdentityCredentialOptions, UserAssignedId,
    WorkloadIdentityCredential, WorkloadIdentityCredentialOptions,
};
use azure_storage_blob::{BlobContainerClient, BlobContainerClientOptions};
use secrecy::{ExposeSecret, SecretString};

use super::config::{Auth, StoreConfig, Times};
use super::transport::{self, Transport};

/// The container's URL, without a query.
pub(super) fn container_url(config: &StoreConfig) -> Result<Url, String> {
    let mut url = Url::parse(&config.endpoint).map_err(|error| {
        format!("the endpoint is not a URL ({error}); it looks like https://ACCOUNT.blob.core.windows.net")
    })?;
    if url.scheme() != "https" {
        return Err("the endpoint must begin with https://: evidence is sent to nobody else".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
        return Err(
            "the endpoint must have no query and no user in it; a shared access signature belongs into its Secret"
                .to_owned(),
        );
    }
    let name = &config.container;
    let fits = (3..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if !fits {
        return Err("the container's name has 3 to 63 lower-case letters, digits and hyphens".to_owned());
    }
    match url.path_segments_mut() {
        Ok(mut segments) => segments.pop_if_empty().push(name),
        Err(()) => return Err("the endpoint is not a URL that a container can be below".to_owned()),
    };
    Ok(url)
}

/// A client of the container that authenticates like this.
pub(super) fn container(
    url: &Url,
    auth: &Auth,
    https: &reqwest::Client,
    times: &Times,
) -> Result<BlobContainerClient, String> {
    let (client_options, credential) = with(auth, https, times)?;
    let options = BlobContainerClientOptions { client_options, ..BlobContainerClientOptions::default() };
    BlobContainerClient::new(url.clone(), credential, Some(options)).map_err(|error| error.to_string())
}

/// What a client of the SDK is made with that uses another service of an account as this identity: how requests go out (https, TLS 1.2 or newer, no redirects, a
/// signature in no URL that is logged), and by whom. Attempts are the caller's: the SDK makes one.
///
/// # Errors
/// What is wrong with the credential or the certificate authorities.
pub fn connection(
    auth: &Auth,
    ca_bundle: Option<&str>,
    times: &Times,
) -> Result<(ClientOptions, Option<Arc<dyn TokenCredential>>), String> {
    with(auth, &transport::https(ca_bundle, times.connect)?, times)
}

fn with(
    auth: &Auth,
    https: &reqwest::Client,
    times: &Times,
) -> Result<(ClientOptions, Option<Arc<dyn TokenCredential>>), String> {
    let (sas, credential) = match auth {
        Auth::Sas(sas) => (Some(signature(sas)?), None),
        auth => (None, credential(auth, https, times)?),
    };
    Ok((client_options(Transport::new(https.clone(), sas)), credential))
}

/// Attempts are ours: [`super::attempts`].
fn client_options(transport: Transport) -> ClientOptions {
    ClientOptions {
        transport: Some(SdkTransport::new(Arc::new(transport))),
        retry: RetryOptions::none(),
        ..ClientOptions::default()
    }
}

/// The query string of a shared access signature, without what it may be pasted with.
fn signature(sas: &SecretString) -> Result<SecretString, String> {
    let text = sas.expose_secret().trim().trim_start_matches('?');
    if !text.split('&').any(|pair| pair.starts_with("sig=")) || text.contains(char::is_whitespace) {
        return Err("this is no shared access signature: one is a query string such as sv=…&sp=cwrl&sig=…".to_owned());
    }
    Ok(text.to_owned().into())
}

fn credential(auth: &Auth, https: &reqwest::Client, times: &Times) -> Result<Option<Arc<dyn TokenCredential>>, String> {
    let credential: Arc<dyn TokenCredential> = match auth {
        Auth::Sas(_) => return Ok(None),
        Auth::WorkloadIdentity { client_id, tenant_id, authority_host, token_file } => {
            let mut client_options = client_options(Transport::new(https.clone(), None));
            if let Some(host) = authority_host {
                let mut cloud = CustomConfiguration::default();
                cloud.authority_host.clone_from(host);
                client_options.cloud = Some(Arc::new(CloudConfiguration::from(cloud)));
            }
            let options = WorkloadIdentityCredentialOptions {
                credential_options: ClientAssertionCredentialOptions { client_options },
                client_id: client_id.clone(),
                tenant_id: tenant_id.clone(),
                token_file_path: token_file.clone(),
            };
            WorkloadIdentityCredential::new(Some(options)).map_err(|error| {
                format!(
                    "workload identity cannot be used: {error}. The pod needs the label azure.workload.identity/use=true, and its service account the annotation azure.workload.identity/client-id"
                )
            })?
        }
        Auth::ManagedIdentity { client_id } => {
            let http = transport::metadata_service(times.connect)?;
            let options = ManagedIdentityCredentialOptions {
                user_assigned_id: client_id.clone().map(UserAssignedId::ClientId),
                client_options: client_options(Transport::new(http, None)),
            };
            ManagedIdentityCredential::new(Some(options))
                .map_err(|error| format!("the managed identity cannot be used: {error}"))?
        }
    };
    Ok(Some(credential))
}

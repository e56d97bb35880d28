//! How requests go out. The signature is added here and nowhere else, so that no URL that the SDK logs, or names in an error, has it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use azure_core::error::{Error, ErrorKind};
use azure_core::http::headers::Headers;
use azure_core::http::response::PinnedStream;
use azure_core::http::{AsyncRawResponse, Body, HttpClient, Request};
use futures::TryStreamExt;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use secrecy::{ExposeSecret, SecretString};

/// One of reqwest's clients, and what is added to each URL.
///
/// Not the SDK's own: its errors name the whole URL.
pub(super) struct Transport {
    http: reqwest::Client,
    sas: Option<SecretString>,
}

impl Transport {
    pub(super) const fn new(http: reqwest::Client, sas: Option<SecretString>) -> Self {
        Self { http, sas }
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").finish_non_exhaustive()
    }
}

#[async_trait]
impl HttpClient for Transport {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        let mut url = request.url().clone();
        if let Some(sas) = &self.sas {
            let query = match url.query() {
                Some(query) if !query.is_empty() => format!("{query}&{}", sas.expose_secret()),
                _ => sas.expose_secret().to_owned(),
            };
            url.set_query(Some(&query));
        }
        let method = reqwest::Method::from_bytes(request.method().as_ref().as_bytes())
            .map_err(|error| Error::new(ErrorKind::Other, error))?;
        let mut builder = self.http.request(method, url);
        for (name, value) in request.headers().iter() {
            builder = builder.header(name.as_str(), value.as_str());
        }
        builder = match request.body() {
            Body::Bytes(bytes) => builder.body(bytes.clone()),
            Body::SeekableStream(_) => {
                return Err(Error::with_message(ErrorKind::Other, "bodies are sent from memory only"));
            }
        };
        let response = builder.send().await.map_err(plain)?;
        let mut headers = Headers::new();
        for (name, value) in response.headers() {
            if let Ok(value) = value.to_str() {
                headers.insert(name.as_str().to_owned(), value.to_owned());
            }
        }
        let status = response.status().as_u16().into();
        let body: PinnedStream = Box::pin(response.bytes_stream().map_err(plain));
        Ok(AsyncRawResponse::new(status, headers, body))
    }
}

fn plain(error: reqwest::Error) -> Error {
    let kind = if error.is_connect() { ErrorKind::Connection } else { ErrorKind::Io };
    Error::new(kind, error.without_url())
}

/// A client for the store and for the sign-in service: https only, TLS 1.2 or newer, no redirects.
///
/// Trusted are the system's certificate authorities (`SSL_CERT_FILE` names others), Mozilla's where the system has none, as in an image from scratch, and those of the bundle.
pub(super) fn https(ca_bundle: Option<&str>, connect: Duration) -> Result<reqwest::Client, String> {
    let mut roots = RootCertStore::empty();
    // What cannot be read is left out: one broken file of many must not take away the others.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    if let Some(bundle) = ca_bundle {
        let before = roots.len();
        for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
            let certificate = certificate.map_err(|error| format!("the CA bundle is not PEM: {error}"))?;
            roots
                .add(certificate)
                .map_err(|error| format!("the CA bundle has a certificate that cannot be used: {error}"))?;
        }
        if roots.len() == before {
            return Err("the CA bundle has no certificate in it".to_owned());
        }
    }
    let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .https_only(true)
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(connect)
        .build()
        .map_err(|error| error.to_string())
}

/// A client for the node's metadata service, which speaks plain http on a link-local address, never through a proxy.
pub(super) fn metadata_service(connect: Duration) -> Result<reqwest::Client, String> {
    let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(connect)
        .build()
        .map_err(|error| error.to_string())
}

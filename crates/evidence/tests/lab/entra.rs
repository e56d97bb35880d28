//! A sign-in service on loopback, which gives a token that Azurite takes for a service account's.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tourniquet_evidence::Auth;

use super::Azurite;

pub(crate) const TENANT: &str = "11111111-2222-3333-4444-555555555555";
pub(crate) const CLIENT: &str = "66666666-7777-8888-9999-000000000000";
/// What the kubelet would put into the pod.
pub(crate) const ASSERTION: &str = "service-account-token-that-nobody-may-see";

pub(crate) struct Entra {
    port: u16,
    accepting: JoinHandle<()>,
    asked: Arc<Mutex<Vec<String>>>,
    token: NamedTempFile,
}

impl Entra {
    /// Answers each request for a token like this.
    pub(crate) async fn start(azurite: &Azurite, status: u16, answer: Value) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = azurite.pki.acceptor();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = Arc::clone(&asked);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, log, answer) = (acceptor.clone(), Arc::clone(&log), answer.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request: Request<Incoming>| {
                        let (log, answer) = (Arc::clone(&log), answer.clone());
                        async move {
                            let path = request.uri().path().to_owned();
                            let body =
                                request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                            log.lock().unwrap().push(format!("{path} {}", String::from_utf8_lossy(&body)));
                            let response =
                                Response::builder().status(status).header("content-type", "application/json");
                            Ok::<_, Infallible>(response.body(Full::<Bytes>::from(answer.to_string())).unwrap())
                        }
                    });
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        let token = NamedTempFile::new().unwrap();
        std::fs::write(token.path(), ASSERTION).unwrap();
        Self { port, accepting, asked, token }
    }

    /// As the workload identity webhook would tell the pod by its environment.
    pub(crate) fn auth(&self) -> Auth {
        Auth::WorkloadIdentity {
            client_id: Some(CLIENT.to_owned()),
            tenant_id: Some(TENANT.to_owned()),
            authority_host: Some(format!("https://127.0.0.1:{}", self.port)),
            token_file: Some(self.token.path().to_owned()),
        }
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Entra {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A token that Azurite takes: it looks at the claims, and at no signature.
pub(crate) fn access_token() -> String {
    let now = Timestamp::now().as_second();
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({
        "aud": "https://storage.azure.com",
        "iss": format!("https://sts.windows.net/{TENANT}/"),
        "nbf": now - 60,
        "iat": now - 60,
        "exp": now + 3600,
    });
    format!("{}.{}.{}", part(json!({ "alg": "RS256", "typ": "JWT" })), part(claims), URL_SAFE_NO_PAD.encode("unsigned"))
}

pub(crate) fn granted(token: &str) -> Value {
    json!({ "token_type": "Bearer", "expires_in": 3600, "ext_expires_in": 3600, "access_token": token })
}

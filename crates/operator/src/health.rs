//! Liveness and readiness.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;

/// Whether the operator has seen the responses that exist.
#[derive(Clone, Debug, Default)]
pub(crate) struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// It has.
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Serves `/healthz`, which answers while the runtime does, and `/readyz`.
pub(crate) async fn serve(address: SocketAddr, ready: Readiness) -> io::Result<()> {
    let readyz = move || {
        let ready = ready.0.load(Ordering::Relaxed);
        async move { if ready { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "not synchronized yet") } }
    };
    let router = Router::new().route("/healthz", get(|| async { "ok" })).route("/readyz", get(readyz));
    axum::serve(tokio::net::TcpListener::bind(address).await?, router).await
}

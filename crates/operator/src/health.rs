//! Liveness and readiness.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;

/// Whether the operator has seen the responses that exist.
#[derive(Clone, Debug, Default)]
pub(crate) struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// It has. True the first time.
    pub(crate) fn set(&self) -> bool {
        !self.0.swap(true, Ordering::Relaxed)
    }
}

/// Serves `/healthz`, which answers while the runtime does, and `/readyz`.
pub(crate) async fn serve(address: SocketAddr, ready: Readiness) -> io::Result<()> {
    let readyz = move || {
        let ready = ready.0.load(Ordering::Relaxed);
        async move { if ready { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "not synchronized yet") } }
    };
    let router = Router::new().route("/healthz", get(|| async { "ok" })).route("/readyz", get(readyz));
    let listener = match TcpListener::bind(address).await {
        // Both families where there are two; a kernel without IPv6 has no such address.
        Err(_) if address.ip() == Ipv6Addr::UNSPECIFIED => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await?
        }
        bound => bound?,
    };
    axum::serve(listener, router).await
}

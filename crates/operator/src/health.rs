//! Liveness and readiness, and what is counted.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::metrics::{self, Metrics};

/// Whether the operator does what it is there for: has seen the responses that exist, or stands by while another one acts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// It does. True the first time.
    pub(crate) fn set(&self) -> bool {
        !self.0.swap(true, Ordering::Relaxed)
    }

    /// It acts from now on, and has seen nothing yet.
    pub(crate) fn leads(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Serves `/healthz`, which answers while the runtime does, `/readyz` and `/metrics`.
pub(crate) async fn serve(address: SocketAddr, ready: Readiness, metrics: Metrics) -> io::Result<()> {
    let readyz = move || {
        let ready = ready.0.load(Ordering::Relaxed);
        async move { if ready { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "not synchronized yet") } }
    };
    let metrics = move || {
        let text = metrics.text();
        async move {
            match text {
                Ok(text) => (StatusCode::OK, [(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
                Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            }
        }
    };
    let router = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics));
    let listener = match TcpListener::bind(address).await {
        // Both families where there are two; a kernel without IPv6 has no such address.
        Err(_) if address.ip() == Ipv6Addr::UNSPECIFIED => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await?
        }
        bound => bound?,
    };
    axum::serve(listener, router).await
}

//! The one place that talks to Kubernetes: [`Cluster::observe`] looks, [`Cluster::perform`] acts.
//!
//! No decisions are made here. What to look at and what to do is decided by `tourniquet-response`.

mod calico;
mod client;
mod error;
mod evidence;
mod exec;
mod leftovers;
mod observe;
mod perform;
mod probe;
mod responses;
mod retry_after;
mod sets;
mod shared;
mod stores;
mod surroundings;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

pub use client::{brief_client, client};
pub use error::Error;
pub use exec::{ContainerRef, Output, Process};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::Client;
use kube::core::DeserializeGuard;
pub use probe::attempt;
pub use responses::Written;
pub use stores::SecretValue;
use tourniquet_api::IncidentResponse;
use tourniquet_response::{Engines, Kind, Neighbours};

use crate::shared::{Shared, SharedBy};

/// How long one request may take. A request that hangs must not hang the response.
const REQUEST_LIMIT: Duration = Duration::from_secs(15);

/// A cluster that can be looked at and acted on.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    /// By the field selector that they were listed by.
    responses: Arc<SharedBy<Option<String>, Vec<DeserializeGuard<IncidentResponse>>>>,
    dependencies: Arc<Shared<observe::Dependencies>>,
    bindings: Arc<Shared<surroundings::Bindings>>,
    pods: Arc<Shared<surroundings::Pods>>,
    /// By namespace and node.
    neighbours: Arc<SharedBy<(String, String), Neighbours>>,
    /// By namespace.
    policies: Arc<SharedBy<String, Vec<NetworkPolicy>>>,
    engines: Arc<Shared<Engines>>,
    /// Whether Calico's kinds were served when that could be found out last.
    calico: Arc<AtomicBool>,
}

impl Cluster {
    /// A cluster behind a client made by [`client`].
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self {
            client,
            responses: Arc::default(),
            dependencies: Arc::default(),
            bindings: Arc::default(),
            pods: Arc::default(),
            neighbours: Arc::default(),
            policies: Arc::default(),
            engines: Arc::default(),
            calico: Arc::default(),
        }
    }
}

fn api_resource(kind: Kind) -> kube::core::ApiResource {
    let (group, version) = kind.api_version().split_once('/').unwrap_or(("", kind.api_version()));
    let gvk = kube::core::GroupVersionKind::gvk(group, version, kind.as_str());
    kube::core::ApiResource::from_gvk_with_plural(&gvk, kind.plural())
}

/// A request with its limit.
async fn within<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, error::Cause> {
    match tokio::time::timeout(REQUEST_LIMIT, request).await {
        Ok(result) => result.map_err(error::Cause::from),
        Err(_) => Err(error::Cause::TimedOut),
    }
}

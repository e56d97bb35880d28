//! The custom resources of tourniquet: types, schema and the rules that the API server enforces.
//!
//! This crate depends on nothing else of ours and on no client, so that every other crate, and the pure one first, can
//! share one definition of an [`IncidentResponse`].

#[allow(
    unreachable_pub,
    clippy::duplicated_attributes,
    reason = "KubeSchema repeats each struct inside a private scope; printcolumn repeats its keys"
)]
mod containment;
pub mod duration;
#[allow(
    unreachable_pub,
    clippy::duplicated_attributes,
    reason = "KubeSchema repeats each struct inside a private scope; printcolumn repeats its keys"
)]
mod evidence_store;
pub mod names;
#[allow(
    unreachable_pub,
    clippy::duplicated_attributes,
    reason = "KubeSchema repeats each struct inside a private scope; printcolumn repeats its keys"
)]
mod node_agent;
mod schema;
#[allow(
    unreachable_pub,
    clippy::duplicated_attributes,
    reason = "KubeSchema repeats each struct inside a private scope; printcolumn repeats its keys"
)]
mod spec;
mod status;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

pub use containment::*;
pub use duration::{Duration, DurationError};
pub use evidence_store::*;
pub use node_agent::*;
pub use spec::*;
pub use status::*;

/// The API group of everything that people create.
pub const GROUP: &str = "tourniquet.dev";

/// The version that is served and stored.
pub const VERSION: &str = "v1alpha1";

/// The custom resource definition of [`IncidentResponse`], as `cargo xtask generate` writes it to `crds/`.
#[must_use]
pub fn incident_response_crd() -> CustomResourceDefinition {
    refusing_null(<IncidentResponse as CustomResourceExt>::crd())
}

/// The custom resource definition of [`Containment`], as `cargo xtask generate` writes it to `crds/`.
#[must_use]
pub fn containment_crd() -> CustomResourceDefinition {
    refusing_null(<Containment as CustomResourceExt>::crd())
}

/// The custom resource definition of [`NodeAgent`], as `cargo xtask generate` writes it to `crds/`.
#[must_use]
pub fn node_agent_crd() -> CustomResourceDefinition {
    refusing_null(<NodeAgent as CustomResourceExt>::crd())
}

/// The custom resource definition of [`EvidenceStore`], as `cargo xtask generate` writes it to `crds/`.
#[must_use]
pub fn evidence_store_crd() -> CustomResourceDefinition {
    refusing_null(<EvidenceStore as CustomResourceExt>::crd())
}

fn refusing_null(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            schema::refuse_null(schema);
        }
    }
    crd
}

//! Given, when, then on a real cluster: what the end-to-end tests, the demo and the measurements are written with.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "this crate is tests; a failed expectation ends one"
)]
#![allow(missing_docs, reason = "names of fixtures are their documentation; what is not obvious is documented")]

pub mod agents;
pub mod audit;
pub mod azurite;
pub mod bypass;
pub mod crash;
pub mod cut;
pub mod definitions;
pub mod dry_run;
pub mod environment;
pub mod events;
pub mod evidence;
pub mod evidence_bench;
pub mod faults;
pub mod hops;
pub mod not_enforced;
pub mod overlap;
pub mod people;
pub mod pods;
pub mod response_bench;
pub mod responses;
pub mod scenario;
pub mod sets;
pub mod snapshot;
pub mod stores;
pub mod sweep;
pub mod traffic;
pub mod trouble;
pub mod until;

pub use agents::{Agents, PaperNode};
pub use azurite::{Gate, azurite};
pub use environment::Environment;
pub use hops::{Hops, Watched};
pub use pods::{PORT, TestPod};
pub use responses::{Spec, TestResponse};
pub use scenario::{Scenario, scenario};
pub use stores::TestStore;
pub use traffic::{Answer, Attempts, Stream};
pub use until::until;

/// Where responses that may target anything are created.
pub const RESPONSE_NAMESPACE: &str = "incident-response";
/// Where the agents run.
pub const AGENT_NAMESPACE: &str = "tourniquet-agent";
/// Where the operator runs.
pub const OPERATOR_NAMESPACE: &str = "tourniquet-system";

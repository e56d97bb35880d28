//! The operator: carries out `IncidentResponse` resources and undoes them.
//!
//! Wiring only. What to do is decided by `tourniquet-response`, done by `tourniquet-cluster`.

mod controller;
mod egress;
mod events;
mod health;
mod leader;
mod leftovers;
mod metrics;
mod pause;
mod prober;
mod reconcile;
mod stores;
mod tasks;
mod triggers;
mod turns;

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

use clap::{ArgAction, Parser, ValueEnum};
use tourniquet_response::{Agents, BlastRadius, Budget, Power, Settings};
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;

use crate::leader::Led;

/// What the API server is told about who asks.
const PROGRAM: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));

/// Carries out IncidentResponse resources and undoes them.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// Responses in this namespace may target anything unprotected; elsewhere only their own namespace
    #[arg(long, env = "TOURNIQUET_RESPONSE_NAMESPACE", default_value = "incident-response")]
    response_namespace: String,
    /// Namespaces that are acted on only by responses that override the protection
    #[arg(
        long,
        env = "TOURNIQUET_PROTECTED_NAMESPACES",
        value_delimiter = ',',
        default_value = "kube-system,tourniquet-system"
    )]
    protected_namespaces: Vec<String>,
    /// The operator's own namespace: never acted on, or nobody could undo it
    #[arg(long, env = "TOURNIQUET_NAMESPACE", default_value = "tourniquet-system")]
    namespace: String,
    /// Where operator and agents meet; empty: there are no agents
    #[arg(long, env = "TOURNIQUET_AGENT_NAMESPACE", default_value = "")]
    agent_namespace: String,
    /// The operator's own address, which agents try from inside pods
    #[arg(long, env = "TOURNIQUET_POD_IP")]
    pod_ip: Option<IpAddr>,
    /// The operator's own name: of those with different names one acts at a time
    #[arg(long, env = "TOURNIQUET_POD_NAME", default_value = "tourniquet-operator")]
    pod_name: String,
    /// The Lease in its own namespace that decides which one
    #[arg(long, env = "TOURNIQUET_LEASE", default_value = "tourniquet-operator")]
    lease: String,
    /// Where /healthz and /readyz are served
    #[arg(long, env = "TOURNIQUET_HEALTH_ADDRESS", default_value = "[::]:8080")]
    health_address: SocketAddr,
    /// How this cluster is called in evidence: the first folder of each
    #[arg(long, env = "TOURNIQUET_CLUSTER_NAME", default_value = "cluster")]
    cluster_name: String,
    /// Whether responses are carried out, or planned only
    #[arg(long, env = "TOURNIQUET_MODE", value_enum, default_value = "Enforce")]
    mode: Mode,
    /// Whether new responses are carried out; those in force can be released in any case
    #[arg(long, env = "TOURNIQUET_ACCEPT_NEW", action = ArgAction::Set, default_value_t = true)]
    accept_new: bool,
    /// How many pods may be isolated at the same time; 0: any number
    #[arg(long, env = "TOURNIQUET_BUDGET_CONTAINED_PODS", default_value_t = 0)]
    contained_pods: usize,
    /// How many percent of a workload's pods may be isolated at the same time; 0: all of them
    #[arg(long, env = "TOURNIQUET_BUDGET_WORKLOAD_SHARE", default_value_t = 0)]
    workload_share: usize,
    /// How many responses of one minute are carried out; 0: any number
    #[arg(long, env = "TOURNIQUET_BUDGET_RESPONSES_PER_MINUTE", default_value_t = 0)]
    responses_per_minute: usize,
    /// Powers that the operator was not given: of exec, nodes, policies and secrets
    #[arg(long, env = "TOURNIQUET_POWERS_OFF", value_delimiter = ',')]
    powers_off: Vec<Power>,
    /// How often to look for what is left of responses that no longer live, as hours, minutes and seconds; at least 1s
    #[arg(long, env = "TOURNIQUET_SWEEP_EVERY", default_value = "10m")]
    sweep_every: tourniquet_api::Duration,
}

/// What is done about responses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "PascalCase")]
enum Mode {
    Enforce,
    PlanOnly,
}

impl Options {
    fn blast_radius(&self) -> BlastRadius {
        let limit = |number: usize| (number > 0).then_some(number);
        BlastRadius {
            plan_only: self.mode == Mode::PlanOnly,
            accept_new: self.accept_new,
            budget: Budget {
                contained_pods: limit(self.contained_pods),
                workload_share: limit(self.workload_share),
                responses_per_minute: limit(self.responses_per_minute),
            },
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().json().flatten_event(true).with_span_list(false).with_env_filter(filter).init();
    let options = Options::parse();
    let blast_radius = options.blast_radius();
    let settings = Settings {
        blast_radius,
        powers_off: options.powers_off.into_iter().collect(),
        response_namespace: options.response_namespace,
        protected_namespaces: options.protected_namespaces.into_iter().filter(|name| !name.is_empty()).collect(),
        own_namespace: options.namespace,
        agents: Some(options.agent_namespace).filter(|namespace| !namespace.is_empty()).map(|namespace| Agents {
            namespace,
            egress_targets: egress::targets(options.pod_ip, options.health_address.port()),
        }),
    };
    let clients = async {
        Ok::<_, tourniquet_cluster::Error>((
            tourniquet_cluster::client(PROGRAM).await?,
            tourniquet_cluster::brief_client(PROGRAM).await?,
        ))
    };
    let (client, lease_client) = match clients.await {
        Ok(clients) => clients,
        Err(error) => {
            error!(%error, "cannot start");
            return ExitCode::FAILURE;
        }
    };
    info!(version = env!("CARGO_PKG_VERSION"), response_namespace = settings.response_namespace, "starting");
    let options = controller::Options {
        cluster_name: options.cluster_name,
        pod_name: options.pod_name,
        lease: options.lease,
        health_address: options.health_address,
        sweep_every: options.sweep_every.get(),
    };
    let error: Box<dyn std::error::Error> = match controller::run(client, lease_client, settings, options).await {
        Ok(Led::Ended(()) | Led::Stopped) => {
            info!("stopped");
            return ExitCode::SUCCESS;
        }
        Ok(Led::Lost) => {
            warn!("another one leads, or the lease could not be renewed in time; starting over");
            match leader::start_over() {
                Ok(never) => match never {},
                Err(error) => error.into(),
            }
        }
        Err(error) => error.into(),
    };
    error!(%error, "stopped by an error");
    ExitCode::FAILURE
}

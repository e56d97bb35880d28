//! The agent on a node: carries out the Containments of its node, and says what the kernel holds.
//!
//! It listens on no port, runs nothing in a container, and reads nothing of the API but its own node's Containments.

mod capture;
mod containments;
mod entry;
mod orphans;
mod pod;
mod scans;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, ValueEnum};
use tourniquet_agent::cut::Hooks;
use tourniquet_agent::pods;
use tracing::{error, info};
use tracing_subscriber::EnvFilter;

use crate::containments::Containments;
use crate::pod::Node;
use crate::scans::Scans;

/// What the API server is told about who asks.
const PROGRAM: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));

/// Cuts off the pods of its node that a Containment names, and lets them go.
///
/// `tourniquet-agent capture REQUEST` instead reads one artifact of one pod and ends: see the crate tourniquet-capture.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// The node that this runs on
    #[arg(long, env = "TOURNIQUET_NODE")]
    node: String,
    /// Where the Containments are
    #[arg(long, env = "TOURNIQUET_NAMESPACE")]
    namespace: String,
    /// The node's proc file system
    #[arg(long, default_value = "/proc")]
    proc: PathBuf,
    /// Where in the kernel to cut; a kernel that has no hooks at interfaces gets Inet whatever stands here
    #[arg(long, env = "TOURNIQUET_HOOKS", default_value = "Netdev", ignore_case = true)]
    hooks: Where,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "PascalCase")]
enum Where {
    /// At every interface: raw sockets are stopped too
    Netdev,
    /// Where IP enters and leaves: for kernels whose hooks at interfaces give trouble
    Inet,
}

/// Pods that are worked on at the same time: the kernel's part takes milliseconds, and up to 50 more where nothing answers the
/// positive control. An idle thread ends by itself.
const WORKERS: usize = 64;

fn main() -> ExitCode {
    // Before anything else: nothing but a capture's trailer may be written to stderr, and it needs no node and no API server.
    if let Some(request) = capture::requested(std::env::args_os()) {
        return capture::run(request.as_deref());
    }
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().json().flatten_event(true).with_span_list(false).with_env_filter(filter).init();
    // One thread for the API's part, which waits.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(WORKERS).build();
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(run(Options::parse()));
            // An attempt from inside a pod may wait for an answer that does not come.
            runtime.shutdown_background();
            code
        }
        Err(error) => {
            error!(%error, "cannot start");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> ExitCode {
    let network = match pods::node_network(&options.proc) {
        Ok(network) => network,
        Err(error) => {
            error!(%error, "cannot start: the agent needs the node's PID namespace");
            return ExitCode::FAILURE;
        }
    };
    let client = match tourniquet_cluster::client(PROGRAM).await {
        Ok(client) => client,
        Err(error) => {
            error!(%error, "cannot start");
            return ExitCode::FAILURE;
        }
    };
    info!(version = env!("CARGO_PKG_VERSION"), node = options.node, "starting");
    let scans = Scans::start(options.proc.clone(), pods::hierarchy(&options.proc), network.id());
    let hooks = match options.hooks {
        Where::Netdev => Hooks::Netdev,
        Where::Inet => Hooks::Inet,
    };
    let node = Arc::new(Node { network, hooks });
    Containments::new(client, &options.namespace, &options.node, node, scans).run().await;
    info!("stopped");
    ExitCode::SUCCESS
}

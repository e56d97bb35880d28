//! The agent on a node: carries out the Containments of its node, and says what the kernel holds.
//!
//! It listens on no port, runs nothing in a container, and reads nothing of the API but its own node's Containments.

mod containments;
mod node;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tourniquet_agent::cut::Hooks;
use tracing::{error, info};
use tracing_subscriber::EnvFilter;

use crate::containments::Containments;
use crate::node::Node;

/// Cuts off the pods of its node that a Containment names, and lets them go.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// The node that this runs on
    #[arg(long, env = "TOURNIQUET_NODE")]
    node: String,
    /// Where the Containments are
    #[arg(long, env = "TOURNIQUET_NAMESPACE")]
    namespace: String,
    /// Where in the kernel pods are cut: Netdev, or Inet, which a kernel without egress hooks gets in any case
    #[arg(long, env = "TOURNIQUET_HOOKS", default_value = "Netdev", value_parser = hooks)]
    hooks: Hooks,
    /// The node's proc file system
    #[arg(long, default_value = "/proc")]
    proc: PathBuf,
}

fn hooks(text: &str) -> Result<Hooks, String> {
    match text {
        "Netdev" => Ok(Hooks::Netdev),
        "Inet" => Ok(Hooks::Inet),
        _ => Err("write Netdev or Inet".to_owned()),
    }
}

// One thread: the kernel's part takes milliseconds and threads of its own, the API's part waits.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().json().flatten_event(true).with_span_list(false).with_env_filter(filter).init();
    let options = Options::parse();
    let (wake, woken) = tokio::sync::mpsc::channel(64);
    let node = match Node::new(options.proc, options.hooks, wake) {
        Ok(node) => node,
        Err(error) => {
            error!(%error, "cannot start: the agent needs the node's PID namespace");
            return ExitCode::FAILURE;
        }
    };
    let client = match tourniquet_cluster::client().await {
        Ok(client) => client,
        Err(error) => {
            error!(%error, "cannot start");
            return ExitCode::FAILURE;
        }
    };
    info!(version = env!("CARGO_PKG_VERSION"), node = options.node, "starting");
    Containments::new(client, &options.namespace, &options.node, node, woken).run().await;
    info!("stopped");
    ExitCode::SUCCESS
}

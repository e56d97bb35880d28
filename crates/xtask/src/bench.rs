//! `cargo xtask bench`: measurements, written down in docs/benchmarks.md.

use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result};
use clap::Subcommand;

use crate::{
    cluster::{self, Network, Profile},
    install::{self, Place},
};

/// `cargo xtask bench …`
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// How long isolating and letting go take on Cilium with its default timing, and what becomes of open connections
    Isolate {
        /// Responses to measure
        #[arg(long, default_value_t = 6)]
        rounds: u32,
    },
    /// How long the agent's cut and the release take, from the resource to real connections
    Cut {
        /// Responses to measure, one after the other
        #[arg(long, default_value_t = 100)]
        rounds: u32,
        /// What moves the pods' packets
        #[arg(long, value_enum, default_value_t = Network::Cilium)]
        network: Network,
    },
}

impl BenchCommand {
    /// Prints a table, and the same as JSON.
    ///
    /// # Errors
    /// When the cluster does not come up, or something could not be measured.
    pub fn run(self) -> Result<ExitCode> {
        let (program, rounds, network, agents) = match self {
            // Policies only: it is their timing that is measured.
            Self::Isolate { rounds } => ("measure", rounds, Network::Cilium, false),
            Self::Cut { rounds, network } => ("measure_cut", rounds, network, true),
        };
        let built = install::executables(&["build", "--package", "tourniquet-e2e", "--bin", program])?;
        let program = built.into_iter().next().context("cargo built no measurement")?.path;
        let traffic = install::build_traffic()?;
        let options = cluster::Options {
            name: format!("bench-{network}"),
            network: Some(network),
            profile: Some(Profile::Default),
        };
        let handle = cluster::ensure_up(&options)?;
        install::install_ours(&handle, agents, &[])?;
        let status = Place::Ours(&handle)
            .program(&program, network, agents, &traffic, None)?
            .arg(rounds.to_string())
            .stdin(Stdio::null())
            .status()
            .context("cannot run the measurement")?;
        cluster::down(&options.name)?;
        Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

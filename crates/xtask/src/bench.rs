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
}

impl BenchCommand {
    /// Prints a table, and the same as JSON.
    ///
    /// # Errors
    /// When the cluster does not come up, or something could not be measured.
    pub fn run(self) -> Result<ExitCode> {
        let Self::Isolate { rounds } = self;
        let built = install::executables(&["build", "--package", "tourniquet-e2e", "--bin", "measure"])?;
        let program = built.into_iter().next().context("cargo built no measure")?.path;
        let traffic = install::build_traffic()?;
        let options = cluster::Options {
            network: Some(Network::Cilium),
            profile: Some(Profile::Default),
            ..cluster::Options::default()
        };
        let handle = cluster::ensure_up(&options)?;
        // Policies only: it is their timing that is measured.
        install::install_ours(&handle, false, &[])?;
        let status = Place::Ours(&handle)
            .program(&program, Network::Cilium, false, &traffic, None)?
            .arg(rounds.to_string())
            .stdin(Stdio::null())
            .status()
            .context("cannot run the measurement")?;
        Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

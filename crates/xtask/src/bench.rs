//! `cargo xtask bench`: measurements, written down in docs/benchmarks.md.

use std::{
    path::PathBuf,
    process::{ExitCode, Stdio},
};

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
    /// How long a response takes to its first effect, beside a bare client that makes the same requests, and a hundred at once
    Response {
        /// Responses of each verb to measure at each point
        #[arg(long, default_value_t = 50)]
        rounds: u32,
        /// How many pods are in the cluster, point by point
        #[arg(long, value_delimiter = ',', default_values_t = [10, 1000, 10_000])]
        pods: Vec<u32>,
        /// Responses in force at the last point; with 0 there is none
        #[arg(long, default_value_t = 1000)]
        responses: u32,
        /// What enforces policies
        #[arg(long, value_enum, default_value_t = Network::None)]
        network: Network,
        /// Where to write every single figure
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// How fast evidence of a pod gets into the store, beside what either half of the way takes, and the operator's memory meanwhile
    Evidence {
        /// The large file, in MiB
        #[arg(long, default_value_t = 512)]
        mebibytes: u32,
        /// How often each is measured, in turns
        #[arg(long, default_value_t = 5)]
        rounds: u32,
        /// Small files
        #[arg(long, default_value_t = 2000)]
        files: u32,
        /// Leave out the log without an end, which has 1.1 GiB
        #[arg(long)]
        no_log: bool,
        /// Where to write every single figure
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// Responses that come and go for minutes while the operator is killed at random, and what is left of them: an error, if it is anything
    Soak {
        /// Responses, created at even intervals
        #[arg(long, default_value_t = 1000)]
        responses: u32,
        /// Over so many seconds
        #[arg(long, default_value_t = 600)]
        seconds: u32,
        /// How often the operator is killed
        #[arg(long, default_value_t = 10)]
        restarts: u32,
        /// What everything random derives from
        #[arg(long, default_value_t = 1)]
        seed: u32,
        /// Where to write every single figure
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
}

impl BenchCommand {
    /// Prints a table, and the same as JSON.
    ///
    /// # Errors
    /// When the cluster does not come up, or something could not be measured.
    pub fn run(self) -> Result<ExitCode> {
        let (program, args, network, agents) = match self {
            // Policies only: it is their timing that is measured.
            Self::Isolate { rounds } => ("measure", vec![rounds.to_string()], Network::Cilium, false),
            Self::Cut { rounds, network } => ("measure_cut", vec![rounds.to_string()], network, true),
            Self::Response { rounds, pods, responses, network, json } => {
                let pods: Vec<String> = pods.iter().map(ToString::to_string).collect();
                let mut args = vec![pods.join(","), rounds.to_string(), responses.to_string()];
                args.extend(absolute(json)?);
                // Policies only: there are no agents beside pods that run nowhere.
                ("measure_response", args, network, false)
            }
            Self::Evidence { mebibytes, rounds, files, no_log, json } => {
                let mut args: Vec<String> = [mebibytes, rounds, files].iter().map(ToString::to_string).collect();
                args.push(u8::from(!no_log).to_string());
                args.extend(absolute(json)?);
                // An engine has no part in it; Azurite is there without one.
                ("measure_evidence", args, Network::None, true)
            }
            Self::Soak { responses, seconds, restarts, seed, json } => {
                let mut args: Vec<String> =
                    [responses, seconds, restarts, seed].iter().map(ToString::to_string).collect();
                args.extend(absolute(json)?);
                ("measure_soak", args, Network::None, true)
            }
        };
        // The program of the test pods is built for a target that a fresh machine does not have.
        cluster::ensure_packages()?;
        // Optimized, like the operator that it is compared with.
        let built = install::executables(&["build", "--release", "--package", "tourniquet-e2e", "--bin", program])?;
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
            .args(args)
            .stdin(Stdio::null())
            .status()
            .context("cannot run the measurement")?;
        cluster::down(&options.name)?;
        Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// A path that means the same from wherever the program is run.
fn absolute(path: Option<PathBuf>) -> Result<Option<String>> {
    Ok(path.map(std::path::absolute).transpose()?.map(|path| path.display().to_string()))
}

//! The project's own commands, as `cargo xtask …`.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use tourniquet_xtask::{cluster, generate, test};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "The commands of the tourniquet workspace")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// A real single-node Kubernetes for development and tests
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Writes the files that are derived from the code: CRDs and RBAC rules
    Generate {
        /// Only check that they are up to date
        #[arg(long)]
        check: bool,
    },
    /// Runs every check and every test
    Test(test::TestCommand),
}

impl Command {
    fn run(self) -> Result<ExitCode> {
        match self {
            Self::Cluster(command) => command.run(),
            Self::Generate { check } => {
                if check { generate::check() } else { generate::write() }.map(|()| ExitCode::SUCCESS)
            }
            Self::Test(command) => command.run(),
        }
    }
}

fn main() -> ExitCode {
    match Cli::parse().command.run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

//! The project's own commands, as `cargo xtask …`.

#![allow(clippy::print_stdout, reason = "what a command was asked for goes to standard output")]

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use tourniquet_xtask::{azurite, bench, cluster, demo, dependencies, generate, test};

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
    /// Writes the files that are derived from the code: CRDs and RBAC rules, docs/api.md, deploy/kustomize
    Generate {
        /// Only check that they are up to date
        #[arg(long)]
        check: bool,
    },
    /// Sets everything up and shows the main job on a real cluster
    Demo(demo::DemoCommand),
    /// Measures, and asserts nothing
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Writes a bill of materials (CycloneDX) of each program that is shipped into target/sbom
    Sbom,
    /// Runs every check and every test
    Test(test::TestCommand),
    /// Installs Azurite for the tests of evidence, and prints where: TOURNIQUET_AZURITE=$(cargo xtask azurite) cargo test --package tourniquet-evidence
    #[command(hide = true)]
    Azurite,
}

impl Command {
    fn run(self) -> Result<ExitCode> {
        match self {
            Self::Cluster(command) => command.run(),
            Self::Generate { check } => {
                if check { generate::check() } else { generate::write() }.map(|()| ExitCode::SUCCESS)
            }
            Self::Bench(command) => command.run(),
            Self::Demo(command) => command.run(),
            Self::Sbom => dependencies::bills().map(|()| ExitCode::SUCCESS),
            Self::Test(command) => command.run(),
            Self::Azurite => {
                println!("{}", azurite::ensure()?.display());
                Ok(ExitCode::SUCCESS)
            }
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

//! `cargo xtask demo`: all set-up, then the main job, visibly.

use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result};
use clap::Args;

use crate::{
    azurite,
    cluster::{self, DEFAULT_NAME, Network, workspace},
    install::{self, Place},
};

/// `cargo xtask demo`
#[derive(Debug, Args)]
pub struct DemoCommand {
    /// Show it on this context of your kubeconfig instead (needs --image)
    #[arg(long, requires = "image")]
    context: Option<String>,
    /// The operator image that the cluster of --context can pull
    #[arg(long, requires = "context")]
    image: Option<String>,
    /// The agent image that the cluster of --context can pull; without it, policies are all there is
    #[arg(long, requires = "context")]
    agent_image: Option<String>,
}

impl DemoCommand {
    /// Ends with success only if everything was observed.
    ///
    /// # Errors
    /// When something that the demo needs does not come up.
    pub fn run(self) -> Result<ExitCode> {
        // First, so that what is missing is said before anything is built. The store of a cluster of the user's is the user's.
        let azurite = if self.context.is_none() { Some(azurite::ensure()?) } else { None };
        let built = install::executables(&["build", "--package", "tourniquet-e2e", "--bin", "demo"])?;
        let program = built.into_iter().next().context("cargo built no demo")?.path;
        let traffic = install::build_traffic()?;
        let handle;
        let place = if let Some(context) = &self.context {
            let place = Place::Context(context);
            install::install(&place, self.image.as_deref().unwrap_or_default(), self.agent_image.as_deref(), &[])?;
            place
        } else {
            let options = cluster::Options { network: Some(Network::Cilium), ..cluster::Options::default() };
            handle = cluster::ensure_up(&options)?;
            install::install_ours(&handle, true, &[])?;
            Place::Ours(&handle)
        };
        let agents = self.context.is_none() || self.agent_image.is_some();
        let status = place
            .program(&program, Network::Cilium, agents, &traffic, None)?
            .args([workspace().join("examples"), workspace().join("target/demo/evidence")])
            .envs(azurite.map(|program| (azurite::VARIABLE, program)))
            .stdin(Stdio::null())
            .status()
            .context("cannot run the demo")?;
        if self.context.is_none() && status.success() {
            eprintln!(
                "\nThe cluster {DEFAULT_NAME} goes on running.\n  look around:  cargo xtask cluster run -- kubectl get pods --all-namespaces\n  remove it:    cargo xtask cluster down"
            );
        }
        Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

//! What `cargo xtask` says about the cluster, in environment variables.

use std::path::PathBuf;

use anyhow::{Context, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// The cluster under test.
#[derive(Clone)]
pub struct Environment {
    pub client: Client,
    /// The kubeconfig's context.
    pub context: String,
    /// `cilium` or `none`.
    pub network: String,
    /// An image with a shell; the programs of the tests bring themselves.
    pub image: String,
    /// The program that test pods run; see `tests/traffic`.
    pub traffic: PathBuf,
    /// The operator's own program. Absent on a cluster that is not ours: run beside it, the operator could not reach the pods.
    pub operator: Option<PathBuf>,
    /// The intake's image; only where a test installs it.
    pub intake: Option<String>,
    /// Whether the operator works with agents.
    pub agents: bool,
    /// Where the kubelet finds pods that are files; only on a cluster that is ours.
    pub static_pods: Option<PathBuf>,
    /// The API server's audit log; only on a cluster that is ours.
    pub audit_log: Option<PathBuf>,
    /// Whether Azurite can be run where the cluster's pods reach it; only on a cluster that is ours.
    pub azurite: bool,
    /// Cilium's custom resource definitions.
    pub cilium_crds: Option<PathBuf>,
}

impl Environment {
    pub async fn read() -> Result<Self> {
        let text = |name: &str| {
            std::env::var(name).with_context(|| format!("{name} is not set; run this through cargo xtask"))
        };
        let path = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let context = text("TOURNIQUET_CONTEXT")?;
        Ok(Self {
            client: Client::try_from(config(&context).await?)?,
            context,
            network: text("TOURNIQUET_NETWORK")?,
            image: text("TOURNIQUET_WORKLOAD")?,
            traffic: path("TOURNIQUET_TRAFFIC")
                .context("TOURNIQUET_TRAFFIC is not set; run this through cargo xtask")?,
            operator: path("TOURNIQUET_OPERATOR"),
            intake: std::env::var("TOURNIQUET_INTAKE").ok(),
            agents: path("TOURNIQUET_AGENTS").is_some(),
            static_pods: path("TOURNIQUET_STATIC_PODS"),
            audit_log: path("TOURNIQUET_AUDIT_LOG"),
            azurite: path("TOURNIQUET_AZURITE").is_some(),
            cilium_crds: path("TOURNIQUET_CILIUM_CRDS"),
        })
    }

    /// `kubectl` on this cluster.
    pub fn kubectl(&self) -> tokio::process::Command {
        let mut command = tokio::process::Command::new("kubectl");
        command.args(["--context", &self.context]);
        command
    }

    /// What `kubectl` prints; fails when it does.
    pub async fn kubectl_output(&self, args: &[&str]) -> Result<String> {
        let output = self.kubectl().args(args).output().await.context("cannot run kubectl")?;
        let error = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "kubectl {} failed: {}", args.join(" "), error.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// How to reach the API server, as an administrator.
pub async fn config(context: &str) -> Result<Config> {
    let options = KubeConfigOptions { context: Some(context.to_owned()), ..KubeConfigOptions::default() };
    Config::from_custom_kubeconfig(Kubeconfig::read()?, &options)
        .await
        .with_context(|| format!("cannot use context {context} of the kubeconfig"))
}

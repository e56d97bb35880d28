//! A real single-node Kubernetes on this machine, in namespaces of its own and without a way out of them.

mod build;
mod config;
mod daemons;
mod images;
mod layout;
mod network;
mod packages;
mod pki;
mod process;
mod start;
mod supervisor;

use std::{
    ffi::OsString,
    fmt, fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

pub(crate) use self::build::copy_tree;
pub use self::images::WORKLOAD;
pub use self::layout::{AUDIT_LOG, STATIC_PODS};
pub use self::layout::{KUBERNETES_IP, NODE, NODE_IP, POD_CIDR, SERVICE_CIDR, base, workspace};
use self::{config::Spec, layout::Layout, process::Identity};

/// The cluster that commands mean when they name none.
pub const DEFAULT_NAME: &str = "tourniquet";

/// What moves the pods' packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// Cilium, which enforces policy.
    #[default]
    Cilium,
    /// A plain bridge and kube-proxy: a policy object exists there and enforces nothing.
    None,
}

/// How the network engine is tuned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// As it is shipped.
    #[default]
    Default,
    /// A changed label reaches Cilium's data path after about 5 s instead of up to 35 s. For tests that run many schedules, not for measuring.
    FastIdentity,
}

impl fmt::Display for Network {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Cilium => "cilium",
            Self::None => "none",
        })
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Default => "default",
            Self::FastIdentity => "fast-identity",
        })
    }
}

/// Which cluster is wanted. What is left open is taken as it runs, or as the default.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Name of the cluster; several run side by side
    #[arg(long, default_value = DEFAULT_NAME)]
    pub name: String,
    /// What moves the pods' packets [default: cilium]
    #[arg(long, value_enum)]
    pub network: Option<Network>,
    /// How the network engine is tuned [default: default]
    #[arg(long, value_enum)]
    pub profile: Option<Profile>,
}

impl Default for Options {
    fn default() -> Self {
        Self { name: DEFAULT_NAME.to_owned(), network: None, profile: None }
    }
}

/// A running cluster.
#[derive(Clone, Debug)]
pub struct Handle {
    layout: Layout,
    identity: Identity,
    spec: Spec,
}

impl Handle {
    /// The cluster's name, which is also the name of its kubeconfig context.
    pub fn name(&self) -> &str {
        &self.layout.name
    }

    /// What moves its pods' packets.
    pub fn network(&self) -> Network {
        self.spec.network
    }

    /// How its network engine is tuned.
    pub fn profile(&self) -> Profile {
        self.spec.profile
    }

    /// To be appended to whatever reports times of this cluster; empty where they are the engine's own.
    pub fn timing_note(&self) -> &'static str {
        match self.spec.profile {
            Profile::Default => "",
            Profile::FastIdentity => " (fast-identity profile: not Cilium's default timing)",
        }
    }

    /// The number of its process 1, as this machine counts.
    pub fn process(&self) -> i32 {
        self.identity.pid
    }

    /// The number of a daemon's process, as the cluster counts; none between two starts.
    pub fn daemon(&self, name: &str) -> Option<i32> {
        start::status(&self.layout)?.daemons.get(name)?.pid
    }

    /// Its cgroups that are there.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        process::cgroups(&self.layout)
    }

    /// Credentials of a cluster administrator. Its server address exists only inside the cluster's namespaces.
    pub fn kubeconfig(&self) -> PathBuf {
        self.layout.kubeconfig()
    }

    /// Where each daemon's log is, and the API server's audit log (`audit.log`). Kept by `down`.
    pub fn logs_dir(&self) -> PathBuf {
        self.layout.logs()
    }

    /// Certificates and keys; `ca.crt` and `ca.key` sign server certificates that the cluster's clients trust.
    pub fn pki_dir(&self) -> PathBuf {
        self.layout.pki()
    }

    /// A command inside the cluster's network, mount and PID namespaces, with `KUBECONFIG` and `PATH` set, in the caller's working directory.
    ///
    /// It is killed when the returned command is: the test that started it may be interrupted.
    pub fn command<S: AsRef<std::ffi::OsStr>>(&self, line: &[S]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--mount", "--pid", "--target", &self.identity.pid.to_string()]);
        // Its help says `--wdns <dir>`, its parser (util-linux 2.38) takes only this form.
        let mut directory = OsString::from("--wdns=");
        directory.push(std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")));
        command.arg(directory);
        command.args(["--", "setpriv", "--pdeathsig", "KILL", "--"]).args(line);
        command
            .env("KUBECONFIG", self.kubeconfig())
            .env("PATH", search_path(&self.layout))
            .env("CONTAINERD_NAMESPACE", "k8s.io")
            .env("CONTAINERD_ADDRESS", "/run/containerd/containerd.sock");
        command
    }

    /// Runs a command inside and returns its standard output; what it wrote to standard error becomes the error.
    pub fn output(&self, line: &[&str]) -> Result<String> {
        let output = self.command(line).stdin(Stdio::null()).output().context("cannot run nsenter (util-linux)")?;
        if !output.status.success() {
            bail!("{} failed ({}): {}", line.join(" "), output.status, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Imports an image archive. Pods use it with `imagePullPolicy: Never`.
    pub fn load(&self, archive: &Path) -> Result<()> {
        let archive = fs::canonicalize(archive).with_context(|| format!("cannot read {}", archive.display()))?;
        // Through standard input: inside, another /run hides what the machine has there.
        let file = fs::File::open(&archive).with_context(|| format!("cannot read {}", archive.display()))?;
        let output = self.command(&["ctr", "--namespace=k8s.io", "images", "import", "-"]).stdin(file).output()?;
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            bail!(
                "cannot load {}: {}\n  log:  {}",
                archive.display(),
                error.trim(),
                self.layout.log("containerd").display()
            );
        }
        Ok(())
    }
}

/// Makes sure that the cluster is there and healthy: builds, starts or heals it, or does nothing.
pub fn ensure_up(options: &Options) -> Result<Handle> {
    start::ensure_up(options)
}

/// Makes sure that the system's packages are there, or says in one message which are missing.
pub fn ensure_packages() -> Result<()> {
    packages::ensure()
}

/// Helm of the version that the clusters have, built when it is not there.
pub fn ensure_helm() -> Result<PathBuf> {
    build::ensure_helm()
}

/// The running cluster of this name.
pub fn get(name: &str) -> Result<Handle> {
    let layout = Layout::new(name)?;
    find(&layout)?.ok_or_else(|| anyhow!("no cluster {name} is running\n  next: cargo xtask cluster up --name {name}"))
}

fn find(layout: &Layout) -> Result<Option<Handle>> {
    let Some(identity) = process::supervisor(layout) else { return Ok(None) };
    let text = fs::read(layout.spec()).with_context(|| format!("cannot read {}", layout.spec().display()))?;
    let spec = serde_json::from_slice(&text).with_context(|| format!("cannot read {}", layout.spec().display()))?;
    Ok(Some(Handle { layout: layout.clone(), identity, spec }))
}

/// Ends a cluster; its logs stay. True when anything was there.
pub fn down(name: &str) -> Result<bool> {
    let layout = Layout::new(name)?;
    if !layout.root.exists() {
        return Ok(false);
    }
    let _lock = lock(&layout)?;
    let there = layout.spec().exists() || process::supervisor(&layout).is_some();
    clean(&layout, false)?;
    Ok(there)
}

/// Ends what runs and removes what is left, but not the logs.
fn clean(layout: &Layout, renew_logs: bool) -> Result<()> {
    if let Some(identity) = process::recorded(layout) {
        identity.kill()?;
    }
    process::remove_cgroups(layout)?;
    if !layout.root.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(&layout.root)?.flatten() {
        let path = entry.path();
        if path == layout.logs() {
            continue;
        }
        // A mount namespace goes when its last process is reaped: until then its mount points are busy.
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let removed = if entry.file_type()?.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            match removed {
                Ok(()) => break,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => break,
                Err(error) if Instant::now() > deadline => {
                    return Err(error).with_context(|| format!("cannot remove {}", path.display()));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }
    if renew_logs && layout.logs().exists() {
        // The logs of the run that went wrong are worth one more start.
        let previous = layout.path("logs.previous");
        fs::rename(layout.logs(), previous)?;
    }
    Ok(())
}

/// One `up` or `down` of a name at a time.
fn lock(layout: &Layout) -> Result<fs::File> {
    let dir = base();
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let path = dir.join(format!(".{}.lock", layout.name));
    let file = fs::File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    if file.try_lock().is_err() {
        eprintln!("Another command is starting or stopping cluster {}; waiting for it", layout.name);
        file.lock()?;
    }
    Ok(file)
}

fn search_path(layout: &Layout) -> OsString {
    let mut path = layout.bin().into_os_string();
    path.push(":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    path
}

/// `cargo xtask cluster …`
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Builds what is missing and starts a cluster; does nothing when it runs
    Up(Options),
    /// Ends a cluster and removes everything of it but its logs
    Down {
        /// Name of the cluster
        #[arg(long, default_value = DEFAULT_NAME, conflicts_with = "all")]
        name: String,
        /// Every cluster of this workspace
        #[arg(long)]
        all: bool,
    },
    /// Runs a command inside a cluster: cargo xtask cluster run -- kubectl get pods
    Run {
        /// Name of the cluster
        #[arg(long, default_value = DEFAULT_NAME)]
        name: String,
        /// The command and its arguments
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Imports an image archive (docker save, OCI) into a cluster
    Load {
        /// Name of the cluster
        #[arg(long, default_value = DEFAULT_NAME)]
        name: String,
        /// The archive
        image: PathBuf,
    },
    /// Builds the operator, and installs or upgrades the chart with it
    Install {
        /// Name of the cluster
        #[arg(long, default_value = DEFAULT_NAME)]
        name: String,
        /// A value of the chart; repeatable
        #[arg(long, value_name = "KEY=VALUE")]
        set: Vec<String>,
    },
    /// Process 1 of a cluster
    #[command(hide = true)]
    Supervise {
        /// The cluster's state folder
        state: PathBuf,
    },
}

impl ClusterCommand {
    /// Carries the command out.
    pub fn run(self) -> Result<ExitCode> {
        match self {
            Self::Up(options) => {
                let started = Instant::now();
                let handle = ensure_up(&options)?;
                eprintln!(
                    "Cluster {} is healthy ({}, network {}{})\n  try: cargo xtask cluster run{} -- kubectl get pods --all-namespaces",
                    handle.name(),
                    crate::ui::seconds(started.elapsed()),
                    handle.network(),
                    handle.timing_note(),
                    if handle.name() == DEFAULT_NAME { String::new() } else { format!(" --name {}", handle.name()) },
                );
            }
            Self::Down { name, all } => {
                let names = if all { names() } else { vec![name] };
                for name in names {
                    let started = Instant::now();
                    if down(&name)? {
                        eprintln!(
                            "Cluster {name} is gone ({}); its logs are in {}",
                            crate::ui::seconds(started.elapsed()),
                            Layout::new(&name)?.logs().display()
                        );
                    } else if !all {
                        eprintln!("No cluster {name} is running; nothing to do");
                    }
                }
            }
            Self::Run { name, command } => {
                // In place of this process: standard streams, exit status and signals are then the command's own.
                let error = get(&name)?.command(&command).exec();
                return Err(error).context("cannot run nsenter (util-linux)");
            }
            Self::Load { name, image } => get(&name)?.load(&image)?,
            Self::Install { name, set } => {
                crate::install::install_ours(&get(&name)?, true, &set)?;
            }
            Self::Supervise { state } => supervisor::main(&state)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Every name with a folder here.
fn names() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(base())
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| Layout::new(name).is_ok())
        .collect();
    names.sort();
    names
}

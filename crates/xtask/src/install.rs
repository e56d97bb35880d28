//! The operator's image, and the chart in a cluster.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::{
    cluster::{Handle, Network, WORKLOAD, base, workspace},
    image::{Config, Layer, hex, write_archive},
    ui::{Step, run_logged},
};

/// Where the operator runs.
pub const NAMESPACE: &str = "tourniquet-system";
/// More than this is not a small image.
const SIZE_LIMIT: u64 = 20 * 1024 * 1024;
/// With a host, or containerd keeps it under another name than the kubelet asks for.
const REPOSITORY: &str = "tourniquet.test/operator";

/// An operator image on this machine.
pub struct OperatorImage {
    /// The archive.
    pub archive: PathBuf,
    /// `repository:tag`; the tag follows from the content, so a changed operator is a changed Deployment.
    pub reference: String,
    /// The program in it, which also runs outside of a container.
    pub program: PathBuf,
    /// The archive's size in bytes.
    pub size: u64,
}

/// Builds the operator for this machine's architecture and puts it into an image: one static program and nothing else.
///
/// # Errors
/// When it does not build, or the image is larger than 20 MiB.
pub fn build_image() -> Result<OperatorImage> {
    let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let folder = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
    fs::create_dir_all(base())?;
    let step = Step::start("Building the operator (static, release)");
    let mut cargo = Command::new("cargo");
    cargo
        .args(["build", "--release", "--locked", "--package", "tourniquet-operator", "--target", &target])
        .current_dir(workspace())
        // ring's C needs no C library, so the machine's own compiler serves and no musl toolchain has to be there.
        .env(format!("CC_{}", target.replace('-', "_")), "gcc");
    run_logged(&mut cargo, &base().join("operator.log"), "the operator does not build", "correct what the log names")?;

    let program = folder.join(&target).join("release").join("tourniquet-operator");
    let bytes = fs::read(&program).with_context(|| format!("cannot read {}", program.display()))?;
    let digest = hex(&Sha256::digest(&bytes));
    let reference = format!("{REPOSITORY}:{}", digest.get(..12).unwrap_or(&digest));
    let archive = base().join("images").join("operator.tar");
    fs::create_dir_all(base().join("images"))?;
    let config = Config {
        user: "65532:65532".into(),
        entrypoint: vec!["/tourniquet-operator".into()],
        workdir: "/".into(),
        ..Config::default()
    };
    write_archive(&archive, &reference, &[Layer::new().file("/tourniquet-operator", 0o755, bytes)], &config)?;
    let size = fs::metadata(&archive)?.len();
    if size > SIZE_LIMIT {
        bail!("the operator image has {} MiB; {} are the limit", mebibytes(size), SIZE_LIMIT / 1024 / 1024);
    }
    step.done_with(format_args!("image of {} MiB", mebibytes(size)));
    Ok(OperatorImage { archive, reference, program, size })
}

fn mebibytes(size: u64) -> String {
    format!("{}.{}", size / 1024 / 1024, size % (1024 * 1024) * 10 / (1024 * 1024))
}

/// A program that cargo built.
pub struct Executable {
    /// `bin` or `test`.
    pub kind: String,
    /// The target's name.
    pub name: String,
    /// The program.
    pub path: PathBuf,
}

/// Builds, and says what was built.
///
/// # Errors
/// When it does not build; cargo has then said why.
pub fn executables(args: &[&str]) -> Result<Vec<Executable>> {
    let output = Command::new("cargo")
        .args(args)
        .args(["--locked", "--quiet", "--message-format=json-render-diagnostics"])
        .current_dir(workspace())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!("cargo {} failed", args.join(" "));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let messages = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    Ok(messages
        .filter_map(|message| {
            Some(Executable {
                kind: message["target"]["kind"][0].as_str()?.to_owned(),
                name: message["target"]["name"].as_str()?.to_owned(),
                path: message["executable"].as_str()?.into(),
            })
        })
        .collect())
}

/// Builds the program that test pods run: static, since it runs in any image.
///
/// # Errors
/// When it does not build.
pub fn build_traffic() -> Result<PathBuf> {
    let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let built = executables(&["build", "--release", "--package", "tourniquet-traffic", "--target", &target])?;
    built.into_iter().next().map(|built| built.path).context("cargo built no tourniquet-traffic")
}

/// Cilium's definitions of its resources, from the Go module of the version that the test cluster runs.
fn cilium_crds() -> Result<PathBuf> {
    let output = Command::new("go")
        .args(["mod", "download", "-json", "github.com/cilium/cilium"])
        .current_dir(workspace().join("tests/cluster/cilium"))
        .env("GOWORK", "off")
        .output()
        .context("cannot run go")?;
    let module: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("go mod download printed no JSON")?;
    let folder = module["Dir"].as_str().context("go mod download names no folder")?;
    Ok(PathBuf::from(folder).join("pkg/k8s/apis/cilium.io/client/crds/v2"))
}

/// A cluster to install into and test on.
pub enum Place<'a> {
    /// One that this project runs.
    Ours(&'a Handle),
    /// A context of the user's own kubeconfig.
    Context(&'a str),
}

impl Place<'_> {
    /// `kubectl` with these arguments.
    pub fn kubectl(&self, args: &[&str]) -> Command {
        self.tool("kubectl", "--context", args)
    }

    /// `helm` with these arguments.
    pub fn helm(&self, args: &[&str]) -> Command {
        self.tool("helm", "--kube-context", args)
    }

    /// One of our own programs, told about the cluster. With `operator`, it may run operators of its own.
    ///
    /// # Errors
    /// When something that it needs cannot be found.
    pub fn program(
        &self,
        program: &Path,
        network: Network,
        traffic: &Path,
        operator: Option<&OperatorImage>,
    ) -> Result<Command> {
        let mut command = match self {
            Self::Ours(handle) => handle.command(&[program]),
            Self::Context(_) => Command::new(program),
        };
        let (context, image) = match self {
            Self::Ours(handle) => (handle.name(), WORKLOAD),
            Self::Context(context) => (*context, "docker.io/library/busybox:1.37"),
        };
        command
            .env("TOURNIQUET_CONTEXT", context)
            .env("TOURNIQUET_NETWORK", network.to_string())
            .env("TOURNIQUET_WORKLOAD", image)
            .env("TOURNIQUET_TRAFFIC", traffic);
        if let Some(operator) = operator {
            command.env("TOURNIQUET_OPERATOR", &operator.program);
        }
        if network == Network::None {
            command.env("TOURNIQUET_CILIUM_CRDS", cilium_crds()?);
        }
        Ok(command)
    }

    fn tool(&self, program: &str, flag: &str, args: &[&str]) -> Command {
        match self {
            Self::Ours(handle) => {
                let line: Vec<&str> = std::iter::once(program).chain(args.iter().copied()).collect();
                handle.command(&line)
            }
            Self::Context(context) => {
                let mut command = Command::new(program);
                command.args([flag, *context]).args(args);
                command
            }
        }
    }
}

/// Installs or upgrades the chart, and waits until the operator is ready.
///
/// # Errors
/// With what kubectl or helm said.
pub fn install(place: &Place<'_>, image: &str, set: &[String]) -> Result<()> {
    let step = Step::start("Installing the chart");
    // Helm creates a namespace without labels; the operator's own is held to the restricted Pod Security Standard.
    let namespace = format!(
        r#"{{"apiVersion": "v1", "kind": "Namespace", "metadata": {{"name": "{NAMESPACE}", "labels": {{
            "pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted"}}}}}}"#
    );
    let apply = ["apply", "--server-side", "--force-conflicts", "--field-manager=tourniquet-install", "-f"];
    feed(place.kubectl(&[&apply[..], &["-"]].concat()), &namespace)?;
    // Helm installs the CRDs of a chart once and never upgrades them.
    let crds = workspace().join("crds");
    run(place.kubectl(&[&apply[..], &[&crds.display().to_string()]].concat()))?;
    run(place.kubectl(&[
        "wait",
        "--for=condition=Established",
        "--timeout=60s",
        "crd/incidentresponses.tourniquet.dev",
    ]))?;

    let (repository, tag) = image.rsplit_once(':').with_context(|| format!("image {image} has no tag"))?;
    let chart = workspace().join("charts/tourniquet").display().to_string();
    let (repository, tag) = (format!("image.repository={repository}"), format!("image.tag={tag}"));
    let mut args = vec!["upgrade", "--install", "tourniquet", &chart, "--namespace", NAMESPACE, "--skip-crds"];
    args.extend(["--wait", "--timeout", "3m", "--set-string", &repository, "--set-string", &tag]);
    for pair in set {
        args.extend(["--set", pair.as_str()]);
    }
    run(place.helm(&args))?;
    step.done();
    Ok(())
}

/// The image on our own cluster, then the chart.
///
/// # Errors
/// When the image does not build or load, or the chart does not install.
pub fn install_ours(handle: &Handle, set: &[String]) -> Result<OperatorImage> {
    let image = build_image()?;
    handle.load(&image.archive)?;
    install(&Place::Ours(handle), &image.reference, set)?;
    Ok(image)
}

fn run(mut command: Command) -> Result<()> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {:?}", command.get_program()))?;
    check(&command, &output)
}

fn feed(mut command: Command, input: &str) -> Result<()> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    check(&command, &output)
}

fn check(command: &Command, output: &std::process::Output) -> Result<()> {
    if !output.status.success() {
        let args: Vec<String> = command.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("{} {} failed: {}", command.get_program().to_string_lossy(), args.join(" "), error.trim());
    }
    Ok(())
}

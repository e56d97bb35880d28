//! The images, and the chart in a cluster.

use std::{
    ffi::OsString,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::{
    azurite,
    cluster::{AUDIT_LOG, Handle, Network, STATIC_PODS, WORKLOAD, base, workspace},
    image::{Config, Layer, hex, write_archive},
    ui::{Step, run_logged},
};

/// Where the operator runs.
pub const NAMESPACE: &str = "tourniquet-system";
/// More than this is not a small image.
const SIZE_LIMIT: u64 = 20 * 1024 * 1024;
/// With a host, or containerd keeps an image under another name than the kubelet asks for.
const REGISTRY: &str = "tourniquet.test";

/// An image of ours on this machine.
pub struct Image {
    /// The archive.
    pub archive: PathBuf,
    /// `repository:tag`; the tag follows from the content, so a changed program is a changed workload.
    pub reference: String,
    /// The digest of its manifest.
    pub digest: String,
    /// The program in it, which also runs outside of a container.
    pub program: PathBuf,
}

/// The images that the chart installs.
pub struct Images {
    /// The operator's.
    pub operator: Image,
    /// The agent's.
    pub agent: Image,
}

/// Builds operator and agent for this machine's architecture and puts each into an image: one static program and nothing else.
///
/// # Errors
/// When one does not build, or its image is larger than 20 MiB.
pub fn build_images() -> Result<Images> {
    let step = Step::start("Building operator and agent (static, release)");
    let programs = build(&["operator", "agent"])?;
    let (operator, operator_size) = image(&programs, "operator", UNPRIVILEGED)?;
    let (agent, agent_size) = image(&programs, "agent", "0:0")?;
    step.done_with(format_args!("images of {} and {} MiB", mebibytes(operator_size), mebibytes(agent_size)));
    Ok(Images { operator, agent })
}

/// The same of the intake, which few installations have.
///
/// # Errors
/// When it does not build, or its image is larger than 20 MiB.
pub fn build_intake() -> Result<Image> {
    let step = Step::start("Building the intake (static, release)");
    let (intake, size) = image(&build(&["intake"])?, "intake", UNPRIVILEGED)?;
    step.done_with(format_args!("an image of {} MiB", mebibytes(size)));
    Ok(intake)
}

/// Who operator and intake are in their containers.
const UNPRIVILEGED: &str = "65532:65532";

/// The folder with these programs, built.
fn build(names: &[&str]) -> Result<PathBuf> {
    let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    fs::create_dir_all(base().join("images"))?;
    let mut cargo = Command::new("cargo");
    cargo.env(FLAGS, flags()?);
    cargo
        .args(["build", "--release", "--locked", "--target", &target])
        .args(names.iter().map(|name| format!("--package=tourniquet-{name}")))
        .current_dir(workspace())
        // ring's C needs no C library, so the machine's own compiler serves and no musl toolchain has to be there.
        .env(format!("CC_{}", target.replace('-', "_")), "gcc");
    run_logged(&mut cargo, &base().join("images.log"), "the images do not build", "correct what the log names")?;
    Ok(target_folder().join(&target).join("release"))
}

/// Cargo's own way to tell flags of the compiler apart. What is in it goes before whatever flags the user has set elsewhere: they would make another program.
const FLAGS: &str = "CARGO_ENCODED_RUSTFLAGS";

/// Where this machine keeps what a program is built of, and what stands for it in the program: panics name the file in which they happened. Without it
/// the same sources in another folder are another program, and so another image.
///
/// # Errors
/// When nobody says where the compiler is.
pub fn folders() -> Result<Vec<(PathBuf, &'static str)>> {
    let cargo_home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo_home = cargo_home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let rustc = Command::new("rustc").args(["--print", "sysroot"]).current_dir(workspace()).output();
    let sysroot = String::from_utf8(rustc.context("cannot run rustc")?.stdout)?;
    Ok(vec![
        (workspace(), "/source"),
        // Of several that fit the compiler takes the last.
        (target_folder(), "/source/target"),
        (cargo_home.context("neither CARGO_HOME nor HOME is set")?, "/cargo"),
        (PathBuf::from(sysroot.trim()), "/rust"),
    ])
}

fn target_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

fn flags() -> Result<OsString> {
    let mut flags = OsString::new();
    for (folder, name) in folders()? {
        flags.push(if flags.is_empty() { "" } else { "\u{1f}" });
        flags.push("--remap-path-prefix=");
        flags.push(folder);
        flags.push(format!("={name}"));
    }
    Ok(flags)
}

fn image(programs: &Path, name: &str, user: &str) -> Result<(Image, u64)> {
    let program = programs.join(format!("tourniquet-{name}"));
    let bytes = fs::read(&program).with_context(|| format!("cannot read {}", program.display()))?;
    let digest = hex(&Sha256::digest(&bytes));
    let reference = format!("{REGISTRY}/{name}:{}", digest.get(..12).unwrap_or(&digest));
    let archive = base().join("images").join(format!("{name}.tar"));
    let inside = format!("/tourniquet-{name}");
    let config =
        Config { user: user.into(), entrypoint: vec![inside.clone()], workdir: "/".into(), ..Config::default() };
    let manifest = write_archive(&archive, &reference, &[Layer::new().file(&inside, 0o755, bytes)], &config)?;
    let size = fs::metadata(&archive)?.len();
    if size > SIZE_LIMIT {
        bail!("the {name} image has {} MiB; {} are the limit", mebibytes(size), SIZE_LIMIT / 1024 / 1024);
    }
    Ok((Image { archive, reference, digest: manifest, program }, size))
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
    let built = executables(&["build", "--profile", "small", "--package", "tourniquet-traffic", "--target", &target])?;
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
        agents: bool,
        traffic: &Path,
        operator: Option<&Image>,
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
        if agents {
            command.env("TOURNIQUET_AGENTS", "1");
        }
        if matches!(self, Self::Ours(_)) {
            command.env("TOURNIQUET_STATIC_PODS", STATIC_PODS).env("TOURNIQUET_AUDIT_LOG", AUDIT_LOG);
            // It listens on the node's own address, which pods of no other cluster reach.
            if network == Network::None {
                command.env(azurite::VARIABLE, azurite::ensure()?);
            }
        }
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
pub fn install(place: &Place<'_>, operator: &str, agent: Option<&str>, set: &[String]) -> Result<()> {
    let step = Step::start("Installing the chart");
    // Helm creates a namespace without labels; the operator's own is held to the restricted Pod Security Standard.
    let namespace = format!(
        r#"{{"apiVersion": "v1", "kind": "Namespace", "metadata": {{"name": "{NAMESPACE}", "labels": {{
            "pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted"}}}}}}"#
    );
    let apply = ["apply", "--server-side", "--force-conflicts", "--field-manager=tourniquet-install", "-f"];
    feed(place.kubectl(&[&apply[..], &["-"]].concat()), &namespace)?;
    let chart = workspace().join("charts/tourniquet").display().to_string();
    let mut args: Vec<String> = ["upgrade", "--install", "tourniquet", &chart, "--namespace", NAMESPACE, "--wait"]
        .iter()
        // Also where somebody has applied the definitions before.
        .chain(&["--timeout", "3m", "--take-ownership"])
        .map(ToString::to_string)
        .collect();
    let mut images = vec![("image", operator)];
    if let Some(agent) = agent {
        images.push(("agent.image", agent));
    }
    args.extend(["--set".to_owned(), format!("agent.enabled={}", agent.is_some())]);
    for (value, image) in images {
        let (repository, tag) = image.rsplit_once(':').with_context(|| format!("image {image} has no tag"))?;
        args.extend(["--set-string".to_owned(), format!("{value}.repository={repository}")]);
        args.extend(["--set-string".to_owned(), format!("{value}.tag={tag}")]);
    }
    for pair in set {
        args.extend(["--set".to_owned(), pair.clone()]);
    }
    run(place.helm(&args.iter().map(String::as_str).collect::<Vec<_>>()))?;
    step.done();
    Ok(())
}

/// The images on our own cluster, then the chart, with agents or with policies only.
///
/// # Errors
/// When an image does not build or load, or the chart does not install.
pub fn install_ours(handle: &Handle, agents: bool, set: &[String]) -> Result<Images> {
    let images = build_images()?;
    install_on(handle, &images, agents, set)?;
    Ok(images)
}

/// The same with images that are built.
///
/// # Errors
/// When an image does not load, or the chart does not install.
pub fn install_on(handle: &Handle, images: &Images, agents: bool, set: &[String]) -> Result<()> {
    handle.load(&images.operator.archive)?;
    handle.load(&images.agent.archive)?;
    let agent = agents.then_some(images.agent.reference.as_str());
    install(&Place::Ours(handle), &images.operator.reference, agent, set)
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

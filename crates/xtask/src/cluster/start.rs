//! `up`: from nothing, or from whatever is left, to a cluster in which pods run.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{
    Handle, Network, Options, build,
    config::{self, Spec},
    images,
    layout::{Layout, NODE},
    packages, pki,
    process::{self, Identity},
    supervisor::Status,
};
use crate::ui::{Step, failure, seconds};

/// A pod that `up` starts to see that pods start, then deletes.
const PROBE_POD: &str = "tourniquet-up";

/// Makes sure that the cluster runs and is healthy.
pub(super) fn ensure_up(options: &Options) -> Result<Handle> {
    let started = Instant::now();
    let layout = Layout::new(&options.name)?;
    let _lock = super::lock(&layout)?;
    if let Some(handle) = running(&layout, options)? {
        return Ok(handle);
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("starting a cluster makes namespaces, mounts and interfaces\n  next: run the command as root");
    }
    let network = options.network.unwrap_or_default();
    let profile = options.profile.unwrap_or_default();
    packages::ensure()?;
    let binaries = build::ensure(network == Network::Cilium)?;

    super::clean(&layout, true)?;
    fs::create_dir_all(layout.logs()).with_context(|| format!("cannot create {}", layout.logs().display()))?;
    let spec = Spec { name: options.name.clone(), network, profile, version: binaries.version() };
    let archives = images::create(&binaries)?;
    config::create(&layout, &spec, &binaries)?;
    pki::create(&layout)?;
    process::create_cgroups(&layout)?;

    let step = Step::start(format!("Starting cluster {}", spec.name));
    let identity = launch(&layout)?;
    let handle = Handle { layout: layout.clone(), identity, spec };
    wait_for_daemons(&layout, &identity, &step)?;
    step.done();

    let step = Step::start("Loading images");
    for archive in &archives {
        handle.load(archive)?;
    }
    step.done();

    let step = Step::start("Waiting for the node and its first pod");
    if let Err(error) = first_pod(&handle, &step) {
        bail!(
            "{error:#}\n  next: look at the logs in {}, or start afresh: cargo xtask cluster down && cargo xtask cluster up",
            layout.logs().display()
        );
    }
    step.done();
    fs::write(layout.ready(), "")?;
    eprintln!("Cluster {} is up after {}{}", handle.name(), seconds(started.elapsed()), handle.timing_note());
    Ok(handle)
}

/// The cluster that is there, when it is the one that is asked for and works. What does not work is left to be started afresh.
fn running(layout: &Layout, options: &Options) -> Result<Option<Handle>> {
    let Some(handle) = super::find(layout)? else { return Ok(None) };
    let (network, profile) = (handle.spec.network, handle.spec.profile);
    if options.network.is_some_and(|asked| asked != network) || options.profile.is_some_and(|asked| asked != profile) {
        bail!(
            "cluster {name} runs with --network {network} --profile {profile}; it cannot be changed while it runs\n  next: cargo xtask cluster down --name {name}, or choose another --name",
            name = layout.name
        );
    }
    if !layout.ready().exists() {
        eprintln!("Cluster {} was not started completely; starting afresh", layout.name);
        return Ok(None);
    }
    if healthy(&handle) {
        return Ok(Some(handle));
    }
    // The supervisor may be in the middle of a restart: a daemon of Kubernetes is back within seconds, Cilium's agent within half a minute.
    let step = Step::start(format!("Waiting for cluster {} to recover", layout.name));
    let deadline = Instant::now() + Duration::from_secs(60);
    while handle.identity.alive() && Instant::now() < deadline {
        if healthy(&handle) {
            step.done();
            return Ok(Some(handle));
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    step.done_with("it did not; starting afresh");
    Ok(None)
}

fn healthy(handle: &Handle) -> bool {
    let Some(status) = status(&handle.layout) else { return false };
    let daemons_well = status.daemons.values().all(|daemon| daemon.pid.is_some() && daemon.healthy.unwrap_or(true));
    status.failed.is_none() && status.starting.is_empty() && daemons_well && node_ready(handle)
}

fn node_ready(handle: &Handle) -> bool {
    let path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
    let output = handle.output(&["kubectl", "--request-timeout=5s", "get", "node", NODE, "-o", path]);
    output.is_ok_and(|text| text.trim() == "True")
}

pub(super) fn status(layout: &Layout) -> Option<Status> {
    serde_json::from_slice(&fs::read(layout.status()).ok()?).ok()
}

/// Starts the supervisor, detached, in namespaces of its own.
fn launch(layout: &Layout) -> Result<Identity> {
    // A copy: cargo replaces the original at the next build, and a running cluster must not depend on that. Of what runs, not of what has its name
    // now: a build beside this may have replaced it already.
    let own = fs::read("/proc/self/exe").context("cannot read this program's file")?;
    let copy = layout.path("supervisor");
    let mut out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o755).open(&copy)?;
    out.write_all(&own)?;
    drop(out);

    let log = fs::File::create(layout.log("supervisor"))?;
    // `setsid` runs the program in place, so the child's number is unshare's, and process 1 of the new namespace is unshare's only child.
    let mut child = Command::new("setsid")
        .args(["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"])
        .arg(&copy)
        .args(["cluster", "supervise"])
        .arg(&layout.root)
        .current_dir("/")
        // Nothing of this shell's: a proxy setting would send the daemons' requests to each other through it.
        .env_clear()
        .env("PATH", super::search_path(layout))
        .env("HOME", "/root")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot run setsid and unshare (util-linux)")?;
    let parent = i32::try_from(child.id())?;
    let deadline = Instant::now() + Duration::from_secs(10);
    let identity = loop {
        if let Some(identity) = process::child_of(parent).and_then(Identity::of) {
            break identity;
        }
        if child.try_wait()?.is_some() || Instant::now() > deadline {
            return Err(failure(
                "cannot make the cluster's namespaces",
                &layout.log("supervisor"),
                "run as root, on a kernel with network and PID namespaces",
            ));
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    fs::write(layout.pid(), serde_json::to_vec(&identity)?)?;
    Ok(identity)
}

fn wait_for_daemons(layout: &Layout, identity: &Identity, step: &Step) -> Result<()> {
    let next = "read the whole log; then: cargo xtask cluster down && cargo xtask cluster up";
    loop {
        let status = status(layout).unwrap_or_default();
        if let Some(failed) = &status.failed {
            let what = format!("{} did not start: {}", failed.daemon, failed.message);
            return Err(failure(what, &layout.log(&failed.daemon), next));
        }
        if !identity.alive() {
            return Err(failure("the cluster's supervisor ended", &layout.log("supervisor"), next));
        }
        if !status.daemons.is_empty() && status.starting.is_empty() {
            return Ok(());
        }
        step.note(&status.starting);
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The node is Ready, the network engine works, the default service account is there, and a pod runs.
fn first_pod(handle: &Handle, step: &Step) -> Result<()> {
    let wait = |what: &str, limit: u64, log: &str, ready: &dyn Fn() -> bool| -> Result<()> {
        step.note(what);
        let deadline = Instant::now() + Duration::from_secs(limit);
        while !ready() {
            if !handle.identity.alive() {
                return Err(failure("the cluster's supervisor ended", &handle.layout.log("supervisor"), "start again"));
            }
            if Instant::now() > deadline {
                return Err(failure(format!("{what}: not within {limit} s"), &handle.layout.log(log), "see below"));
            }
            std::thread::sleep(Duration::from_millis(250));
        }
        Ok(())
    };
    wait("the node is ready", 90, "kubelet", &|| node_ready(handle))?;
    if handle.spec.network == Network::Cilium {
        wait("Cilium's definitions are there", 60, "cilium-operator", &|| {
            handle.output(&["kubectl", "get", "crd", "ciliumclusterwidenetworkpolicies.cilium.io"]).is_ok()
        })?;
        wait("Cilium's agent is healthy", 120, "cilium-agent", &|| {
            let agent = status(&handle.layout).and_then(|status| status.daemons.get("cilium-agent").cloned());
            agent.is_some_and(|agent| agent.healthy == Some(true))
        })?;
    }
    wait("the default service account is there", 60, "kube-controller-manager", &|| {
        handle.output(&["kubectl", "get", "serviceaccount", "default", "--namespace=default"]).is_ok()
            && handle.output(&["kubectl", "get", "serviceaccount", "default", "--namespace=kube-system"]).is_ok()
    })?;

    // The first pod on Cilium waits for its data path to be compiled; the pods of a test should not. Not in `default`, where somebody may count.
    let namespace = "--namespace=kube-system";
    let image = format!("--image={}", images::WORKLOAD);
    handle.output(&["kubectl", "run", PROBE_POD, namespace, &image, "--image-pull-policy=Never", "--restart=Never"])?;
    wait("the first pod runs", 120, "kubelet", &|| {
        let phase = ["kubectl", "get", "pod", PROBE_POD, namespace, "-o", "jsonpath={.status.phase}"];
        handle.output(&phase).is_ok_and(|phase| phase == "Running")
    })?;
    handle.output(&["kubectl", "delete", "pod", PROBE_POD, namespace, "--grace-period=1", "--wait"])?;
    Ok(())
}

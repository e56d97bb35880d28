//! The checks of the images; of `cargo xtask cluster` itself, that what is said of it holds on this machine; and, in a cluster that comes and goes with them, those of the
//! chart, which is installed and uninstalled there.

mod chart;
mod images;
mod runbook;
mod snapshot;

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::cluster::{self, Handle, Network, Options};

/// A cluster of its own: those of the other tests must not notice.
const NAME: &str = "test-lifecycle";

/// What is checked, and how.
type Check = (&'static str, fn() -> Result<()>);

/// In this order; each goes on where the one before ended.
pub(crate) fn checks() -> impl Iterator<Item = Check> {
    let [up, run, out, daemon, heal, apart, down]: [Check; 7] = [
        ("a cluster comes up, and a second up finds it healthy", up_twice),
        ("run keeps standard streams and the exit status", run_is_transparent),
        ("there is no way out of it", no_way_out),
        ("a daemon that is killed comes back", daemon_comes_back),
        ("after its process 1 was killed, up heals", heals),
        ("two clusters are kept apart", kept_apart),
        ("down leaves nothing on the machine", nothing_is_left),
    ];
    images::CHECKS.into_iter().chain([up, run, out, daemon, heal, apart]).chain(chart::CHECKS).chain([down])
}

fn options() -> Options {
    Options { name: NAME.to_owned(), network: Some(Network::None), profile: None }
}

fn up_twice() -> Result<()> {
    // Whatever an interrupted run has left.
    cluster::down(NAME)?;
    let first = cluster::ensure_up(&options())?;
    let second = cluster::ensure_up(&options())?;
    ensure!(first.process() == second.process(), "the second up started another cluster");
    let other = Options { network: Some(Network::Cilium), ..options() };
    let error = cluster::ensure_up(&other).err().context("up turned it into a cluster with another network")?;
    ensure!(error.to_string().contains("cannot be changed while it runs"), "{error}");
    Ok(())
}

fn run_is_transparent() -> Result<()> {
    let handle = cluster::get(NAME)?;
    let mut child = handle
        .command(&["sh", "-c", "cat; echo error >&2; exit 7"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("no standard input")?.write_all(b"input")?;
    let output = child.wait_with_output()?;
    ensure!(output.stdout == b"input" && output.stderr == b"error\n", "{output:?}");
    ensure!(output.status.code() == Some(7), "{output:?}");
    handle.output(&["kubectl", "get", "nodes"])?;
    handle.output(&["helm", "version"])?;
    handle.output(&["ctr", "version"])?;
    Ok(())
}

fn no_way_out() -> Result<()> {
    let handle = cluster::get(NAME)?;
    let routes = handle.output(&["ip", "route", "show", "default"])?;
    ensure!(routes.is_empty(), "there is a default route: {routes}");
    let links = handle.output(&["ip", "-o", "link"])?;
    ensure!(!links.contains("eth0:"), "the machine's interface is inside: {links}");
    Ok(())
}

fn daemon_comes_back() -> Result<()> {
    let handle = cluster::get(NAME)?;
    let pid = handle.daemon("kubelet").context("the kubelet does not run")?;
    handle.output(&["kill", "-9", &pid.to_string()])?;
    let deadline = Instant::now() + Duration::from_secs(30);
    while handle.daemon("kubelet").is_none_or(|now| now == pid) {
        ensure!(Instant::now() < deadline, "the kubelet did not come back");
        std::thread::sleep(Duration::from_millis(50));
    }
    let again = cluster::ensure_up(&options())?;
    ensure!(again.process() == handle.process(), "the whole cluster was started afresh");
    Ok(())
}

fn heals() -> Result<()> {
    let handle = cluster::get(NAME)?;
    let killed = Command::new("kill").args(["-9", &handle.process().to_string()]).status()?;
    ensure!(killed.success(), "cannot kill process {}", handle.process());
    let again = cluster::ensure_up(&options())?;
    ensure!(again.process() != handle.process(), "it is the same process");
    again.output(&["kubectl", "get", "nodes"])?;
    Ok(())
}

fn kept_apart() -> Result<()> {
    let name = format!("{NAME}-2");
    cluster::down(&name)?;
    let second = cluster::ensure_up(&Options { name: name.clone(), ..options() })?;
    let apart = apart(&cluster::get(NAME)?, &second);
    cluster::down(&name)?;
    apart?;
    cluster::get(NAME)?.output(&["kubectl", "get", "nodes"])?;
    Ok(())
}

fn apart(first: &Handle, second: &Handle) -> Result<()> {
    first.output(&["kubectl", "create", "namespace", "only-in-the-first"])?;
    let namespaces = second.output(&["kubectl", "get", "namespaces", "--output=name"])?;
    ensure!(!namespaces.contains("only-in-the-first"), "{namespaces}");
    Ok(())
}

fn nothing_is_left() -> Result<()> {
    let handle = cluster::get(NAME)?;
    let pods = Path::new("/proc").join(handle.process().to_string());
    let namespace = fs::read_link(pods.join("ns/net"))?;
    ensure!(cluster::down(NAME)?, "there was nothing to end");

    // Its processes are those of its network namespace; the kernel removes mounts and interfaces with the last of them.
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let left: Vec<String> = fs::read_dir("/proc")?
            .flatten()
            .filter(|entry| fs::read_link(entry.path().join("ns/net")).is_ok_and(|of| of == namespace))
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        if left.is_empty() {
            break;
        }
        if Instant::now() > deadline {
            bail!("processes are left: {}", left.join(", "));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let root = cluster::base().join(NAME);
    ensure!(!mounts.contains(&root.display().to_string()), "mounts are left");
    let cgroups = handle.cgroups();
    ensure!(cgroups.is_empty(), "cgroups are left: {cgroups:?}");
    let files: Vec<_> = fs::read_dir(&root)?.flatten().map(|entry| entry.file_name()).collect();
    ensure!(files.iter().all(|name| name.to_string_lossy().starts_with("logs")), "files are left: {files:?}");
    Ok(())
}

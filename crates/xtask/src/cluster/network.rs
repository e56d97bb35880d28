//! What the supervisor makes of its fresh namespaces before the first daemon: mounts and interfaces.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};

use super::layout::{INSIDE, KUBERNETES_IP, NODE_IP, SERVICE_CIDR};

/// Settings of the whole kernel that the kubelet or Cilium write. A file with the present value lies over each, so that the writes end there:
/// nothing of the machine changes, and the daemons read back what they wrote.
const SHIELDED: &[&str] = &[
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
    "kernel/timer_migration",
    "kernel/unprivileged_bpf_disabled",
    "net/core/bpf_jit_enable",
    "net/core/bpf_jit_limit",
];

/// Mounts. They vanish with the namespace.
pub(super) fn mounts(state: &Path) -> Result<()> {
    propagation("/", MsFlags::MS_PRIVATE)?;
    // Shared again, among ourselves: a pod that asks for mounts "HostToContainer" is refused on a private tree.
    propagation("/", MsFlags::MS_SHARED)?;

    // The state folder is opened by its real path first: /run may be above it.
    let resolv_conf = fs::canonicalize("/etc/resolv.conf").ok();
    let keep = fs::File::open(state).with_context(|| format!("cannot open {}", state.display()))?;
    // Daemons of the machine talk over sockets in /run; ours must neither meet them nor leave theirs behind.
    tmpfs("/run")?;
    // The kubelet keeps links to logs in a fixed folder here.
    tmpfs("/var/log")?;
    for dir in [INSIDE, "/run/cilium", "/run/shield", "/run/lock"] {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {dir}"))?;
    }
    let state = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&keep)));
    bind(&state, Path::new(INSIDE))?;
    // The name server of the machine is out of reach. Without any, look-ups fail at once instead of after a timeout.
    fs::write("/run/shield/resolv.conf", "")?;
    if let Some(path) = resolv_conf {
        if path.exists() {
            bind(Path::new("/run/shield/resolv.conf"), &path)?;
        } else if let Some(dir) = path.parent() {
            // It pointed into /run, and every program says so on every look-up while it points nowhere.
            fs::create_dir_all(dir)?;
            fs::write(&path, "")?;
        }
    }
    for (index, name) in SHIELDED.iter().enumerate() {
        let real = Path::new("/proc/sys").join(name);
        if let Ok(value) = fs::read(&real) {
            let cover = PathBuf::from(format!("/run/shield/{index}"));
            fs::write(&cover, value)?;
            bind(&cover, &real)?;
        }
    }
    mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), None::<&str>).context("cannot mount bpf")?;
    Ok(())
}

fn propagation(path: &str, kind: MsFlags) -> Result<()> {
    mount(None::<&str>, path, None::<&str>, MsFlags::MS_REC | kind, None::<&str>)
        .with_context(|| format!("cannot change the propagation of {path}"))
}

fn tmpfs(path: &str) -> Result<()> {
    mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=0755"))
        .with_context(|| format!("cannot mount a tmpfs on {path}"))
}

fn bind(from: &Path, to: &Path) -> Result<()> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("cannot bind {} over {}", from.display(), to.display()))
}

/// The commands that make the node's interface.
///
/// A veth pair with both ends inside: not every kernel has the dummy device. No default route: nothing can leave. The services' range needs a
/// route all the same, or the kernel refuses to send before anything could translate the address.
pub(super) fn interfaces() -> Vec<Vec<String>> {
    let command = |line: String| line.split(' ').map(str::to_owned).collect();
    vec![
        command("ip link set lo up".into()),
        command("ip link add node0 type veth peer name node1".into()),
        command(format!("ip addr add {NODE_IP}/24 dev node0")),
        command("ip link set node0 up".into()),
        command("ip link set node1 up".into()),
        command(format!("ip route add {SERVICE_CIDR} dev node0 src {NODE_IP}")),
    ]
}

/// For Cilium only: it translates service addresses at the pods' interfaces, and the node's own processes (pods with hostNetwork among them)
/// have none. They are given the one address that a client library takes from its environment.
pub(super) fn node_to_kubernetes() -> Vec<String> {
    format!(
        "iptables -w -t nat -A OUTPUT -d {KUBERNETES_IP}/32 -p tcp --dport 443 -j DNAT --to-destination {NODE_IP}:6443"
    )
    .split(' ')
    .map(str::to_owned)
    .collect()
}

/// Settings of this network namespace.
pub(super) fn settings() -> Result<()> {
    let set = |name: &str, value: &str| -> Result<()> {
        let path = Path::new("/proc/sys/net").join(name);
        if !path.exists() {
            return Ok(());
        }
        fs::write(&path, value).with_context(|| format!("cannot write {}", path.display()))
    };
    set("ipv4/ip_forward", "1")?;
    set("bridge/bridge-nf-call-iptables", "1")
}

/// Runs a command of [`interfaces`]; only before the supervisor starts to reap.
pub(super) fn run(command: &[String]) -> Result<()> {
    let (program, args) = command.split_first().context("empty command")?;
    let output = Command::new(program).args(args).output().with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!("{} failed: {}", command.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

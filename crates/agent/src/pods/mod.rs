//! Find the network namespace of a pod on this node by the pod's UID.
//!
//! # Which process speaks for the pod
//!
//! Every process of a pod starts in the namespace of the pod's sandbox. A process may leave it: `unshare -Urn` needs no
//! right in many containers. So processes can disagree, and an error for that would let a pod keep the responder out.
//! The process that counts is the pod's oldest: the sandbox's own (`pause`), which the runtime starts before any
//! container and whose image the node's administrator chose, or, where the runtime keeps none (CRI-O without an infra
//! container), the first container's first process. Start times come from the kernel and cannot be set. Two oldest
//! processes of one tick that disagree are an error. Whoever is elsewhere is returned as a [`Stray`], so that the
//! caller can cut that namespace too, or say that a process of the pod is in the node's own network, where nothing can
//! be cut.
//!
//! # What a pod controls
//!
//! The names of its processes (never read: `/proc/PID/stat` is parsed behind the last parenthesis) and of the cgroups
//! below its containers' (never matched: see [`cgroup`]).

pub mod cgroup;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::Mode;

use self::cgroup::{Hierarchy, Unplaced, place, valid_uid};
use crate::netns::{NetNs, NsId};

/// More of a file in proc than this is never read: a cgroup path has at most 4,096 bytes, cgroup v1 some 14
/// hierarchies.
const MOST: u64 = 64 * 1024;

/// How often the scan starts anew while processes of the pod come and go.
const TRIES: usize = 5;

/// The network of a pod.
#[derive(Debug)]
pub struct PodNetwork {
    /// The namespace of the pod's sandbox.
    pub netns: NetNs,
    /// The process that spoke for the pod: its oldest.
    pub pid: u32,
    /// The runtime's cgroup that this process is in.
    pub container: String,
    /// Processes of the pod that are in another network namespace, by PID.
    pub strays: Vec<Stray>,
}

/// A process of the pod that has left the pod's network namespace.
#[derive(Debug)]
pub struct Stray {
    /// Its number in the node's PID namespace.
    pub pid: u32,
    /// The runtime's cgroup that it is in.
    pub container: String,
    /// Where it is instead.
    pub netns: NetNs,
    /// Whether that is the node's own network: never cut it; the pod is not contained.
    pub on_node: bool,
}

/// Why no namespace was found that may be cut.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The UID cannot be one.
    #[error(
        "{0:?} is not the UID of a pod: take metadata.uid, or the annotation kubernetes.io/config.hash of a static pod"
    )]
    NotAUid(String),
    /// The pod has no process here.
    #[error(
        "pod {uid} has no running process on this node; it has ended, has not started yet, or runs on another node"
    )]
    NotHere {
        /// The pod.
        uid: String,
    },
    /// The pod uses the node's network.
    #[error(
        "pod {uid} is in the node's own network (process {pid}); cutting it would cut the node, so it is left alone"
    )]
    HostNetwork {
        /// The pod.
        uid: String,
        /// Its oldest process.
        pid: u32,
    },
    /// Nobody can tell which namespace is the sandbox's.
    #[error(
        "processes {pids:?} of pod {uid} started at the same moment in different network namespaces; nothing tells which \
         is the pod's, so nothing is cut; look at them on the node"
    )]
    Ambiguous {
        /// The pod.
        uid: String,
        /// The processes that disagree.
        pids: Vec<u32>,
    },
    /// The agent does not see the node's cgroups.
    #[error(
        "the control groups of process {pid} are shown relative to another cgroup namespace, so no pod can be told by its \
         UID; the agent needs the node's PID namespace (hostPID) and CAP_SYS_ADMIN to join that of process 1"
    )]
    Relative {
        /// The first process that was shown so.
        pid: u32,
    },
    /// The agent is kept out of the cgroup namespace in which it would see them.
    #[error("the cgroup namespace of the node cannot be entered: {source}; the agent needs CAP_SYS_ADMIN")]
    Enter {
        /// What the kernel said.
        source: io::Error,
    },
    /// The process that counts came and went while it was looked at.
    #[error("the processes of pod {uid} came and went {TRIES} times while they were read; try again")]
    Unsteady {
        /// The pod.
        uid: String,
    },
    /// Something in proc could not be read.
    #[error(
        "{path} cannot be read: {source}; the agent needs hostPID, CAP_SYS_PTRACE, and no AppArmor profile that forbids it"
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Finds the network namespace of the pod with this UID and holds it open.
///
/// `proc` is the node's proc file system, `host` the network namespace that must never be cut (that of process 1). The
/// scan reads one small file per process of the node: some 15 µs each.
///
/// # Errors
/// See [`FindError`]. Nothing is changed in any case.
pub fn find(proc: &Path, uid: &str, hierarchy: &Hierarchy, host: NsId) -> Result<PodNetwork, FindError> {
    if !valid_uid(uid) {
        return Err(FindError::NotAUid(uid.to_owned()));
    }
    in_nodes_cgroup_namespace(proc, || {
        let mut before = None;
        for _ in 0..TRIES {
            match scan(proc, uid, hierarchy, host)? {
                Scan::Steady(network) => return Ok(network),
                // Processes come and go all the time, and a pod that forks without end must not keep the responder out:
                // when two passes in a row name the same oldest process, no older one ended between them.
                Scan::Moving(Some(network)) => {
                    let same = (network.pid, network.netns.id());
                    if before.replace(same) == Some(same) {
                        return Ok(network);
                    }
                }
                Scan::Moving(None) => before = None,
            }
        }
        Err(FindError::Unsteady { uid: uid.to_owned() })
    })?
}

/// The node's own network namespace: that of process 1. Never cut it.
///
/// # Errors
/// When it cannot be opened (hostPID, CAP_SYS_PTRACE).
pub fn node_network(proc: &Path) -> Result<NetNs, FindError> {
    let found = of_node(proc, "ns/net").and_then(|file| NetNs::from_fd(file.into()));
    found.map_err(|source| FindError::Unreadable { path: proc.join("1/ns/net"), source })
}

/// A namespace file of process 1. Some machines' first process lets nobody look at it, CAP_SYS_PTRACE or not; then the
/// kernel's own process 2 (kthreadd) is asked, which has no memory to protect and never leaves the first namespaces.
fn of_node(proc: &Path, file: &str) -> io::Result<File> {
    /// A thread of the kernel (`include/linux/sched.h`); no program can set it.
    const PF_KTHREAD: u64 = 0x0020_0000;
    match File::open(proc.join("1").join(file)) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let stat = std::fs::read_to_string(proc.join("2/stat")).unwrap_or_default();
            let flags: Option<u64> = fields(&stat).and_then(|mut fields| fields.nth(6)?.parse().ok());
            if flags.is_some_and(|flags| flags & PF_KTHREAD != 0) {
                File::open(proc.join("2").join(file))
            } else {
                Err(error)
            }
        }
        opened => opened,
    }
}

/// Runs `work` where paths in `/proc/PID/cgroup` are whole. The kernel shows them relative to the reader's cgroup
/// namespace, and on cgroup v2 a container, so the agent, has its own. Joined on a thread that ends.
fn in_nodes_cgroup_namespace<T: Send>(proc: &Path, work: impl FnOnce() -> T + Send) -> Result<T, FindError> {
    let path = proc.join("1/ns/cgroup");
    let unreadable = |source: io::Error| FindError::Unreadable { path: path.clone(), source };
    let node = match of_node(proc, "ns/cgroup") {
        Ok(node) => node,
        // A recorded proc, or a kernel without cgroup namespaces: there is nothing to join.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(work()),
        Err(error) => return Err(unreadable(error)),
    };
    let own = File::open("/proc/thread-self/ns/cgroup").map_err(unreadable)?;
    if NsId::of(&node).map_err(unreadable)? == NsId::of(&own).map_err(unreadable)? {
        return Ok(work());
    }
    std::thread::scope(|scope| {
        let inside = std::thread::Builder::new().name("pods".into()).spawn_scoped(scope, || {
            setns(&node, CloneFlags::CLONE_NEWCGROUP)?;
            Ok(work())
        })?;
        match inside.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
    .map_err(|source| FindError::Enter { source })
}

/// A process of the pod. Everything of it was read through its open `/proc/PID`, which the kernel ties to this process:
/// nothing can be of another process that got the same number later.
struct Candidate {
    pid: u32,
    started: u64,
    container: String,
    netns: NetNs,
}

/// What one pass saw.
enum Scan {
    /// Everything there was.
    Steady(PodNetwork),
    /// A process of the pod ended while it was looked at; it may have been the oldest.
    Moving(Option<PodNetwork>),
}

fn scan(proc: &Path, uid: &str, hierarchy: &Hierarchy, host: NsId) -> Result<Scan, FindError> {
    let mut candidates = Vec::new();
    let mut ended = false;
    let mut relative = None;
    let entries = std::fs::read_dir(proc).map_err(|source| FindError::Unreadable { path: proc.into(), source })?;
    for entry in entries {
        let entry = entry.map_err(|source| FindError::Unreadable { path: proc.into(), source })?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let path = entry.path();
        match candidate(&path, pid, uid, hierarchy) {
            Ok(Some(candidate)) => candidates.push(candidate),
            Ok(None) => {}
            Err(Missed::Gone { of_pod }) => ended |= of_pod,
            Err(Missed::Relative) => relative = relative.or(Some(pid)),
            Err(Missed::Unreadable(file, source)) => {
                return Err(FindError::Unreadable { path: path.join(file), source });
            }
        }
    }
    candidates.sort_by_key(|candidate| (candidate.started, candidate.pid));
    let Some(first) = candidates.first() else {
        return match relative {
            _ if ended => Ok(Scan::Moving(None)),
            Some(pid) => Err(FindError::Relative { pid }),
            None => Err(FindError::NotHere { uid: uid.to_owned() }),
        };
    };
    let started = first.started;
    let equals: Vec<&Candidate> = candidates.iter().filter(|candidate| candidate.started == started).collect();
    if equals.iter().any(|candidate| candidate.netns.id() != first.netns.id()) {
        let pids = equals.iter().map(|candidate| candidate.pid).collect();
        return Err(FindError::Ambiguous { uid: uid.to_owned(), pids });
    }
    if first.netns.id() == host {
        return Err(FindError::HostNetwork { uid: uid.to_owned(), pid: first.pid });
    }
    let mut candidates = candidates.into_iter();
    let Some(first) = candidates.next() else { return Ok(Scan::Moving(None)) };
    let strays = candidates
        .filter(|candidate| candidate.netns.id() != first.netns.id())
        .map(|candidate| Stray {
            pid: candidate.pid,
            on_node: candidate.netns.id() == host,
            container: candidate.container,
            netns: candidate.netns,
        })
        .collect();
    let network = PodNetwork { netns: first.netns, pid: first.pid, container: first.container, strays };
    Ok(if ended { Scan::Moving(Some(network)) } else { Scan::Steady(network) })
}

enum Missed {
    /// The process ended; whether it was already known to be the pod's.
    Gone {
        of_pod: bool,
    },
    Relative,
    Unreadable(&'static str, io::Error),
}

/// The process, if it is one of the pod's.
fn candidate(path: &Path, pid: u32, uid: &str, hierarchy: &Hierarchy) -> Result<Option<Candidate>, Missed> {
    let directory: OwnedFd = match File::open(path) {
        Ok(directory) => directory.into(),
        Err(error) => return Err(missed(error, false, "")),
    };
    let belongs = |of_pod| match read(&directory, "cgroup").map(|text| place(&text, hierarchy)) {
        Ok(Ok(place)) if place.uid == uid => Ok(Some(place.container)),
        Ok(Ok(_) | Err(Unplaced::NoPod | Unplaced::Contradiction)) => Ok(None),
        Ok(Err(Unplaced::Relative)) => Err(Missed::Relative),
        Err(error) => Err(missed(error, of_pod, "cgroup")),
    };
    let Some(container) = belongs(false)? else { return Ok(None) };
    // CRI-O's monitor of a container: in the pod's cgroup, in the node's network, no process of the pod.
    if container.starts_with("crio-conmon-") {
        return Ok(None);
    }
    let stat = read(&directory, "stat").map_err(|error| missed(error, true, "stat"))?;
    let Some((state, started)) = state_and_start(&stat) else {
        let error = io::Error::new(io::ErrorKind::InvalidData, "no state and start time behind the last parenthesis");
        return Err(Missed::Unreadable("stat", error));
    };
    // A process that has ended and is not yet collected has no namespace any more.
    if matches!(state, 'Z' | 'X') {
        return Ok(None);
    }
    let netns = open(&directory, "ns/net").and_then(|fd| NetNs::from_fd(fd.into()));
    let netns = netns.map_err(|error| missed(error, true, "ns/net"))?;
    // Moved to another cgroup while we looked: only the node's administrator can do that, and then it is not the pod's.
    if belongs(true)?.as_ref() != Some(&container) {
        return Err(Missed::Gone { of_pod: true });
    }
    Ok(Some(Candidate { pid, started, container, netns }))
}

fn missed(error: io::Error, of_pod: bool, file: &'static str) -> Missed {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT | Errno::ESRCH) => Missed::Gone { of_pod },
        _ => Missed::Unreadable(file, error),
    }
}

fn open(directory: impl AsFd, name: &str) -> io::Result<File> {
    Ok(openat(directory, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?.into())
}

fn read(directory: impl AsFd, name: &str) -> io::Result<String> {
    let mut bytes = Vec::with_capacity(512);
    open(directory, name)?.take(MOST).read_to_end(&mut bytes)?;
    // Cgroup names may hold any byte. What is no text is in no component that is compared.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The fields of `/proc/PID/stat` (proc_pid_stat(5)) from the third on. The second is the process's name in
/// parentheses, which may hold spaces and parentheses of its own: so behind the last one.
fn fields(stat: &str) -> Option<std::str::SplitAsciiWhitespace<'_>> {
    Some(stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace())
}

/// State and start time: fields 3 and 22.
fn state_and_start(stat: &str) -> Option<(char, u64)> {
    let mut fields = fields(stat)?;
    let state = fields.next()?.chars().next()?;
    let started = fields.nth(18)?.parse().ok()?;
    Some((state, started))
}

#[cfg(test)]
mod tests {
    use super::state_and_start;

    #[test]
    fn a_process_name_cannot_pretend_to_be_older() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21";
        assert_eq!(state_and_start(&format!("7 (pause) {rest}")), Some(('S', 4711)));
        assert_eq!(state_and_start(&format!("7 (x) S 1 2) {rest}")), Some(('S', 4711)));
        assert_eq!(state_and_start(&format!("7 (a\nb) {rest}")), Some(('S', 4711)));
        assert_eq!(state_and_start("7 (x) S 1"), None);
        assert_eq!(state_and_start(""), None);
    }
}

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
//! The scan keeps one file open for each namespace, not for each process: a pod may have more processes than the agent
//! may have files.
//!
//! # What a pod controls
//!
//! The names of its processes (never read: `/proc/PID/stat` is parsed behind the last parenthesis) and of the cgroups
//! below its containers' (never matched: see [`cgroup`]).

pub mod cgroup;
mod members;
mod process;
mod scan;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use self::cgroup::{Hierarchy, valid_uid};
pub use self::members::{MOST_PROCESSES, PodProcesses, with_processes};
pub use self::scan::MOST_NAMESPACES;
use self::scan::{TRIES, settle};
use crate::netns::{NetNs, NsId};

/// The network of a pod.
#[derive(Debug)]
pub struct PodNetwork {
    /// The namespace of the pod's sandbox.
    pub netns: NetNs,
    /// The process that spoke for the pod: its oldest.
    pub pid: u32,
    /// The runtime's cgroup that this process is in.
    pub container: String,
    /// Processes of the pod that are in another network namespace, by age.
    pub strays: Vec<Stray>,
    /// How many more there are, in so many namespaces that they are not all held open (see [`MOST_NAMESPACES`]). Above
    /// 0 the pod is not contained by cutting those of `strays`.
    pub more_strays: usize,
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
/// scan reads one small file per process of the node: some 15 µs each. For many pods at a time see [`all`].
///
/// # Errors
/// See [`FindError`]. Nothing is changed in any case.
pub fn find(proc: &Path, uid: &str, hierarchy: &Hierarchy, host: NsId) -> Result<PodNetwork, FindError> {
    if !valid_uid(uid) {
        return Err(FindError::NotAUid(uid.to_owned()));
    }
    let mut settled = process::in_nodes_cgroup_namespace(proc, || settle(proc, Some(uid), hierarchy, host))??;
    match (settled.pods.remove(uid), settled.relative) {
        (Some(found), _) => found,
        (None, Some(pid)) => Err(FindError::Relative { pid }),
        (None, None) => Err(FindError::NotHere { uid: uid.to_owned() }),
    }
}

/// Every pod that has a process on this node, by UID, each as [`find`] finds it: its network namespace, or why there is
/// none that may be cut.
///
/// One pass over the node's processes, however many pods there are; a further one, at most four, while a pod's processes
/// come and go under it.
///
/// # Errors
/// When nothing can be said of any pod: see [`FindError::Relative`] and [`FindError::Unreadable`].
pub fn all(
    proc: &Path,
    hierarchy: &Hierarchy,
    host: NsId,
) -> Result<BTreeMap<String, Result<PodNetwork, FindError>>, FindError> {
    let settled = process::in_nodes_cgroup_namespace(proc, || settle(proc, None, hierarchy, host))??;
    match settled.relative {
        Some(pid) if settled.pods.is_empty() => Err(FindError::Relative { pid }),
        _ => Ok(settled.pods),
    }
}

/// Where this node's kubelet has its pods: see [`Hierarchy::of`], given the calling process's own control group as the
/// node sees it. In a cgroup namespace of its own a container sees `/` and learns nothing.
///
/// What cannot be read teaches nothing: then the first `kubepods` from the root counts, whoever's it is.
pub fn hierarchy(proc: &Path) -> Hierarchy {
    let read = || std::fs::read_to_string(proc.join("self/cgroup")).unwrap_or_default();
    let own = process::in_nodes_cgroup_namespace(proc, read).unwrap_or_else(|_| read());
    Hierarchy::of(&own)
}

/// The node's own network namespace: that of process 1. Never cut it.
///
/// # Errors
/// When it cannot be opened (hostPID, CAP_SYS_PTRACE).
pub fn node_network(proc: &Path) -> Result<NetNs, FindError> {
    let found = process::of_node(proc, "ns/net").and_then(|file| NetNs::from_fd(file.into()));
    found.map_err(|source| FindError::Unreadable { path: proc.join("1/ns/net"), source })
}

//! One process, as its `/proc/PID` shows it, and the namespaces of the node's first.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use nix::errno::Errno;
use nix::sched::CloneFlags;
use tourniquet_capture::{Process as Directory, Stat};

use super::FindError;
use super::cgroup::{Hierarchy, Place, Unplaced, place};
use crate::netns::{NetNs, NsId, inside};

/// More of a file in proc than this is never read: a cgroup path has at most 4,096 bytes, cgroup v1 some 14
/// hierarchies.
const MOST: u64 = 64 * 1024;

/// A process of a pod. Everything of it was read through its open `/proc/PID`, which the kernel ties to this process:
/// nothing can be of another process that got the same number later.
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) started: u64,
    pub(super) place: Place,
    pub(super) netns: NetNs,
}

/// Why a process tells nothing.
pub(super) enum Missed {
    /// It ended; whose it was, if that was seen.
    Gone { uid: Option<String> },
    /// It is shown relative to another cgroup namespace.
    Relative,
    /// A file of it cannot be read; whose it is, if that was seen.
    Unreadable { uid: Option<String>, file: &'static str, source: io::Error },
}

/// The process behind an entry of proc, if it is one of a pod's: of this pod, or of any. One that has ended and is not yet
/// collected is none: it has no namespace any more.
pub(super) fn process(
    path: &Path,
    pid: u32,
    wanted: Option<&str>,
    hierarchy: &Hierarchy,
) -> Result<Option<Process>, Missed> {
    let Some(Placed { directory, place, stat }) = placed(path, wanted, hierarchy)? else { return Ok(None) };
    if matches!(stat.state, 'Z' | 'X') {
        return Ok(None);
    }
    let netns = directory.file("ns/net").and_then(|file| NetNs::from_fd(file.into()));
    let netns = netns.map_err(|error| missed(error, Some(&place), "ns/net"))?;
    stays(&directory, &place, hierarchy)?;
    Ok(Some(Process { pid, started: stat.started, place, netns }))
}

/// A process of a pod, held open.
pub(super) struct Placed {
    pub(super) directory: Directory,
    pub(super) place: Place,
    pub(super) stat: Stat,
}

/// The process behind an entry of proc, if it is one of a pod's: of this pod, or of any.
pub(super) fn placed(path: &Path, wanted: Option<&str>, hierarchy: &Hierarchy) -> Result<Option<Placed>, Missed> {
    let directory = Directory::open(path).map_err(|error| missed(error, None, ""))?;
    let place = match place_of(&directory, hierarchy).map_err(|error| missed(error, None, "cgroup"))? {
        Ok(place) if wanted.is_none_or(|wanted| wanted == place.uid) => place,
        Ok(_) | Err(Unplaced::NoPod | Unplaced::Contradiction) => return Ok(None),
        Err(Unplaced::Relative) => return Err(Missed::Relative),
    };
    // CRI-O's monitor of a container: in the pod's cgroup, in the node's network, no process of the pod.
    if place.container.starts_with("crio-conmon-") {
        return Ok(None);
    }
    let stat = directory.stat().map_err(|error| missed(error, Some(&place), "stat"))?;
    Ok(Some(Placed { directory, place, stat }))
}

/// That it is still there: moved to another cgroup while we looked, which only the node's administrator can do, it is not
/// the pod's.
pub(super) fn stays(directory: &Directory, place: &Place, hierarchy: &Hierarchy) -> Result<(), Missed> {
    let now = place_of(directory, hierarchy).map_err(|error| missed(error, Some(place), "cgroup"))?;
    if now.as_ref() == Ok(place) { Ok(()) } else { Err(Missed::Gone { uid: Some(place.uid.clone()) }) }
}

fn place_of(directory: &Directory, hierarchy: &Hierarchy) -> io::Result<Result<Place, Unplaced>> {
    // Cgroup names may hold any byte. What is no text is in no component that is compared.
    let text = directory.read("cgroup", MOST)?;
    Ok(place(&String::from_utf8_lossy(&text), hierarchy))
}

fn missed(source: io::Error, place: Option<&Place>, file: &'static str) -> Missed {
    let uid = place.map(|place| place.uid.clone());
    match source.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT | Errno::ESRCH) => Missed::Gone { uid },
        _ => Missed::Unreadable { uid, file, source },
    }
}

/// A namespace file of process 1. Some machines' first process lets nobody look at it, CAP_SYS_PTRACE or not; then the
/// kernel's own process 2 (kthreadd) is asked, which has no memory to protect and never leaves the first namespaces.
pub(super) fn of_node(proc: &Path, file: &str) -> io::Result<File> {
    /// A thread of the kernel (`include/linux/sched.h`); no program can set it.
    const PF_KTHREAD: u64 = 0x0020_0000;
    match File::open(proc.join("1").join(file)) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let stat = Directory::open(&proc.join("2")).and_then(|directory| directory.stat());
            if stat.is_ok_and(|stat| stat.flags & PF_KTHREAD != 0) {
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
pub(super) fn in_nodes_cgroup_namespace<T: Send>(proc: &Path, work: impl FnOnce() -> T + Send) -> Result<T, FindError> {
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
    inside(node.as_fd(), CloneFlags::CLONE_NEWCGROUP, work).map_err(|source| FindError::Enter { source })
}

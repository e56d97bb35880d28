//! One process, as its `/proc/PID` shows it, and the namespaces of the node's first.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sched::CloneFlags;
use nix::sys::stat::Mode;

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

/// The process behind an entry of proc, if it is one of a pod's: of this pod, or of any.
pub(super) fn process(
    path: &Path,
    pid: u32,
    wanted: Option<&str>,
    hierarchy: &Hierarchy,
) -> Result<Option<Process>, Missed> {
    let directory: OwnedFd = match File::open(path) {
        Ok(directory) => directory.into(),
        Err(error) => return Err(missed(error, None, "")),
    };
    let belongs = |before: Option<&Place>| {
        let text = read(&directory, "cgroup").map_err(|error| missed(error, before, "cgroup"))?;
        match place(&text, hierarchy) {
            Ok(place) if wanted.is_none_or(|wanted| wanted == place.uid) => Ok(Some(place)),
            Ok(_) | Err(Unplaced::NoPod | Unplaced::Contradiction) => Ok(None),
            Err(Unplaced::Relative) => Err(Missed::Relative),
        }
    };
    let Some(place) = belongs(None)? else { return Ok(None) };
    // CRI-O's monitor of a container: in the pod's cgroup, in the node's network, no process of the pod.
    if place.container.starts_with("crio-conmon-") {
        return Ok(None);
    }
    let stat = read(&directory, "stat").map_err(|error| missed(error, Some(&place), "stat"))?;
    let Some((state, started)) = state_and_start(&stat) else {
        let source = io::Error::new(io::ErrorKind::InvalidData, "no state and start time behind the last parenthesis");
        return Err(Missed::Unreadable { uid: Some(place.uid), file: "stat", source });
    };
    // A process that has ended and is not yet collected has no namespace any more.
    if matches!(state, 'Z' | 'X') {
        return Ok(None);
    }
    let netns = open(&directory, "ns/net").and_then(|fd| NetNs::from_fd(fd.into()));
    let netns = netns.map_err(|error| missed(error, Some(&place), "ns/net"))?;
    // Moved to another cgroup while we looked: only the node's administrator can do that, and then it is not the pod's.
    if belongs(Some(&place))?.as_ref() != Some(&place) {
        return Err(Missed::Gone { uid: Some(place.uid) });
    }
    Ok(Some(Process { pid, started, place, netns }))
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
    use proptest::prelude::*;

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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        /// Names have up to 15 bytes of any kind but NUL (`TASK_COMM_LEN`); a process chooses its own.
        #[test]
        fn no_name_changes_state_or_age(
            name in prop_oneof![
                proptest::collection::vec(1..=255u8, 0..16),
                "[() SZ1-9\n]{0,15}".prop_map(String::into_bytes),
            ],
            state in "[RSDZTtXI]",
            started: u64,
        ) {
            let rest = "1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0";
            let bytes = [b"7 (", &name[..], format!(") {state} {rest} {started} 1056768 1\n").as_bytes()].concat();
            let expected = (state.chars().next().unwrap_or_default(), started);
            prop_assert_eq!(state_and_start(&String::from_utf8_lossy(&bytes)), Some(expected));
        }

        #[test]
        fn any_text_is_read(bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b' '), Just(b')'), b'0'..=b'9'], 0..200)) {
            if let Some((_, started)) = state_and_start(&String::from_utf8_lossy(&bytes)) {
                let digits = started.to_string();
                prop_assert!(bytes.windows(digits.len()).any(|part| part == digits.as_bytes()));
            }
        }
    }
}

//! The processes of a pod, as `/proc` shows them.

pub(crate) mod executable;
pub(crate) mod maps;
pub(crate) mod record;
pub(crate) mod stat;
pub(crate) mod status;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Dir, Mode, OFlags, openat, readlinkat};

pub use self::stat::Stat;
use crate::report::Failure;
use crate::request::Container;
use crate::trailer::Reason;

/// A process of a pod: what tells it from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number, as the proc file system counts.
    pub pid: u32,
    /// When it was started, in ticks of the clock since the node was.
    pub started: u64,
    /// The runtime's cgroup that it is in, such as `cri-containerd-<id>.scope`.
    pub container: String,
}

/// Whoever knows which processes a pod has: by their control groups, which they do not choose. A process that somebody with
/// rights over the node's control groups has moved elsewhere cannot be told.
pub trait Members {
    /// The processes, the oldest first, as they were a moment ago.
    fn oldest_first(&self) -> &[Member];

    /// How many more there were than are told.
    fn more(&self) -> u64 {
        0
    }

    /// The inode of the node's own network namespace, where it is known: of that, only what belongs to the pod is told.
    fn node_network(&self) -> Option<u64> {
        None
    }

    /// One of them, held open.
    ///
    /// # Errors
    /// When it has ended (`ENOENT`, `ESRCH`), also when another process has got its number.
    fn open(&self, member: &Member) -> io::Result<Process>;
}

/// A process, held by its open `/proc/PID`, which the kernel ties to this process: nothing that is read through it can be of
/// another one that got the same number later.
#[derive(Debug)]
pub struct Process(OwnedFd);

impl Process {
    /// The process behind an entry of proc.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(openat(CWD, path, flags, Mode::empty())?))
    }

    /// One of its files, opened for reading. A link of the kernel's, such as `ns/net`, is followed.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn file(&self, name: &str) -> io::Result<File> {
        Ok(openat(&self.0, name, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?.into())
    }

    /// The bytes of one of its files, at most so many.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self, name: &str, most: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(512);
        self.file(name)?.take(most).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Where one of its links points.
    pub(crate) fn link(&self, name: &str) -> io::Result<Vec<u8>> {
        Ok(readlinkat(&self.0, name, Vec::new())?.into_bytes())
    }

    /// Its executable, deleted or not.
    pub(crate) fn path(&self, name: &str) -> io::Result<OwnedFd> {
        Ok(openat(&self.0, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// The names in one of its folders, at most so many, and whether there are more.
    pub(crate) fn names(&self, folder: &str, most: usize) -> io::Result<(Vec<String>, bool)> {
        let mut names = Vec::new();
        for entry in Dir::new(openat(&self.0, folder, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if matches!(name, "." | "..") {
                continue;
            }
            if names.len() == most {
                return Ok((names, true));
            }
            names.push(name.to_owned());
        }
        Ok((names, false))
    }

    /// Its `stat`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn stat(&self) -> io::Result<Stat> {
        Stat::parse(&self.read("stat", 8 * 1024)?).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "no state and start time behind the last parenthesis")
        })
    }

    /// Its numbers, from the outermost PID namespace that proc shows to its own.
    pub(crate) fn pids(&self) -> io::Result<Vec<u32>> {
        Ok(status::Status::parse(&self.read("status", status::MOST)?).pids())
    }
}

impl From<Process> for OwnedFd {
    fn from(process: Process) -> Self {
        process.0
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Those of this container, or all.
pub(crate) fn of<'a>(members: &'a dyn Members, container: Option<&Container>) -> Result<Vec<&'a Member>, Failure> {
    let all = members.oldest_first().iter();
    let Some(container) = container else { return Ok(all.collect()) };
    let found: Vec<&Member> = all.filter(|member| is_of(&member.container, container.bare_id())).collect();
    if found.is_empty() {
        let id = container.bare_id();
        return Err(Failure::new(
            Reason::ContainerNotHere,
            format!(
                "container {:?} ({id}) has no running process on this node; it has ended, or was restarted under another \
                 containerID: compare the pod's status",
                container.name.as_deref().unwrap_or_default()
            ),
        ));
    }
    Ok(found)
}

/// Whether a runtime's cgroup is this container's: `<id>`, or `<runtime>-<id>.scope`.
fn is_of(cgroup: &str, id: &str) -> bool {
    cgroup == id
        || cgroup
            .strip_suffix(".scope")
            .and_then(|name| name.strip_suffix(id))
            .is_some_and(|runtime| runtime.len() > 1 && runtime.ends_with('-'))
}

/// How many PID namespaces deep each container is: what its oldest process has for numbers. So the number by which a container
/// knows a process can be told, also when the process has a namespace of its own below.
#[derive(Default)]
pub(crate) struct Depths(std::collections::BTreeMap<String, usize>);

impl Depths {
    pub(crate) fn of(members: &dyn Members) -> Self {
        let mut depths = Self::default();
        for member in members.oldest_first() {
            if depths.0.contains_key(&member.container) {
                continue;
            }
            if let Ok(pids) = members.open(member).and_then(|process| process.pids())
                && !pids.is_empty()
            {
                depths.0.insert(member.container.clone(), pids.len());
            }
        }
        depths
    }

    /// Which of these numbers is the container's.
    pub(crate) fn pick(&self, container: &str, pids: &[u32]) -> Option<u32> {
        let depth = self.0.get(container).copied().unwrap_or(pids.len());
        pids.get(depth.saturating_sub(1)).or(pids.last()).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::is_of;

    #[test]
    fn a_container_is_told_by_its_whole_identifier() {
        for cgroup in ["0a1b", "cri-containerd-0a1b.scope", "crio-0a1b.scope", "docker-0a1b.scope"] {
            assert!(is_of(cgroup, "0a1b"), "{cgroup}");
        }
        for cgroup in ["", "0a1", "0a1bc", "cri-containerd-00a1b.scope", "-0a1b.scope", "0a1b.scope", "x-0a1b"] {
            assert!(!is_of(cgroup, "0a1b"), "{cgroup}");
        }
    }
}

//! All processes of one pod, for whoever reads them.

use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use tourniquet_capture::{Member, Members, Process};

use super::FindError;
use super::cgroup::{Hierarchy, valid_uid};
use super::process::{Missed, Placed, in_nodes_cgroup_namespace, placed, stays};

/// So many processes of one pod are told at most; the rest is counted. A list of them has some 10 MiB.
pub const MOST_PROCESSES: usize = 50_000;

/// The processes of a pod as one pass over proc saw them, those that have ended and are not yet collected included.
#[derive(Debug)]
pub struct PodProcesses<'a> {
    proc: PathBuf,
    uid: &'a str,
    hierarchy: &'a Hierarchy,
    list: Vec<Member>,
    more: u64,
    network: Option<u64>,
}

/// Runs `work` with the processes of the pod with this UID, where their control groups can be read: on a thread of its own,
/// mostly. A pod in the node's own network has processes like any other.
///
/// # Errors
/// When it has none here, or cannot be told; then `work` has not run.
pub fn with_processes<T: Send>(
    proc: &Path,
    uid: &str,
    hierarchy: &Hierarchy,
    work: impl FnOnce(&PodProcesses<'_>) -> T + Send,
) -> Result<T, FindError> {
    if !valid_uid(uid) {
        return Err(FindError::NotAUid(uid.to_owned()));
    }
    in_nodes_cgroup_namespace(proc, || Ok(work(&PodProcesses::look(proc, uid, hierarchy)?)))?
}

impl<'a> PodProcesses<'a> {
    fn look(proc: &Path, uid: &'a str, hierarchy: &'a Hierarchy) -> Result<Self, FindError> {
        let network = super::node_network(proc).ok().map(|network| network.id().inode());
        let unreadable = |source| FindError::Unreadable { path: proc.into(), source };
        let mut found = Self { proc: proc.into(), uid, hierarchy, list: Vec::new(), more: 0, network };
        let mut relative = None;
        for entry in std::fs::read_dir(proc).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            match placed(&entry.path(), Some(uid), hierarchy) {
                Ok(Some(_)) if found.list.len() >= MOST_PROCESSES => found.more += 1,
                Ok(Some(Placed { place, stat, .. })) => {
                    found.list.push(Member { pid, started: stat.started, container: place.container });
                }
                Ok(None) | Err(Missed::Gone { .. }) => {}
                Err(Missed::Relative) => relative = relative.or(Some(pid)),
                Err(Missed::Unreadable { file, source, .. }) => {
                    return Err(FindError::Unreadable { path: entry.path().join(file), source });
                }
            }
        }
        found.list.sort_unstable_by_key(|member| (member.started, member.pid));
        match (found.list.is_empty(), relative) {
            (false, _) => Ok(found),
            (true, Some(pid)) => Err(FindError::Relative { pid }),
            (true, None) => Err(FindError::NotHere { uid: uid.to_owned() }),
        }
    }
}

impl Members for PodProcesses<'_> {
    fn oldest_first(&self) -> &[Member] {
        &self.list
    }

    fn more(&self) -> u64 {
        self.more
    }

    fn node_network(&self) -> Option<u64> {
        self.network
    }

    fn open(&self, member: &Member) -> io::Result<Process> {
        let path = self.proc.join(member.pid.to_string());
        let gone = || io::Error::from_raw_os_error(Errno::ESRCH as i32);
        let told = |missed| match missed {
            Missed::Gone { .. } | Missed::Relative => gone(),
            Missed::Unreadable { source, .. } => source,
        };
        let placed = placed(&path, Some(self.uid), self.hierarchy).map_err(told)?.ok_or_else(gone)?;
        // Another one may have got its number.
        if placed.stat.started != member.started || placed.place.container != member.container {
            return Err(gone());
        }
        stays(&placed.directory, &placed.place, self.hierarchy).map_err(told)?;
        Ok(placed.directory)
    }
}

//! Passes over all processes of the node, and which of a pod's processes speaks for it.

use std::collections::BTreeMap;
use std::path::Path;

use super::cgroup::Hierarchy;
use super::process::{Missed, Process, process};
use super::{FindError, PodNetwork, Stray};
use crate::netns::{NetNs, NsId};

/// How often the scan starts anew while processes of a pod come and go.
pub(super) const TRIES: usize = 5;

/// So many network namespaces of one pod are held open at most, its own among them. A pod whose processes unshare without
/// end must not take the agent's file descriptors, which it needs for the other pods.
pub const MOST_NAMESPACES: usize = 32;

/// What the passes came to.
pub(super) struct Settled {
    /// The pods, by UID.
    pub(super) pods: BTreeMap<String, Result<PodNetwork, FindError>>,
    /// A process that was shown relative to another cgroup namespace.
    pub(super) relative: Option<u32>,
}

/// Looks at the pod, or at all, until each is told.
pub(super) fn settle(
    proc: &Path,
    wanted: Option<&str>,
    hierarchy: &Hierarchy,
    host: NsId,
) -> Result<Settled, FindError> {
    let mut pods = BTreeMap::new();
    // Those whose processes ended while they were looked at, as the pass before saw them.
    let mut moving: BTreeMap<String, Option<PodNetwork>> = BTreeMap::new();
    let mut relative = None;
    for _ in 0..TRIES {
        let pass = pass(proc, wanted, hierarchy)?;
        relative = pass.relative;
        let before = std::mem::take(&mut moving);
        for (uid, seen) in pass.pods {
            if pods.contains_key(&uid) {
                continue;
            }
            let ended = seen.ended;
            match seen.judge(&uid, host) {
                None if ended => drop(moving.insert(uid, None)),
                None => {}
                // Processes come and go all the time, and a pod that forks without end must not keep the responder out:
                // when two passes in a row name the same oldest process, no older one ended between them.
                Some(Ok(network))
                    if ended && !before.get(&uid).is_some_and(|before| same(before.as_ref(), &network)) =>
                {
                    moving.insert(uid, Some(network));
                }
                Some(told) => drop(pods.insert(uid, told)),
            }
        }
        if moving.is_empty() {
            break;
        }
    }
    pods.extend(moving.into_keys().map(|uid| (uid.clone(), Err(FindError::Unsteady { uid }))));
    Ok(Settled { pods, relative })
}

fn same(before: Option<&PodNetwork>, now: &PodNetwork) -> bool {
    before.is_some_and(|before| (before.pid, before.netns.id()) == (now.pid, now.netns.id()))
}

/// What one pass saw.
#[derive(Default)]
struct Pass {
    pods: BTreeMap<String, Seen>,
    relative: Option<u32>,
}

fn pass(proc: &Path, wanted: Option<&str>, hierarchy: &Hierarchy) -> Result<Pass, FindError> {
    let mut pass = Pass::default();
    let entries = std::fs::read_dir(proc).map_err(|source| FindError::Unreadable { path: proc.into(), source })?;
    for entry in entries {
        let entry = entry.map_err(|source| FindError::Unreadable { path: proc.into(), source })?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let path = entry.path();
        match process(&path, pid, wanted, hierarchy) {
            Ok(Some(process)) => pass.pods.entry(process.place.uid.clone()).or_default().add(process),
            Ok(None) | Err(Missed::Gone { uid: None }) => {}
            Err(Missed::Gone { uid: Some(uid) }) => pass.pods.entry(uid).or_default().ended = true,
            Err(Missed::Relative) => pass.relative = pass.relative.or(Some(pid)),
            Err(Missed::Unreadable { uid, file, source }) => {
                let error = FindError::Unreadable { path: path.join(file), source };
                match uid {
                    Some(uid) => pass.pods.entry(uid).or_default().unreadable = Some(error),
                    // It may be any pod's oldest.
                    None => return Err(error),
                }
            }
        }
    }
    Ok(pass)
}

/// What one pass saw of one pod.
#[derive(Default)]
struct Seen {
    members: Vec<Member>,
    /// The namespaces that are held open.
    held: BTreeMap<NsId, NetNs>,
    /// A process ended while it was looked at; it may have been the oldest.
    ended: bool,
    /// A process could not be looked at; it may have been the oldest.
    unreadable: Option<FindError>,
}

/// A process, without its open namespace.
struct Member {
    started: u64,
    pid: u32,
    container: String,
    netns: NsId,
}

impl Seen {
    fn add(&mut self, process: Process) {
        let Process { pid, started, place, netns } = process;
        let oldest = self.members.iter().min_by_key(|it| (it.started, it.pid));
        let spoke = oldest.map(|it| it.netns);
        let speaks = oldest.is_none_or(|it| (started, pid) < (it.started, it.pid));
        let id = netns.id();
        self.members.push(Member { started, pid, container: place.container, netns: id });
        if self.held.len() < MOST_NAMESPACES || self.held.contains_key(&id) {
            self.held.entry(id).or_insert(netns);
        } else if speaks {
            // The namespace of the oldest is always held; that of the one that was taken for it is one of the others'.
            if let Some(spoke) = spoke {
                self.held.remove(&spoke);
            }
            self.held.insert(id, netns);
        }
    }

    /// The pod's network by what was seen, if any process was.
    fn judge(mut self, uid: &str, host: NsId) -> Option<Result<PodNetwork, FindError>> {
        if let Some(error) = self.unreadable {
            return Some(Err(error));
        }
        self.members.sort_unstable_by_key(|member| (member.started, member.pid));
        let first = self.members.first()?;
        let equals = self.members.iter().take_while(|member| member.started == first.started);
        if equals.clone().any(|member| member.netns != first.netns) {
            let pids = equals.map(|member| member.pid).collect();
            return Some(Err(FindError::Ambiguous { uid: uid.to_owned(), pids }));
        }
        if first.netns == host {
            return Some(Err(FindError::HostNetwork { uid: uid.to_owned(), pid: first.pid }));
        }
        let netns = self.held.get(&first.netns)?.clone();
        let (pid, container) = (first.pid, first.container.clone());
        let mut strays = Vec::new();
        let mut more_strays = 0;
        for member in self.members.into_iter().filter(|member| member.netns != netns.id()) {
            match self.held.get(&member.netns) {
                Some(elsewhere) => strays.push(Stray {
                    pid: member.pid,
                    on_node: member.netns == host,
                    container: member.container,
                    netns: elsewhere.clone(),
                }),
                None => more_strays += 1,
            }
        }
        Some(Ok(PodNetwork { netns, pid, container, strays, more_strays }))
    }
}

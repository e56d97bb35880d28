//! The network of a pod: sockets in every state, routes and neighbours of each network namespace that a process of it is in. As JSON
//! Lines, each with its `kind`; RFC 3227 has these next to memory among what is lost first.
//!
//! They are read from `/proc/PID/net` of one of the processes there, so no namespace is entered. What is not in there: neighbours
//! by IPv6, AF_VSOCK, and who holds a socket that only a single thread of a process has open. A name of a Unix socket may hold line
//! breaks, and look like further sockets in the kernel's list: such have an inode that nobody has open.

mod lines;

use std::collections::BTreeMap;
use std::io::Write;

use serde::Serialize;

use self::lines::{FILES, Line};
use crate::process::record::inode;
use crate::process::{Member, Members, Process, maps};
use crate::report::{Deadline, Failure, Report, is_gone};
use crate::text::write_line;

/// So many lines of one file are told.
const MOST_LINES: u64 = 100_000;
/// So many network namespaces of one pod are looked at.
const MOST_NAMESPACES: usize = 32;
/// So many open files of a process are looked at for sockets, and so many sockets are remembered.
const MOST_FDS: usize = 65_536;
const MOST_OWNED: usize = 200_000;
/// So many processes of a namespace, or owners of a socket, are named.
const MOST_NAMED: usize = 64;

/// One network namespace.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Namespace {
    kind: &'static str,
    inode: u64,
    /// It is that of the pod's oldest process.
    pods: bool,
    /// It is the node's own: then only sockets that a process of the pod has open are told.
    nodes: bool,
    /// Which processes are in it, as the node counts.
    processes: Vec<u32>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    more_processes: bool,
}

/// Who has a socket open.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Owner {
    node_pid: u32,
    fd: u32,
}

/// One line of a list.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    kind: &'static str,
    /// The namespace's inode.
    namespace: u64,
    #[serde(flatten)]
    line: Line,
    #[serde(skip_serializing_if = "Option::is_none")]
    owners: Option<&'a [Owner]>,
}

/// What is seen of the processes.
#[derive(Default)]
struct Seen<'a> {
    /// By their inodes, in the order of their oldest process.
    namespaces: Vec<(u64, Vec<&'a Member>)>,
    owners: BTreeMap<u64, Vec<Owner>>,
    owned: usize,
}

/// Writes the network of these processes.
pub(crate) fn write(
    members: &dyn Members,
    chosen: &[&Member],
    out: &mut dyn Write,
    report: &mut Report,
    deadline: Deadline,
) -> Result<(), Failure> {
    let mut seen = Seen::default();
    for member in chosen {
        deadline.check()?;
        match members.open(member) {
            Ok(process) => seen.look(&process, member, report),
            Err(error) if is_gone(&error) => report.count("ended", 1),
            Err(error) => report.warn(format!("process {} (as the node counts) cannot be read: {error}", member.pid)),
        }
    }
    let pods = seen.namespaces.first().map(|(inode, _)| *inode);
    for (inode, processes) in &seen.namespaces {
        let nodes = members.node_network() == Some(*inode);
        let namespace = Namespace {
            kind: "namespace",
            inode: *inode,
            pods: pods == Some(*inode),
            nodes,
            processes: processes.iter().take(MOST_NAMED).map(|member| member.pid).collect(),
            more_processes: processes.len() > MOST_NAMED,
        };
        write_line(out, &namespace).map_err(Failure::not_taken)?;
        report.count("namespaces", 1);
        let open = processes.iter().find_map(|member| {
            let process = members.open(member).ok()?;
            // Since it was looked at, it may have gone elsewhere.
            (network(&process) == Some(*inode)).then_some(process)
        });
        match open {
            Some(process) => seen.lists(&process, *inode, nodes, out, report, deadline)?,
            None => report.warn(format!("network namespace {inode} cannot be read: its processes ended or left it")),
        }
    }
    Ok(())
}

fn network(process: &Process) -> Option<u64> {
    inode(&process.link("ns/net").ok()?)
}

impl<'a> Seen<'a> {
    fn look(&mut self, process: &Process, member: &'a Member, report: &mut Report) {
        if let Some(namespace) = network(process) {
            if let Some((_, processes)) = self.namespaces.iter_mut().find(|(inode, _)| *inode == namespace) {
                processes.push(member);
            } else if self.namespaces.len() < MOST_NAMESPACES {
                self.namespaces.push((namespace, vec![member]));
            } else {
                report.truncate(format!("processes of the pod are in more than {MOST_NAMESPACES} network namespaces"));
            }
        }
        let (names, more) = match process.names("fd", MOST_FDS) {
            Ok(names) => names,
            Err(error) if is_gone(&error) => return,
            Err(error) => {
                report.count("unreadable", 1);
                report.warn(format!(
                    "the sockets of process {} (as the node counts) cannot be told: {error}",
                    member.pid
                ));
                return;
            }
        };
        if more {
            report.warn(format!("process {} (as the node counts) has more than {MOST_FDS} open files", member.pid));
        }
        for name in names {
            let link = process.link(&format!("fd/{name}")).unwrap_or_default();
            let (Some(inode), Ok(fd)) = (socket(&link), name.parse()) else { continue };
            if self.owned >= MOST_OWNED {
                report
                    .warn(format!("the pod has more than {MOST_OWNED} open sockets: not all are told whose they are"));
                return;
            }
            let owners = self.owners.entry(inode).or_default();
            if owners.len() < MOST_NAMED {
                self.owned += 1;
                owners.push(Owner { node_pid: member.pid, fd });
            }
        }
    }

    fn lists(
        &self,
        process: &Process,
        namespace: u64,
        nodes: bool,
        out: &mut dyn Write,
        report: &mut Report,
        deadline: Deadline,
    ) -> Result<(), Failure> {
        for file in &FILES {
            deadline.check()?;
            let (mut number, mut failure) = (0u64, None);
            let read = maps::lines(process, file.path, |line| {
                if failure.is_some() {
                    return;
                }
                let Some(line) = (file.parse)(line) else { return };
                let inode = line.inode();
                let owners = inode.map(|inode| self.owners.get(&inode).map(Vec::as_slice).unwrap_or_default());
                // Of the node's own network, nothing is told that is not the pod's.
                if nodes && owners.is_none_or(<[Owner]>::is_empty) {
                    return;
                }
                number += 1;
                if number > MOST_LINES {
                    return;
                }
                let entry = Entry { kind: file.kind, namespace, line, owners };
                failure = write_line(out, &entry).err();
            });
            if let Some(error) = failure {
                return Err(Failure::not_taken(error));
            }
            match read {
                // Not every kernel has every protocol.
                Err(error) if is_gone(&error) => {}
                Err(error) => {
                    report.warn(format!("{} of network namespace {namespace} cannot be read: {error}", file.path));
                }
                Ok(()) => report.count(file.counted, number.min(MOST_LINES)),
            }
            if number > MOST_LINES {
                report.truncate(format!(
                    "{} of network namespace {namespace} has {number} lines, of which {MOST_LINES} are told",
                    file.path
                ));
            }
        }
        Ok(())
    }
}

fn socket(link: &[u8]) -> Option<u64> {
    if link.starts_with(b"socket:[") { inode(link) } else { None }
}

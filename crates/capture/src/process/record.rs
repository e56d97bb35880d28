//! One process as one record, and the artifact of all of them.

use std::collections::BTreeMap;
use std::io::{self, Write};

use jiff::Timestamp;
use serde::Serialize;

use super::executable::{Digests, Executable};
use super::maps::{self, Region};
use super::status::{self, Status};
use super::{Depths, Member, Members, Process, stat};
use crate::report::{Deadline, Failure, Report, is_gone};
use crate::text::{Text, write_line};

/// The artifact has at most so many bytes.
const MOST_BYTES: u64 = 512 * 1024 * 1024;
/// More of a command line is never read.
const MOST_CMDLINE: u64 = 128 * 1024;
/// So many regions of a process are told that hold code, and so many that hold none. All are counted.
const MOST_REGIONS: usize = 2048;
/// So many bytes of paths are told of a process's regions with code, of those without, and of its open files. As JSON they may take six
/// times as much, and a capture has no more memory than its agent.
const MOST_TEXT: usize = 1024 * 1024;
/// So many open files of a process are told.
const MOST_FDS: usize = 4096;
/// The kinds of namespaces.
const NAMESPACES: [&str; 8] = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];

/// What is read of a process. Whatever it chose itself (names, arguments, paths) is told as it chose it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    /// As the container counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    /// As the node counts.
    node_pid: u32,
    /// The parent's, as the node counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    node_parent: Option<u32>,
    /// The runtime's cgroup.
    container: String,
    started: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exe: Option<Executable>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cmdline: Option<Vec<Text>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cwd: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    root: Option<Text>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    status: BTreeMap<&'static str, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    namespaces: BTreeMap<&'static str, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cgroup: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    maps: Option<Maps>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fds: Option<Fds>,
    /// What of this could not be read, and why.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    unreadable: BTreeMap<&'static str, String>,
    /// It ended while it was read.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    ended: bool,
}

/// The regions of a process's memory.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Maps {
    total: u64,
    /// Regions with code that is in no file.
    anonymous_code: u64,
    regions: Vec<Region>,
}

/// The open files of a process.
#[derive(Debug, Serialize)]
struct Fds {
    /// There are more than are told.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    more: bool,
    open: BTreeMap<u32, Text>,
}

/// Writes the processes as JSON Lines, one a line, the oldest first.
pub(crate) fn write(
    members: &dyn Members,
    chosen: &[&Member],
    out: &mut dyn Write,
    report: &mut Report,
    deadline: Deadline,
) -> Result<(), Failure> {
    let depths = Depths::of(members);
    let mut digests = Digests::default();
    let mut written = 0u64;
    for (number, member) in chosen.iter().enumerate() {
        deadline.check()?;
        if written > MOST_BYTES {
            report.truncate(format!(
                "{} of {} processes were read: more than {MOST_BYTES} bytes",
                number,
                chosen.len()
            ));
            break;
        }
        let process = match members.open(member) {
            Ok(process) => process,
            Err(error) if is_gone(&error) => {
                report.count("ended", 1);
                continue;
            }
            Err(error) => {
                report.count("unreadable", 1);
                report.warn(format!("process {} (as the node counts) cannot be read: {error}", member.pid));
                continue;
            }
        };
        let record = read(&process, member, &depths, &mut digests);
        report.count("processes", 1);
        tell(&record, member.pid, report);
        let mut line = Vec::new();
        write_line(&mut line, &record).map_err(Failure::not_taken)?;
        written += line.len() as u64;
        out.write_all(&line).map_err(Failure::not_taken)?;
    }
    Ok(())
}

/// What of a record is worth a word in the trailer.
fn tell(record: &Record, pid: u32, report: &mut Report) {
    if record.ended {
        report.count("endedMeanwhile", 1);
    }
    for (what, why) in &record.unreadable {
        report.count("unreadable", 1);
        report.warn(format!("{what} of process {pid} (as the node counts) cannot be read: {why}"));
    }
    if let Some(maps) = &record.maps {
        report.count("anonymousCode", maps.anonymous_code);
        if (maps.regions.len() as u64) < maps.total {
            let text =
                format!("process {pid} (as the node counts) has {} regions of memory: not all are told", maps.total);
            report.truncate(text.clone());
            report.warn(text);
        }
    }
    if record.fds.as_ref().is_some_and(|fds| fds.more) {
        let text = format!("process {pid} (as the node counts) has more open files than are told");
        report.truncate(text.clone());
        report.warn(text);
    }
    if record.exe.as_ref().is_some_and(Executable::is_deleted) {
        report.count("deletedExecutables", 1);
    }
}

fn read(process: &Process, member: &Member, depths: &Depths, digests: &mut Digests) -> Record {
    let mut gaps = Gaps::default();
    let stat = gaps.of("stat", process.stat());
    // One that has ended and was not collected yet has nothing but a name and a state.
    let zombie = stat.is_some_and(|stat| matches!(stat.state, 'Z' | 'X'));
    let status = gaps.of("status", process.read("status", status::MOST)).map(|text| Status::parse(&text));
    let pids = status.as_ref().map(Status::pids).unwrap_or_default();
    let mut record = Record {
        pid: depths.pick(&member.container, &pids),
        node_pid: member.pid,
        node_parent: stat.map(|stat| stat.parent),
        container: member.container.clone(),
        started: stat::at(member.started),
        name: gaps
            .of("comm", process.read("comm", 64))
            .map(|name| Text::from(name.strip_suffix(b"\n").unwrap_or(&name))),
        exe: None,
        cmdline: None,
        cwd: None,
        root: None,
        status: status.map(|status| status.0).unwrap_or_default(),
        namespaces: BTreeMap::new(),
        cgroup: gaps.of("cgroup", process.read("cgroup", 64 * 1024)).map(Text),
        maps: None,
        fds: None,
        unreadable: BTreeMap::new(),
        ended: false,
    };
    if !zombie {
        record.exe = gaps.of("exe", digests.of(process));
        record.cmdline = gaps.of("cmdline", process.read("cmdline", MOST_CMDLINE)).map(|bytes| arguments(&bytes));
        record.cwd = gaps.of("cwd", process.link("cwd")).map(Text);
        record.root = gaps.of("root", process.link("root")).map(Text);
        record.namespaces = namespaces(process);
        record.maps = gaps.of("maps", regions(process));
        record.fds = gaps.of("fd", fds(process));
    }
    record.ended = gaps.gone && !zombie;
    record.unreadable = gaps.unreadable;
    record
}

/// What could not be read.
#[derive(Default)]
struct Gaps {
    unreadable: BTreeMap<&'static str, String>,
    gone: bool,
}

impl Gaps {
    fn of<T>(&mut self, what: &'static str, read: io::Result<T>) -> Option<T> {
        read.map_err(|error| {
            if is_gone(&error) {
                self.gone = true;
            } else {
                self.unreadable.insert(what, error.to_string());
            }
        })
        .ok()
    }
}

fn arguments(bytes: &[u8]) -> Vec<Text> {
    if bytes.is_empty() {
        return Vec::new();
    }
    bytes.strip_suffix(b"\0").unwrap_or(bytes).split(|byte| *byte == 0).map(Text::from).collect()
}

fn namespaces(process: &Process) -> BTreeMap<&'static str, u64> {
    let inode = |kind: &str| inode(&process.link(&format!("ns/{kind}")).ok()?);
    NAMESPACES.iter().filter_map(|kind| Some((*kind, inode(kind)?))).collect()
}

/// The number in `net:[4026531840]` or `socket:[7]`.
pub(crate) fn inode(link: &[u8]) -> Option<u64> {
    std::str::from_utf8(link).ok()?.split_once(":[")?.1.strip_suffix(']')?.parse().ok()
}

fn regions(process: &Process) -> io::Result<Maps> {
    let mut found = Maps::default();
    let (mut code, mut data) = ((0, 0), (0, 0));
    maps::each(process, |region| {
        found.total += 1;
        found.anonymous_code += u64::from(region.is_anonymous_code());
        // A process that makes regions without end must not hide code behind them.
        let kept = if region.is_executable() { &mut code } else { &mut data };
        let (regions, text) = (kept.0 + 1, kept.1 + region.path.len());
        if regions <= MOST_REGIONS && text <= MOST_TEXT {
            *kept = (regions, text);
            found.regions.push(region);
        }
    })?;
    Ok(found)
}

fn fds(process: &Process) -> io::Result<Fds> {
    let (names, mut more) = process.names("fd", MOST_FDS)?;
    let (mut open, mut text) = (BTreeMap::new(), 0);
    for name in &names {
        // Otherwise it was closed since.
        let (Ok(target), Ok(number)) = (process.link(&format!("fd/{name}")), name.parse()) else { continue };
        text += target.len();
        if text > MOST_TEXT {
            more = true;
            break;
        }
        open.insert(number, Text(target));
    }
    Ok(Fds { more, open })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{arguments, inode};
    use crate::text::Text;

    #[test]
    fn arguments_are_split_at_their_ends() {
        let texts = |texts: &[&str]| texts.iter().map(|text| Text::from(text.as_bytes())).collect::<Vec<_>>();
        assert_eq!(arguments(b"sh\0-c\0\0a b\0"), texts(&["sh", "-c", "", "a b"]));
        // A process that has overwritten its own.
        assert_eq!(arguments(b"nginx: master"), texts(&["nginx: master"]));
        assert_eq!(arguments(b""), []);
    }

    proptest! {
        #[test]
        fn any_link_is_read(text in "[a-z:\\[\\]0-9]{0,30}", number: u64) {
            let _ = inode(text.as_bytes());
            prop_assert_eq!(inode(format!("socket:[{number}]").as_bytes()), Some(number));
        }
    }
}

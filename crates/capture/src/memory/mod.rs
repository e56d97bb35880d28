//! The memory of one process, as an ELF core file (core(5)): what gdb, readelf, Volatility and strings take.
//!
//! Only pages that are in memory or swapped out are read. Any other page holds nothing of the process's own, and to read it would
//! make the kernel fetch it: at the pod's expense, up to its memory limit, or for ever where the process itself answers for it
//! (userfaultfd, FUSE). So the core file is no larger than what the process has in memory.
//!
//! The process is not stopped: it goes on changing its memory while that is read, and its registers are not in the file.

mod core;
mod plan;

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use self::core::Core;
use self::plan::{Plan, Segment};
use crate::process::status::Status;
use crate::process::{Depths, Member, Members, Process, stat, status};
use crate::report::{Deadline, Failure, Report, is_gone};
use crate::request::ProcessRef;
use crate::trailer::{ProcessFacts, Reason};

/// Read in pieces of so many bytes.
const PIECE: usize = 256 * 1024;
/// So many further processes that fit are named.
const MOST_OTHERS: usize = 64;

/// Writes the core file of the oldest process that fits.
pub(crate) fn write(
    members: &dyn Members,
    chosen: &[&Member],
    wanted: &ProcessRef,
    most: u64,
    out: &mut dyn Write,
    report: &mut Report,
    deadline: Deadline,
) -> Result<(), Failure> {
    let depths = Depths::of(members);
    let mut fitting = Vec::new();
    for member in chosen {
        deadline.check()?;
        // One that has ended fits nothing.
        if let Ok(process) = members.open(member)
            && fits(&process, member, wanted, &depths).unwrap_or(false)
        {
            fitting.push(*member);
        }
    }
    let Some((member, others)) = fitting.split_first() else {
        return Err(Failure::new(
            Reason::NoSuchProcess,
            format!(
                "{wanted} is not among the {} of the pod or container; collect Processes to see which are",
                chosen.len()
            ),
        ));
    };
    let what = format!("the memory of process {} (as the node counts)", member.pid);
    let unreadable = |error| Failure::unreadable(&what, error);
    let process = members.open(member).map_err(unreadable)?;
    report.process = Some(facts(&process, member, others, &depths));
    if !others.is_empty() {
        let more = others.len();
        report.warn(format!(
            "{more} more processes fit {wanted}; the oldest, {} as the node counts, was taken",
            member.pid
        ));
    }
    // Opened first: the kernel ties it to this memory, also when the process starts another program.
    let memory = process.file("mem").map_err(unreadable)?;
    let plan = Plan::of(&process, most, report, deadline).map_err(|error| match error {
        plan::Error::Read(error) => unreadable(error),
        plan::Error::Late(failure) => failure,
    })?;
    let core = Core::of(&process, member, &plan);
    out.write_all(&core.head).map_err(Failure::not_taken)?;
    let mut reader = Reader { memory, out, deadline, zeroed: 0, first: None };
    for segment in &plan.segments {
        reader.segment(segment, &what)?;
    }
    report.count("segments", plan.segments.len() as u64);
    report.count("bytesOfMemory", plan.bytes());
    if let Some(first) = reader.first {
        report.count("bytesUnreadable", reader.zeroed);
        let zeroed = reader.zeroed;
        report.warn(format!("{zeroed} bytes could not be read, from {first:#x} on, and are zeros in the file"));
    }
    Ok(())
}

fn fits(process: &Process, member: &Member, wanted: &ProcessRef, depths: &Depths) -> io::Result<bool> {
    Ok(match wanted {
        ProcessRef::NodePid(pid) => member.pid == *pid,
        ProcessRef::Pid(pid) => depths.pick(&member.container, &process.pids()?) == Some(*pid),
        ProcessRef::Name(name) => {
            let exe = process.link("exe").unwrap_or_default();
            let exe = exe.strip_suffix(b" (deleted)").unwrap_or(&exe);
            name_of(process) == name.as_bytes() || exe.rsplit(|byte| *byte == b'/').next() == Some(name.as_bytes())
        }
    })
}

fn name_of(process: &Process) -> Vec<u8> {
    let name = process.read("comm", 64).unwrap_or_default();
    name.strip_suffix(b"\n").unwrap_or(&name).to_vec()
}

fn facts(process: &Process, member: &Member, others: &[&Member], depths: &Depths) -> ProcessFacts {
    let status = process.read("status", status::MOST).map(|text| Status::parse(&text)).unwrap_or_default();
    ProcessFacts {
        node_pid: member.pid,
        pid: depths.pick(&member.container, &status.pids()).unwrap_or(member.pid),
        name: String::from_utf8_lossy(&name_of(process)).into_owned(),
        exe: String::from_utf8_lossy(&process.link("exe").unwrap_or_default()).into_owned(),
        started: stat::at(member.started),
        others: others.iter().take(MOST_OTHERS).map(|other| other.pid).collect(),
    }
}

struct Reader<'a> {
    memory: File,
    out: &'a mut dyn Write,
    deadline: Deadline,
    /// Bytes that could not be read.
    zeroed: u64,
    /// Where the first of them was.
    first: Option<u64>,
}

impl Reader<'_> {
    fn segment(&mut self, segment: &Segment, what: &str) -> Result<(), Failure> {
        let mut buffer = vec![0; PIECE];
        let page = usize::try_from(plan::page()).unwrap_or(4096);
        let mut at = segment.start;
        while at < segment.end {
            self.deadline.check()?;
            let length = usize::try_from(segment.end - at).unwrap_or(PIECE).min(PIECE);
            let piece = buffer.get_mut(..length).unwrap_or_default();
            // A page that cannot be read must not take the others with it.
            if self.memory.read_exact_at(piece, at).is_err() {
                let mut here = at;
                for page in piece.chunks_mut(page) {
                    if let Err(error) = self.memory.read_exact_at(page, here) {
                        // The memory is given back as a whole when the process ends, and nothing can be read any more.
                        if error.kind() == io::ErrorKind::UnexpectedEof || is_gone(&error) {
                            return Err(Failure::new(
                                Reason::ProcessGone,
                                format!("{what} is gone at {here:#x}: it has ended"),
                            ));
                        }
                        page.fill(0);
                        self.zeroed += page.len() as u64;
                        self.first = self.first.or(Some(here));
                    }
                    here += page.len() as u64;
                }
            }
            self.out.write_all(piece).map_err(Failure::not_taken)?;
            at += length as u64;
        }
        Ok(())
    }
}

//! Which parts of a process's memory are read.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::process::Process;
use crate::process::maps::{self, Region};
use crate::report::{Deadline, Failure, Report};

/// So many segments are in a core file at most, each a run of pages: their table then has 22 MiB. To have more, a process needs as
/// many pages that are not next to each other.
const MOST_SEGMENTS: usize = 400_000;
/// So many regions are looked at.
const MOST_REGIONS: usize = 100_000;
/// So many bytes of paths are kept.
const MOST_TEXT: usize = 4 * 1024 * 1024;
/// So many pages are asked for by one read of `pagemap`.
const PAGES: usize = 8192;
/// So many pages are asked for in all: 8 TiB of addresses, a minute or two.
const MOST_PAGES: u64 = 1 << 31;

/// Pages that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) start: u64,
    pub(super) end: u64,
    /// `PF_R`, `PF_W`, `PF_X` (elf(5)).
    pub(super) flags: u32,
}

/// What is read.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// By address.
    pub(super) segments: Vec<Segment>,
    /// Regions of files, for the core file's note.
    pub(super) files: Vec<Region>,
}

pub(super) enum Error {
    Read(io::Error),
    Late(Failure),
}

/// Bytes of a page.
pub(super) fn page() -> u64 {
    rustix::param::page_size() as u64
}

impl Plan {
    /// What of the process fits into so many bytes of core file. Memory of its own comes first: heaps, stacks, what was written to,
    /// code that is in no file.
    pub(super) fn of(process: &Process, most: u64, report: &mut Report, deadline: Deadline) -> Result<Self, Error> {
        let mut regions = regions(process).map_err(Error::Read)?;
        let pagemap = process.file("pagemap").map_err(Error::Read)?;
        let devices =
            regions.iter().filter(|found| found.device && !found.region.path.starts_with(b"[vvar")).count() as u64;
        if devices > 0 {
            report.count("regionsOfDevices", devices);
            report.warn(format!("{devices} regions are a device's: not read, it may do harm"));
        }
        regions.retain(|found| !found.device && found.resident);
        // The small ones first: one that is made very large must not hide the others.
        regions.sort_by_key(|found| (found.rank, found.region.length()));
        let mut plan = Self::default();
        let mut left = most.saturating_sub(super::core::most_head(&regions));
        let (mut pages, mut unseen, mut beyond) = (0u64, 0u64, 0u64);
        for found in &regions {
            let count = found.region.length() / page();
            if pages.saturating_add(count) > MOST_PAGES {
                unseen += 1;
                continue;
            }
            pages += count;
            resident(&pagemap, &found.region, deadline, |start, end| {
                let room = left / page() * page();
                let reached = end.min(start.saturating_add(room));
                if reached > start && plan.add(Segment { start, end: reached, flags: found.flags() }) {
                    left -= reached - start;
                    beyond += end - reached;
                } else {
                    beyond += end - start;
                }
            })?;
        }
        if unseen > 0 {
            report.truncate(format!("{unseen} regions are so large that they were not looked through"));
        }
        if beyond > 0 {
            report.truncate(format!(
                "{beyond} bytes of memory are left out: the core file has at most {most} bytes and {MOST_SEGMENTS} segments"
            ));
        }
        plan.segments.sort_unstable_by_key(|segment| segment.start);
        plan.files = regions.into_iter().map(|found| found.region).filter(|region| !region.path.is_empty()).collect();
        plan.files.retain(|region| region.inode != 0);
        plan.files.sort_unstable_by_key(|region| region.start);
        plan.files.truncate(super::core::MOST_FILES);
        Ok(plan)
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.end - segment.start).sum()
    }

    /// Returns whether there was room.
    fn add(&mut self, segment: Segment) -> bool {
        if let Some(last) = self.segments.last_mut()
            && (last.end, last.flags) == (segment.start, segment.flags)
        {
            last.end = segment.end;
        } else if self.segments.len() < MOST_SEGMENTS {
            self.segments.push(segment);
        } else {
            return false;
        }
        true
    }
}

/// A region, and what `smaps` says of it.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) region: Region,
    /// Something of it is in memory or swapped out.
    resident: bool,
    /// What says most comes first.
    rank: u8,
    /// A device's memory, or pages that the kernel keeps for itself.
    device: bool,
}

impl Found {
    fn new(region: Region) -> Self {
        let plain = region.inode != 0 && !region.is_writable() && !region.path.ends_with(b" (deleted)");
        Self { region, resident: false, rank: u8::from(plain), device: false }
    }

    fn flags(&self) -> u32 {
        let bits = [(b'x', 1), (b'w', 2), (b'r', 4)];
        bits.iter().filter(|(letter, _)| self.region.permissions.as_bytes().contains(letter)).map(|(_, bit)| bit).sum()
    }
}

fn regions(process: &Process) -> io::Result<Vec<Found>> {
    let mut regions: Vec<Found> = Vec::new();
    let mut text = 0;
    maps::lines(process, "smaps", |line| {
        if let Some(region) = Region::parse(line) {
            if regions.len() < MOST_REGIONS {
                let mut found = Found::new(region);
                text += found.region.path.len();
                // What it is called is worth less than what is in it.
                if text > MOST_TEXT {
                    found.region.path = Vec::new();
                }
                regions.push(found);
            }
        } else if let Some(last) = regions.last_mut() {
            detail(last, line);
        }
    })?;
    Ok(regions)
}

/// A line of `smaps` below a region's own (proc_pid_smaps(5)).
fn detail(found: &mut Found, line: &[u8]) {
    let text = String::from_utf8_lossy(line);
    let Some((key, value)) = text.split_once(':') else { return };
    match key {
        "Rss" | "Swap" | "Private_Hugetlb" | "Shared_Hugetlb" => {
            found.resident |=
                value.trim().strip_suffix(" kB").and_then(|number| number.parse().ok()).is_some_and(|it: u64| it > 0);
        }
        // "io": memory of a device; "pf": pages that are not the kernel's to count, such as [vvar].
        "VmFlags" => found.device |= value.split_ascii_whitespace().any(|flag| matches!(flag, "io" | "pf")),
        _ => {}
    }
}

/// Calls with each run of pages of a region that are in memory or swapped out.
fn resident(pagemap: &File, region: &Region, deadline: Deadline, mut each: impl FnMut(u64, u64)) -> Result<(), Error> {
    /// Documentation/admin-guide/mm/pagemap.rst
    const PRESENT: u64 = 1 << 63;
    const SWAPPED: u64 = 1 << 62;
    let mut buffer = vec![0; PAGES * 8];
    let mut run: Option<u64> = None;
    let mut at = region.start;
    while at < region.end {
        deadline.check().map_err(Error::Late)?;
        let pages = usize::try_from((region.end - at) / page()).unwrap_or(PAGES).clamp(1, PAGES);
        let piece = buffer.get_mut(..pages * 8).unwrap_or_default();
        pagemap.read_exact_at(piece, at / page() * 8).map_err(Error::Read)?;
        for entry in piece.chunks_exact(8) {
            let entry = u64::from_ne_bytes(entry.try_into().unwrap_or_default());
            match (entry & (PRESENT | SWAPPED) != 0, run) {
                (true, None) => run = Some(at),
                (false, Some(start)) => {
                    each(start, at);
                    run = None;
                }
                _ => {}
            }
            at += page();
        }
    }
    if let Some(start) = run {
        each(start, at.min(region.end));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Found, MOST_SEGMENTS, Plan, Region, Segment, detail, page};

    fn found() -> Found {
        Found::new(Region::parse(b"1000-3000 rw-p 00000000 00:00 0 ").expect("a region"))
    }

    #[test]
    fn what_is_in_memory_and_what_is_a_devices_is_told() {
        let mut found = found();
        for line in ["Size: 8 kB", "Rss:                   0 kB", "VmFlags: rd wr mr mw me ac sd"] {
            detail(&mut found, line.as_bytes());
        }
        assert!(!found.resident && !found.device);
        detail(&mut found, b"Swap:                  4 kB");
        detail(&mut found, b"VmFlags: rd wr io pf dd");
        assert!(found.resident && found.device);
        assert_eq!(found.flags(), 6);
    }

    #[test]
    fn neighbours_are_one_segment_and_there_is_a_bound() {
        let mut plan = Plan::default();
        for (start, flags) in [(0, 6), (1, 6), (2, 4), (4, 4)] {
            assert!(plan.add(Segment { start: start * page(), end: (start + 1) * page(), flags }));
        }
        assert_eq!(plan.segments.len(), 3);
        assert_eq!(plan.bytes(), 4 * page());
        while plan.segments.len() < MOST_SEGMENTS {
            let start = plan.segments.len() as u64 * 2 * page() + 10 * page();
            assert!(plan.add(Segment { start, end: start + page(), flags: 6 }));
        }
        assert!(!plan.add(Segment { start: 0, end: page(), flags: 6 }));
    }

    proptest! {
        #[test]
        fn any_line_is_read(line in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut found = found();
            detail(&mut found, &line);
            prop_assert!(!found.resident || line.ends_with(b" kB"));
        }
    }
}

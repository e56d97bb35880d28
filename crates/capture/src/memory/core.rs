//! The head of an ELF core file (elf(5)), 64 bits, in the byte order of the machine.

use super::plan::{Found, Plan, page};
use crate::process::status::{self, Status};
use crate::process::{Member, Process};

/// So many regions of files are named in the note.
pub(super) const MOST_FILES: usize = 10_000;
/// Bytes of the file's header, and of one of its table.
const HEADER: u64 = 64;
const PROGRAM_HEADER: u64 = 56;
/// As many segments as this, or more, the file's header does not count.
const PN_XNUM: u64 = 0xffff;
/// So many arguments are in the note, as the kernel's own core files have (`ELF_PRARGSZ`).
const ARGUMENTS: usize = 80;

/// The file up to the first byte of memory.
pub(super) struct Core {
    pub(super) head: Vec<u8>,
}

/// How long the head of a core file of these regions gets, as long as each is one run of pages.
pub(super) fn most_head(regions: &[Found]) -> u64 {
    let paths: usize = regions.iter().map(|found| found.region.path.len() + 25).sum();
    HEADER * 2 + PROGRAM_HEADER * (regions.len() as u64 + 1) + paths as u64 + 2 * page() + 16 * 1024
}

impl Core {
    pub(super) fn of(process: &Process, member: &Member, plan: &Plan) -> Self {
        let mut notes = Vec::new();
        note(&mut notes, 3, &prpsinfo(process, member));
        note(&mut notes, 6, &process.read("auxv", 8 * 1024).unwrap_or_default());
        note(&mut notes, 0x4649_4c45, &files(plan));

        let count = plan.segments.len() as u64 + 1;
        // Where the header cannot count them, a section header does (PN_XNUM).
        let many = count >= PN_XNUM;
        let table_end = HEADER + PROGRAM_HEADER * count;
        let notes_at = table_end + if many { HEADER } else { 0 };
        let start = (notes_at + notes.len() as u64).next_multiple_of(page());

        let mut head = b"\x7fELF".to_vec();
        // 64 bits, byte order, version 1, System V.
        head.extend([2, if cfg!(target_endian = "little") { 1 } else { 2 }, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        half(&mut head, 4); // ET_CORE
        half(&mut head, if cfg!(target_arch = "aarch64") { 183 } else { 62 });
        word(&mut head, 1);
        long(&mut head, 0);
        long(&mut head, HEADER);
        long(&mut head, if many { table_end } else { 0 });
        word(&mut head, 0);
        half(&mut head, 64);
        half(&mut head, 56);
        half(&mut head, u16::try_from(count).unwrap_or(u16::MAX));
        half(&mut head, 64);
        half(&mut head, u16::from(many));
        half(&mut head, 0);
        // PT_NOTE
        let length = notes.len() as u64;
        program_header(&mut head, 4, 4, [notes_at, 0, length, 0, 4]);
        let mut offset = start;
        for segment in &plan.segments {
            let length = segment.end - segment.start;
            // PT_LOAD
            program_header(&mut head, 1, segment.flags, [offset, segment.start, length, length, page()]);
            offset += length;
        }
        if many {
            // Of a section header, nothing but sh_info is used.
            head.extend([0; 44]);
            word(&mut head, u32::try_from(count).unwrap_or(u32::MAX));
            head.extend([0; 16]);
        }
        head.extend(notes);
        head.resize(usize::try_from(start).unwrap_or(head.len()), 0);
        Self { head }
    }
}

/// Of: offset, address, bytes in the file, bytes in memory, alignment.
fn program_header(head: &mut Vec<u8>, kind: u32, flags: u32, of: [u64; 5]) {
    let [offset, address, in_file, in_memory, alignment] = of;
    word(head, kind);
    word(head, flags);
    // The second address is a physical one.
    for number in [offset, address, 0, in_file, in_memory, alignment] {
        long(head, number);
    }
}

fn note(notes: &mut Vec<u8>, kind: u32, description: &[u8]) {
    word(notes, 5);
    word(notes, u32::try_from(description.len()).unwrap_or(u32::MAX));
    word(notes, kind);
    notes.extend(b"CORE\0\0\0\0");
    notes.extend(description);
    notes.resize(notes.len().next_multiple_of(4), 0);
}

/// `struct elf_prpsinfo` (`include/linux/elfcore.h`).
fn prpsinfo(process: &Process, member: &Member) -> Vec<u8> {
    let stat = process.stat().ok();
    let state = stat.map_or(b'?', |stat| u8::try_from(stat.state).unwrap_or(b'?'));
    let status = process.read("status", status::MOST).map(|text| Status::parse(&text)).unwrap_or_default();
    let first = |key: &str| status.0.get(key).and_then(|ids| ids.split(' ').next()?.parse().ok()).unwrap_or_default();
    let mut info = vec![0, state, 0, 0];
    word(&mut info, 0);
    long(&mut info, stat.map_or(0, |stat| stat.flags));
    word(&mut info, first("Uid"));
    word(&mut info, first("Gid"));
    word(&mut info, member.pid);
    word(&mut info, stat.map_or(0, |stat| stat.parent));
    word(&mut info, 0);
    word(&mut info, 0);
    info.extend(padded::<16>(&super::name_of(process)));
    let mut arguments = process.read("cmdline", ARGUMENTS as u64).unwrap_or_default();
    arguments.iter_mut().filter(|byte| **byte == 0).for_each(|byte| *byte = b' ');
    info.extend(padded::<ARGUMENTS>(&arguments));
    info
}

/// With a NUL at the end.
fn padded<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut field = [0; N];
    field.iter_mut().take(N - 1).zip(bytes).for_each(|(to, from)| *to = *from);
    field
}

/// The note of mapped files (`fill_files_note` in `fs/binfmt_elf.c`).
fn files(plan: &Plan) -> Vec<u8> {
    let mut note = Vec::new();
    long(&mut note, plan.files.len() as u64);
    long(&mut note, page());
    for region in &plan.files {
        long(&mut note, region.start);
        long(&mut note, region.end);
        long(&mut note, region.offset / page());
    }
    for region in &plan.files {
        note.extend(&region.path);
        note.push(0);
    }
    note
}

fn half(to: &mut Vec<u8>, number: u16) {
    to.extend(number.to_ne_bytes());
}

fn word(to: &mut Vec<u8>, number: u32) {
    to.extend(number.to_ne_bytes());
}

fn long(to: &mut Vec<u8>, number: u64) {
    to.extend(number.to_ne_bytes());
}

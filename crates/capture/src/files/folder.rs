//! A folder and everything below it, as a tar archive in the format of POSIX.1-2001 (pax): times to the nanosecond, names to the
//! byte.
//!
//! Each entry is found and looked at before anything of it is opened, and nothing is opened but folders and regular files: a named
//! pipe or a device cannot block, and is not disturbed. Extended attributes are not in the archive.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{Dir, OFlags, ResolveFlags, Statx, readlinkat};
use tar::{EntryType, Header};

use super::pax::{header, pax, place};
use super::{Root, facts, found, is_kernels, kind, open, same, stat};
use crate::report::{Deadline, Failure, Report};
use crate::text::quoted;
use crate::trailer::{FileType, Reason};

/// Read in pieces of so many bytes.
const PIECE: usize = 256 * 1024;
/// Headers and bytes come in blocks.
const BLOCK: u64 = 512;
/// What ends an archive.
const END: u64 = 2 * BLOCK;
/// So many files with several names are remembered; beyond that, each name has the bytes once more.
const MOST_LINKED: usize = 1_000;

/// So many bytes of names wait to be looked at, at most.
const MOST_WAITING: usize = 16 * 1024 * 1024;
/// What a name takes besides its bytes.
const PER_NAME: usize = 32;

/// Bounds of an archive.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) bytes: u64,
    pub(crate) entries: u64,
}

/// Writes the archive.
pub(crate) fn write(
    root: &Root,
    path: &str,
    bounds: Bounds,
    out: &mut dyn Write,
    report: &mut Report,
    deadline: Deadline,
) -> Result<(), Failure> {
    let name = quoted(path.as_bytes());
    let base = root.find(path, true)?;
    let facts_of = stat(&base).map_err(|error| Failure::unreadable(&name, error))?;
    report.file = Some(facts(&facts_of, None));
    if kind(&facts_of) != FileType::Directory {
        return Err(Failure::new(Reason::NotAFolder, format!("{name} is no folder: collect it as a file")));
    }
    if is_kernels(&base).map_err(|error| Failure::unreadable(&name, error))? {
        let text = format!("{name} is the kernel's, not the container's: collect Processes and Connections");
        return Err(Failure::new(Reason::KernelFile, text));
    }
    Walk { base, out: &mut *out, report, deadline, bounds, written: 0, waiting: 0, linked: BTreeMap::new() }.all()?;
    out.write_all(&[0; END as usize]).map_err(Failure::not_taken)
}

struct Walk<'a> {
    base: OwnedFd,
    out: &'a mut dyn Write,
    report: &'a mut Report,
    deadline: Deadline,
    bounds: Bounds,
    /// Bytes of the archive, without its end.
    written: u64,
    /// Bytes of the names that wait to be looked at.
    waiting: usize,
    /// The first name of files that have several.
    linked: BTreeMap<(u32, u32, u64), Vec<u8>>,
}

impl Walk<'_> {
    fn all(&mut self) -> Result<(), Failure> {
        // What is to be looked at, the next last. Empty: the folder itself.
        let mut pending = vec![Vec::new()];
        let mut entries = 0u64;
        while let Some(path) = pending.pop() {
            self.waiting = self.waiting.saturating_sub(path.len() + PER_NAME);
            self.deadline.check()?;
            entries += 1;
            if entries > self.bounds.entries {
                self.report.truncate(format!("the folder has more than {} entries", self.bounds.entries));
                return Ok(());
            }
            let room = self.bounds.entries.saturating_sub(entries + pending.len() as u64);
            match self.entry(&path, usize::try_from(room).unwrap_or(usize::MAX))? {
                Next::Below(names) => {
                    let below = |name: Vec<u8>| if path.is_empty() { name } else { [&path[..], b"/", &name].concat() };
                    let below: Vec<Vec<u8>> = names.into_iter().rev().map(below).collect();
                    self.waiting += below.iter().map(|path| path.len() + PER_NAME).sum::<usize>();
                    pending.extend(below);
                }
                Next::Further => {}
                Next::Full => return Ok(()),
            }
        }
        Ok(())
    }

    /// One entry. What cannot be read is told, and the rest goes on.
    fn entry(&mut self, path: &[u8], room: usize) -> Result<Next, Failure> {
        match self.look(path, room) {
            Err(Trouble::Stop(failure)) => Err(failure),
            Err(Trouble::Entry(error)) => {
                self.report.count("unreadable", 1);
                self.report.warn(format!("{} cannot be read: {error}", quoted(path)));
                Ok(Next::Further)
            }
            Ok(next) => Ok(next),
        }
    }

    fn look(&mut self, path: &[u8], room: usize) -> Result<Next, Trouble> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
        let here = found(&self.base, if path.is_empty() { b"." } else { path }, flags, resolve)?;
        let stat_of = stat(&here)?;
        let mut header = header(&stat_of);
        match kind(&stat_of) {
            FileType::Directory => self.folder(path, &here, &stat_of, header, room),
            FileType::Regular => self.file(path, &here, &stat_of, header),
            FileType::Symlink => {
                let target = readlinkat(&here, "", Vec::new()).map_err(io::Error::from)?.into_bytes();
                header.set_entry_type(EntryType::Symlink);
                self.empty("links", path, &stat_of, header, &target)
            }
            FileType::Fifo => {
                header.set_entry_type(EntryType::Fifo);
                self.empty("fifos", path, &stat_of, header, b"")
            }
            device @ (FileType::CharacterDevice | FileType::BlockDevice) => {
                let kind = if device == FileType::BlockDevice { EntryType::Block } else { EntryType::Char };
                header.set_entry_type(kind);
                header.set_device_major(stat_of.stx_rdev_major)?;
                header.set_device_minor(stat_of.stx_rdev_minor)?;
                self.empty("devices", path, &stat_of, header, b"")
            }
            FileType::Socket | FileType::Unknown => {
                self.report.count("sockets", 1);
                self.report.warn(format!("{} is a socket, which an archive cannot name", quoted(path)));
                Ok(Next::Further)
            }
        }
    }

    fn folder(
        &mut self,
        path: &[u8],
        here: &OwnedFd,
        stat_of: &Statx,
        mut header: Header,
        room: usize,
    ) -> Result<Next, Trouble> {
        header.set_entry_type(EntryType::Directory);
        let name = if path.is_empty() { b"./".to_vec() } else { [path, b"/"].concat() };
        if let full @ Next::Full = self.empty("folders", &name, stat_of, header, b"")? {
            return Ok(full);
        }
        if is_kernels(here)? {
            self.report.count("kernelFolders", 1);
            self.report
                .warn(format!("{} is the kernel's, not the container's: what is in it is left out", quoted(path)));
            return Ok(Next::Further);
        }
        let (mut names, mut waiting) = (Vec::new(), self.waiting);
        for entry in Dir::new(open(here, OFlags::DIRECTORY)?).map_err(io::Error::from)? {
            let entry = entry.map_err(io::Error::from)?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            waiting += path.len() + 1 + name.len() + PER_NAME;
            if waiting > MOST_WAITING {
                self.report.truncate(format!("{} has more names than are remembered", quoted(path)));
                break;
            }
            if names.len() >= room {
                self.report.truncate(format!("the folder has more than {} entries", self.bounds.entries));
                break;
            }
            names.push(name.to_vec());
        }
        names.sort_unstable();
        Ok(Next::Below(names))
    }

    fn file(&mut self, path: &[u8], here: &OwnedFd, stat_of: &Statx, mut header: Header) -> Result<Next, Trouble> {
        header.set_entry_type(EntryType::Regular);
        let several = stat_of.stx_nlink > 1;
        let which = (stat_of.stx_dev_major, stat_of.stx_dev_minor, stat_of.stx_ino);
        if several && let Some(first) = self.linked.get(&which).cloned() {
            header.set_entry_type(EntryType::Link);
            return self.empty("hardLinks", path, stat_of, header, &first);
        }
        let size = stat_of.stx_size;
        let pax = pax(path, b"", stat_of);
        if !self.fits(&pax, size) {
            self.report.count("leftOut", 1);
            self.report.truncate(format!("{} has {size} bytes, for which there is no room", quoted(path)));
            self.report.warn(format!("{} is left out: it has {size} bytes, for which there is no room", quoted(path)));
            return Ok(Next::Further);
        }
        let mut content = Content { file: open(here, OFlags::empty())?, left: size, read: 0, error: None };
        header.set_size(size);
        self.append(path, b"", &pax, header, &mut content)?;
        let (read, error) = (content.read, content.error);
        let after = stat(&content.file)?;
        if let Some(error) = error {
            self.report.count("unreadable", 1);
            self.report.warn(format!("{} cannot be read after {read} bytes: {error}; the rest is zeros", quoted(path)));
        } else if !same(stat_of, &after) || read < size {
            self.report.count("changed", 1);
            let rest = if read < size { "; the rest is zeros" } else { "" };
            self.report.warn(format!(
                "{} changed while it was read: it had {size} bytes before and {} after, {read} were read{rest}",
                quoted(path),
                after.stx_size
            ));
        }
        self.report.count("files", 1);
        if several && self.linked.len() < MOST_LINKED {
            self.linked.insert(which, path.to_vec());
        }
        Ok(Next::Further)
    }

    /// An entry without bytes.
    fn empty(
        &mut self,
        what: &str,
        path: &[u8],
        stat_of: &Statx,
        header: Header,
        target: &[u8],
    ) -> Result<Next, Trouble> {
        let pax = pax(path, target, stat_of);
        if !self.fits(&pax, 0) {
            self.report.truncate(format!("there is no room for {} and what follows it", quoted(path)));
            return Ok(Next::Full);
        }
        self.append(path, target, &pax, header, &mut io::empty())?;
        self.report.count(what, 1);
        Ok(Next::Further)
    }

    fn fits(&self, pax: &[u8], size: u64) -> bool {
        let more = cost(pax.len() as u64).saturating_add(cost(size));
        self.written.saturating_add(more).saturating_add(END) <= self.bounds.bytes
    }

    fn append(
        &mut self,
        path: &[u8],
        target: &[u8],
        pax: &[u8],
        mut header: Header,
        content: &mut dyn Read,
    ) -> Result<(), Trouble> {
        let mut extended = Header::new_ustar();
        extended.set_entry_type(EntryType::XHeader);
        extended.set_size(pax.len() as u64);
        place(&mut extended.as_old_mut().name, b"pax");
        place(&mut header.as_old_mut().name, path);
        place(&mut header.as_old_mut().linkname, target);
        let size = header.size()?;
        self.block(extended, pax.len() as u64, &mut &*pax)?;
        self.block(header, size, content)?;
        self.written += cost(pax.len() as u64) + cost(size);
        Ok(())
    }

    /// A header, as many bytes as it says, and zeros up to the next block.
    fn block(&mut self, mut header: Header, size: u64, content: &mut dyn Read) -> Result<(), Trouble> {
        header.set_cksum();
        let not_taken = |error| Trouble::Stop(Failure::not_taken(error));
        self.out.write_all(header.as_bytes()).map_err(not_taken)?;
        let mut buffer = vec![0; usize::try_from(size).unwrap_or(PIECE).min(PIECE)];
        loop {
            self.deadline.check().map_err(Trouble::Stop)?;
            let length = content.read(&mut buffer)?;
            if length == 0 {
                break;
            }
            self.out.write_all(buffer.get(..length).unwrap_or_default()).map_err(not_taken)?;
        }
        let rest = usize::try_from(size.next_multiple_of(BLOCK) - size).unwrap_or_default();
        self.out.write_all([0; BLOCK as usize].get(..rest).unwrap_or_default()).map_err(not_taken)
    }
}

/// What follows an entry.
enum Next {
    /// What is in it.
    Below(Vec<Vec<u8>>),
    Further,
    /// There is no room.
    Full,
}

/// What keeps from an entry, or from all of them.
enum Trouble {
    Entry(io::Error),
    Stop(Failure),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Entry(error)
    }
}

/// What an entry with so many bytes takes.
fn cost(size: u64) -> u64 {
    BLOCK.saturating_add(size.div_ceil(BLOCK).saturating_mul(BLOCK))
}

/// As many bytes as a header has promised, whatever becomes of the file meanwhile.
struct Content {
    file: std::fs::File,
    left: u64,
    read: u64,
    error: Option<io::Error>,
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = buffer.get_mut(..room).unwrap_or_default();
        let length = match self.file.read(buffer) {
            Ok(length) if length > 0 || room == 0 => {
                self.read += length as u64;
                length
            }
            ended => {
                self.error = self.error.take().or(ended.err());
                buffer.fill(0);
                room
            }
        };
        self.left -= length as u64;
        Ok(length)
    }
}

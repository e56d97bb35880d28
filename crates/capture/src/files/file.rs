//! One regular file.

use std::io::{self, Read, Write};

use rustix::fs::{OFlags, readlinkat};

use super::{Root, facts, is_kernels, kind, open, same, stat};
use crate::report::{Deadline, Failure, Report};
use crate::text::quoted;
use crate::trailer::{FileType, Reason};

/// Read in pieces of so many bytes.
const PIECE: usize = 256 * 1024;

/// Writes the bytes of a file. What it is goes into the report, also when it cannot be read.
pub(crate) fn write(
    root: &Root,
    path: &str,
    most: u64,
    out: &mut dyn Write,
    report: &mut Report,
    deadline: Deadline,
) -> Result<(), Failure> {
    let name = quoted(path.as_bytes());
    let unreadable = |error: io::Error| Failure::unreadable(&name, error);
    let mut found = root.find(path, false)?;
    let mut before = stat(&found).map_err(unreadable)?;
    let mut target = None;
    if kind(&before) == FileType::Symlink {
        let link = readlinkat(&found, "", Vec::new()).map_err(|error| unreadable(error.into()))?.into_bytes();
        report.file = Some(facts(&before, Some(&link)));
        target = Some(link);
        found = root.find(path, true)?;
        before = stat(&found).map_err(unreadable)?;
    }
    report.file = Some(facts(&before, target.as_deref()));
    match kind(&before) {
        FileType::Regular => {}
        FileType::Directory => {
            return Err(Failure::new(Reason::IsFolder, format!("{name} is a folder: collect it as one")));
        }
        other => {
            return Err(Failure::new(
                Reason::NotAFile,
                format!("{name} is no file but a {other:?}: it has no bytes of its own"),
            ));
        }
    }
    if is_kernels(&found).map_err(unreadable)? {
        let text = format!("{name} is the kernel's, not the container's: collect Processes and Connections");
        return Err(Failure::new(Reason::KernelFile, text));
    }
    let mut file = open(&found, OFlags::empty()).map_err(unreadable)?;
    let mut buffer = vec![0; PIECE];
    let mut read = 0u64;
    loop {
        deadline.check()?;
        let room = usize::try_from(most - read).unwrap_or(PIECE).min(PIECE);
        // One byte more than there is room for tells whether there is more.
        let piece = if room == 0 { buffer.get_mut(..1) } else { buffer.get_mut(..room) }.unwrap_or_default();
        let length =
            file.read(piece).map_err(|error| Failure::unreadable(&format!("{name}, after {read} bytes,"), error))?;
        if length == 0 {
            break;
        }
        if room == 0 {
            report.truncate(format!(
                "{name} has {} bytes, of which {read} were asked for at most",
                before.stx_size.max(read + 1)
            ));
            break;
        }
        out.write_all(piece.get(..length).unwrap_or_default()).map_err(Failure::not_taken)?;
        read += length as u64;
    }
    let after = stat(&file).map_err(unreadable)?;
    if !same(&before, &after) {
        report.warn(format!(
            "{name} changed while it was read: it had {} bytes before and {} after, {read} were read",
            before.stx_size, after.stx_size
        ));
    }
    report.count("files", 1);
    Ok(())
}

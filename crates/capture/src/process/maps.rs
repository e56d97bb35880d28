//! `/proc/PID/maps` (proc_pid_maps(5)): the regions of a process's memory.

use std::io::{self, BufRead, BufReader, Read};

use serde::Serialize;

use super::Process;
use crate::text::Text;

/// More of it is never read: a process has at most 65,530 regions (`vm.max_map_count`), unless its node was told otherwise.
const MOST: u64 = 64 * 1024 * 1024;
/// A path of 4,096 bytes whose line breaks the kernel writes as four characters.
const LONGEST_LINE: u64 = 20 * 1024;

/// One region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// `rwxp`, `r--s` and so on.
    pub(crate) permissions: String,
    pub(crate) offset: u64,
    /// `MAJOR:MINOR` of the file's device, in hexadecimal.
    pub(crate) device: String,
    /// Of the file; 0: none.
    pub(crate) inode: u64,
    /// Of the file, as the kernel writes it: a line break is `\012`, a deleted one ends with ` (deleted)`; or a name in brackets.
    pub(crate) path: Vec<u8>,
}

impl Region {
    /// Reads one line, without its end.
    pub(crate) fn parse(line: &[u8]) -> Option<Self> {
        let mut parts = line.splitn(6, |byte| *byte == b' ');
        let mut part = || std::str::from_utf8(parts.next()?).ok();
        let (start, end) = part()?.split_once('-')?;
        let (start, end) = (number(start)?, number(end)?);
        let permissions = part()?.to_owned();
        let offset = number(part()?)?;
        let device = part()?.to_owned();
        let inode = part()?.parse().ok()?;
        // Padded to a column.
        let path = parts.next().unwrap_or_default();
        let blanks = path.iter().take_while(|byte| **byte == b' ').count();
        let path = path.get(blanks..).unwrap_or_default().to_vec();
        (start < end && permissions.len() == 4).then_some(Self { start, end, permissions, offset, device, inode, path })
    }

    pub(crate) fn length(&self) -> u64 {
        self.end - self.start
    }

    pub(crate) fn is_writable(&self) -> bool {
        self.permissions.as_bytes().get(1) == Some(&b'w')
    }

    pub(crate) fn is_executable(&self) -> bool {
        self.permissions.as_bytes().get(2) == Some(&b'x')
    }

    /// Code that is in no file, the kernel's own (`[vdso]`, `[vsyscall]`) left aside: what is injected or made at run time. So is
    /// that of a compiler at run time (Java, JavaScript, .NET).
    pub(crate) fn is_anonymous_code(&self) -> bool {
        self.is_executable() && self.inode == 0 && !matches!(&*self.path, b"[vdso]" | b"[vsyscall]")
    }
}

impl Serialize for Region {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Written<'a> {
            range: String,
            permissions: &'a str,
            #[serde(skip_serializing_if = "is_zero")]
            offset: u64,
            #[serde(skip_serializing_if = "Option::is_none")]
            file: Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            path: Option<Text>,
            #[serde(skip_serializing_if = "std::ops::Not::not")]
            anonymous_code: bool,
        }
        Written {
            range: format!("{:x}-{:x}", self.start, self.end),
            permissions: &self.permissions,
            offset: self.offset,
            file: (self.inode != 0).then(|| format!("{}:{}", self.device, self.inode)),
            path: (!self.path.is_empty()).then(|| Text(self.path.clone())),
            anonymous_code: self.is_anonymous_code(),
        }
        .serialize(serializer)
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn number(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

/// Every region of a process, one after the other; what is no region's line is passed over.
pub(crate) fn each(process: &Process, mut each: impl FnMut(Region)) -> io::Result<()> {
    lines(process, "maps", |line| {
        if let Some(region) = Region::parse(line) {
            each(region);
        }
    })
}

/// Every line of one of a process's files, without its end.
pub(crate) fn lines(process: &Process, file: &str, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let mut lines = BufReader::new(process.file(file)?.take(MOST));
    let mut line = Vec::new();
    loop {
        line.clear();
        if (&mut lines).take(LONGEST_LINE).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        each(line.strip_suffix(b"\n").unwrap_or(&line));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Region;

    #[test]
    fn lines_are_read_as_the_kernel_writes_them() {
        let line = b"7f10c0000000-7f10c0021000 rwxp 00001000 fd:01 131 /tmp/a b\\012 (deleted)";
        let region = Region::parse(line).expect("a region");
        assert_eq!(
            (region.start, region.length(), region.offset, region.inode),
            (0x7f10_c000_0000, 0x21000, 0x1000, 131)
        );
        assert_eq!((region.device.as_str(), &*region.path), ("fd:01", &b"/tmp/a b\\012 (deleted)"[..]));
        assert!(region.is_writable() && region.is_executable() && !region.is_anonymous_code());
        let vdso = Region::parse(b"7ffd1000-7ffd2000 r-xp 00000000 00:00 0                          [vdso]")
            .expect("a region");
        assert!(vdso.is_executable() && !vdso.is_anonymous_code());
        let code = Region::parse(b"7ffd1000-7ffd2000 rwxp 00000000 00:00 0 ").expect("a region");
        assert!(code.is_anonymous_code() && code.path.is_empty());
        for line in
            [&b""[..], b"2-1 rwxp 0 0:0 0", b"1-1 rwxp 0 0:0 0", b"1-2 rwx 0 0:0 0", b"x-y rwxp 0 0:0 0", b"1-2 rwxp 0"]
        {
            assert_eq!(Region::parse(line), None);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        #[test]
        fn any_line_is_read(bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b' '), Just(b'-'), b'0'..=b'9'], 0..120)) {
            if let Some(region) = Region::parse(&bytes) {
                prop_assert!(region.start < region.end && region.path.len() < bytes.len());
            }
        }

        #[test]
        fn no_path_changes_the_rest(path in proptest::collection::vec(1..=255u8, 0..60)) {
            let line = [b"1000-2000 r-xp 00000000 fd:01 7 /", &path[..]].concat();
            let region = Region::parse(&line).expect("a region");
            prop_assert_eq!((region.start, region.end, region.inode), (0x1000, 0x2000, 7));
            prop_assert_eq!(&region.path[1..], &path[..]);
        }
    }
}

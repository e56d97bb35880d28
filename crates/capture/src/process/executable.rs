//! What a process runs, also when the file was deleted since: it is read through the process itself.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Statx, StatxFlags, openat2, statx};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::Process;
use crate::output::hex;
use crate::text::Text;

/// Of a larger executable no digest is made.
const LARGEST: u64 = 512 * 1024 * 1024;
/// So long is hashed in all: what changes in the pod meanwhile is still to be read.
const LONGEST: Duration = Duration::from_secs(20);
/// So many digests are kept.
const MOST_KEPT: usize = 10_000;

/// What a process runs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Executable {
    path: Text,
    /// Its name is gone: the file was deleted, or replaced by another one.
    deleted: bool,
    size: u64,
    mode: String,
    uid: u32,
    gid: u32,
    /// `MAJOR:MINOR:INODE`, in decimal.
    file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtime: Option<jiff::Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ctime: Option<jiff::Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    /// Why there is no digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_hashed: Option<String>,
}

/// What tells the bytes of one file from others': nobody can set a ctime, and an inode that is used again gets another one.
type Key = (u32, u32, u64, u64, i64, u32);

/// The digests of one capture, each file hashed once.
#[derive(Default)]
pub(crate) struct Digests {
    known: BTreeMap<Key, Result<String, String>>,
    spent: Duration,
}

impl Executable {
    pub(crate) fn is_deleted(&self) -> bool {
        self.deleted
    }
}

impl Digests {
    /// What this process runs.
    pub(crate) fn of(&mut self, process: &Process) -> io::Result<Executable> {
        let text = process.link("exe")?;
        let file = process.path("exe")?;
        let facts = statx(&file, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
        let (path, deleted) = path_of(process, text, &facts);
        let key = (
            facts.stx_dev_major,
            facts.stx_dev_minor,
            facts.stx_ino,
            facts.stx_size,
            facts.stx_ctime.tv_sec,
            facts.stx_ctime.tv_nsec,
        );
        let digest = match self.known.get(&key) {
            Some(digest) => digest.clone(),
            None => {
                let digest = self.digest(process, &facts);
                if self.known.len() < MOST_KEPT {
                    self.known.insert(key, digest.clone());
                }
                digest
            }
        };
        let (sha256, not_hashed) = match digest {
            Ok(sha256) => (Some(sha256), None),
            Err(why) => (None, Some(why)),
        };
        Ok(Executable {
            path: Text(path),
            deleted,
            size: facts.stx_size,
            mode: format!("{:04o}", facts.stx_mode & 0o7777),
            uid: facts.stx_uid,
            gid: facts.stx_gid,
            file: format!("{}:{}:{}", facts.stx_dev_major, facts.stx_dev_minor, facts.stx_ino),
            mtime: time(facts.stx_mtime),
            ctime: time(facts.stx_ctime),
            sha256,
            not_hashed,
        })
    }

    fn digest(&mut self, process: &Process, facts: &Statx) -> Result<String, String> {
        if facts.stx_size > LARGEST {
            return Err(format!("it has more than {LARGEST} bytes: collect it as a file"));
        }
        let left = LONGEST.saturating_sub(self.spent);
        let began = Instant::now();
        let digest = process.file("exe").and_then(|file| hash(file, LARGEST, began + left));
        self.spent += began.elapsed();
        match digest {
            Ok(Some(digest)) => Ok(digest),
            Ok(None) => Err(format!("hashing took longer than {} s in all: collect it as a file", LONGEST.as_secs())),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// The SHA-256, unless it takes too long.
fn hash(mut file: File, most: u64, until: Instant) -> io::Result<Option<String>> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    let mut left = most;
    loop {
        if Instant::now() >= until {
            return Ok(None);
        }
        let length = file.read(&mut buffer)?;
        left = left.saturating_sub(length as u64);
        match buffer.get(..length) {
            Some(bytes) if length > 0 && left > 0 => hasher.update(bytes),
            _ => return Ok((left > 0).then(|| hex(&hasher.finalize()))),
        }
    }
}

/// The path by which it was started, and whether its name is gone. The kernel appends ` (deleted)`; a file may be called so.
fn path_of(process: &Process, mut text: Vec<u8>, facts: &Statx) -> (Vec<u8>, bool) {
    let Some(path) = text.strip_suffix(b" (deleted)") else { return (text, false) };
    let length = path.len();
    // As it sees its files; and as we do, where it shares them with us and has but another root.
    let roots = [process.path("root"), Process::open(Path::new("/")).map(OwnedFd::from)];
    let named_so = roots.into_iter().flatten().any(|root| same(&root, &text, facts).unwrap_or(false));
    if named_so {
        return (text, false);
    }
    text.truncate(length);
    (text, true)
}

fn same(root: &OwnedFd, path: &[u8], facts: &Statx) -> io::Result<bool> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    let found = openat2(root, path, flags, Mode::empty(), resolve)?;
    let found = statx(found.as_fd(), "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
    let which = |it: &Statx| (it.stx_dev_major, it.stx_dev_minor, it.stx_ino);
    Ok(which(&found) == which(facts))
}

/// A time of a file; nothing where it is none that can be written.
pub(crate) fn time(time: rustix::fs::StatxTimestamp) -> Option<jiff::Timestamp> {
    jiff::Timestamp::new(time.tv_sec, i32::try_from(time.tv_nsec).ok()?).ok()
}

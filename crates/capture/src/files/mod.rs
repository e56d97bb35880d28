//! Files of a container, through its root. The kernel resolves each path within that root (openat2(2)): no link leads out of it,
//! neither an absolute one, nor `..`, nor one of the kernel's own in `/proc`.
//!
//! The root is that of the container's first process. One with the right to (CAP_SYS_CHROOT, a user namespace of its own) can
//! have moved to another one, within what it can see anyway.

pub(crate) mod file;
pub(crate) mod folder;
mod pax;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, Statx, StatxFlags, fstatfs, openat, openat2, statx};
use rustix::io::Errno;

use crate::process::executable::time;
use crate::process::{Member, Members};
use crate::report::{Failure, is_gone};
use crate::text::quoted;
use crate::trailer::{FileFacts, FileType, Reason};

/// How often a path is resolved anew while somebody renames what it leads through.
const TRIES: usize = 16;

/// The root of a container.
pub(crate) struct Root(OwnedFd);

impl Root {
    /// That of the oldest of these processes that still is there.
    pub(crate) fn of(members: &dyn Members, chosen: &[&Member]) -> Result<Self, Failure> {
        for member in chosen {
            match members.open(member).and_then(|process| process.path("root")) {
                Ok(root) => return Ok(Self(root)),
                Err(error) if is_gone(&error) => {}
                Err(error) => {
                    let what = format!("the root of process {} (as the node counts)", member.pid);
                    return Err(Failure::unreadable(&what, error));
                }
            }
        }
        Err(Failure::new(Reason::ContainerNotHere, "the container's processes ended while they were looked at"))
    }

    /// What is there by this path: nothing is opened yet, only found.
    fn find(&self, path: &str, follow: bool) -> Result<OwnedFd, Failure> {
        let flags = if follow { OFlags::PATH } else { OFlags::PATH | OFlags::NOFOLLOW };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        found(&self.0, path.as_bytes(), flags, resolve)
            .map_err(|error| Failure::unreadable(&quoted(path.as_bytes()), error))
    }
}

fn found(folder: impl AsFd, path: &[u8], flags: OFlags, resolve: ResolveFlags) -> io::Result<OwnedFd> {
    for _ in 0..TRIES {
        match openat2(&folder, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            found => return Ok(found?),
        }
    }
    Err(Errno::AGAIN.into())
}

/// Opens for reading what was found, and nothing that may have taken its place. Its time of access stays where that is allowed
/// (CAP_FOWNER, or a file of root's).
fn open(found: &OwnedFd, more: OFlags) -> io::Result<File> {
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC | more;
    match openat(CWD, &path, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => Ok(openat(CWD, &path, flags, Mode::empty())?.into()),
        opened => Ok(opened?.into()),
    }
}

fn stat(found: impl AsFd) -> io::Result<Statx> {
    Ok(statx(found, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::BTIME)?)
}

fn kind(stat: &Statx) -> FileType {
    match rustix::fs::FileType::from_raw_mode(stat.stx_mode.into()) {
        rustix::fs::FileType::RegularFile => FileType::Regular,
        rustix::fs::FileType::Directory => FileType::Directory,
        rustix::fs::FileType::Symlink => FileType::Symlink,
        rustix::fs::FileType::Fifo => FileType::Fifo,
        rustix::fs::FileType::Socket => FileType::Socket,
        rustix::fs::FileType::CharacterDevice => FileType::CharacterDevice,
        rustix::fs::FileType::BlockDevice => FileType::BlockDevice,
        rustix::fs::FileType::Unknown => FileType::Unknown,
    }
}

fn facts(stat: &Statx, link_target: Option<&[u8]>) -> FileFacts {
    FileFacts {
        file_type: kind(stat),
        mode: u32::from(stat.stx_mode) & 0o7777,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        size: stat.stx_size,
        links: u64::from(stat.stx_nlink),
        device: format!("{}:{}", stat.stx_dev_major, stat.stx_dev_minor),
        inode: stat.stx_ino,
        mtime: time(stat.stx_mtime).unwrap_or_default(),
        ctime: time(stat.stx_ctime).unwrap_or_default(),
        atime: time(stat.stx_atime).unwrap_or_default(),
        btime: (stat.stx_mask & StatxFlags::BTIME.bits() != 0).then(|| time(stat.stx_btime)).flatten(),
        link_target: link_target.map(|target| String::from_utf8_lossy(target).into_owned()),
    }
}

/// Whether two looks saw the same bytes and metadata, as far as a file system says.
fn same(before: &Statx, after: &Statx) -> bool {
    let seen = |it: &Statx| {
        (it.stx_size, it.stx_ctime.tv_sec, it.stx_ctime.tv_nsec, it.stx_mtime.tv_sec, it.stx_mtime.tv_nsec)
    };
    seen(before) == seen(after)
}

/// Whether this is the kernel's own: files there have no size, reading them may block, never end, or take away what is read
/// (`/proc/kmsg`), and what they say is not the container's (`include/uapi/linux/magic.h`).
fn is_kernels(found: &OwnedFd) -> io::Result<bool> {
    const KERNELS: [u32; 17] = [
        0x0000_9fa0, // proc
        0x6265_6572, // sysfs
        0x0027_e0eb, // cgroup
        0x6367_7270, // cgroup2
        0x6462_6720, // debugfs
        0x7472_6163, // tracefs
        0x7363_6673, // securityfs
        0xcafe_4a11, // bpf
        0x0000_1cd1, // devpts
        0x6265_6570, // configfs
        0x6165_676c, // pstore
        0xde5e_81e4, // efivarfs
        0x4249_4e4d, // binfmt_misc
        0x1980_0202, // mqueue
        0x6e73_6673, // nsfs
        0xf97c_ff8c, // selinuxfs
        0x6573_5543, // fusectl
    ];
    // The type has 32 bits, whatever word it comes in.
    let kind = fstatfs(found)?.f_type & 0xffff_ffff;
    Ok(KERNELS.iter().any(|known| i64::from(*known) == kind))
}

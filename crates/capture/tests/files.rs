//! Files of a container that would lead out of it, or never end.

#![allow(clippy::expect_used, clippy::panic, reason = "tests: a panic is a failed test")]

mod fixtures;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, FileType as Kind, Mode, makedev, mknodat};
use serde_json::json;
use tar::{Archive, EntryType};
use tourniquet_capture::{FileType, Reason};

use crate::fixtures::{Captured, Container};

const MIB: u64 = 1 << 20;

fn container() -> Container {
    let mut container = Container::new();
    container.run("/bin/sleep");
    container
}

fn file(container: &Container, path: &str, most: u64) -> Captured {
    container.capture(json!({"file": {"path": path, "maxBytes": most}}))
}

fn folder(container: &Container, path: &str, most: u64, entries: u64) -> Captured {
    container.capture(json!({"folder": {"path": path, "maxBytes": most, "maxEntries": entries}}))
}

/// What is in an archive: kind, bytes and target, by name.
fn unpacked(captured: &Captured) -> BTreeMap<Vec<u8>, (EntryType, Vec<u8>, Vec<u8>)> {
    assert_eq!(captured.bytes.len() % 512, 0);
    assert!(captured.bytes.ends_with(&[0; 1024]));
    let mut found = BTreeMap::new();
    for entry in Archive::new(&captured.bytes[..]).entries().expect("an archive") {
        let mut entry = entry.expect("an entry");
        let (name, kind) = (entry.path_bytes().into_owned(), entry.header().entry_type());
        let target = entry.link_name_bytes().unwrap_or_default().into_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("bytes");
        assert!(found.insert(name, (kind, bytes, target)).is_none(), "twice");
    }
    found
}

#[test]
fn a_file_comes_with_what_it_is() {
    let container = container();
    let path = container.file("/etc/app.conf", "secret = 1\n");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4640)).expect("changed");
    rustix::fs::chown(&path, Some(rustix::fs::Uid::from_raw(1000)), Some(rustix::fs::Gid::from_raw(2000)))
        .expect("changed");
    let before = fs::metadata(&path).expect("the file");
    let captured = file(&container, "/etc/../etc/./app.conf", MIB).whole();
    assert_eq!(captured.bytes, b"secret = 1\n");
    let facts = captured.trailer.file.expect("what it is");
    assert_eq!((facts.file_type, facts.size, facts.links), (FileType::Regular, 11, 1));
    // chown(2) takes the set-user-ID bit away.
    assert_eq!((facts.mode, facts.uid, facts.gid), (0o640, 1000, 2000));
    assert_eq!(
        facts.mtime.as_nanosecond(),
        i128::from(before.mtime()) * 1_000_000_000 + i128::from(before.mtime_nsec())
    );
    assert_eq!(fs::metadata(&path).expect("the file").atime_nsec(), before.atime_nsec(), "reading it has changed it");
}

#[test]
fn no_link_leads_out() {
    let container = container();
    container.file("/etc/shadow", "the container's");
    fs::create_dir_all(container.path("/a/b")).expect("folders");
    for (target, name) in [
        ("/etc/shadow", "absolute"),
        ("../../../../../../../../../../etc/shadow", "a/b/upwards"),
        ("/proc/1/root/etc/shadow", "elsewhere"),
        ("/", "root"),
        ("loop", "loop"),
    ] {
        symlink(target, container.path(name)).expect("a link");
    }
    for path in ["/absolute", "/a/b/upwards", "/root/etc/shadow", "/root/../../a/b/upwards", "/../../../etc/shadow"] {
        let captured = file(&container, path, MIB).whole();
        assert_eq!(captured.bytes, b"the container's", "{path}");
    }
    let captured = file(&container, "/absolute", MIB).whole();
    assert_eq!(captured.trailer.file.expect("what it is").link_target.as_deref(), Some("/etc/shadow"));
    file(&container, "/loop", MIB).failed(Reason::BadLink);
    file(&container, "/elsewhere", MIB).failed(Reason::NotFound);
    file(&container, "/none", MIB).failed(Reason::NotFound);
    file(&container, "/etc/shadow/x", MIB).failed(Reason::NotFound);
    file(&container, "/a", MIB).failed(Reason::IsFolder);
    folder(&container, "/etc/shadow", MIB, 10).failed(Reason::NotAFolder);
}

/// A process with the machine's root: its /proc is the kernel's, whose links lead anywhere.
#[test]
fn the_kernels_own_files_and_links_are_left_alone() {
    let mut container = Container::new();
    let pid = container.run_outside(Command::new("sleep").arg("60"));
    file(&container, &format!("/proc/{pid}/root/etc/passwd"), MIB).failed(Reason::BadLink);
    file(&container, &format!("/proc/{pid}/exe"), MIB).failed(Reason::BadLink);
    file(&container, "/proc/kmsg", MIB).failed(Reason::KernelFile);
    file(&container, &format!("/proc/{pid}/environ"), MIB).failed(Reason::KernelFile);
    folder(&container, "/proc", MIB, 10).failed(Reason::KernelFile);
    folder(&container, "/sys/kernel", MIB, 10).failed(Reason::KernelFile);
}

#[test]
fn pipes_devices_and_sockets_do_not_block() {
    let container = container();
    mknodat(CWD, container.path("pipe"), Kind::Fifo, Mode::from(0o600), 0).expect("a pipe");
    mknodat(CWD, container.path("tty"), Kind::CharacterDevice, Mode::from(0o600), makedev(5, 0))
        .expect("a device, as root");
    let _socket = UnixListener::bind(container.path("socket")).expect("a socket");
    for (path, kind) in [("/pipe", FileType::Fifo), ("/tty", FileType::CharacterDevice), ("/socket", FileType::Socket)]
    {
        let captured = file(&container, path, MIB).failed(Reason::NotAFile);
        assert_eq!(captured.trailer.file.expect("what it is").file_type, kind);
    }
    let captured = folder(&container, "/", 64 * MIB, 1000).whole();
    let found = unpacked(&captured);
    assert_eq!(found[&b"pipe"[..]].0, EntryType::Fifo);
    assert_eq!(found[&b"tty"[..]].0, EntryType::Char);
    assert!(!found.contains_key(&b"socket"[..]));
    captured.warns("\"socket\" is a socket");
}

#[test]
fn a_file_without_end_is_cut_off_where_was_asked() {
    let container = container();
    let sparse = File::create(container.path("sparse")).expect("a file");
    sparse.set_len(1 << 40).expect("1 TiB of nothing");
    let captured = file(&container, "/sparse", 3 * MIB + 1).truncated();
    assert_eq!(captured.bytes.len() as u64, 3 * MIB + 1);
    assert_eq!(captured.trailer.file.expect("what it is").size, 1 << 40);
    // As many bytes as were asked for are not cut off.
    container.file("/exact", [7; 100]);
    file(&container, "/exact", 100).whole();
    file(&container, "/exact", 99).truncated();
    // In a folder it is left out, and the others are not.
    let captured = folder(&container, "/", 64 * MIB, 1000).truncated();
    captured.warns("\"sparse\" is left out");
    let found = unpacked(&captured);
    assert!(!found.contains_key(&b"sparse"[..]));
    assert_eq!(found[&b"exact"[..]].1, [7; 100]);
}

#[test]
fn a_capture_that_takes_too_long_ends_by_itself() {
    let container = container();
    File::create(container.path("sparse")).expect("a file").set_len(1 << 43).expect("8 TiB of nothing");
    let what = json!({"file": {"path": "/sparse", "maxBytes": 1u64 << 43}});
    let trailer = container.capture_to(what, 1, std::io::sink());
    assert!(trailer.length > 0);
    Captured { bytes: Vec::new(), trailer }.failed(Reason::TimedOut);
}

/// Whoever asked is gone: nothing more is read.
#[test]
fn what_is_not_taken_ends_the_capture() {
    let container = container();
    container.file("/data", vec![1; 1 << 20]);
    let full = File::options().write(true).open("/dev/full").expect("the device");
    let trailer = container.capture_to(json!({"file": {"path": "/data", "maxBytes": MIB}}), 600, full);
    assert_eq!(trailer.length, 0);
    Captured { bytes: Vec::new(), trailer }.failed(Reason::NotTaken);
}

#[test]
fn a_folder_holds_links_as_links_and_names_to_the_byte() {
    let container = container();
    container.file("/data/plain", "bytes");
    fs::hard_link(container.path("/data/plain"), container.path("/data/second")).expect("a link");
    symlink("/etc/shadow", container.path("/data/out")).expect("a link");
    symlink("..", container.path("/data/up")).expect("a link");
    let long_target = "x/".repeat(400);
    symlink(&long_target, container.path("/data/long")).expect("a link");
    let strange = b"a\n\xff\x1b[2J";
    fs::write(container.path("/data").join(OsStr::from_bytes(strange)), "1").expect("a file");
    let deep = [vec![0xfe; 200], vec![b'y'; 200]].map(std::ffi::OsString::from_vec);
    fs::create_dir(container.path("/data").join(&deep[0])).expect("a folder");
    fs::write(container.path("/data").join(&deep[0]).join(&deep[1]), "2").expect("a file");
    let captured = folder(&container, "/data", MIB, 100).whole();
    let found = unpacked(&captured);
    let all =
        |kind: EntryType| found.iter().filter(|(_, it)| it.0 == kind).map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(found[&b"plain"[..]].1, b"bytes");
    assert_eq!((found[&b"second"[..]].0, &found[&b"second"[..]].2[..]), (EntryType::Link, &b"plain"[..]));
    assert_eq!(found[&b"out"[..]].2, b"/etc/shadow");
    assert_eq!(found[&b"up"[..]].2, b"..");
    assert_eq!(found[&b"long"[..]].2, long_target.as_bytes());
    assert_eq!(found[&strange[..]].1, b"1");
    let path = [deep[0].as_bytes(), b"/", deep[1].as_bytes()].concat();
    assert_eq!(found[&path].1, b"2");
    assert_eq!(all(EntryType::Symlink).len(), 3);
    assert_eq!(all(EntryType::Directory).len(), 2);
    assert_eq!((captured.count("files"), captured.count("hardLinks"), captured.count("links")), (3, 1, 3));
}

#[test]
fn other_programs_read_the_archive() {
    let container = container();
    container.file("/data/plain", "bytes");
    container.file(&format!("/data/{}/{}", "d".repeat(150), "f".repeat(150)), "deep");
    symlink("x/".repeat(200), container.path("/data/long")).expect("a link");
    let captured = folder(&container, "/data", MIB, 100).whole();
    let place = tempfile::tempdir().expect("a folder");
    fs::write(place.path().join("a.tar"), &captured.bytes).expect("written");
    let status =
        Command::new("tar").args(["-xf", "a.tar"]).current_dir(place.path()).status().expect("the program tar");
    assert!(status.success());
    assert_eq!(fs::read(place.path().join("d".repeat(150)).join("f".repeat(150))).expect("unpacked"), b"deep");
    let times =
        |path: std::path::PathBuf| fs::symlink_metadata(path).map(|it| (it.mtime(), it.mtime_nsec())).expect("a file");
    assert_eq!(times(place.path().join("plain")), times(container.path("/data/plain")));
}

#[test]
fn a_folder_is_bounded_in_entries_and_bytes() {
    let container = container();
    for number in 0..50 {
        container.file(&format!("/many/{number:02}"), [1; 1000]);
    }
    let captured = folder(&container, "/many", MIB, 10).truncated();
    assert_eq!(unpacked(&captured).len(), 10);
    for most in [1, 1024, 5000, 5001, 20_000] {
        let captured = folder(&container, "/many", most, 100).truncated();
        assert!(captured.bytes.len() as u64 <= most.max(1024), "{most}: {}", captured.bytes.len());
        unpacked(&captured);
    }
    assert_eq!(unpacked(&folder(&container, "/many", MIB, 51).whole()).len(), 51);
}

/// Ends a thread, also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Files that grow and shrink while they are read leave the archive one that can be read.
#[test]
fn files_that_change_while_they_are_read_do_not_break_the_archive() {
    let container = container();
    let (grows, shrinks) = (container.file("/data/grows", ""), container.file("/data/shrinks", ""));
    container.file("/data/zuletzt", "the last");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stopped = Stop(&stop);
        scope.spawn(|| {
            let mut growing = File::options().append(true).open(&grows).expect("the file");
            let shrinking = File::options().write(true).open(&shrinks).expect("the file");
            while !stop.load(Ordering::Relaxed) {
                growing.write_all(&[1; 4096]).expect("written");
                shrinking.set_len(MIB).expect("longer");
                shrinking.set_len(3).expect("shorter");
                if growing.metadata().expect("the file").len() > 2 * MIB {
                    growing.set_len(0).expect("shorter");
                }
            }
        });
        // Until both have been met in the middle, so that it is seen.
        let mut changed = 0;
        fixtures::until("files have changed while they were read", || {
            let captured = folder(&container, "/data", 256 * MIB, 100).whole();
            let found = unpacked(&captured);
            assert_eq!(found.len(), 4);
            assert_eq!(found[&b"zuletzt"[..]].1, b"the last");
            changed += captured.count("changed");
            changed >= 2
        });
        let captured = file(&container, "/data/grows", 256 * MIB).whole();
        assert_eq!(captured.trailer.length, captured.bytes.len() as u64);
        drop(stopped);
    });
}

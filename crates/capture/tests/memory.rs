//! The memory of processes, found back in core files.

#![allow(clippy::expect_used, clippy::panic, reason = "tests: a panic is a failed test")]

mod fixtures;

use std::io::{self, Write};
use std::process::Command;

use serde_json::json;
use tourniquet_capture::Reason;

use crate::fixtures::{Captured, Container, kill, until};

const MOST: u64 = 1 << 30;

/// A program that has a secret in its memory which is in no file and no argument: the digits of a number, repeated.
const KEEPER: &str = "
import mmap, time
secret = ('%d' % (0xC0FFEE * 7919)) * 3
hidden = mmap.mmap(-1, 1 << 30)          # a GiB of which one page is used
hidden[123 << 20:(123 << 20) + 10] = b'inthemid' + b'le'
print('ready', flush=True)
time.sleep(60)
";

fn secret() -> String {
    format!("{}", 0xC0_FFEE_u64 * 7919).repeat(3)
}

fn keeper(container: &mut Container) -> u32 {
    let pid = container.run_outside(Command::new("python3").args(["-c", KEEPER]).stdout(std::process::Stdio::null()));
    until("the page was written", || {
        let captured = dump(container, &json!({"nodePid": pid}), MOST);
        contains(&captured.bytes, b"inthemidle\0\0\0")
    });
    pid
}

fn dump(container: &Container, process: &serde_json::Value, most: u64) -> Captured {
    container.capture(json!({"memory": {"process": process, "maxBytes": most}}))
}

fn contains(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

#[test]
fn what_a_process_has_in_memory_is_found_back() {
    let mut container = Container::new();
    let pid = keeper(&mut container);
    let captured = dump(&container, &json!({"name": "python3"}), MOST).whole();
    assert!(contains(&captured.bytes, secret().as_bytes()));
    assert!(contains(&captured.bytes, b"inthemidle"));
    assert!(contains(&captured.bytes, b"/libc.so.6\0/"), "the note of files");
    // Not the gigabyte of which one page is in use.
    assert!(captured.bytes.len() < 256 << 20, "{} bytes", captured.bytes.len());
    let process = captured.trailer.process.as_ref().expect("whose it is");
    assert_eq!((process.node_pid, process.others.len()), (pid, 0));

    let place = tempfile::tempdir().expect("a folder");
    let path = place.path().join("core");
    std::fs::write(&path, &captured.bytes).expect("written");
    let output =
        Command::new("readelf").args(["-h", "-l", "-n"]).arg(&path).output().expect("the program readelf (binutils)");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for part in ["CORE (Core file)", "LOAD", "NT_PRPSINFO", "NT_AUXV", "NT_FILE"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn memory_is_bounded_and_its_own_comes_first() {
    let mut container = Container::new();
    keeper(&mut container);
    let most = 8 << 20;
    let captured = dump(&container, &json!({"name": "python3"}), most).truncated();
    assert!(captured.bytes.len() as u64 <= most);
    assert!(contains(&captured.bytes, secret().as_bytes()) || captured.bytes.len() as u64 > most / 2);
}

#[test]
fn of_several_that_fit_the_oldest_is_taken_and_the_others_named() {
    let mut container = Container::new();
    let pids = [container.run("/bin/sleep"), container.run("/bin/sleep")];
    let captured = dump(&container, &json!({"name": "sleep"}), MOST).whole();
    let process = captured.trailer.process.expect("whose it is");
    assert_eq!((process.node_pid, process.others), (pids[0], vec![pids[1]]));
    let captured = dump(&container, &json!({"nodePid": pids[1]}), MOST).whole();
    assert_eq!(captured.trailer.process.expect("whose it is").node_pid, pids[1]);
    dump(&container, &json!({"name": "slee"}), MOST).failed(Reason::NoSuchProcess);
    dump(&container, &json!({"pid": 4_000_000}), MOST).failed(Reason::NoSuchProcess);
}

/// Takes the first bytes, and ends the process that they are of.
struct Deadly(u32, bool);

impl Write for Deadly {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !std::mem::replace(&mut self.1, true) {
            kill(self.0);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_process_that_ends_in_the_middle_is_no_whole_memory() {
    let mut container = Container::new();
    let pid = keeper(&mut container);
    let what = json!({"memory": {"process": {"nodePid": pid}, "maxBytes": MOST}});
    let trailer = container.capture_to(what, 600, Deadly(pid, false));
    let length = trailer.length;
    Captured { bytes: Vec::new(), trailer }.failed(Reason::ProcessGone);
    assert!(length > 0, "what was read is kept");
}

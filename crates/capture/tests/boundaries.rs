//! Reading leaves no trace of its own: nothing is written, executed, entered or connected to.

#![allow(clippy::expect_used, clippy::panic, reason = "tests: a panic is a failed test")]

use std::fs;
use std::path::Path;

#[test]
fn the_readers_only_read() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = 0;
    let mut directories = vec![source];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).expect("the sources") {
            let path = entry.expect("the sources").path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).expect("a source file");
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            for what in [
                "Command",
                "setns(",
                "unshare(",
                "ptrace",
                "kill_process",
                "Socket::",
                "TcpStream",
                "File::create",
                "OpenOptions",
                "fs::write",
                "OFlags::WRONLY",
                "OFlags::RDWR",
                "OFlags::CREATE",
                "OFlags::TRUNC",
                "unsafe",
            ] {
                let found = code.lines().find(|line| !line.trim_start().starts_with("//") && line.contains(what));
                assert_eq!(found, None, "{}: {what}", path.display());
            }
            files += 1;
        }
    }
    assert!(files > 10, "the sources are somewhere else");
}

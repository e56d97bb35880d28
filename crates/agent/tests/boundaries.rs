//! What touches the kernel is in the one place that the crate's documentation names for it.

#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests: a panic is a failed test")]

use std::fs;
use std::path::Path;

/// The files under `src` in which this occurs outside of comments, and before the unit tests.
fn files_with(what: &str) -> Vec<String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut directories = vec![source.clone()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).expect("the sources") {
            let path = entry.expect("the sources").path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).expect("a source file");
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            if code.lines().any(|line| !line.trim_start().starts_with("//") && line.contains(what)) {
                found.push(path.strip_prefix(&source).expect("a file below").display().to_string());
            }
        }
    }
    found.sort_unstable();
    found
}

#[test]
fn each_way_into_the_kernel_is_in_one_module() {
    for (what, files) in [
        ("setns(", &["netns.rs"][..]),
        ("unshare(", &[]),
        ("Socket::new(", &["netlink.rs"]),
        ("AddressFamily::XDP", &["cut/queues.rs"]),
        ("SocketType::STREAM", &["reach.rs"]),
        ("UdpSocket::", &["netns.rs"]),
        ("TcpStream", &[]),
        ("TcpListener", &[]),
        // Processes of the pods.
        ("Directory::open(", &["pods/process.rs"]),
        ("openat(", &[]),
        ("Command::new", &[]),
        // The lint forbids it as well.
        ("unsafe", &[]),
    ] {
        assert_eq!(files_with(what), files, "{what}");
    }
}

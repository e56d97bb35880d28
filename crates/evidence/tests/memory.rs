//! What is stored never is in memory as a whole. A program of its own: the peak is the process'.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests: a panic is a failed test")]

mod lab;

use lab::sources::endless;
use lab::{Lab, options, well};

const MIB: u64 = 1024 * 1024;

#[tokio::test]
async fn memory_is_bounded_whatever_the_length() {
    let lab = Lab::new().await;
    let store = lab.store();
    store.check().await.unwrap();
    let idle = kib("VmRSS");
    let stored = store.put("artifact", endless(384 * MIB), well, options()).await.unwrap();
    assert_eq!(stored.length, 384 * MIB);
    let above = (kib("VmHWM") - idle) / 1024;
    assert!(above < 64, "{above} MiB above idle");
}

/// A line of this process' memory, in KiB.
fn kib(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

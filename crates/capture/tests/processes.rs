//! Processes as they are when somebody has something to hide.

#![allow(clippy::expect_used, clippy::panic, reason = "tests: a panic is a failed test")]

mod fixtures;

use std::fs;
use std::process::Command;

use serde_json::json;
use sha2::{Digest, Sha256};
use tourniquet_capture::Reason;

use crate::fixtures::{Container, until};

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_container_without_a_shell_is_read_whole() {
    let mut container = Container::new();
    let pid = container.run("/bin/sleep");
    let captured = container.capture(json!({"processes": {}})).whole();
    let [record] = &captured.lines()[..] else { panic!("one process") };
    let program = fs::read(container.path("/bin/sleep")).expect("the program");
    assert_eq!(record["nodePid"], pid);
    assert_eq!(record["exe"]["sha256"], sha256(&program));
    assert_eq!(record["exe"]["size"], program.len());
    assert_eq!(record["exe"]["deleted"], false);
    assert_eq!(record["cmdline"], json!(["/bin/sleep", "60"]));
    assert_eq!(record["name"], "sleep");
    assert_eq!(record["status"]["Uid"], "0 0 0 0");
    assert!(record["status"]["CapEff"].is_string() && record["status"]["Seccomp"].is_string());
    assert!(record["namespaces"]["net"].is_u64());
    assert!(record["fds"]["open"]["0"].is_string());
    assert!(record["maps"]["regions"].as_array().expect("regions").iter().any(|it| it["permissions"] == "r-xp"));
    assert_eq!(record["unreadable"], json!(null));
}

#[test]
fn a_deleted_executable_is_hashed_all_the_same() {
    let mut container = Container::new();
    let program = fs::read(container.path("/bin/sleep")).expect("the program");
    // Called as the kernel calls deleted ones, and there.
    fs::copy(container.path("/bin/sleep"), container.path("/bin/x (deleted)")).expect("a copy");
    fs::copy(container.path("/bin/sleep"), container.path("/bin/miner")).expect("a copy");
    let (named, deleted) = (container.run("/bin/x (deleted)"), container.run("/bin/miner"));
    fs::remove_file(container.path("/bin/miner")).expect("deleted");
    // Another file by the same name is not what runs.
    container.file("/bin/miner", "harmless");

    let record = container.process(deleted);
    assert_eq!(record["exe"]["deleted"], true);
    assert!(record["exe"]["path"].as_str().expect("a path").ends_with("/bin/miner"));
    assert_eq!(record["exe"]["sha256"], sha256(&program));
    let record = container.process(named);
    assert!(record["exe"]["path"].as_str().expect("a path").ends_with("/bin/x (deleted)"), "{record}");
    assert_eq!(record["exe"]["deleted"], false, "{record}");
}

#[test]
fn a_name_full_of_line_breaks_and_escapes_stays_in_its_field() {
    let mut container = Container::new();
    let name = "/bin/a\n) R\u{1b}[2J\u{9b}";
    fs::copy(container.path("/bin/sleep"), container.path(name)).expect("a copy");
    let pid = container.run(name);
    let captured = container.capture(json!({"processes": {}})).whole();
    let text = String::from_utf8(captured.bytes.clone()).expect("text");
    assert!(text.trim_end().chars().all(|it| !it.is_control()), "{text:?}");
    let [record] = &captured.lines()[..] else { panic!("one process, one line") };
    assert_eq!(record["nodePid"], pid);
    assert_eq!(record["name"], "a\n) R\u{1b}[2J\u{9b}");
    assert_eq!(record["cmdline"][0], name);
}

#[test]
fn a_process_that_has_gone_is_counted_and_the_others_are_told() {
    let mut container = Container::new();
    let (gone, stays) = (container.run("/bin/sleep"), container.run("/bin/sleep"));
    container.end(gone);
    let captured = container.capture(json!({"processes": {}})).whole();
    assert_eq!(captured.lines().iter().map(|line| line["nodePid"].clone()).collect::<Vec<_>>(), [json!(stays)]);
    assert_eq!((captured.count("processes"), captured.count("ended")), (1, 1));
    container
        .capture(json!({"memory": {"process": {"nodePid": gone}, "maxBytes": 1 << 20}}))
        .failed(Reason::NoSuchProcess);
}

/// It ends between being opened and being read, which is the worst moment.
#[test]
fn a_process_that_ends_while_it_is_read_is_told_as_far_as_it_was() {
    let mut container = Container::new();
    let pid = container.run("/bin/sleep");
    container.doomed = true;
    let [record] = &container.capture(json!({"processes": {}})).whole().lines()[..] else { panic!("one process") };
    assert_eq!((&record["nodePid"], &record["name"]), (&json!(pid), &json!("sleep")));
    assert!(
        record["exe"].is_null() && record["status"]["State"].as_str().expect("a state").starts_with('Z'),
        "{record}"
    );
}

#[test]
fn the_environment_comes_without_its_values_unless_they_are_asked_for() {
    let mut container = Container::new();
    let mut command = Command::new("sleep");
    container.run_outside(command.arg("60").env_clear().env("TOKEN", "hunter2").env("PATH", "/bin"));
    until("the program runs", || {
        let captured = container.capture(json!({"environment": {"values": false}})).whole();
        let text = String::from_utf8(captured.bytes).expect("text");
        assert!(!text.contains("hunter2"), "{text}");
        text.contains("\"names\":{\"list\":[\"PATH\",\"TOKEN\"],\"without\":0}")
    });
    let captured = container.capture(json!({"environment": {"values": true}})).whole();
    assert!(String::from_utf8(captured.bytes).expect("text").contains("\"values\":[\"PATH=/bin\",\"TOKEN=hunter2\"]"));
}

#[test]
fn another_container_is_not_here() {
    let mut container = Container::new();
    container.run("/bin/sleep");
    let request =
        r#"{"pod":{"uid":"a"},"container":{"name":"web","id":"containerd://0a1b2c3"},"what":{"processes":{}}}"#;
    let request = tourniquet_capture::Request::parse(request).expect("a request");
    let mut out = Vec::new();
    let trailer = tourniquet_capture::Capture::new(request).run(&container, &mut out);
    fixtures::Captured { bytes: out, trailer }.failed(Reason::ContainerNotHere);
}

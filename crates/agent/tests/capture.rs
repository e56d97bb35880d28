//! The agent's subcommand as the operator starts it: a pod is found by its control groups and read from outside.

#![allow(clippy::expect_used, clippy::panic, reason = "tests: a panic is a failed test")]

mod lab;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::Command;

use serde_json::{Value, json};
use tourniquet_agent::netns::NetNs;
use tourniquet_capture::{Outcome, Reason, SUBCOMMAND};

use crate::lab::captures::{capture, capture_with, captured, run};
use crate::lab::groups::Groups;

const UID: &str = "9c2d1e34-5b6f-4a70-8123-b4c5d6e7f809";
const USERS: &str = "77777777-2222-3333-4444-555555555555";
const OTHER: &str = "11111111-2222-3333-4444-555555555555";

#[test]
fn a_pod_is_read_by_its_uid_and_a_container_by_its_identifier() {
    let network = NetNs::current().expect("a network");
    let mut groups = Groups::new();
    let pod = |uid: &str, id: &str| format!("kubepods/burstable/pod{uid}/{id}");
    let web = groups.process(&network, &pod(UID, "aaaa"));
    let side = groups.process(&network, &pod(UID, "bbbb"));
    let below = groups.process(&network, &format!("{}/system.slice", pod(UID, "bbbb")));
    let other = groups.process(&network, &pod(OTHER, "aaaa"));

    let processes = || json!({"processes": {}});
    let mut all = capture(UID, None, processes()).whole().pids();
    all.sort_unstable_by_key(Value::as_u64);
    let mut expected = vec![json!(web), json!(side), json!(below)];
    expected.sort_unstable_by_key(Value::as_u64);
    assert_eq!(all, expected);
    assert_eq!(capture(UID, Some("aaaa"), processes()).whole().pids(), [json!(web)]);
    assert_eq!(capture(OTHER, Some("aaaa"), processes()).whole().pids(), [json!(other)]);
    let captured =
        capture(UID, Some("aaaa"), json!({"memory": {"process": {"name": "sleep"}, "maxBytes": 1 << 30}})).whole();
    assert!(captured.bytes.starts_with(b"\x7fELF"));
    assert_eq!(captured.trailer.process.expect("whose it is").node_pid, web);
    let captured =
        capture(UID, Some("aaaa"), json!({"file": {"path": "/proc/../dev/../bin/sleep", "maxBytes": 1 << 20}})).whole();
    assert_eq!(captured.bytes, std::fs::read("/bin/sleep").expect("the program"));

    capture(UID, Some("cccc"), processes()).failed(Reason::ContainerNotHere);
    capture("99999999-9999-9999-9999-999999999999", None, processes()).failed(Reason::PodNotHere);
    // Another pod's process is none of this one.
    let memory = json!({"memory": {"process": {"nodePid": other}, "maxBytes": 1 << 30}});
    capture(UID, None, memory).failed(Reason::NoSuchProcess);
}

#[test]
fn what_is_no_request_is_refused_in_one_line() {
    for arguments in [&[SUBCOMMAND][..], &[SUBCOMMAND, "{"], &[SUBCOMMAND, "{}", "{}"], &[SUBCOMMAND, "--help"]] {
        captured(&run(arguments)).failed(Reason::BadRequest);
    }
    captured(&run(&[SUBCOMMAND, r#"{"pod":{"uid":"../1"},"what":{"processes":{}}}"#])).failed(Reason::BadRequest);
    // Without it, the program is what it was: it asks for its node.
    let output = run(&[""; 0]);
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("--node"));
}

/// The capabilities of the chart, and the four of them that are enough for the cut.
#[test]
fn the_agents_capabilities_are_enough_and_what_is_missing_is_said() {
    const CUT: &str = "+sys_admin,+net_admin,+net_raw,+sys_ptrace";
    let all = format!("{CUT},+dac_read_search");
    let network = NetNs::current().expect("a network");
    let mut groups = Groups::new();
    let mut command = Command::new("sleep");
    let user = command.arg("60").uid(1000).gid(1000).env("TOKEN", "hunter2");
    groups.run(&network, &format!("kubepods/pod{USERS}/aaaa"), user);
    let place = tempfile::tempdir().expect("a folder");
    let private = place.path().join("private");
    fs::write(&private, "the user's").expect("a file");
    fs::set_permissions(&private, fs::Permissions::from_mode(0o600)).expect("changed");
    chown(&private, Some(1000), Some(1000)).expect("changed");

    let file = json!({"file": {"path": private, "maxBytes": 100}});
    let memory = json!({"memory": {"process": {"name": "sleep"}, "maxBytes": 1 << 30}});
    let environment = json!({"environment": {"values": true}});
    let read = |capabilities: &str, what: &Value| capture_with(capabilities, USERS, Some("aaaa"), what.clone());
    assert_eq!(read(&all, &file).whole().bytes, b"the user's");
    assert!(read(&all, &memory).whole().bytes.len() > 4096);
    assert!(String::from_utf8_lossy(&read(&all, &environment).whole().bytes).contains("TOKEN=hunter2"));
    let captured = read(&all, &json!({"processes": {}})).whole();
    assert_eq!(captured.lines()[0]["unreadable"], Value::Null, "{:?}", captured.trailer);

    read(CUT, &file).failed(Reason::Denied);
    read(CUT, &memory).failed(Reason::Denied);
    read(CUT, &environment).failed(Reason::Denied);
    let captured = read(CUT, &json!({"processes": {}}));
    assert!(matches!(captured.trailer.outcome, Outcome::Truncated { .. }), "{:?}", captured.trailer);
    assert!(captured.lines()[0]["unreadable"]["fd"].as_str().expect("why").contains("Permission denied"));
    assert!(captured.lines()[0]["exe"]["sha256"].is_string());
}

//! The network of a pod, as the agent's subcommand reads it. A program of its own: it joins the pod.

#![allow(clippy::expect_used, clippy::panic, reason = "tests: a panic is a failed test")]

mod lab;

use std::net::{TcpListener, UdpSocket};

use serde_json::json;

use crate::lab::captures::capture;
use crate::lab::groups::Groups;
use crate::lab::{Lab, UNPROBED, V4, ip, namespace};

const UID: &str = "5a1f8a52-6a3c-4f0e-9a51-0c7b64f7c0de";

#[test]
fn the_network_of_a_pod_and_of_a_stray_is_told_with_whose_sockets_are() {
    let lab = Lab::new();
    let stray = namespace();
    ip(&stray, "link set lo up");
    let mut groups = Groups::new();
    let group = format!("kubepods/pod{UID}/aaaa");
    // This test's own process has the sockets, and is in the pod's control group; so is one that went elsewhere.
    let _listens =
        lab.pod.enter(|| TcpListener::bind((V4.pod, UNPROBED))).expect("the namespace").expect("a free port");
    let unconnected = lab.pod.enter(|| UdpSocket::bind((V4.pod, 5353))).expect("the namespace").expect("a free port");
    unconnected.send_to(b"hello", (V4.outsider, 9)).expect("sent");
    let oldest = groups.process(&lab.pod, &group);
    let left = groups.process(&stray, &group);
    groups.join(&group);
    let own = std::process::id();
    let captured = capture(UID, None, json!({"connections": {}})).whole();
    let lines = captured.lines();
    let of = |kind: &str| lines.iter().filter(|line| line["kind"] == kind).collect::<Vec<_>>();
    let with = |kind: &str, what: &str, value: &str| {
        of(kind)
            .into_iter()
            .find(|line| line[what] == value)
            .unwrap_or_else(|| panic!("{kind} {value}: {lines:#?}"))
            .clone()
    };
    let namespaces = of("namespace");
    let inode = |pid: u32| namespaces.iter().find(|it| it["processes"].as_array().expect("pids").contains(&json!(pid)));
    assert_eq!(inode(oldest).expect("the pod's")["inode"], lab.pod.id().inode());
    assert_eq!(inode(left).expect("the stray's")["inode"], stray.id().inode());
    // This process itself is in the machine's own network, of which only its sockets are told.
    assert_eq!(inode(own).expect("the node's")["nodes"], true);

    let listening = with("tcp", "state", "listen");
    assert_eq!(listening["local"], format!("{}:{UNPROBED}", V4.pod));
    assert_eq!(listening["namespace"], lab.pod.id().inode());
    assert_eq!(listening["owners"][0]["nodePid"], own);
    let unconnected = with("udp", "state", "unconnected");
    assert_eq!(unconnected["local"], format!("{}:5353", V4.pod));
    let neighbour = with("neighbour", "address", &V4.outsider.to_string());
    assert_eq!(neighbour["interface"], "eth0");
    assert!(of("route").iter().any(|route| route["interface"] == "eth0" && route["prefix"] == 24));
    assert!(of("interface").iter().any(|interface| interface["interface"] == "eth0"));
    for line in &lines {
        let nodes = namespaces.iter().any(|it| it["nodes"] == true && it["inode"] == line["namespace"]);
        assert!(!nodes || line["owners"].as_array().is_some_and(|owners| !owners.is_empty()), "not the pod's: {line}");
    }
}

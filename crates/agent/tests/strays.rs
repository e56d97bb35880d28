//! A process of a pod that leaves the pod's network for one of its own, and takes an interface along: no hook of the
//! pod's cut comes with it, so that namespace is cut too.

#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests: a panic is a failed test")]

mod lab;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use tourniquet_agent::cut::{Hooks, cut, is_cut, lift};
use tourniquet_agent::pods::cgroup::Hierarchy;
use tourniquet_agent::pods::{find, node_network};

use crate::lab::groups::Groups;
use crate::lab::{Lab, SILENCE, UNPROBED, V4, V6, answers, echo_tcp, ip, namespace, times_out};

#[test]
fn a_strays_network_is_cut_and_let_go_like_the_pods() {
    let uid = "9c2d1e34-5b6f-4a70-8123-b4c5d6e7f809";
    let proc = Path::new("/proc");
    let host = node_network(proc).expect("the node's namespace").id();
    let lab = Lab::new();
    let elsewhere = namespace();
    ip(&elsewhere, "link set lo up");
    let mut groups = Groups::new();
    let group = format!("kubepods/burstable/pod{uid}/aaaa");
    groups.process(&lab.pod, &group);
    // Start times have steps of 10 ms, and nobody leaves faster than that.
    std::thread::sleep(SILENCE / 8);
    groups.process(&elsewhere, &group);
    echo_tcp(&elsewhere, UNPROBED);
    let services = [V4, V6].map(|it| SocketAddr::new(it.pod, UNPROBED));
    let all_answer = || {
        for (from, to) in [V4.outsider, V6.outsider].into_iter().zip(services) {
            lab::until("the stray is reached", || lab::connect(&lab.node, from, to, SILENCE).is_ok());
            answers(&lab.node, from, to);
        }
    };

    // The pod is cut, and with CAP_NET_ADMIN it moves its interface to where the stray is.
    cut(&lab.pod, &lab.allow(), Hooks::Netdev).expect("the cut");
    lab.give(&elsewhere, "eth0");
    all_answer();

    let found = find(proc, uid, &Hierarchy::default(), host).expect("the pod");
    assert_eq!(found.netns.id(), lab.pod.id());
    let [stray] = found.strays.as_slice() else { panic!("one stray, not {:?}", found.strays) };
    assert!(!stray.on_node, "the node's own is never cut");
    assert_eq!(stray.netns.id(), elsewhere.id());
    assert!(cut(&stray.netns, &lab.allow(), Hooks::Netdev).expect("the cut").changed);
    assert!(is_cut(&stray.netns).expect("read"));
    for (from, to) in [V4.outsider, V6.outsider].into_iter().zip(services) {
        times_out(&lab.node, from, to);
    }
    let outwards = |from: IpAddr, to: IpAddr| times_out(&stray.netns, from, SocketAddr::new(to, UNPROBED));
    outwards(V4.pod, V4.outsider);
    outwards(V6.pod, V6.outsider);

    assert!(lift(&stray.netns).expect("lifted"));
    all_answer();
    assert!(is_cut(&lab.pod).expect("read"), "the pod's own cut is another one");
}

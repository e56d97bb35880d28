//! AF_XDP sockets, which send past every hook: none is left to the pod, and one that it has already is named.

#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests: a panic is a failed test")]

mod lab;

use std::net::SocketAddr;

use tourniquet_agent::cut::queues::{Queue, Queues};
use tourniquet_agent::cut::{Hooks, cut};

use crate::lab::{Lab, PROBED, V4, V6, answers, echo_tcp};

#[test]
fn whoever_holds_the_queues_leaves_none() {
    let lab = Lab::new();
    // A process of the pod would take them the same way.
    let pods_own = Queues::take(&lab.pod).expect("the queues");
    assert!(pods_own.supported(), "this kernel has no AF_XDP, so there is nothing to test: CONFIG_XDP_SOCKETS");
    assert!(pods_own.held() > 0 && pods_own.foreign().is_empty());
    let mut ours = Queues::take(&lab.pod).expect("the queues");
    assert_eq!(ours.held(), 0);
    assert_eq!(ours.foreign()[0], Queue { interface: "eth0".into(), number: 0 });
    assert_eq!(ours.foreign().len(), pods_own.held());
    // Its process ends. The kernel frees the queue a moment later.
    drop(pods_own);
    lab::until("the queues are free", || {
        ours.take_more(&lab.pod).expect("the queues");
        ours.foreign().is_empty()
    });
    let held = ours.held();
    assert!(held > 0);
    assert!(!Queues::take(&lab.pod).expect("the queues").foreign().is_empty(), "the pod gets one");
    ours.take_more(&lab.pod).expect("the queues");
    assert_eq!((ours.held(), ours.foreign().len()), (held, 0), "one's own are not foreign");

    // A further interface, and the node's end of it, which is none of the pod's.
    lab.wire("veth1", "eth1");
    ours.take_more(&lab.pod).expect("the queues");
    assert!(ours.held() > held);

    // Holding them disturbs no traffic: the probes pass, cut or not, and an interface can go.
    echo_tcp(&lab.pod, PROBED);
    for it in [V4, V6] {
        answers(&lab.node, it.node, SocketAddr::new(it.pod, PROBED));
        answers(&lab.node, it.outsider, SocketAddr::new(it.pod, PROBED));
    }
    cut(&lab.pod, &lab.allow(), Hooks::Netdev).expect("the cut");
    answers(&lab.node, V4.node, SocketAddr::new(V4.pod, PROBED));
    lab::ip(&lab.pod, "link del eth1");
}

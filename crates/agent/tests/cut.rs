//! The cut, on real traffic: what stops, what passes, what goes on afterwards.

#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests: a panic is a failed test")]

mod lab;

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tourniquet_agent::cut::{Allow, Hooks, State, cut, is_cut, lift, verify};

use crate::lab::{
    Addresses, Lab, PATIENCE, PROBED, SILENCE, UNPROBED, V4, V6, answers, comes, connect, datagram_answered, echo_tcp,
    echo_udp, echoes, ip, times_out, until,
};

const BOTH: [Addresses; 2] = [V4, V6];

fn to(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}

/// A lab in which everybody serves on both ports.
fn serving() -> Lab {
    let lab = Lab::new();
    for namespace in [&lab.pod, &lab.node] {
        echo_tcp(namespace, PROBED);
        echo_tcp(namespace, UNPROBED);
        echo_udp(namespace, UNPROBED);
    }
    for Addresses { node, outsider, pod } in BOTH {
        for port in [PROBED, UNPROBED] {
            answers(&lab.node, node, to(pod, port));
            answers(&lab.node, outsider, to(pod, port));
            answers(&lab.pod, pod, to(node, port));
            answers(&lab.pod, pod, to(outsider, port));
        }
        assert!(datagram_answered(&lab.node, outsider, to(pod, UNPROBED), PATIENCE));
        assert!(datagram_answered(&lab.pod, pod, to(outsider, UNPROBED), PATIENCE));
    }
    lab
}

fn only_probes_pass(lab: &Lab) {
    for Addresses { node, outsider, pod } in BOTH {
        answers(&lab.node, node, to(pod, PROBED));
        times_out(&lab.node, node, to(pod, UNPROBED));
        times_out(&lab.node, outsider, to(pod, PROBED));
        times_out(&lab.node, outsider, to(pod, UNPROBED));
        for port in [PROBED, UNPROBED] {
            times_out(&lab.pod, pod, to(node, port));
            times_out(&lab.pod, pod, to(outsider, port));
        }
        assert!(!datagram_answered(&lab.node, outsider, to(pod, UNPROBED), SILENCE));
        assert!(!datagram_answered(&lab.node, node, to(pod, UNPROBED), SILENCE));
        assert!(!datagram_answered(&lab.pod, pod, to(outsider, UNPROBED), SILENCE));
        assert!(!datagram_answered(&lab.pod, pod, to(node, UNPROBED), SILENCE));
        // The pod with itself: by its address, and by loopback.
        answers(&lab.pod, pod, to(pod, UNPROBED));
    }
    for loopback in [IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1u16])] {
        answers(&lab.pod, loopback, to(loopback, UNPROBED));
        assert!(datagram_answered(&lab.pod, loopback, to(loopback, UNPROBED), PATIENCE));
    }
}

fn stops_and_goes_on(hooks: Hooks) {
    let lab = serving();
    let mut streams: Vec<_> = BOTH
        .into_iter()
        .flat_map(|Addresses { outsider, pod, .. }| {
            [
                connect(&lab.pod, pod, to(outsider, UNPROBED), PATIENCE).expect("outwards"),
                connect(&lab.node, outsider, to(pod, UNPROBED), PATIENCE).expect("inwards"),
            ]
        })
        .collect();
    let mut probe = connect(&lab.node, V4.node, to(V4.pod, PROBED), PATIENCE).expect("a long probe");
    for stream in &mut streams {
        assert!(echoes(stream, b"before", PATIENCE));
    }

    let made = cut(&lab.pod, &lab.allow(), hooks).expect("the cut");
    assert_eq!((made.hooks, made.changed), (hooks, true));
    assert_eq!(made.interfaces, ["eth0"]);
    assert_eq!(made.fallback, None);
    assert_eq!(verify(&lab.pod, &lab.allow(), hooks).expect("read"), State::Cut);
    assert!(is_cut(&lab.pod).expect("read"));
    assert!(!is_cut(&lab.node).expect("read"), "another namespace");

    for stream in &mut streams {
        assert!(!echoes(stream, b"during", SILENCE), "an open connection goes on during the cut");
    }
    assert!(echoes(&mut probe, b"probe", PATIENCE), "an open probe stops");
    // Neighbours are found anew during the cut.
    for namespace in [&lab.pod, &lab.node] {
        ip(namespace, "neigh flush all");
    }
    only_probes_pass(&lab);

    assert!(lift(&lab.pod).expect("lifted"));
    assert!(!is_cut(&lab.pod).expect("read"));
    assert_eq!(verify(&lab.pod, &lab.allow(), hooks).expect("read"), State::Open);
    for stream in &mut streams {
        // TCP sends again what was written during the cut; nothing is lost, nothing was closed.
        assert!(comes(stream, b"during", 6 * PATIENCE), "an open connection is dead after the release");
        assert!(echoes(stream, b"after", PATIENCE));
    }
    for Addresses { outsider, pod, .. } in BOTH {
        answers(&lab.node, outsider, to(pod, UNPROBED));
        answers(&lab.pod, pod, to(outsider, UNPROBED));
        assert!(datagram_answered(&lab.pod, pod, to(outsider, UNPROBED), PATIENCE));
    }
    assert!(!lift(&lab.pod).expect("nothing to lift"));
}

#[test]
fn at_the_interfaces() {
    stops_and_goes_on(Hooks::Netdev);
}

/// What kernels before 5.16 get, forced here.
#[test]
fn at_the_ip_hooks() {
    stops_and_goes_on(Hooks::Inet);
}

/// Longer than a sender lives that is told of each drop at the interface: 15 tries every 500 ms.
#[test]
fn a_long_cut_breaks_no_connection() {
    std::thread::scope(|scope| {
        for hooks in [Hooks::Netdev, Hooks::Inet] {
            scope.spawn(move || {
                let lab = serving();
                let mut outwards = connect(&lab.pod, V4.pod, to(V4.outsider, UNPROBED), PATIENCE).expect("outwards");
                let mut inwards = connect(&lab.node, V4.outsider, to(V4.pod, UNPROBED), PATIENCE).expect("inwards");
                assert_eq!(cut(&lab.pod, &lab.allow(), hooks).expect("the cut").fallback, None);
                for stream in [&mut outwards, &mut inwards] {
                    stream.write_all(b"during").expect("the stream is open");
                }
                std::thread::sleep(Duration::from_secs(10));
                assert!(lift(&lab.pod).expect("lifted"));
                let lifted = Instant::now();
                for (way, stream) in [("outwards", &mut outwards), ("inwards", &mut inwards)] {
                    assert!(comes(stream, b"during", 6 * PATIENCE), "{hooks:?} {way}: dead after the release");
                    println!("{hooks:?} {way}: goes on {:?} after the release", lifted.elapsed());
                    assert!(echoes(stream, b"after", PATIENCE));
                }
            });
        }
    });
}

#[test]
fn cutting_again_changes_nothing() {
    let lab = serving();
    for hooks in [Hooks::Netdev, Hooks::Inet, Hooks::Netdev] {
        assert!(cut(&lab.pod, &lab.allow(), hooks).expect("the cut").changed);
        assert!(!cut(&lab.pod, &lab.allow(), hooks).expect("the cut").changed);
        assert!(!cut(&lab.pod, &lab.allow(), hooks).expect("the cut").changed);
    }
    // Other probes are another cut.
    let other = Allow::new([V4.node], [UNPROBED]).expect("addresses and ports");
    assert!(matches!(verify(&lab.pod, &other, Hooks::Netdev).expect("read"), State::Altered(_)));
    assert!(cut(&lab.pod, &other, Hooks::Netdev).expect("the cut").changed);
    answers(&lab.node, V4.node, to(V4.pod, UNPROBED));
    times_out(&lab.node, V4.node, to(V4.pod, PROBED));
    // None at all.
    cut(&lab.pod, &Allow::nothing(), Hooks::Netdev).expect("the cut");
    times_out(&lab.node, V4.node, to(V4.pod, UNPROBED));
}

/// A connection of the pod's own does not become a reply by its source port.
#[test]
fn a_probed_port_is_no_way_out() {
    let lab = serving();
    let free = 8181;
    let allow = Allow::new([V4.node, V6.node], [free]).expect("addresses and ports");
    for hooks in [Hooks::Netdev, Hooks::Inet] {
        cut(&lab.pod, &allow, hooks).expect("the cut");
        for Addresses { node, pod, .. } in BOTH {
            let attempt = lab.pod.enter(|| {
                let socket =
                    socket2::Socket::new(socket2::Domain::for_address(to(pod, 0)), socket2::Type::STREAM, None)?;
                socket.bind(&to(pod, free).into())?;
                socket.connect_timeout(&to(node, UNPROBED).into(), SILENCE)
            });
            let error = attempt.expect("the namespace").expect_err("a way out");
            assert_eq!(error.kind(), std::io::ErrorKind::TimedOut, "{hooks:?} {error}");
        }
    }
}

#[test]
fn the_most_that_can_be_allowed() {
    let lab = Lab::new();
    let nodes = (1..=64u16).map(|last| IpAddr::from([0xfd99, 0, 0, 0, 0, 0, 1, last]));
    let allow = Allow::new(nodes, 1..=64).expect("64 of each");
    for hooks in [Hooks::Netdev, Hooks::Inet] {
        assert!(cut(&lab.pod, &allow, hooks).expect("the cut").changed);
        assert!(!cut(&lab.pod, &allow, hooks).expect("the cut").changed);
    }
    assert!(Allow::new([], 1..=65).is_err());
    assert!(Allow::new([], [0]).is_err());
    assert!(Allow::new([IpAddr::from([127, 0, 0, 1])], [80]).is_err());
    assert!(Allow::new([IpAddr::from([0, 0, 0, 0])], [80]).is_err());
    assert!(
        Allow::new([IpAddr::from([0, 0, 0, 0, 0, 0xffff, 0x7f00, 1u16])], [80]).is_err(),
        "loopback in IPv6 clothes"
    );
}

#[test]
fn an_interface_that_appears_later() {
    let lab = serving();
    assert_eq!(cut(&lab.pod, &lab.allow(), Hooks::Netdev).expect("the cut").interfaces, ["eth0"]);
    lab.wire("veth1", "eth1");
    ip(&lab.node, "addr add 10.98.0.1/24 dev veth1");
    ip(&lab.pod, "addr add 10.98.0.2/24 dev eth1");
    let (node, pod) = (IpAddr::from([10, 98, 0, 1]), IpAddr::from([10, 98, 0, 2]));
    answers(&lab.pod, pod, to(node, UNPROBED));
    let state = verify(&lab.pod, &lab.allow(), Hooks::Netdev).expect("read");
    assert!(matches!(&state, State::Altered(difference) if difference.contains("eth1")), "{state:?}");
    let again = cut(&lab.pod, &lab.allow(), Hooks::Netdev).expect("the cut");
    assert_eq!((again.interfaces, again.changed), (vec!["eth0".into(), "eth1".into()], true));
    times_out(&lab.pod, pod, to(node, UNPROBED));
    times_out(&lab.node, node, to(pod, PROBED));
    // An interface that goes takes nothing else with it.
    ip(&lab.pod, "link del eth1");
    assert_eq!(cut(&lab.pod, &lab.allow(), Hooks::Netdev).expect("the cut").interfaces, ["eth0"]);
    times_out(&lab.pod, V4.pod, to(V4.node, UNPROBED));
}

/// A namespace without interfaces: the hooks that hold whatever appears.
#[test]
fn before_there_is_an_interface() {
    let empty = lab::namespace();
    let made = cut(&empty, &Allow::nothing(), Hooks::Netdev).expect("the cut");
    assert_eq!((made.hooks, made.interfaces.len()), (Hooks::Inet, 0));
    assert!(!cut(&empty, &Allow::nothing(), Hooks::Netdev).expect("the cut").changed);
    assert!(lift(&empty).expect("lifted"));
}

/// Loopback is told by its flag: an interface that is called `lo` is cut all the same.
#[test]
fn an_interface_that_poses_as_loopback() {
    let lab = serving();
    for change in ["link set lo down", "link set lo name real", "link set eth0 down", "link set eth0 name lo"] {
        ip(&lab.pod, change);
    }
    ip(&lab.pod, "link set lo up");
    ip(&lab.pod, "link set real up");
    answers(&lab.node, V4.outsider, to(V4.pod, UNPROBED));
    for hooks in [Hooks::Netdev, Hooks::Inet] {
        assert_eq!(cut(&lab.pod, &lab.allow(), hooks).expect("the cut").interfaces, ["lo"]);
        times_out(&lab.node, V4.outsider, to(V4.pod, UNPROBED));
        times_out(&lab.pod, V4.pod, to(V4.outsider, UNPROBED));
        answers(&lab.pod, V4.pod, to(V4.pod, UNPROBED));
    }
}

/// The namespace's own answers about itself.
#[test]
fn addresses_and_sources() {
    let lab = Lab::new();
    let addresses = lab.pod.addresses().expect("addresses");
    assert!(addresses.contains(&V4.pod) && addresses.contains(&V6.pod), "{addresses:?}");
    assert!(!addresses.contains(&IpAddr::from([127, 0, 0, 1])), "{addresses:?}");
    until("the probe's source", || lab.node.source_towards(V6.pod).is_ok());
    assert_eq!(lab.node.source_towards(V4.pod).expect("a route"), V4.node);
    assert!(lab.pod.source_towards(IpAddr::from([192, 0, 2, 1])).is_err(), "no route");
}

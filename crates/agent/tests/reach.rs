//! Connection attempts from inside a pod's namespace, before a cut, during it and after it.

#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests: a panic is a failed test")]

mod lab;

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::Duration;

use tourniquet_agent::cut::{Hooks, cut, lift};
use tourniquet_agent::reach::Attempt::{Answered, Refused, TimedOut, Unreachable};
use tourniquet_agent::reach::attempt;

use crate::lab::{Addresses, Lab, PATIENCE, SILENCE, UNPROBED, V4, V6, echo_tcp, ip};

/// So long that a test that waited for it would never end.
const FOREVER: Duration = Duration::MAX;
/// Nobody serves here.
const CLOSED: u16 = 9191;

fn at(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}

#[test]
fn each_target_gets_its_answer_as_soon_as_all_are_known() {
    let lab = Lab::new();
    echo_tcp(&lab.node, UNPROBED);
    // No route at all, and routes that say no.
    let mut no_way = vec!["203.0.113.1", "2001:db8:1::1"];
    for (kind, v4, v6) in [
        ("prohibit", "198.51.100.1", "2001:db8::1"),
        ("unreachable", "198.51.100.2", "2001:db8::2"),
        ("blackhole", "198.51.100.3", "2001:db8::3"),
    ] {
        ip(&lab.pod, &format!("route add {kind} {v4}/32"));
        ip(&lab.pod, &format!("route add {kind} {v6}/128"));
        no_way.extend([v4, v6]);
    }
    let mut targets = Vec::new();
    let mut expected = Vec::new();
    for Addresses { outsider, .. } in [V4, V6] {
        targets.extend([at(outsider, UNPROBED), at(outsider, CLOSED), at(outsider, UNPROBED)]);
        expected.extend([Answered, Refused, Answered]);
    }
    for address in no_way {
        targets.push(at(address.parse().expect("an address"), UNPROBED));
        expected.push(Unreachable);
    }
    assert_eq!(attempt(&lab.pod, &targets, FOREVER).expect("tried"), expected);
    // The other way round, so that an order by family or by speed would show.
    targets.reverse();
    expected.reverse();
    assert_eq!(attempt(&lab.pod, &targets, FOREVER).expect("tried"), expected);
    assert_eq!(attempt(&lab.pod, &[], FOREVER).expect("tried"), []);
}

#[test]
fn a_cut_is_a_time_out_and_the_release_an_answer() {
    let lab = Lab::new();
    echo_tcp(&lab.node, UNPROBED);
    let targets: Vec<_> = [V4, V6].iter().flat_map(|it| [at(it.outsider, UNPROBED), at(it.outsider, CLOSED)]).collect();
    let open = [Answered, Refused, Answered, Refused];
    for hooks in [Hooks::Netdev, Hooks::Inet] {
        assert_eq!(attempt(&lab.pod, &targets, PATIENCE).expect("tried"), open);
        cut(&lab.pod, &lab.allow(), hooks).expect("the cut");
        assert_eq!(attempt(&lab.pod, &targets, SILENCE).expect("tried"), [TimedOut; 4], "{hooks:?}");
        assert_eq!(attempt(&lab.pod, &targets, Duration::ZERO).expect("tried"), [TimedOut; 4], "{hooks:?}");
        assert!(lift(&lab.pod).expect("lifted"));
    }
    assert_eq!(attempt(&lab.pod, &targets, PATIENCE).expect("tried"), open);
}

/// One that never answers does not keep the others' answers from being heard.
#[test]
fn the_silent_do_not_hide_those_that_answer() {
    let lab = Lab::new();
    echo_tcp(&lab.node, UNPROBED);
    // An address on the link that nobody has: the kernel asks for it for some seconds.
    let nobody = at("10.99.0.77".parse().expect("an address"), UNPROBED);
    let targets = [nobody, at(V4.outsider, UNPROBED), at(V6.outsider, CLOSED)];
    assert_eq!(attempt(&lab.pod, &targets, SILENCE).expect("tried"), [TimedOut, Answered, Refused]);
}

#[test]
fn an_attempt_sends_no_data_and_is_closed() {
    let lab = Lab::new();
    for Addresses { outsider, .. } in [V4, V6] {
        let listener = lab.node.enter(|| TcpListener::bind((outsider, 0))).expect("the namespace").expect("a port");
        let target = listener.local_addr().expect("an address");
        assert_eq!(attempt(&lab.pod, &[target], PATIENCE).expect("tried"), [Answered]);
        let (mut stream, _) = listener.accept().expect("the attempt");
        let mut bytes = Vec::new();
        match stream.read_to_end(&mut bytes) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
        }
        assert_eq!(bytes, b"");
    }
}

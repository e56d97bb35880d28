//! The list of a pod's connections: real ones, both families, both directions, and what must not be in it.

#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests: a panic is a failed test")]

mod lab;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use socket2::{Domain, Socket, Type};
use tourniquet_agent::connections::open;
use tourniquet_agent::cut::{Hooks, cut, lift};
use tourniquet_agent::netns::NetNs;
use tourniquet_agent::reach::{Attempt, attempt};

use crate::lab::{Addresses, Lab, PATIENCE, UNPROBED, V4, V6, connect, echo_tcp, echo_udp, namespace, until};

const BOTH: [Addresses; 2] = [V4, V6];

fn lines(namespace: &NetNs) -> Vec<String> {
    open(namespace).expect("listed").iter().map(ToString::to_string).collect()
}

fn datagrams(namespace: &NetNs, from: SocketAddr, to: SocketAddr) -> UdpSocket {
    let socket = namespace
        .enter(|| {
            let socket = Socket::new(Domain::for_address(from), Type::DGRAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&from.into())?;
            socket.connect(&to.into())?;
            std::io::Result::Ok(socket)
        })
        .expect("the namespace");
    socket.expect("connected").into()
}

#[test]
fn who_is_connected_and_who_called() {
    let lab = Lab::new();
    echo_tcp(&lab.pod, UNPROBED);
    echo_tcp(&lab.node, UNPROBED);
    assert_eq!(lines(&lab.pod), [""; 0], "servers have no peer");

    let service = |address: IpAddr| SocketAddr::new(address, UNPROBED);
    let mut streams = Vec::new();
    let mut expected = Vec::new();
    for Addresses { outsider, pod, .. } in BOTH {
        let outwards = connect(&lab.pod, pod, service(outsider), PATIENCE).expect("outwards");
        let local = outwards.local_addr().expect("an address");
        expected.push(format!("tcp {local} -> {} established", service(outsider)));
        streams.push(outwards);
    }
    // The pod's server takes both families on one IPv6 socket: an IPv4 peer is shown as such.
    for Addresses { outsider, pod, .. } in BOTH {
        let inwards = connect(&lab.node, outsider, service(pod), PATIENCE).expect("inwards");
        let peer = inwards.local_addr().expect("an address");
        expected.push(format!("tcp {} <- {peer} established", service(pod)));
        streams.push(inwards);
    }
    let mut sockets = Vec::new();
    for Addresses { outsider, pod, .. } in BOTH {
        let outwards = datagrams(&lab.pod, SocketAddr::new(pod, 0), service(outsider));
        let local = outwards.local_addr().expect("an address");
        expected.push(format!("udp {local} -> {} established", service(outsider)));
        sockets.push(outwards);
    }
    // A server that has a socket for each client beside the one that takes them all.
    let all = lab.pod.enter(|| {
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 5353)).into())?;
        std::io::Result::Ok(socket)
    });
    let _all = all.expect("the namespace").expect("a socket");
    for Addresses { outsider, pod, .. } in BOTH {
        sockets.push(datagrams(&lab.pod, SocketAddr::new(pod, 5353), service(outsider)));
        expected.push(format!("udp {} <- {} established", SocketAddr::new(pod, 5353), service(outsider)));
    }
    assert_eq!(lines(&lab.pod), expected);
    assert_eq!(lines(&lab.pod), expected, "the order is stable");

    // Connections outlive a cut, and so does the list.
    cut(&lab.pod, &lab.allow(), Hooks::Netdev).expect("the cut");
    assert_eq!(lines(&lab.pod), expected);
    assert!(lift(&lab.pod).expect("lifted"));

    // The other end sees them the other way round; a namespace that has nothing to do with them, not at all.
    let there = lines(&lab.node);
    assert!(there.iter().filter(|line| line.contains("<-")).count() == 2, "{there:?}");
    assert_eq!(lines(&namespace()), [""; 0]);

    drop((streams, sockets));
    until("nobody is connected any more", || lines(&lab.pod).is_empty());
}

#[test]
fn the_pod_with_itself_is_nobody_else() {
    let lab = Lab::new();
    echo_tcp(&lab.pod, UNPROBED);
    echo_udp(&lab.pod, UNPROBED);
    let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let mut streams: Vec<TcpStream> = Vec::new();
    let mut sockets = Vec::new();
    for address in loopback.into_iter().chain([V4.pod, V6.pod]) {
        let to = SocketAddr::new(address, UNPROBED);
        streams.push(connect(&lab.pod, address, to, PATIENCE).expect("with itself"));
        sockets.push(datagrams(&lab.pod, SocketAddr::new(address, 0), to));
    }
    assert_eq!(lines(&lab.pod), [""; 0]);
}

#[test]
fn connections_that_are_being_opened_or_closed() {
    let lab = Lab::new();
    let listener = lab.node.enter(|| TcpListener::bind((V4.outsider, 0))).expect("the namespace").expect("a port");
    let target = listener.local_addr().expect("an address");
    let stream = connect(&lab.pod, V4.pod, target, PATIENCE).expect("outwards");
    let (far, _) = listener.accept().expect("accepted");
    let local = stream.local_addr().expect("an address");
    drop(far);
    let closing = format!("tcp {local} -> {target} close-wait");
    until("the peer has closed its half", || lines(&lab.pod) == [closing.as_str()]);
    // The pod ends it second: the node has the time wait. Then the pod ends one first.
    drop(stream);
    until("it is closed", || lines(&lab.pod).is_empty());
    let stream = connect(&lab.pod, V4.pod, target, PATIENCE).expect("outwards");
    let (far, _) = listener.accept().expect("accepted");
    let local = stream.local_addr().expect("an address");
    drop(stream);
    until("the pod has closed its half", || lines(&lab.pod) == [format!("tcp {local} -> {target} fin-wait-2")]);
    drop(far);
    until("a time wait is over and done with", || lines(&lab.pod).is_empty());

    cut(&lab.pod, &lab.allow(), Hooks::Netdev).expect("the cut");
    let calling = lab.pod.enter(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        let result = socket.connect(&target.into());
        std::io::Result::Ok((socket, result))
    });
    let (calling, result) = calling.expect("the namespace").expect("a socket");
    assert!(result.is_err(), "it waits for an answer");
    let local = calling.local_addr().expect("an address").as_socket().expect("an IP address");
    assert_eq!(lines(&lab.pod), [format!("tcp {local} -> {target} syn-sent")]);
}

/// What the agent tries from inside must not look like the pod's doing, also when the peer never closes its end.
#[test]
fn the_agents_own_attempts_leave_nothing() {
    let lab = Lab::new();
    let listeners = BOTH.map(|it| lab.node.enter(|| TcpListener::bind((it.outsider, 0))));
    let listeners = listeners.map(|it| it.expect("the namespace").expect("a port"));
    let targets = listeners.each_ref().map(|it| it.local_addr().expect("an address"));
    assert_eq!(attempt(&lab.pod, &targets, PATIENCE).expect("tried"), [Attempt::Answered; 2]);
    assert_eq!(lines(&lab.pod), [""; 0]);
}

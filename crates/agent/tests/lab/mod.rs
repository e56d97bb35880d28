//! A pod and a node in network namespaces of their own, joined by a veth pair. Nothing of the machine's network is
//! touched, and everything is gone when the lab is dropped or its process ends: nothing but open files holds it.
//!
//! The node has two addresses in each family: its own, from which the kubelet would probe, and one that plays an
//! outsider behind it.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod captures;
pub(crate) mod groups;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use socket2::{Domain, Socket, Type};
use tourniquet_agent::cut::Allow;
use tourniquet_agent::netns::NetNs;

/// Longer than any answer over a veth pair takes, shorter than TCP's first retransmission twice.
pub(crate) const SILENCE: Duration = Duration::from_millis(400);
/// What has to happen happens well before this.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) const PROBED: u16 = 8080;
pub(crate) const UNPROBED: u16 = 9090;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub(crate) node: IpAddr,
    pub(crate) outsider: IpAddr,
    pub(crate) pod: IpAddr,
}

pub(crate) const V4: Addresses = Addresses { node: v4(1), outsider: v4(9), pod: v4(2) };
pub(crate) const V6: Addresses = Addresses { node: v6(1), outsider: v6(9), pod: v6(2) };

const fn v4(last: u8) -> IpAddr {
    IpAddr::V4(std::net::Ipv4Addr::new(10, 99, 0, last))
}

const fn v6(last: u16) -> IpAddr {
    IpAddr::V6(std::net::Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, last))
}

pub(crate) struct Lab {
    pub(crate) node: NetNs,
    pub(crate) pod: NetNs,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let lab = Self { node: namespace(), pod: namespace() };
        for namespace in [&lab.node, &lab.pod] {
            ip(namespace, "link set lo up");
        }
        lab.wire("veth0", "eth0");
        for (prefix, flags) in [("10.99.0.", "/24"), ("fd99::", "/64 nodad")] {
            ip(&lab.node, &format!("addr add {prefix}1{flags} dev veth0"));
            ip(&lab.node, &format!("addr add {prefix}9{flags} dev veth0"));
            ip(&lab.pod, &format!("addr add {prefix}2{flags} dev eth0"));
        }
        // The kernel makes an IPv6 address's own route some time after the address, when it has noticed the carrier.
        for (namespace, address) in [(&lab.pod, V6.pod), (&lab.node, V6.node), (&lab.node, V6.outsider)] {
            until("an IPv6 address is in use", || hears_itself(namespace, address).unwrap_or(false));
        }
        lab
    }

    /// A further pair of interfaces.
    pub(crate) fn wire(&self, outer: &str, inner: &str) {
        ip(&self.node, &format!("link add {outer} type veth peer name {inner}"));
        ip(&self.node, &format!("link set {inner} netns {}", path(&self.pod)));
        // Without duplicate address detection: an address is there at once.
        ip(&self.node, &format!("link set {outer} up"));
        ip(&self.pod, &format!("link set {inner} up"));
    }

    /// Moves an interface of the pod's to another namespace, with the pod's addresses.
    pub(crate) fn give(&self, to: &NetNs, interface: &str) {
        ip(&self.pod, &format!("link set {interface} netns {}", path(to)));
        ip(to, &format!("link set {interface} up"));
        ip(to, &format!("addr add 10.99.0.2/24 dev {interface}"));
        ip(to, &format!("addr add fd99::2/64 nodad dev {interface}"));
    }

    /// The probes of the node.
    pub(crate) fn allow(&self) -> Allow {
        Allow::new([V4.node, V6.node], [PROBED]).expect("addresses and ports")
    }
}

/// A new network namespace. It lives as long as it is held open.
pub(crate) fn namespace() -> NetNs {
    std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect(
            "these tests make network namespaces of their own: run them as root (CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_NET_RAW)",
        );
        NetNs::current().expect("proc is mounted")
    })
    .join()
    .expect("a network namespace; see above")
}

/// A name for iproute2, as long as this process has it open.
fn path(namespace: &NetNs) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), namespace.as_fd().as_raw_fd())
}

/// Whether a datagram from this address to itself arrives.
fn hears_itself(namespace: &NetNs, address: IpAddr) -> io::Result<bool> {
    let socket = namespace.enter(|| UdpSocket::bind((address, 0)))??;
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    socket.send_to(b"hello", socket.local_addr()?)?;
    Ok(socket.recv_from(&mut [0; 16]).is_ok())
}

/// Runs iproute2 inside a namespace.
pub(crate) fn ip(namespace: &NetNs, arguments: &str) {
    let output = namespace.enter(|| Command::new("ip").args(arguments.split(' ')).output()).expect("the namespace");
    let output = output.expect("these tests need the program ip (iproute2)");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A server that sends back whatever it gets, on every address, both families. It ends with the process.
pub(crate) fn echo_tcp(namespace: &NetNs, port: u16) {
    let listener = namespace.enter(|| TcpListener::bind(("::", port))).expect("the namespace").expect("a free port");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || io::copy(&mut &stream, &mut &stream));
        }
    });
}

pub(crate) fn echo_udp(namespace: &NetNs, port: u16) {
    let socket = namespace.enter(|| UdpSocket::bind(("::", port))).expect("the namespace").expect("a free port");
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    });
}

/// A connection from this address, or why there is none.
pub(crate) fn connect(namespace: &NetNs, from: IpAddr, to: SocketAddr, within: Duration) -> io::Result<TcpStream> {
    namespace.enter(|| {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(from, 0).into())?;
        socket.connect_timeout(&to.into(), within)?;
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        Ok(stream)
    })?
}

/// Asserts that a connection is made and answers.
#[track_caller]
pub(crate) fn answers(namespace: &NetNs, from: IpAddr, to: SocketAddr) {
    let mut stream = connect(namespace, from, to, PATIENCE).unwrap_or_else(|error| panic!("{from} to {to}: {error}"));
    assert!(echoes(&mut stream, b"hello", PATIENCE), "{from} to {to}: connected, and no echo");
}

/// Asserts that a connection attempt hears nothing: no answer and no refusal.
#[track_caller]
pub(crate) fn times_out(namespace: &NetNs, from: IpAddr, to: SocketAddr) {
    match connect(namespace, from, to, SILENCE) {
        Ok(_) => panic!("{from} to {to}: connected"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::TimedOut, "{from} to {to}: {error}"),
    }
}

/// Whether these bytes come back in time.
pub(crate) fn echoes(stream: &mut TcpStream, bytes: &[u8], within: Duration) -> bool {
    stream.write_all(bytes).expect("the stream is open");
    comes(stream, bytes, within)
}

/// Whether these bytes arrive in time, after whatever was sent before.
pub(crate) fn comes(stream: &mut TcpStream, bytes: &[u8], within: Duration) -> bool {
    let end = Instant::now() + within;
    let mut buffer = [0; 4096];
    let mut seen = Vec::new();
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        stream.set_read_timeout(Some(left)).expect("a timeout");
        match stream.read(&mut buffer) {
            Ok(0) => panic!("the stream was closed"),
            Ok(length) => seen.extend_from_slice(&buffer[..length]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return false,
            Err(error) => panic!("the stream broke: {error}"),
        }
        if seen.ends_with(bytes) {
            return true;
        }
    }
    false
}

/// Whether a datagram is answered.
pub(crate) fn datagram_answered(namespace: &NetNs, from: IpAddr, to: SocketAddr, within: Duration) -> bool {
    let socket = namespace.enter(|| UdpSocket::bind((from, 0))).expect("the namespace").expect("the address");
    socket.set_read_timeout(Some(within)).expect("a timeout");
    // Where the IP hooks drop, the sender is told.
    if let Err(error) = socket.send_to(b"hello", to) {
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{from} to {to}: {error}");
        return false;
    }
    socket.recv_from(&mut [0; 16]).is_ok()
}

/// Waits until it is so.
#[track_caller]
pub(crate) fn until(what: &str, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

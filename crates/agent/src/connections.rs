//! Who a namespace is connected to at this moment, as the kernel lists its sockets (sock_diag(7)).
//!
//! Listed are TCP connections, being opened and being closed included, and UDP sockets that are connected to a peer.
//! Not listed:
//!
//! * UDP sockets that are not connected to a peer: they can exchange datagrams with anybody, and the kernel does not
//!   keep with whom. Most DNS servers and many clients are such. Nor raw and packet sockets, ICMP, SCTP.
//! * TCP in TIME-WAIT: that is over. A client that opens a connection for each request leaves thousands of them for a
//!   minute each, which would hide who is connected.
//! * Peers on loopback, and the namespace's own addresses: that is the pod talking to itself.
//! * Sockets that a process of the pod has in another network namespace: see [`crate::pods::Stray`].
//!
//! A connection that is opened or closed while the list is read may be in it or not. A cut changes no socket's state, so
//! the list can be taken after it: nothing is missing, and the cut does not wait for it.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;

use netlink_packet_core::{Emitable, Parseable};
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP, SOCK_DIAG_BY_FAMILY};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags};
use nix::errno::Errno;

use crate::netlink::{Dump, Netlink, TRIES};
use crate::netns::NetNs;

/// At most so many sockets are read of each protocol and address family, and at most so many connections returned:
/// 16 to 32 ms for 10,000 of one kind (measured, debug build). Whoever gets as many should say "or more": a process in
/// the pod can open that many on purpose.
pub const MOST: usize = 10_000;

/// A connection of a namespace with somebody outside it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Connection {
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// The end inside. An IPv4 address also where the socket is an IPv6 one (`::ffff:10.0.0.7`).
    pub local: SocketAddr,
    /// The end outside.
    pub peer: SocketAddr,
    /// The state, as in ss(8), in small letters and whole words: `established`, `syn-sent`, `close-wait` and so on.
    pub state: &'static str,
    /// Whether the peer opened it. The kernel does not keep that: it is inferred from the local port being one that a
    /// socket of the namespace listens on at this moment (UDP: takes datagrams from anybody on). Wrong when the
    /// listening socket was closed since, or when somebody in the pod connects from a port that is listened on.
    pub inbound: bool,
}

/// One line of at most 128 bytes: `tcp 10.0.0.7:43210 -> 93.184.216.34:443 established`. The arrow points to who was
/// called.
impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, local, peer, state, inbound } = self;
        let arrow = if *inbound { "<-" } else { "->" };
        write!(f, "{protocol} {local} {arrow} {peer} {state}")
    }
}

/// The connections of the namespace with others. TCP comes before UDP, what the namespace opened before what was opened
/// to it, and then by peer: of a long list, the head says most.
///
/// # Errors
/// When the namespace cannot be entered (CAP_SYS_ADMIN), or the kernel lists no sockets (modules `inet_diag`,
/// `tcp_diag`, `udp_diag`).
pub fn open(namespace: &NetNs) -> io::Result<Vec<Connection>> {
    let own: BTreeSet<IpAddr> = namespace.addresses()?.iter().map(IpAddr::to_canonical).collect();
    namespace.enter(|| open_here(&own))?
}

fn open_here(own: &BTreeSet<IpAddr>) -> io::Result<Vec<Connection>> {
    let tcp = StateFlags::all() - StateFlags::LISTEN - StateFlags::CLOSE - StateFlags::TIME_WAIT;
    let mut connections = Vec::new();
    for (protocol, number, connected, listening) in [
        ("tcp", IPPROTO_TCP, tcp, StateFlags::LISTEN),
        // A UDP socket is "established" when it is connected, else "closed".
        ("udp", IPPROTO_UDP, StateFlags::ESTABLISHED, StateFlags::CLOSE),
    ] {
        let mut ports = BTreeSet::new();
        for family in [AF_INET, AF_INET6] {
            ports.extend(list(family, number, &listening, MOST)?.iter().map(|it| it.socket_id.source_port));
        }
        for family in [AF_INET, AF_INET6] {
            let listed = list(family, number, &connected, MOST)?;
            connections.extend(listed.iter().filter_map(|header| connection(protocol, header, &ports, own)));
        }
    }
    // "outbound" sorts before "inbound", and "tcp" before "udp".
    let place = |it: &Connection| (it.protocol, it.inbound, it.peer, it.local);
    connections.sort_unstable_by_key(place);
    // A list that was interrupted can name a socket twice.
    connections.dedup_by_key(|it| place(it));
    connections.truncate(MOST);
    Ok(connections)
}

fn connection(
    protocol: &'static str,
    header: &InetResponseHeader,
    listening: &BTreeSet<u16>,
    own: &BTreeSet<IpAddr>,
) -> Option<Connection> {
    let id = &header.socket_id;
    let peer = SocketAddr::new(id.destination_address.to_canonical(), id.destination_port);
    if peer.ip().is_loopback() || peer.ip().is_unspecified() || own.contains(&peer.ip()) {
        return None;
    }
    let local = SocketAddr::new(id.source_address.to_canonical(), id.source_port);
    let state = state(header.state);
    let inbound = match state {
        "syn-sent" => false,
        "syn-recv" => true,
        _ => listening.contains(&local.port()),
    };
    Some(Connection { protocol, local, peer, state, inbound })
}

/// `include/net/tcp_states.h`.
fn state(number: u8) -> &'static str {
    match number {
        1 => "established",
        2 => "syn-sent",
        // TCP_SYN_RECV, TCP_NEW_SYN_RECV.
        3 | 12 => "syn-recv",
        4 => "fin-wait-1",
        5 => "fin-wait-2",
        8 => "close-wait",
        9 => "last-ack",
        11 => "closing",
        _ => "unknown",
    }
}

/// The sockets of this thread's namespace in these states, at most `most`.
fn list(family: u8, protocol: u8, states: &StateFlags, most: usize) -> io::Result<Vec<InetResponseHeader>> {
    let socket_id = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
    let request =
        InetRequest { family, protocol, extensions: ExtensionFlags::empty(), states: states.clone(), socket_id };
    let mut payload = vec![0; request.buffer_len()];
    request.emit(&mut payload);
    let mut found = Vec::new();
    for _ in 0..TRIES {
        found.clear();
        let dump = Netlink::sock_diag()?.dump_raw(SOCK_DIAG_BY_FAMILY, &payload, |payload| {
            found.push(header(payload)?);
            Ok(if found.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        });
        match dump {
            Ok(Dump::Whole | Dump::Stopped) => return Ok(found),
            Ok(Dump::Interrupted) => {}
            // The kernel had more to say than there was room for.
            Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {}
            Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    "the kernel cannot list sockets (modules inet_diag, tcp_diag and udp_diag)",
                ));
            }
            Err(error) => return Err(error),
        }
    }
    // It changes faster than it can be read. Most of a list is better than none.
    Ok(found)
}

fn header(payload: &[u8]) -> io::Result<InetResponseHeader> {
    InetResponseHeader::parse(payload).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::UdpSocket;
    use std::process::Command;

    use netlink_packet_sock_diag::constants::{AF_INET, IPPROTO_UDP};
    use netlink_packet_sock_diag::inet::StateFlags;
    use nix::sched::{CloneFlags, unshare};
    use proptest::prelude::*;

    use super::{Connection, connection, header, list};

    #[test]
    fn the_longest_line_has_at_most_128_bytes() {
        let end = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535".parse().unwrap();
        let longest = Connection { protocol: "tcp", local: end, peer: end, state: "established", inbound: true };
        assert!(longest.to_string().len() <= 128, "{longest}");
    }

    /// As many sockets as somebody in the pod likes, and no more of them read than are asked for.
    #[test]
    fn the_list_is_bounded() {
        let on_its_own = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("this test makes a network namespace: run it as root");
            let up = ["link", "set", "lo", "up"];
            assert!(Command::new("ip").args(up).status().expect("the program ip").success());
            // More than the kernel says in one go, so that reading stops in the middle.
            let sockets: Vec<UdpSocket> = (0..700)
                .map(|_| {
                    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                    socket.connect("127.0.0.1:9").unwrap();
                    socket
                })
                .collect();
            for most in [1, 3, 650, 10_000] {
                let listed = list(AF_INET, IPPROTO_UDP, &StateFlags::ESTABLISHED, most).expect("listed");
                assert_eq!(listed.len(), most.min(sockets.len()));
            }
        });
        on_its_own.join().expect("see above");
    }

    proptest! {
        #[test]
        fn any_answer_is_read(family in prop_oneof![Just(2u8), Just(10u8), any::<u8>()], bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let answer = [vec![family], bytes].concat();
            if let Ok(header) = header(&answer) {
                prop_assert!(answer.len() >= 72, "struct inet_diag_msg has 72 bytes");
                if let Some(connection) = connection("tcp", &header, &BTreeSet::new(), &BTreeSet::new()) {
                    prop_assert!(!connection.peer.ip().is_loopback());
                    prop_assert!(connection.to_string().len() <= 128);
                }
            }
        }
    }
}

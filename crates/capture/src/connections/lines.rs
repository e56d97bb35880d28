//! The lists in `/proc/PID/net` (proc_pid_net(5)).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::Serialize;

use crate::text::Text;

/// A list.
pub(super) struct NetFile {
    pub(super) path: &'static str,
    /// What its lines are.
    pub(super) kind: &'static str,
    /// Under what they are counted.
    pub(super) counted: &'static str,
    /// Reads a line; nothing for a heading.
    pub(super) parse: fn(&[u8]) -> Option<Line>,
}

const fn file(
    path: &'static str,
    kind: &'static str,
    counted: &'static str,
    parse: fn(&[u8]) -> Option<Line>,
) -> NetFile {
    NetFile { path, kind, counted, parse }
}

/// All of them, what is lost first first.
pub(super) const FILES: [NetFile; 18] = [
    file("net/tcp", "tcp", "sockets", tcp),
    file("net/tcp6", "tcp", "sockets", tcp),
    file("net/udp", "udp", "sockets", udp),
    file("net/udp6", "udp", "sockets", udp),
    file("net/udplite", "udplite", "sockets", udp),
    file("net/udplite6", "udplite", "sockets", udp),
    file("net/icmp", "icmp", "sockets", udp),
    file("net/icmp6", "icmp", "sockets", udp),
    file("net/raw", "raw", "sockets", raw),
    file("net/raw6", "raw", "sockets", raw),
    file("net/packet", "packet", "sockets", packet),
    file("net/netlink", "netlink", "sockets", netlink),
    file("net/unix", "unix", "sockets", unix),
    file("net/arp", "neighbour", "neighbours", neighbour),
    file("net/route", "route", "routes", route4),
    file("net/ipv6_route", "route", "routes", route6),
    file("net/if_inet6", "address", "addresses", address6),
    file("net/dev", "interface", "interfaces", interface),
];

/// One line of one of them.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
pub(super) enum Line {
    Internet {
        local: SocketAddr,
        peer: SocketAddr,
        state: &'static str,
        /// Bytes that wait to be sent, and to be read.
        queued: (u64, u64),
        uid: u32,
        inode: u64,
    },
    /// `protocol`: of IP, as in /etc/protocols.
    Raw {
        local: IpAddr,
        peer: IpAddr,
        protocol: u16,
        uid: u32,
        inode: u64,
    },
    /// `protocol`: of Ethernet, in hexadecimal; 0003 is all of them. `interface`: its number; 0 is all of them.
    Packet {
        socket_type: u32,
        protocol: String,
        interface: u32,
        uid: u32,
        inode: u64,
    },
    /// `protocol`: as in `include/uapi/linux/netlink.h`. `port`: mostly a process's number.
    Netlink {
        protocol: u32,
        port: u32,
        inode: u64,
    },
    Unix {
        socket_type: &'static str,
        listening: bool,
        state: u32,
        inode: u64,
        path: Option<Text>,
    },
    Neighbour {
        address: Text,
        hardware: Text,
        flags: Text,
        interface: Text,
    },
    Route {
        destination: IpAddr,
        prefix: u32,
        gateway: IpAddr,
        metric: u32,
        flags: u32,
        interface: Text,
    },
    Address {
        address: IpAddr,
        prefix: u32,
        interface: Text,
    },
    Interface {
        interface: Text,
        received_bytes: u64,
        sent_bytes: u64,
    },
}

impl Line {
    /// What a socket is known by among a process's open files. 0 is a socket that belongs to nobody any more.
    pub(super) fn inode(&self) -> Option<u64> {
        match self {
            Self::Internet { inode, .. }
            | Self::Raw { inode, .. }
            | Self::Packet { inode, .. }
            | Self::Netlink { inode, .. }
            | Self::Unix { inode, .. } => Some(*inode),
            Self::Neighbour { .. } | Self::Route { .. } | Self::Address { .. } | Self::Interface { .. } => None,
        }
    }
}

/// The fields of a line, which blanks separate.
struct Fields<'a>(Vec<&'a [u8]>);

impl<'a> Fields<'a> {
    fn of(line: &'a [u8]) -> Self {
        Self(line.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty()).collect())
    }

    fn bytes(&self, at: usize) -> Option<&'a [u8]> {
        self.0.get(at).copied()
    }

    fn text(&self, at: usize) -> Option<&'a str> {
        std::str::from_utf8(self.bytes(at)?).ok()
    }

    fn number<T: std::str::FromStr>(&self, at: usize) -> Option<T> {
        self.text(at)?.parse().ok()
    }

    fn hex(&self, at: usize) -> Option<u32> {
        u32::from_str_radix(self.text(at)?, 16).ok()
    }

    /// A name that others chose.
    fn name(&self, at: usize) -> Option<Text> {
        Some(Text::from(self.bytes(at)?))
    }
}

fn tcp(line: &[u8]) -> Option<Line> {
    internet(line, |number| match number {
        1 => "established",
        2 => "syn-sent",
        3 | 12 => "syn-recv",
        4 => "fin-wait-1",
        5 => "fin-wait-2",
        6 => "time-wait",
        7 => "close",
        8 => "close-wait",
        9 => "last-ack",
        10 => "listen",
        11 => "closing",
        _ => "unknown",
    })
}

fn udp(line: &[u8]) -> Option<Line> {
    internet(line, |number| match number {
        1 => "connected",
        7 => "unconnected",
        _ => "unknown",
    })
}

fn internet(line: &[u8], state: fn(u32) -> &'static str) -> Option<Line> {
    let fields = Fields::of(line);
    let (send, receive) = fields.text(4)?.split_once(':')?;
    let queue = |text| u64::from_str_radix(text, 16).ok();
    Some(Line::Internet {
        local: socket(fields.text(1)?)?,
        peer: socket(fields.text(2)?)?,
        state: state(fields.hex(3)?),
        queued: (queue(send)?, queue(receive)?),
        uid: fields.number(7)?,
        inode: fields.number(9)?,
    })
}

fn raw(line: &[u8]) -> Option<Line> {
    let fields = Fields::of(line);
    let (local, peer) = (socket(fields.text(1)?)?, socket(fields.text(2)?)?);
    let (uid, inode) = (fields.number(7)?, fields.number(9)?);
    Some(Line::Raw { local: local.ip(), peer: peer.ip(), protocol: local.port(), uid, inode })
}

fn packet(line: &[u8]) -> Option<Line> {
    let fields = Fields::of(line);
    Some(Line::Packet {
        socket_type: fields.number(2)?,
        protocol: format!("{:04x}", fields.hex(3)?),
        interface: fields.number(4)?,
        uid: fields.number(7)?,
        inode: fields.number(8)?,
    })
}

fn netlink(line: &[u8]) -> Option<Line> {
    let fields = Fields::of(line);
    Some(Line::Netlink { protocol: fields.number(1)?, port: fields.number(2)?, inode: fields.number(9)? })
}

fn unix(line: &[u8]) -> Option<Line> {
    /// `__SO_ACCEPTCON`, `include/uapi/linux/net.h`.
    const LISTENS: u32 = 1 << 16;
    let fields = Fields::of(line);
    let inode = fields.number(6)?;
    // The name is what follows the inode and one blank, whatever is in it.
    let path = after_fields(line, 7).filter(|path| !path.is_empty()).map(Text::from);
    Some(Line::Unix {
        socket_type: match fields.hex(4)? {
            1 => "stream",
            2 => "datagram",
            5 => "seqpacket",
            _ => "unknown",
        },
        listening: fields.hex(3)? & LISTENS != 0,
        state: fields.hex(5)?,
        inode,
        path,
    })
}

/// What follows so many fields and one blank.
fn after_fields(line: &[u8], count: usize) -> Option<&[u8]> {
    let mut rest = line;
    for _ in 0..count {
        let start = rest.iter().position(|byte| !byte.is_ascii_whitespace())?;
        let length = rest.get(start..)?.iter().position(u8::is_ascii_whitespace)?;
        rest = rest.get(start + length..)?;
    }
    rest.get(1..)
}

fn neighbour(line: &[u8]) -> Option<Line> {
    let fields = Fields::of(line);
    // Not the heading.
    fields.number::<Ipv4Addr>(0)?;
    Some(Line::Neighbour {
        address: fields.name(0)?,
        hardware: fields.name(3)?,
        flags: fields.name(2)?,
        interface: fields.name(5)?,
    })
}

fn route4(line: &[u8]) -> Option<Line> {
    let fields = Fields::of(line);
    let address = |at| Some(IpAddr::V4(v4(fields.hex(at)?)));
    Some(Line::Route {
        destination: address(1)?,
        gateway: address(2)?,
        prefix: fields.hex(7)?.count_ones(),
        metric: fields.number(6)?,
        flags: fields.hex(3)?,
        interface: fields.name(0)?,
    })
}

fn route6(line: &[u8]) -> Option<Line> {
    let fields = Fields::of(line);
    let address = |at| Some(IpAddr::V6(v6(fields.text(at)?)?));
    Some(Line::Route {
        destination: address(0)?,
        prefix: fields.hex(1)?,
        gateway: address(4)?,
        metric: fields.hex(5)?,
        flags: fields.hex(8)?,
        interface: fields.name(9)?,
    })
}

fn address6(line: &[u8]) -> Option<Line> {
    let fields = Fields::of(line);
    Some(Line::Address {
        address: IpAddr::V6(v6(fields.text(0)?)?),
        prefix: fields.hex(2)?,
        interface: fields.name(5)?,
    })
}

fn interface(line: &[u8]) -> Option<Line> {
    // A name holds no colon (`dev_valid_name`).
    let end = line.iter().position(|byte| *byte == b':')?;
    let name = line.get(..end)?.trim_ascii();
    let fields = Fields::of(line.get(end + 1..)?);
    Some(Line::Interface {
        interface: Text::from(name),
        received_bytes: fields.number(0)?,
        sent_bytes: fields.number(8)?,
    })
}

/// `0100007F:1F90`, or with 32 digits an address of IPv6.
fn socket(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let address = match address.len() {
        8 => IpAddr::V4(v4(u32::from_str_radix(address, 16).ok()?)),
        32 => IpAddr::V6(words(address)?),
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

/// A word of the network's order that was printed as a number of the machine's.
fn v4(word: u32) -> Ipv4Addr {
    Ipv4Addr::from(word.to_ne_bytes())
}

/// Four such words.
fn words(text: &str) -> Option<Ipv6Addr> {
    let mut bytes = [0; 16];
    for (number, place) in bytes.chunks_exact_mut(4).enumerate() {
        let word = u32::from_str_radix(text.get(number * 8..number * 8 + 8)?, 16).ok()?;
        place.copy_from_slice(&word.to_ne_bytes());
    }
    Some(bytes.into())
}

/// 32 digits in order.
fn v6(text: &str) -> Option<Ipv6Addr> {
    (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok().map(Ipv6Addr::from))?
}

#[cfg(test)]
#[path = "lines_tests.rs"]
mod tests;

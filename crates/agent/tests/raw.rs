//! Frames that the pod makes itself, on packet sockets (CAP_NET_RAW, which containers have by default).

#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests: a panic is a failed test")]

mod lab;

use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket};
use tourniquet_agent::cut::{Hooks, cut, lift};
use tourniquet_agent::netns::NetNs;

use crate::lab::{Lab, PROBED, V4, V6};

const COUNT: usize = 50;

/// Sends a frame, given in hex, claiming a protocol to the kernel; with or without the queueing layer.
const SEND: &str = "
import socket, sys
claimed, bypass, frame = int(sys.argv[1], 16), sys.argv[2] == 'bypass', bytes.fromhex(sys.argv[3])
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(('eth0', claimed))
if bypass:
    s.setsockopt(263, 20, 1)  # SOL_PACKET, PACKET_QDISC_BYPASS
for _ in range(int(sys.argv[4])):
    try:
        s.send(frame)
    except OSError:
        pass
";

struct Frame {
    what: &'static str,
    claimed: u16,
    bytes: Vec<u8>,
}

fn ethernet(kind: u16, rest: &[u8]) -> Vec<u8> {
    [&[0xff; 6][..], &[2, 0, 0, 0, 0, 7], &kind.to_be_bytes(), rest].concat()
}

fn ipv4(to: IpAddr, protocol: u8, rest: &[u8]) -> Vec<u8> {
    let (IpAddr::V4(from), IpAddr::V4(to)) = (V4.pod, to) else { panic!("IPv4") };
    let length = u16::try_from(20 + rest.len()).expect("short");
    let header =
        [&[0x45, 0][..], &length.to_be_bytes(), &[0, 1, 0, 0, 64, protocol, 0, 0], &from.octets(), &to.octets()];
    [header.concat(), rest.to_vec()].concat()
}

fn ipv6(to: [u16; 8], next: u8, hops: u8, rest: &[u8]) -> Vec<u8> {
    let IpAddr::V6(from) = V6.pod else { panic!("IPv6") };
    let length = u16::try_from(rest.len()).expect("short");
    let to = std::net::Ipv6Addr::from(to);
    [&[0x60, 0, 0, 0][..], &length.to_be_bytes(), &[next, hops], &from.octets(), &to.octets(), rest].concat()
}

fn tcp(from: u16, to: u16, flags: u8, magic: &[u8]) -> Vec<u8> {
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &[0; 8], &[0x50, flags, 1, 0, 0, 0, 0, 0], magic].concat()
}

/// Everything here leaves an uncut pod, and must not leave a cut one.
fn frames(magic: &[u8]) -> Vec<Frame> {
    let udp = [&[0x30, 0x39, 0, 53, 0, 40, 0, 0][..], magic].concat();
    let advertisement = [&[136, 0, 0, 0, 0, 0, 0, 0][..], &[0; 16], magic].concat();
    let to_outsider = ipv4(V4.outsider, 17, &udp);
    let far = [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1];
    let options = {
        let mut packet = ipv4(V4.node, 6, &[&[1, 1, 1, 1][..], &tcp(PROBED, 1, 0x10, magic)].concat());
        packet[0] = 0x46;
        packet
    };
    let extension = ipv6(
        [0xfd99, 0, 0, 0, 0, 0, 0, 1],
        60,
        64,
        &[&[6, 0, 1, 4, 0, 0, 0, 0][..], &tcp(PROBED, 1, 0x10, magic)].concat(),
    );
    let tagged = [&[0, 7, 8, 0][..], &to_outsider].concat();
    let frame = |what, claimed, bytes| Frame { what, claimed, bytes };
    vec![
        frame("a protocol of its own", 0x88b5, ethernet(0x88b5, magic)),
        frame("IP to an outsider", 0x0800, ethernet(0x0800, &to_outsider)),
        frame("IP that claims to be ARP", 0x0806, ethernet(0x0800, &to_outsider)),
        frame("ARP that claims to be IP", 0x0800, ethernet(0x0806, &ipv4(V4.node, 6, &tcp(PROBED, 1, 0x10, magic)))),
        frame("IP in a VLAN", 0x8100, ethernet(0x8100, &tagged)),
        frame("IP in a VLAN that claims to be ARP", 0x0806, ethernet(0x8100, &tagged)),
        frame(
            "a connection to the node from a probed port",
            0x0800,
            ethernet(0x0800, &ipv4(V4.node, 6, &tcp(PROBED, 1, 2, magic))),
        ),
        frame("a reply to an outsider", 0x0800, ethernet(0x0800, &ipv4(V4.outsider, 6, &tcp(PROBED, 1, 0x10, magic)))),
        frame("a reply with options", 0x0800, ethernet(0x0800, &options)),
        frame("a reply behind an extension header", 0x86dd, ethernet(0x86dd, &extension)),
        frame("an advertisement to far away", 0x86dd, ethernet(0x86dd, &ipv6(far, 58, 255, &advertisement))),
        frame(
            "a forwarded advertisement",
            0x86dd,
            ethernet(0x86dd, &ipv6([0xff02, 0, 0, 0, 0, 0, 0, 1], 58, 64, &advertisement)),
        ),
    ]
}

fn send(namespace: &NetNs, frame: &Frame, bypass: bool) {
    let hex: String = frame.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let (claimed, bypass) = (format!("{:x}", frame.claimed), if bypass { "bypass" } else { "queue" });
    let count = COUNT.to_string();
    let output =
        namespace.enter(|| Command::new("python3").args(["-c", SEND, &claimed, bypass, &hex, &count]).output());
    let output = output.expect("the namespace").expect("this test needs the program python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// How many frames with these bytes arrive at the node, of those sent meanwhile.
fn arrive(lab: &Lab, frame: &Frame, bypass: bool, magic: &[u8], expect: usize) -> usize {
    let opened = lab.node.enter(|| {
        socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
            SockProtocol::EthAll,
        )
    });
    let sniffer = opened.expect("the namespace").expect("a packet socket (CAP_NET_RAW)");
    send(&lab.pod, frame, bypass);
    let mut seen = 0;
    let mut buffer = [0; 2048];
    // A frame over a veth pair is there when it is sent; a moment more for the softirq.
    let end = Instant::now() + Duration::from_millis(if expect == 0 { 100 } else { 5000 });
    while Instant::now() < end && (expect == 0 || seen < expect) {
        let fd = std::os::fd::AsRawFd::as_raw_fd(&sniffer);
        match recv(fd, &mut buffer, MsgFlags::empty()) {
            Ok(length) if buffer[..length].windows(magic.len()).any(|part| part == magic) => seen += 1,
            Ok(_) => {}
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
    seen
}

#[test]
fn raw_frames_do_not_leave() {
    let lab = Lab::new();
    let magic = b"tourniquet-raw-frame-0123456789";
    for frame in frames(magic) {
        for bypass in [false, true] {
            assert_eq!(arrive(&lab, &frame, bypass, magic, COUNT), COUNT, "before: {} bypass={bypass}", frame.what);
        }
    }
    cut(&lab.pod, &lab.allow(), Hooks::Netdev).expect("the cut");
    for frame in frames(magic) {
        for bypass in [false, true] {
            assert_eq!(arrive(&lab, &frame, bypass, magic, 0), 0, "during: {} bypass={bypass}", frame.what);
        }
    }
    // What the hooks that see only IP let through is what their description says.
    cut(&lab.pod, &lab.allow(), Hooks::Inet).expect("the cut");
    let own = frames(magic).into_iter().next().expect("a frame");
    assert_eq!(arrive(&lab, &own, false, magic, COUNT), COUNT, "Hooks::Inet says that packet sockets are not covered");
    lift(&lab.pod).expect("lifted");
}

//! Frames made by hand and sent on a packet socket, which hooks for IP packets never see. Needs CAP_NET_RAW, which
//! containers have by default.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, bind, send as send_on, socket};

use crate::{EVERY, every, now};

const PORT: u16 = 9999;

/// Sends a datagram with the time in it, again and again.
pub(crate) fn send(to: SocketAddrV4) -> io::Result<()> {
    let (link, from) = interface()?;
    // Protocol 0: it receives nothing.
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    bind(socket.as_raw_fd(), &link)?;
    let mut failed = Ok(());
    every(EVERY, || {
        let frame = frame(link.addr().unwrap_or_default(), from, to, now().to_string().as_bytes());
        // No buffer space is what a dropped frame comes to for its sender; any other error ends it.
        failed = match send_on(socket.as_raw_fd(), &frame, MsgFlags::empty()) {
            Ok(_) | Err(nix::errno::Errno::ENOBUFS) => Ok(()),
            Err(errno) => Err(errno.into()),
        };
        failed.is_ok()
    });
    failed
}

/// The first interface but loopback that has a link address and an IPv4 address.
fn interface() -> io::Result<(LinkAddr, Ipv4Addr)> {
    let all: Vec<_> =
        getifaddrs()?.filter(|interface| !interface.flags.contains(InterfaceFlags::IFF_LOOPBACK)).collect();
    let found = all.iter().find_map(|interface| {
        let link = *interface.address.as_ref()?.as_link_addr()?;
        let same = all.iter().filter(|other| other.interface_name == interface.interface_name);
        let ip = same.filter_map(|other| other.address.as_ref()?.as_sockaddr_in()).next()?.ip();
        Some((link, ip))
    });
    found.ok_or_else(|| io::Error::other("no interface has a link address and an IPv4 address"))
}

/// Ethernet to everybody on the link, IPv4, UDP. Nobody has to be asked for a link address, which a cut pod could not.
fn frame(link: [u8; 6], from: Ipv4Addr, to: SocketAddrV4, text: &[u8]) -> Vec<u8> {
    let length = |header: usize| u16::try_from(header + text.len()).unwrap_or(u16::MAX).to_be_bytes();
    let ip = |sum: u16| {
        [&[0x45, 0][..], &length(28), &[0, 0, 0, 0, 64, 17], &sum.to_be_bytes(), &from.octets(), &to.ip().octets()]
            .concat()
    };
    // No checksum of UDP, which IPv4 allows (RFC 768).
    let udp = [&PORT.to_be_bytes()[..], &to.port().to_be_bytes(), &length(8), &[0, 0], text].concat();
    [&[0xff; 6][..], &link, &[8, 0], &ip(checksum(&ip(0))), &udp].concat()
}

/// RFC 1071.
fn checksum(header: &[u8]) -> u16 {
    let words = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

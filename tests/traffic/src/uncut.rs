//! What somebody in a pod with CAP_NET_ADMIN would do first: remove the agent's table. Not by the agent's own library,
//! which enters a namespace before it touches it, and that takes CAP_SYS_ADMIN.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage};
use netlink_packet_netfilter::nftables::{NfTablesMessage, TableAttribute, TableMessage};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

use crate::say;

/// The agent puts a table back within milliseconds; this long without one, and it does not.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks for a table to remove.
const PAUSE: Duration = Duration::from_millis(1);
/// `NFNL_SUBSYS_NFTABLES`, `include/uapi/linux/netfilter/nfnetlink.h`.
const NFTABLES: u16 = 10;

/// Removes the table this often, and prints how often it did. Each time it has to have been put back in between.
pub(crate) fn uncut(times: u32) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    for removed in 0..times {
        let end = Instant::now() + PATIENCE;
        while !remove(&socket)? {
            if Instant::now() > end {
                return Err(io::Error::other(format!("removed {removed} times, and then there was nothing to remove")));
            }
            thread::sleep(PAUSE);
        }
    }
    say(&format!("removed {times}"))
}

/// Removes the table of either family; false when there is none.
fn remove(socket: &Socket) -> io::Result<bool> {
    let mut removed = false;
    for family in [NetfilterProtoFamily::NetDev, NetfilterProtoFamily::Inet] {
        removed |= remove_of(socket, family)?;
    }
    Ok(removed)
}

fn remove_of(socket: &Socket, family: NetfilterProtoFamily) -> io::Result<bool> {
    let batch =
        |message| NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, NFTABLES), message);
    let table = TableMessage { attributes: vec![TableAttribute::Name("tourniquet".to_owned())] };
    let delete = NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), NfTablesMessage::DeleteTable(table));
    let mut bytes = Vec::new();
    for (message, flags) in
        [(batch(ControlMessage::BatchBegin), 0), (delete, NLM_F_ACK), (batch(ControlMessage::BatchEnd), 0)]
    {
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | flags;
        message.finalize();
        let mut part = vec![0; message.buffer_len()];
        message.serialize(&mut part);
        bytes.extend(part);
    }
    socket.send(&bytes, 0)?;
    // One acknowledgement, of the message that asked for one; an error of the batch comes in its place. All that is told apart
    // is the number behind the header (`struct nlmsgerr`): zero, or an error's with the sign turned.
    let (answer, _) = socket.recv_from_full()?;
    let code = answer.get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match code.map(|code| io::Error::from_raw_os_error(-code)) {
        Some(error) if error.raw_os_error() == Some(0) => Ok(true),
        Some(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Some(error) => Err(error),
        None => Err(io::Error::other("the kernel's answer is too short")),
    }
}

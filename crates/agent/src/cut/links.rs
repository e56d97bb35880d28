//! The interfaces of the calling thread's network namespace, from rtnetlink. (/sys/class/net shows those of the mount's
//! namespace; and an interface's name may be any bytes, so nothing here takes it for text.)

use std::fmt;
use std::io;
use std::ops::ControlFlow;

use netlink_packet_core::NlasIterator;

use crate::netlink::{Dump, Netlink, TRIES};

/// An interface's name: up to 15 bytes that are no slash, colon or white space. A pod with CAP_NET_ADMIN chooses them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name(pub(super) Vec<u8>);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

/// `RTM_GETLINK`, `include/uapi/linux/rtnetlink.h`.
const RTM_GETLINK: u16 = 18;
/// `IFLA_IFNAME`, `include/uapi/linux/if_link.h`.
const IFLA_IFNAME: u16 = 3;
/// `IFF_LOOPBACK`, `include/uapi/linux/if.h`. Told by this flag, which nobody can set, not by the name `lo`, which
/// anybody with CAP_NET_ADMIN can give to another interface.
const IFF_LOOPBACK: u32 = 0x8;
/// `struct ifinfomsg`, `include/uapi/linux/rtnetlink.h`: family u8, padding u8, type u16, index i32, flags u32, change
/// u32.
const IFINFOMSG: usize = 16;

/// An interface.
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: Name,
}

/// The names of all interfaces but loopback, up or down, in order.
pub(super) fn but_loopback() -> io::Result<Vec<Name>> {
    let mut names: Vec<Name> = links()?.into_iter().map(|link| link.name).collect();
    names.sort_unstable();
    Ok(names)
}

/// All interfaces but loopback, up or down.
pub(super) fn links() -> io::Result<Vec<Link>> {
    let mut found = Vec::new();
    for _ in 0..TRIES {
        found.clear();
        let dump = Netlink::route()?.dump_raw(RTM_GETLINK, &[0; IFINFOMSG], |payload| {
            found.extend(link(payload)?);
            Ok(ControlFlow::Continue(()))
        })?;
        if dump == Dump::Whole {
            break;
        }
    }
    // A pod that changes its interfaces without end must not keep them from being cut: the last list counts, and each
    // change is heard of by the watch.
    Ok(found)
}

fn link(payload: &[u8]) -> io::Result<Option<Link>> {
    let malformed =
        || io::Error::new(io::ErrorKind::InvalidData, "the kernel's description of an interface is malformed");
    let (header, attributes) = payload.split_at_checked(IFINFOMSG).ok_or_else(malformed)?;
    let word = |at: usize| header.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes);
    let index = word(4).ok_or_else(malformed)?;
    if word(8).ok_or_else(malformed)? & IFF_LOOPBACK != 0 {
        return Ok(None);
    }
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute.map_err(io::Error::other)?;
        if attribute.kind() == IFLA_IFNAME {
            let bytes = attribute.value();
            let name = Name(bytes.strip_suffix(&[0]).unwrap_or(bytes).to_vec());
            return Ok(Some(Link { index, name }));
        }
    }
    Err(malformed())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{IFINFOMSG, link};

    proptest! {
        #[test]
        fn any_answer_is_read(bytes in proptest::collection::vec(any::<u8>(), 0..80), name in proptest::collection::vec(1..=255u8, 1..16)) {
            if let Ok(Some(link)) = link(&bytes) {
                prop_assert!(bytes.len() > IFINFOMSG && link.name.0.len() <= bytes.len() - IFINFOMSG);
            }
            // Whatever the pod calls it, that is its name: header, one attribute of another kind, IFLA_IFNAME.
            let mut answer = vec![0; IFINFOMSG];
            answer.extend([5, 0, 13, 0, 7, 0, 0, 0]);
            answer.extend(u16::try_from(4 + name.len() + 1).unwrap().to_ne_bytes());
            answer.extend([3, 0]);
            answer.extend(&name);
            answer.push(0);
            answer.resize(answer.len().next_multiple_of(4), 0);
            prop_assert_eq!(link(&answer).unwrap().map(|link| link.name.0), Some(name));
        }
    }
}

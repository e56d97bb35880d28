//! A transaction of nftables changes, and what nftables holds.

use std::io;
use std::ops::ControlFlow;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_ERROR, NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::nftables::NfTablesMessage;
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use nix::errno::Errno;

use super::Message;
use super::rules::Family;
use crate::netlink::{Dump, Netlink, TRIES, answers, code, unanswered};

/// `NFNL_SUBSYS_NFTABLES`, `include/uapi/linux/netfilter/nfnetlink.h`: to whom a batch goes.
const NFNL_SUBSYS_NFTABLES: u16 = 10;

/// Why a transaction had no effect.
#[derive(Debug)]
pub(super) enum Refused {
    /// The kernel refused this message, and with it the whole.
    At { message: String, source: io::Error },
    /// The kernel could not be asked, or gave no answer.
    Unanswered(io::Error),
}

impl Netlink {
    /// Makes all these changes, or none.
    pub(super) fn transact(&mut self, messages: Vec<Message>) -> Result<(), Refused> {
        let first = self.sequence().wrapping_add(1);
        let mut bytes = Vec::new();
        let mut names = Vec::new();
        self.append(&mut bytes, batch(ControlMessage::BatchBegin), NLM_F_REQUEST);
        let count = messages.len();
        for (at, (family, message, flags)) in messages.into_iter().enumerate() {
            names.push(format!("{:?} in family {family}", message.message_type()));
            // Errors come for each message, so an acknowledgement of the last is enough.
            let acknowledge = if at + 1 == count { NLM_F_ACK } else { 0 };
            self.append(&mut bytes, nftables(family, message), NLM_F_REQUEST | flags | acknowledge);
        }
        let last = self.sequence();
        self.append(&mut bytes, batch(ControlMessage::BatchEnd), NLM_F_REQUEST);
        if count == 0 {
            return Ok(());
        }
        self.send(&bytes).map_err(Refused::Unanswered)?;

        let mut refused = None;
        let mut acknowledged = false;
        while !acknowledged {
            let buffer = match self.receive() {
                Ok(buffer) => buffer,
                // A whole batch that is refused is answered at its first message only.
                Err(error) if refused.is_none() => return Err(Refused::Unanswered(error)),
                Err(_) => break,
            };
            for answer in answers(&buffer).map_err(Refused::Unanswered)? {
                if answer.kind != NLMSG_ERROR || !(first..=self.sequence()).contains(&answer.sequence) {
                    continue;
                }
                match code(answer.payload).map_err(Refused::Unanswered)? {
                    0 => {}
                    code => {
                        let at = answer.sequence.checked_sub(first + 1).and_then(|at| names.get(at as usize));
                        let message = at.cloned().unwrap_or_else(|| "the transaction".into());
                        refused.get_or_insert((message, io::Error::from_raw_os_error(code)));
                    }
                }
                acknowledged |= answer.sequence == last;
            }
        }
        match refused {
            None => Ok(()),
            Some((message, source)) => Err(Refused::At { message, source }),
        }
    }

    /// One object, or none when there is no such.
    pub(super) fn get(&mut self, family: Family, request: NfTablesMessage) -> io::Result<Option<NfTablesMessage>> {
        let mut bytes = Vec::new();
        self.append(&mut bytes, nftables(family, request), NLM_F_REQUEST);
        self.send(&bytes)?;
        let buffer = self.receive()?;
        let answers = answers(&buffer)?;
        let answer = answers.iter().find(|answer| answer.sequence == self.sequence()).ok_or_else(unanswered)?;
        if answer.kind != NLMSG_ERROR {
            return decode(answer.whole).map(Some);
        }
        match Errno::from_raw(code(answer.payload)?) {
            // A family that the kernel does not have holds nothing.
            Errno::ENOENT | Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT => Ok(None),
            errno => Err(errno.into()),
        }
    }

    /// All objects that a request asks for.
    pub(super) fn dump(&mut self, family: Family, request: &NfTablesMessage) -> io::Result<Vec<NfTablesMessage>> {
        for _ in 0..TRIES {
            let mut bytes = Vec::new();
            self.append(&mut bytes, nftables(family, request.clone()), NLM_F_REQUEST | NLM_F_DUMP);
            self.send(&bytes)?;
            let mut objects = Vec::new();
            let dump = self.collect(|answer| {
                objects.push(decode(answer.whole)?);
                Ok(ControlFlow::Continue(()))
            });
            match dump {
                Ok(Dump::Whole) => return Ok(objects),
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => return Ok(Vec::new()),
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other("it changes faster than it can be read"))
    }

    fn append(&mut self, bytes: &mut Vec<u8>, message: NetfilterMessage, flags: u16) {
        let sequence = self.next_sequence();
        let mut message = NetlinkMessage::from(message);
        message.header.flags = flags;
        message.header.sequence_number = sequence;
        message.finalize();
        let start = bytes.len();
        bytes.resize(start + message.buffer_len(), 0);
        if let Some(space) = bytes.get_mut(start..) {
            message.serialize(space);
        }
    }
}

fn nftables(family: Family, message: NfTablesMessage) -> NetfilterMessage {
    let family = match family {
        Family::Netdev => NetfilterProtoFamily::NetDev,
        Family::Inet => NetfilterProtoFamily::Inet,
    };
    NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message)
}

fn batch(message: ControlMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, NFNL_SUBSYS_NFTABLES), message)
}

fn decode(message: &[u8]) -> io::Result<NfTablesMessage> {
    let malformed = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let message =
        NetlinkMessage::<NetfilterMessage>::deserialize(message).map_err(|error| malformed(error.to_string()))?;
    match message.payload {
        NetlinkPayload::InnerMessage(NetfilterMessage { inner: NetfilterMessageInner::NfTables(message), .. }) => {
            Ok(message)
        }
        other => Err(malformed(format!("expected an nftables object, got {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::decode;
    use crate::netlink::answers;

    proptest! {
        #[test]
        fn any_answer_is_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for answer in answers(&bytes).unwrap_or_default() {
                let _ = decode(answer.whole);
            }
            // Headers that are right, so that the reader gets further.
            let mut message = u32::try_from(16 + bytes.len()).unwrap().to_ne_bytes().to_vec();
            message.extend([6, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            message.extend(&bytes);
            for answer in answers(&message).unwrap() {
                let _ = decode(answer.whole);
            }
        }
    }
}

//! Netlink, blocking and small: a transaction of nftables changes, and dumps.
//!
//! The kernel handles a request within the call that sends it, so its answer waits when that call returns: nothing here
//! waits, and a missing answer is an error at once.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_netfilter::nftables::NfTablesMessage;
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;

use super::Message;
use super::rules::Family;

/// `NFNL_SUBSYS_NFTABLES`, `include/uapi/linux/netfilter/nfnetlink.h`: to whom a batch goes.
const NFNL_SUBSYS_NFTABLES: u16 = 10;
/// `NLM_F_DUMP_INTR`, `include/uapi/linux/netlink.h`: something changed while it was dumped.
const NLM_F_DUMP_INTR: u16 = 0x10;
/// `struct nlmsghdr`, `include/uapi/linux/netlink.h`: length u32, type u16, flags u16, sequence u32, port u32.
const NLMSGHDR: usize = 16;
/// The kernel fills at most 32 KiB of a dump at once.
const BUFFER: usize = 64 * 1024;
/// How often an interrupted dump starts anew.
const TRIES: usize = 10;

/// Why a transaction had no effect.
#[derive(Debug)]
pub(super) enum Refused {
    /// The kernel refused this message, and with it the whole.
    At { message: String, source: io::Error },
    /// The kernel could not be asked, or gave no answer.
    Unanswered(io::Error),
}

pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
}

/// One message of an answer.
struct Answer<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    whole: &'a [u8],
    payload: &'a [u8],
}

impl Netlink {
    pub(super) fn netfilter() -> io::Result<Self> {
        Self::open(NETLINK_NETFILTER)
    }

    pub(super) fn route() -> io::Result<Self> {
        Self::open(NETLINK_ROUTE)
    }

    fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Makes all these changes, or none.
    pub(super) fn transact(&mut self, messages: Vec<Message>) -> Result<(), Refused> {
        let first = self.sequence + 1;
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
        let last = self.sequence;
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
                if answer.kind != NLMSG_ERROR || !(first..=self.sequence).contains(&answer.sequence) {
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
        let answer = answers.iter().find(|answer| answer.sequence == self.sequence).ok_or_else(unanswered)?;
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
            if self.collect(|answer| {
                objects.push(decode(answer.whole)?);
                Ok(())
            })? {
                return Ok(objects);
            }
        }
        Err(io::Error::other("it changes faster than it can be read"))
    }

    /// All objects that a request asks for, undecoded. `each` sees every payload; after an interruption all of them
    /// again.
    pub(super) fn dump_raw(
        &mut self,
        kind: u16,
        payload: &[u8],
        mut each: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        self.sequence += 1;
        let length = u32::try_from(NLMSGHDR + payload.len()).map_err(io::Error::other)?;
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
        bytes.extend(self.sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(payload);
        self.send(&bytes)?;
        self.collect(|answer| each(answer.payload))?;
        Ok(())
    }

    /// Reads a dump to its end. False: something changed meanwhile.
    fn collect(&mut self, mut each: impl FnMut(&Answer<'_>) -> io::Result<()>) -> io::Result<bool> {
        let mut steady = true;
        let mut result = Ok(());
        loop {
            let buffer = self.receive()?;
            for answer in answers(&buffer)?.into_iter().filter(|answer| answer.sequence == self.sequence) {
                steady &= answer.flags & NLM_F_DUMP_INTR == 0;
                match answer.kind {
                    NLMSG_DONE => return result.map(|()| steady),
                    NLMSG_ERROR => match Errno::from_raw(code(answer.payload)?) {
                        Errno::ENOENT => return Ok(steady),
                        errno => return Err(errno.into()),
                    },
                    // The rest is read all the same: it would be taken for the next answer.
                    _ if result.is_err() => {}
                    _ => result = each(&answer),
                }
            }
        }
    }

    fn append(&mut self, bytes: &mut Vec<u8>, message: NetfilterMessage, flags: u16) {
        self.sequence += 1;
        let mut message = NetlinkMessage::from(message);
        message.header.flags = flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let start = bytes.len();
        bytes.resize(start + message.buffer_len(), 0);
        if let Some(space) = bytes.get_mut(start..) {
            message.serialize(space);
        }
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let sent = self.socket.send(bytes, 0)?;
        if sent == bytes.len() { Ok(()) } else { Err(io::Error::other("the kernel took a part of the message only")) }
    }

    /// The next datagram from the kernel. Others with rights in the namespace can write to this socket too.
    fn receive(&self) -> io::Result<Vec<u8>> {
        loop {
            let mut buffer = Vec::with_capacity(BUFFER);
            let (_, from) = self.socket.recv_from(&mut buffer, 0).map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock => unanswered(),
                _ => error,
            })?;
            if from.port_number() == 0 {
                return Ok(buffer);
            }
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

/// The messages in a datagram.
fn answers(mut buffer: &[u8]) -> io::Result<Vec<Answer<'_>>> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is malformed");
    let mut answers = Vec::new();
    while !buffer.is_empty() {
        let header = buffer.get(..NLMSGHDR).ok_or_else(malformed)?;
        let word = |at: usize| header.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes);
        let half = |at: usize| header.get(at..at + 2).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
        let length = word(0).ok_or_else(malformed)? as usize;
        let whole = buffer.get(..length).ok_or_else(malformed)?;
        answers.push(Answer {
            kind: half(4).ok_or_else(malformed)?,
            flags: half(6).ok_or_else(malformed)?,
            sequence: word(8).ok_or_else(malformed)?,
            payload: whole.get(NLMSGHDR..).ok_or_else(malformed)?,
            whole,
        });
        buffer = buffer.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(answers)
}

/// The errno in a `struct nlmsgerr`, `include/uapi/linux/netlink.h`; 0 is an acknowledgement.
fn code(payload: &[u8]) -> io::Result<i32> {
    let bytes = payload.get(..4).and_then(|bytes| bytes.try_into().ok());
    let code =
        bytes.map(i32::from_ne_bytes).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a short error"))?;
    Ok(code.saturating_neg())
}

fn unanswered() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the kernel gave no answer")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{answers, code, decode};

    proptest! {
        #[test]
        fn any_answer_is_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = code(&bytes);
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

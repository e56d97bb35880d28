//! Netlink, blocking and small: a request and its answers, dumps, and notices. Every netlink socket of this crate is
//! opened here.
//!
//! The kernel handles a request within the call that sends it, so its answer waits when that call returns: nothing here
//! waits, and a missing answer is an error at once.

use std::io;
use std::ops::ControlFlow;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR};
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE, NETLINK_SOCK_DIAG};
use netlink_sys::{Socket, SocketAddr};

/// `NLM_F_DUMP_INTR`, `include/uapi/linux/netlink.h`: something changed while it was dumped.
const NLM_F_DUMP_INTR: u16 = 0x10;
/// `struct nlmsghdr`, `include/uapi/linux/netlink.h`: length u32, type u16, flags u16, sequence u32, port u32.
const NLMSGHDR: usize = 16;
/// The kernel fills at most 32 KiB of a dump at once.
const BUFFER: usize = 64 * 1024;
/// How often an interrupted dump is worth starting anew.
pub(crate) const TRIES: usize = 10;

/// A conversation with one part of the kernel, about the namespace that it was opened in.
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
}

/// One message of an answer.
pub(crate) struct Answer<'a> {
    pub(crate) kind: u16,
    flags: u16,
    pub(crate) sequence: u32,
    pub(crate) whole: &'a [u8],
    pub(crate) payload: &'a [u8],
}

/// How a dump ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dump {
    /// Everything was read, and nothing changed meanwhile.
    Whole,
    /// Something changed meanwhile: parts may be missing, or there twice.
    Interrupted,
    /// The reader had enough. The rest still waits, so this conversation is of no further use.
    Stopped,
}

impl Netlink {
    /// With nftables.
    pub(crate) fn netfilter() -> io::Result<Self> {
        Self::open(NETLINK_NETFILTER)
    }

    /// With the interfaces.
    pub(crate) fn route() -> io::Result<Self> {
        Self::open(NETLINK_ROUTE)
    }

    /// With the list of sockets.
    pub(crate) fn sock_diag() -> io::Result<Self> {
        Self::open(NETLINK_SOCK_DIAG)
    }

    fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// The number of the latest request.
    pub(crate) fn sequence(&self) -> u32 {
        self.sequence
    }

    /// The number of a new request.
    pub(crate) fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// All objects that a request asks for, undecoded, until `each` has enough.
    pub(crate) fn dump_raw(
        &mut self,
        kind: u16,
        payload: &[u8],
        mut each: impl FnMut(&[u8]) -> io::Result<ControlFlow<()>>,
    ) -> io::Result<Dump> {
        let sequence = self.next_sequence();
        let length = u32::try_from(NLMSGHDR + payload.len()).map_err(io::Error::other)?;
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(payload);
        self.send(&bytes)?;
        self.collect(|answer| each(answer.payload))
    }

    /// Reads a dump to its end.
    pub(crate) fn collect(
        &mut self,
        mut each: impl FnMut(&Answer<'_>) -> io::Result<ControlFlow<()>>,
    ) -> io::Result<Dump> {
        let mut steady = true;
        let mut result = Ok(());
        loop {
            let buffer = self.receive()?;
            for answer in answers(&buffer)?.into_iter().filter(|answer| answer.sequence == self.sequence) {
                steady &= answer.flags & NLM_F_DUMP_INTR == 0;
                match answer.kind {
                    // The end of a dump carries an errno as well (`netlink_dump_done`): without it, a kernel that
                    // cannot list something looks like one that has nothing to list.
                    NLMSG_DONE | NLMSG_ERROR => match code(answer.payload)? {
                        0 if answer.kind == NLMSG_DONE => {
                            return result.map(|()| if steady { Dump::Whole } else { Dump::Interrupted });
                        }
                        0 => {}
                        errno => return Err(io::Error::from_raw_os_error(errno)),
                    },
                    // The rest is read all the same: it would be taken for the next answer.
                    _ if result.is_err() => {}
                    _ => match each(&answer) {
                        Ok(ControlFlow::Continue(())) => {}
                        Ok(ControlFlow::Break(())) => return Ok(Dump::Stopped),
                        Err(error) => result = Err(error),
                    },
                }
            }
        }
    }

    /// Sends whole messages.
    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let sent = self.socket.send(bytes, 0)?;
        if sent == bytes.len() { Ok(()) } else { Err(io::Error::other("the kernel took a part of the message only")) }
    }

    /// The next datagram from the kernel. Others with rights in the namespace can write to this socket too.
    pub(crate) fn receive(&self) -> io::Result<Vec<u8>> {
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

/// A socket that hears of changes in this group, from now on.
pub(crate) fn listen(protocol: isize, group: u32) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    socket.add_membership(group)?;
    socket.set_non_blocking(true)?;
    Ok(socket)
}

/// The messages in a datagram.
pub(crate) fn answers(mut buffer: &[u8]) -> io::Result<Vec<Answer<'_>>> {
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
pub(crate) fn code(payload: &[u8]) -> io::Result<i32> {
    let bytes = payload.get(..4).and_then(|bytes| bytes.try_into().ok());
    let code =
        bytes.map(i32::from_ne_bytes).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a short error"))?;
    Ok(code.saturating_neg())
}

/// The kernel should have said something.
pub(crate) fn unanswered() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the kernel gave no answer")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{answers, code};

    proptest! {
        #[test]
        fn any_answer_is_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = code(&bytes);
            let read: usize = answers(&bytes).unwrap_or_default().iter().map(|answer| answer.whole.len()).sum();
            prop_assert!(read <= bytes.len());
        }
    }
}

//! Try from inside a network namespace who can be reached: the proof that a cut holds, and the control before it that
//! there was something to cut.
//!
//! An attempt is one TCP handshake. Nothing is sent on the connection, and nothing of it stays: it is ended by a reset,
//! so that neither FIN-WAIT nor TIME-WAIT is left in the namespace, where [`crate::connections`] would count it as the
//! pod's.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};

use crate::netns::NetNs;

/// What a connection attempt came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// The connection was made.
    Answered,
    /// The peer refused or reset it: it was reached. A firewall on the way that rejects in the peer's name (RST, ICMP
    /// port unreachable) cannot be told from it.
    Refused,
    /// There was no answer within the time: what a cut looks like from inside.
    TimedOut,
    /// The network or the kernel said that there is no way: no route, no address to come from, a protocol that the
    /// kernel does not have, or "not permitted" (EPERM, EACCES). The latter comes from a filter that sees the call
    /// itself, such as a BPF program at the control group or a `prohibit` route, before there is a packet. A packet
    /// filter that drops is not seen in a TCP attempt, also where it tells senders of datagrams EPERM
    /// ([`crate::cut::Hooks::Inet`]): `tcp_connect` ignores that, tries again, and it is `TimedOut`.
    Unreachable,
}

impl Attempt {
    /// Whether the peer was reached: a refusal comes from the peer as well.
    #[must_use]
    pub fn reached(self) -> bool {
        matches!(self, Self::Answered | Self::Refused)
    }
}

/// Makes one TCP connection attempt to each target from inside the namespace, all at the same time and at most `limit`
/// together. Returns what each came to, in the order of the targets, as soon as all are decided.
///
/// # Errors
/// When the namespace cannot be entered (CAP_SYS_ADMIN), or this process has no file descriptors or memory left for the
/// sockets: that says nothing of the targets, so it is not taken for an answer.
pub fn attempt(namespace: &NetNs, targets: &[SocketAddr], limit: Duration) -> io::Result<Vec<Attempt>> {
    namespace.enter(|| attempt_here(targets, limit, |_| false))?
}

/// The same, and not longer than until one of the targets was reached: what was not decided by then is `TimedOut`.
///
/// # Errors
/// As [`attempt`].
pub fn attempt_until_one_is_reached(
    namespace: &NetNs,
    targets: &[SocketAddr],
    limit: Duration,
) -> io::Result<Vec<Attempt>> {
    namespace.enter(|| attempt_here(targets, limit, Attempt::reached))?
}

fn attempt_here(targets: &[SocketAddr], limit: Duration, enough: impl Fn(Attempt) -> bool) -> io::Result<Vec<Attempt>> {
    // None: so far away that it never comes.
    let end = Instant::now().checked_add(limit);
    let mut states = targets.iter().map(start).collect::<Result<Vec<State>, _>>()?;
    loop {
        let mut waiting = Vec::new();
        let mut fds = Vec::new();
        for (at, state) in states.iter().enumerate() {
            if let State::Waiting(socket) = state {
                waiting.push(at);
                fds.push(PollFd::new(socket.as_fd(), PollFlags::POLLOUT));
            }
        }
        if fds.is_empty() || states.iter().any(|state| matches!(state, State::Decided(attempt) if enough(*attempt))) {
            break;
        }
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| PollTimeout::try_from(left).ok()).unwrap_or(PollTimeout::MAX);
        let ready = match poll(&mut fds, timeout) {
            Ok(0) if left.is_some_and(|left| left.is_zero()) => break,
            Ok(0) | Err(nix::errno::Errno::EINTR) => continue,
            Ok(_) => fds.iter().map(|fd| fd.any().unwrap_or(true)).collect::<Vec<bool>>(),
            Err(errno) => return Err(errno.into()),
        };
        for at in waiting.into_iter().zip(ready).filter_map(|(at, ready)| ready.then_some(at)) {
            if let Some(state) = states.get_mut(at)
                && let State::Waiting(socket) = state
            {
                // Replacing the state closes the socket.
                *state = State::Decided(outcome(sockopt::socket_error(&*socket)?)?);
            }
        }
    }
    Ok(states
        .into_iter()
        .map(|state| if let State::Decided(attempt) = state { attempt } else { Attempt::TimedOut })
        .collect())
}

enum State {
    Waiting(OwnedFd),
    Decided(Attempt),
}

fn start(target: &SocketAddr) -> Result<State, Errno> {
    let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = match socket_with(family, SocketType::STREAM, flags, None) {
        Ok(socket) => socket,
        Err(Errno::AFNOSUPPORT) => return Ok(State::Decided(Attempt::Unreachable)),
        Err(errno) => return Err(errno),
    };
    // Closing sends a reset and forgets the connection.
    sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
    match connect(&socket, target) {
        Err(Errno::INPROGRESS) => Ok(State::Waiting(socket)),
        decided => outcome(decided).map(State::Decided),
    }
}

/// What the kernel's word on a connection means; an error when it is about this process and not about the peer.
fn outcome(result: Result<(), Errno>) -> Result<Attempt, Errno> {
    match result {
        Ok(()) => Ok(Attempt::Answered),
        Err(Errno::CONNREFUSED | Errno::CONNRESET) => Ok(Attempt::Refused),
        Err(Errno::TIMEDOUT) => Ok(Attempt::TimedOut),
        Err(errno @ (Errno::NOMEM | Errno::NOBUFS | Errno::MFILE | Errno::NFILE)) => Err(errno),
        Err(_) => Ok(Attempt::Unreachable),
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::{Attempt, outcome};

    #[test]
    fn a_peer_that_resets_was_reached_and_a_filter_that_forbids_was_not() {
        assert_eq!(outcome(Err(Errno::CONNRESET)), Ok(Attempt::Refused));
        for errno in [Errno::PERM, Errno::ACCESS, Errno::HOSTUNREACH, Errno::NETUNREACH, Errno::ADDRNOTAVAIL] {
            assert_eq!(outcome(Err(errno)), Ok(Attempt::Unreachable), "{errno}");
        }
    }

    #[test]
    fn what_this_process_lacks_is_no_answer() {
        assert_eq!(outcome(Err(Errno::NOBUFS)), Err(Errno::NOBUFS));
    }
}

//! Notice at once when something that may concern a cut changes: nftables or an interface of the namespace, or the end of
//! the process that the pod's namespace is known by, after which the runtime may make another one.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use netlink_sys::Socket;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::netlink::listen;
use crate::netns::NetNs;

/// `NFNLGRP_NFTABLES`, `include/uapi/linux/netfilter/nfnetlink.h`.
const NFNLGRP_NFTABLES: u32 = 7;
/// `RTNLGRP_LINK`, `include/uapi/linux/rtnetlink.h`.
const RTNLGRP_LINK: u32 = 1;
/// What is read of one notice. Its content does not matter: whoever is woken looks at what there is.
const ENOUGH: usize = 4096;
/// Notices read in one go. A pod that changes things without end is looked at in between.
const BATCH: usize = 256;

/// Open ears in one namespace. Keeps the namespace alive, as [`NetNs`] does: drop it when the pod is gone.
pub struct Watch {
    nftables: Socket,
    links: Socket,
    /// Readable from the process's end on (pidfd_open(2)); gone once that was noticed.
    process: Option<OwnedFd>,
}

impl Watch {
    /// Starts to listen. Changes from now on are noticed, so look at what there is after this.
    ///
    /// # Errors
    /// When the namespace cannot be entered (CAP_SYS_ADMIN).
    pub fn new(namespace: &NetNs) -> io::Result<Self> {
        namespace.enter(|| {
            Ok(Self {
                nftables: listen(NETLINK_NETFILTER, NFNLGRP_NFTABLES)?,
                links: listen(NETLINK_ROUTE, RTNLGRP_LINK)?,
                process: None,
            })
        })?
    }

    /// Notices the end of this process too: at once, when there is none of that number. A number that means another process by
    /// now wakes too late or for nothing, and whoever is woken looks.
    #[must_use]
    pub fn with_process(mut self, pid: u32) -> Self {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        self.process = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        self
    }

    /// Waits until something has changed, at most this long. Returns whether something has. One's own [`cut`] counts
    /// too; as it writes nothing when all is well, looking after each notice comes to rest.
    ///
    /// [`cut`]: crate::cut::cut
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<bool> {
        let process = self.process.as_ref().map(AsFd::as_fd);
        let fds = [Some(self.nftables.as_fd()), Some(self.links.as_fd()), process];
        let mut fds: Vec<PollFd<'_>> = fds.into_iter().flatten().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(0) | Err(Errno::EINTR) => Ok(false),
            Ok(_) => {
                let ended = fds.get(2).is_some_and(|fd| fd.any().unwrap_or(true));
                self.drain()?;
                if ended {
                    self.process = None;
                }
                Ok(true)
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// Forgets what was noticed so far. Never waits.
    ///
    /// # Errors
    /// When the kernel does not say.
    fn drain(&self) -> io::Result<()> {
        for socket in [&self.nftables, &self.links] {
            for _ in 0..BATCH {
                let mut buffer = Vec::with_capacity(ENOUGH);
                match socket.recv(&mut buffer, 0) {
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // More than fits: notices were lost, which is a notice.
                    Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}

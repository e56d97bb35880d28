//! Leave no queue to AF_XDP sockets.
//!
//! An AF_XDP socket in copy mode sends by `__dev_direct_xmit` (`net/xdp/xsk.c`): past the egress hook, past tc,
//! straight into the interface. It needs CAP_NET_RAW only, which containers have by default, and no XDP program.
//! Together with a packet socket, which sees what arrives, a cut pod could talk to anybody. Nothing inside the
//! namespace filters that path. But a queue of an interface has at most one such socket (`xp_assign_dev`,
//! `net/xdp/xsk_buff_pool.c`: EBUSY to the second): so whoever holds them all leaves none. Ours are idle; ordinary
//! traffic does not use them.
//!
//! The queues are held as long as the [`Queues`] live: an agent that is restarted takes them again. A queue that
//! somebody else has is [`Queues::foreign`]: a process in the pod has such a socket, the pod is not contained, and the
//! responder must know.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::xdp::{SocketAddrXdp, SocketAddrXdpFlags, XdpUmemReg, XdpUmemRegFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};

use super::{CutError, inside, links};
use crate::netns::NetNs;

/// A chunk of the memory that such a socket must have, and one page on every platform that AKS has.
const PAGE: usize = 4096;
/// No interface has more queues (`MAX` of the drivers that pods get; veth: the number of processors).
const MOST: u32 = 4096;

/// A queue of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// The interface.
    pub interface: String,
    /// Its queue's number.
    pub number: u32,
}

/// The queues that are held in one namespace. Keeps the namespace alive, as [`NetNs`] does: drop it when the pod is
/// gone.
pub struct Queues {
    /// By the interface's index and the queue's number.
    held: BTreeMap<(u32, u32), OwnedFd>,
    foreign: Vec<Queue>,
    supported: bool,
    /// The memory of all the sockets. They have no buffer to receive into, so the kernel never writes here.
    memory: Vec<u8>,
}

impl Queues {
    /// Takes every free queue of every interface but loopback.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or the kernel refuses for a reason of its own: CAP_NET_RAW is missing, or
    /// the limit of locked memory (one page per queue, unless CAP_IPC_LOCK) is reached.
    pub fn take(namespace: &NetNs) -> Result<Self, CutError> {
        let mut queues = Self {
            held: BTreeMap::new(),
            foreign: Vec::new(),
            supported: true,
            // So that there is one whole page in it, wherever it begins.
            memory: vec![0; 2 * PAGE],
        };
        queues.take_more(namespace)?;
        Ok(queues)
    }

    /// Takes what has become free or has appeared since: after a link has changed, and now and then while some are
    /// foreign.
    ///
    /// # Errors
    /// As [`Queues::take`].
    pub fn take_more(&mut self, namespace: &NetNs) -> Result<(), CutError> {
        inside(namespace, |inode| self.take_here().map_err(|source| CutError::Queues { inode, source }))
    }

    /// How many queues are held.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// The queues that somebody else has: through these, frames leave the pod in spite of the cut.
    pub fn foreign(&self) -> &[Queue] {
        &self.foreign
    }

    /// Whether this kernel has such sockets at all. If not, there is nothing to hold and nothing to fear.
    pub fn supported(&self) -> bool {
        self.supported
    }

    fn take_here(&mut self) -> io::Result<()> {
        self.foreign.clear();
        for link in links::links()? {
            for number in 0..MOST {
                if self.held.contains_key(&(link.index, number)) {
                    continue;
                }
                let socket = match self.socket() {
                    // No such sockets in this kernel.
                    Err(Errno::AFNOSUPPORT) => {
                        self.supported = false;
                        return Ok(());
                    }
                    other => other?,
                };
                // Copy mode: the driver is not asked, and the interface goes on as before.
                match bind(&socket, &SocketAddrXdp::new(SocketAddrXdpFlags::XDP_COPY, link.index, number)) {
                    Ok(()) => {
                        self.held.insert((link.index, number), socket);
                    }
                    Err(Errno::BUSY) => {
                        self.foreign.push(Queue { interface: link.name.to_string(), number });
                    }
                    // No more queues; or the interface is down or gone, and nothing leaves through it.
                    Err(Errno::INVAL | Errno::NETDOWN | Errno::NODEV) => break,
                    Err(errno) => return Err(errno.into()),
                }
            }
        }
        Ok(())
    }

    /// A socket that could send: with memory, and rings of the least size.
    fn socket(&self) -> Result<OwnedFd, Errno> {
        let socket = socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        let start = self.memory.as_ptr().addr().next_multiple_of(PAGE);
        let memory = XdpUmemReg {
            addr: start as u64,
            len: PAGE as u64,
            chunk_size: PAGE as u32,
            headroom: 0,
            flags: XdpUmemRegFlags::empty(),
            tx_metadata_len: 0,
        };
        sockopt::set_xdp_umem_reg(&socket, memory)?;
        sockopt::set_xdp_umem_fill_ring_size(&socket, 1)?;
        sockopt::set_xdp_umem_completion_ring_size(&socket, 1)?;
        sockopt::set_xdp_tx_ring_size(&socket, 1)?;
        Ok(socket)
    }
}

//! A network namespace that is held open, and work inside it. The one module that enters namespaces (setns(2)).

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::fstat;

/// What tells one namespace from another: device and inode of its file. An inode is reused after a namespace is gone;
/// whoever compares has to hold one of the two open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NsId {
    device: u64,
    inode: u64,
}

impl NsId {
    /// The number that `ls -l /proc/PID/ns` shows.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    pub(crate) fn of(fd: impl AsFd) -> io::Result<Self> {
        let stat = fstat(fd)?;
        Ok(Self { device: stat.st_dev, inode: stat.st_ino })
    }
}

/// A network namespace. It lives at least as long as this value: a pod whose processes are all gone is still there to
/// be lifted, and its inode cannot come to mean another. A clone shares the file descriptor.
#[derive(Clone, Debug)]
pub struct NetNs {
    fd: Arc<OwnedFd>,
    id: NsId,
}

impl NetNs {
    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// When proc is not mounted.
    pub fn current() -> io::Result<Self> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// The namespace behind a path such as `/proc/1/ns/net`.
    ///
    /// # Errors
    /// When the path cannot be opened: the process is gone, or CAP_SYS_PTRACE is missing.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::from_fd(File::open(path)?.into())
    }

    /// The namespace behind an open file.
    ///
    /// # Errors
    /// When the file cannot be examined.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let id = NsId::of(&fd)?;
        Ok(Self { fd: Arc::new(fd), id })
    }

    /// What tells this namespace from another.
    pub fn id(&self) -> NsId {
        self.id
    }

    /// Runs `work` inside this namespace: on a thread that enters it and ends, so no other work of this process is ever
    /// in the wrong namespace. A socket opened inside stays inside, also when it is returned. Starting the thread takes
    /// some 50 µs.
    ///
    /// # Errors
    /// When the namespace cannot be entered (CAP_SYS_ADMIN) or no thread can be started. Then `work` has not run.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        inside(self.as_fd(), CloneFlags::CLONE_NEWNET, work).map_err(|error| {
            let text = format!(
                "network namespace {} cannot be entered: {error}; the agent needs CAP_SYS_ADMIN",
                self.id.inode
            );
            io::Error::new(error.kind(), text)
        })
    }

    /// The addresses of all interfaces but loopback. In a pod's namespace they should contain the pod's own.
    ///
    /// # Errors
    /// As [`NetNs::enter`], and when the kernel does not list them.
    pub fn addresses(&self) -> io::Result<Vec<IpAddr>> {
        self.enter(|| {
            let mut addresses = Vec::new();
            for interface in getifaddrs()?.filter(|it| !it.flags.contains(InterfaceFlags::IFF_LOOPBACK)) {
                let Some(address) = interface.address else { continue };
                if let Some(v4) = address.as_sockaddr_in() {
                    addresses.push(IpAddr::V4(v4.ip()));
                } else if let Some(v6) = address.as_sockaddr_in6() {
                    addresses.push(IpAddr::V6(v6.ip()));
                }
            }
            addresses.sort_unstable();
            addresses.dedup();
            Ok(addresses)
        })?
    }

    /// The address that connections from this namespace to `peer` come from; no packet is sent. In the node's namespace
    /// this is where the kubelet's probes of a pod come from, which is often none of the Node object's addresses: a
    /// bridge's own address, or Cilium's router address.
    ///
    /// # Errors
    /// As [`NetNs::enter`], and when there is no route to `peer`.
    pub fn source_towards(&self, peer: IpAddr) -> io::Result<IpAddr> {
        self.enter(|| {
            let any = match peer {
                IpAddr::V4(_) => SocketAddr::from(([0; 4], 0)),
                IpAddr::V6(_) => SocketAddr::from(([0u16; 8], 0)),
            };
            let socket = UdpSocket::bind(any)?;
            // Connecting a datagram socket looks up the route and nothing else. Port 9 is "discard".
            socket.connect(SocketAddr::new(peer, 9))?;
            Ok(socket.local_addr()?.ip())
        })?
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Runs `work` on a thread that enters a namespace of this kind and ends. A thread that left a namespace could fail to
/// come back; one that ends need not.
///
/// # Errors
/// When the namespace cannot be entered (CAP_SYS_ADMIN) or no thread can be started. Then `work` has not run.
pub(crate) fn inside<T: Send>(
    namespace: BorrowedFd<'_>,
    kind: CloneFlags,
    work: impl FnOnce() -> T + Send,
) -> io::Result<T> {
    std::thread::scope(|scope| {
        let inside = std::thread::Builder::new().name("namespace".into()).spawn_scoped(scope, || {
            setns(namespace, kind)?;
            Ok(work())
        })?;
        match inside.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

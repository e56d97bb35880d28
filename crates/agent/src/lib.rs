//! The kernel side of the cut: find a pod's network namespace on this node, drop everything in it but the kubelet's
//! probes, read back what the kernel holds, and let go again. No Kubernetes, no async, no policy engine.
//!
//! # What touches the kernel, for whoever reviews it
//!
//! The crate has no unsafe line of its own (`forbid`): `nix`, `rustix` and `netlink-sys` wrap the system calls. Every
//! row of this table is the only place of its kind; `tests/boundaries.rs` holds it to that.
//!
//! | what | where | why | needs |
//! |-|-|-|-|
//! | `setns` | [`netns`], one function | a pod's network is read and changed from inside it; the node's cgroup namespace shows whole cgroup paths. On a thread that ends, so nothing else of the process is ever in the wrong namespace | CAP_SYS_ADMIN |
//! | netlink sockets | `netlink` | nftables ([`cut`]), interfaces (`cut::links`), lists of sockets ([`connections`]), notices of changes ([`watch`]). Answers are taken from the kernel only (port 0) and parsed within bounds. (`getifaddrs` in [`netns`] asks by a socket of libc's own) | CAP_NET_ADMIN for nftables |
//! | AF_XDP sockets | [`cut::queues`] | leave the pod none; nothing is ever sent or received on them | CAP_NET_RAW |
//! | TCP sockets | [`reach`] | attempts from inside, without data | nothing more |
//! | a UDP socket | [`netns`] | asks for a route; nothing is sent | nothing more |
//! | `/proc/PID` | `tourniquet_capture::Process`, by `pods::process` | cgroup, start time and network namespace of processes; read through one open directory each, so that nothing is of a process that got the number later | the node's PID namespace, CAP_SYS_PTRACE |
//! | evidence: processes, memory, files of a container | the crate `tourniquet-capture`, by the binary's subcommand `capture` in a process of its own | read from outside, through `/proc/PID`; files through the container's root, resolved within it (`openat2`); nothing is written, nothing executed | CAP_SYS_PTRACE; CAP_DAC_READ_SEARCH for what other users than root may not share |
//!
//! # What of that a pod controls
//!
//! Names of processes and of cgroups below its containers' ([`pods`]), names of interfaces and everything in nftables
//! (with CAP_NET_ADMIN; [`cut`]), how many sockets, namespaces and interfaces there are. All of it is fuzzed where it is
//! parsed, and bounded where it is collected.

pub mod connections;
pub mod cut;
mod netlink;
pub mod netns;
pub mod pods;
pub mod reach;
pub mod watch;

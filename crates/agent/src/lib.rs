//! The kernel side of the cut: find a pod's network namespace on this node, drop everything in it but the kubelet's
//! probes, read back what the kernel holds, and let go again. No Kubernetes, no async, no policy engine.
//!
//! The crate has no unsafe line of its own: `nix` and `netlink-sys` wrap the system calls it needs. What it needs of
//! the kernel: CAP_SYS_ADMIN to enter a namespace, CAP_NET_ADMIN for nftables, CAP_NET_RAW for [`cut::queues`],
//! CAP_SYS_PTRACE to open `/proc/PID/ns/net` of others, and the node's PID namespace.

pub mod connections;
pub mod cut;
mod netlink;
pub mod netns;
pub mod pods;
pub mod reach;
pub mod watch;

//! Cut a network namespace off: drop everything on every interface but loopback, except what the kubelet's probes need.
//!
//! One nftables table, put in one transaction. Family netdev, with a chain at each interface's ingress and egress:
//! below IP, so raw sockets are stopped as well. Where the kernel has no egress hook (before Linux 5.16), family inet
//! instead: see [`Hooks`].
//!
//! | passes | why |
//! |-|-|
//! | ARP; IPv6 neighbour solicitation and advertisement within the link, router advertisements inwards | else the node's probes find nobody, and routes learnt would expire before the release |
//! | TCP from the node's addresses to the probed ports | the kubelet's http, tcp and gRPC probes |
//! | TCP from the probed ports to the node's addresses, with ACK or RST set | replies, and no connection of the pod's own |
//!
//! Loopback is untouched. The packets vanish as on a wire that is cut somewhere else: open connections go on after
//! [`lift`], when TCP tries again (after as long as the cut lasted at the most, and never more than two minutes). One
//! that the pod or its peer sends on ends after a quarter of an hour, as it does in any other outage.
//!
//! # What a pod can do about it
//!
//! * With CAP_NET_ADMIN: remove the table, or rename an interface. [`watch`] notices, [`cut`] puts it back. An
//!   interface that it moves to a namespace of its own takes no hook along: cut the namespaces of
//!   [`crate::pods::Stray`] too.
//! * With CAP_NET_RAW, which containers have by default: a raw socket still *sees* what arrives, since the kernel
//!   hands frames to packet sockets before the ingress hook. It cannot answer through a packet socket, whatever
//!   protocol it claims: the bytes of the frame are compared, not the sender's word for them. An AF_XDP socket hands
//!   frames to the driver past every hook of the namespace (measured: 10 of 10 leave a cut pod): [`queues`] leaves it
//!   no queue.
//! * On one Ethernet segment with an accomplice: hide bytes in ARP, or in replies to the node that are addressed to
//!   another station.
//!
//! [`watch`]: crate::watch

mod allow;
mod links;
mod nftables;
pub mod queues;
mod read;
mod rules;

use std::fmt;
use std::io;

use netlink_packet_netfilter::nftables::NfTablesMessage;
use nix::errno::Errno;

pub use self::allow::{Allow, AllowError, MOST};
use self::links::Name;
use self::nftables::Refused;
use self::read::Difference;
use self::rules::{End, Family, Table};
use crate::netlink::Netlink;
use crate::netns::NetNs;

/// How often cutting starts anew while interfaces come and go under it.
const TRIES: usize = 5;

/// Where in the kernel the cut is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hooks {
    /// At every interface's ingress and egress. Frames of packet sockets are stopped too.
    Netdev,
    /// Where IP packets enter and leave the namespace, on whatever interface, also one that appears later. Not covered:
    /// frames that the pod sends on packet sockets (AF_PACKET, needs CAP_NET_RAW) and protocols other than IP. A sender
    /// in the pod sees "operation not permitted".
    Inet,
}

/// A cut as it is in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Where it is.
    pub hooks: Hooks,
    /// The interfaces that it holds. With [`Hooks::Inet`]: those there are.
    pub interfaces: Vec<String>,
    /// Whether this call has changed anything. False: it was there already, to the last rule.
    pub changed: bool,
    /// What this kernel cannot do, for the responder: hooks at interfaces, when those were wanted, or dropping
    /// silently.
    pub fallback: Option<String>,
}

/// What the kernel holds, compared with what was meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// No cut.
    Open,
    /// Exactly the cut that was meant.
    Cut,
    /// A cut, and not the one that was meant: somebody has changed it, an interface has appeared, or other probes were
    /// meant.
    Altered(String),
}

/// Why a namespace could not be cut, read or lifted.
#[derive(Debug, thiserror::Error)]
pub enum CutError {
    /// The namespace cannot be entered.
    #[error("{source}")]
    Enter {
        /// The namespace.
        inode: u64,
        /// Which one, and what it takes to enter it.
        source: io::Error,
    },
    /// The kernel does not do it.
    #[error(
        "cannot {action} in network namespace {inode}: {source}; the agent needs CAP_NET_ADMIN and a kernel with nf_tables"
    )]
    Kernel {
        /// The namespace.
        inode: u64,
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The queues of AF_XDP sockets are left to the pod, which can send through them.
    #[error(
        "the AF_XDP queues in network namespace {inode} cannot be held: {source}; everything else is cut; the agent needs \
         CAP_NET_RAW, and one page of locked memory for each queue"
    )]
    Queues {
        /// The namespace.
        inode: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel holds something else after it had accepted.
    #[error(
        "network namespace {inode} was cut, and what the kernel holds is not what was meant: {difference}; \
         something in the pod changes it (CAP_NET_ADMIN?): try again, or remove the pod"
    )]
    Unverified {
        /// The namespace.
        inode: u64,
        /// The first difference.
        difference: String,
    },
}

/// Cuts the namespace off, or makes an existing cut what it should be, in one transaction and without a gap; then reads
/// it back.
///
/// A cut that is already right is left as it is: nothing is written. Call it again when an interface has appeared or
/// the table was touched. `hooks` is what is wanted; what was possible is in the result.
///
/// # Errors
/// See [`CutError`]. Before `Unverified` nothing has changed.
pub fn cut(namespace: &NetNs, allow: &Allow, hooks: Hooks) -> Result<Cut, CutError> {
    inside(namespace, |inode| put(inode, hooks, |hooks, interfaces, end| rules::table(hooks, interfaces, allow, end)))
}

/// Cuts the namespace of this thread off by a table.
fn put(inode: u64, mut wanted: Hooks, table: impl Fn(Hooks, &[Name], End) -> Table) -> Result<Cut, CutError> {
    let failed = |action| move |source| CutError::Kernel { inode, action, source };
    let mut netfilter = Netlink::netfilter().map_err(failed("open a netfilter socket"))?;
    let mut fallback = None;
    let mut end = End::Silent;
    let mut changed = false;
    let mut difference = String::new();
    for _ in 0..TRIES {
        let interfaces = links::but_loopback().map_err(failed("list the interfaces"))?;
        // Without an interface there is no hook at one. The other hooks hold whatever appears.
        let hooks = if interfaces.is_empty() { Hooks::Inet } else { wanted };
        let table = table(hooks, &interfaces, end);
        let found = read::compare(&mut netfilter, &table).map_err(failed("read the nftables"))?;
        match found {
            Difference::None => {
                if changed {
                    close_later(netfilter);
                }
                let interfaces = interfaces.iter().map(ToString::to_string).collect();
                return Ok(Cut { hooks, interfaces, changed, fallback });
            }
            Difference::Absent if changed => difference = "the table is gone again".into(),
            Difference::Absent => {}
            Difference::Some(text) => difference = text,
        }
        let present = read::present(&mut netfilter).map_err(failed("read the nftables"))?;
        let mut messages: Vec<_> = present.into_iter().map(rules::delete).collect();
        messages.extend(rules::create(&table));
        match netfilter.transact(messages) {
            Ok(()) => changed = true,
            // An expression that the kernel does not have (NFT_FWD_NETDEV): the table itself was made in the same
            // transaction.
            Err(Refused::At { message, source }) if message.starts_with(rules::NEW_RULE) && end == End::Silent => {
                fallback = Some(format!(
                    "the kernel cannot drop silently ({message}: {source}): connections that the pod has open, and sends on, \
                     break after some 8 s"
                ));
                end = End::Told;
            }
            // The table or an interface went away in between: look again. Never a reason for weaker hooks, since
            // somebody in the pod may do it on purpose.
            Err(Refused::At { message, source }) if gone(&source) => difference = format!("{message}: {source}"),
            // No egress hook (EOPNOTSUPP, `nft_chain_parse_hook`), no netdev family, or no room for another hook at an
            // interface: the IP hooks are better than nothing.
            Err(Refused::At { message, source }) if hooks == Hooks::Netdev => {
                fallback = Some(format!("the kernel refuses hooks at interfaces ({message}: {source})"));
                wanted = Hooks::Inet;
            }
            Err(Refused::At { source, .. } | Refused::Unanswered(source)) => {
                return Err(failed("put the cut")(source));
            }
        }
    }
    Err(CutError::Unverified { inode, difference })
}

/// Reads back what the kernel holds and compares it with what was meant, to the last expression of the last rule.
///
/// # Errors
/// When the kernel does not answer.
pub fn verify(namespace: &NetNs, allow: &Allow, hooks: Hooks) -> Result<State, CutError> {
    inside(namespace, |inode| {
        let failed = |action| move |source| CutError::Kernel { inode, action, source };
        let mut netfilter = Netlink::netfilter().map_err(failed("open a netfilter socket"))?;
        let interfaces = links::but_loopback().map_err(failed("list the interfaces"))?;
        let mut compare = |end| {
            let table = rules::table(hooks, &interfaces, allow, end);
            read::compare(&mut netfilter, &table).map_err(failed("read the nftables"))
        };
        let found = match compare(End::Silent)? {
            // The other end is as tight; the difference to the usual one is what a responder should read.
            Difference::Some(_) if compare(End::Told)? == Difference::None => Difference::None,
            found => found,
        };
        match found {
            Difference::None => Ok(State::Cut),
            Difference::Some(difference) => Ok(State::Altered(difference)),
            Difference::Absent => {
                let present = read::present(&mut netfilter).map_err(failed("read the nftables"))?;
                Ok(match present.first() {
                    None => State::Open,
                    Some(family) => State::Altered(format!("the cut is in family {family} only")),
                })
            }
        }
    })
}

/// Whether there is a table of ours, right or not.
///
/// # Errors
/// When the kernel does not answer.
pub fn is_cut(namespace: &NetNs) -> Result<bool, CutError> {
    inside(namespace, |inode| {
        let failed = |source| CutError::Kernel { inode, action: "read the nftables", source };
        let mut netfilter = Netlink::netfilter().map_err(failed)?;
        Ok(!read::present(&mut netfilter).map_err(failed)?.is_empty())
    })
}

/// Removes the cut in one transaction. Returns whether there was one.
///
/// # Errors
/// When the kernel does not do it; then the cut is still whole.
pub fn lift(namespace: &NetNs) -> Result<bool, CutError> {
    inside(namespace, |inode| {
        let failed = |action| move |source| CutError::Kernel { inode, action, source };
        let mut netfilter = Netlink::netfilter().map_err(failed("open a netfilter socket"))?;
        let mut lifted = false;
        for _ in 0..TRIES {
            let present = read::present(&mut netfilter).map_err(failed("read the nftables"))?;
            if present.is_empty() {
                if lifted {
                    close_later(netfilter);
                }
                return Ok(lifted);
            }
            match netfilter.transact(present.into_iter().map(rules::delete).collect()) {
                Ok(()) => lifted = true,
                // Somebody else was faster: look again.
                Err(Refused::At { source, .. }) if gone(&source) => {}
                Err(Refused::At { source, .. } | Refused::Unanswered(source)) => {
                    return Err(failed("remove the cut")(source));
                }
            }
        }
        let source = io::Error::other("the table comes back each time that it is removed");
        Err(CutError::Kernel { inode, action: "remove the cut", source })
    })
}

fn inside<T: Send>(namespace: &NetNs, work: impl FnOnce(u64) -> Result<T, CutError> + Send) -> Result<T, CutError> {
    let inode = namespace.id().inode();
    namespace.enter(|| work(inode)).map_err(|source| CutError::Enter { inode, source })?
}

/// Closes the socket on a thread of its own. Once something was removed, closing waits until the kernel has freed it
/// (`nft_rcv_nl_event`, one RCU grace period: 10 ms measured), while the packets flow again already.
fn close_later(netfilter: Netlink) {
    let thread = std::thread::Builder::new().name("close".into());
    // No thread to be had: then it is closed here.
    let _ = thread.spawn(move || drop(netfilter));
}

fn gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::ENOENT | Errno::ENODEV))
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Netdev => "netdev",
            Self::Inet => "inet",
        })
    }
}

/// A message of a transaction: to which family, what, and whether it creates.
type Message = (Family, NfTablesMessage, u16);

#[cfg(test)]
mod tests {
    use std::process::Command;

    use netlink_packet_netfilter::nftables::{Expressions, HookNumber};
    use nix::sched::{CloneFlags, unshare};

    use super::{Allow, End, Hooks, put, read, rules};
    use crate::netlink::Netlink;

    /// A kernel without the egress hook, as far as one kernel can play another: it is asked for a hook that it does not
    /// have.
    #[test]
    fn what_the_kernel_does_not_have() {
        let on_its_own = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("this test makes a network namespace: run it as root");
            let arguments = ["link", "add", "eth0", "type", "veth", "peer", "name", "eth1"];
            assert!(Command::new("ip").args(arguments).status().expect("the program ip").success());
            let older = |hooks, interfaces: &[_], end| {
                let mut table = rules::table(hooks, interfaces, &Allow::nothing(), end);
                if hooks == Hooks::Netdev
                    && let Some(base) = table.chains.last_mut().and_then(|chain| chain.base.as_mut())
                {
                    base.hook = HookNumber::Other(7);
                }
                table
            };
            let made = put(0, Hooks::Netdev, older).expect("cut all the same");
            assert_eq!((made.hooks, made.changed), (Hooks::Inet, true));
            let reason = made.fallback.expect("and says so");
            assert!(reason.contains("NewChain in family netdev: Operation not supported"), "{reason}");
            let again = put(0, Hooks::Netdev, older).expect("cut");
            assert_eq!((again.hooks, again.changed), (Hooks::Inet, false));
            assert!(again.fallback.is_some());
            // And one without the expression that drops silently.
            let without = |hooks, interfaces: &[_], end| {
                let mut table = rules::table(hooks, interfaces, &Allow::nothing(), end);
                if end == End::Silent
                    && let Some(rule) = table.chains.last_mut().and_then(|chain| chain.rules.last_mut())
                {
                    let unknown = Expressions::Other { expression_type: "nosuch".into(), attributes: Vec::new() };
                    *rule = vec![unknown.into()];
                }
                table
            };
            let made = put(0, Hooks::Netdev, without).expect("cut all the same");
            assert_eq!((made.hooks, made.changed), (Hooks::Netdev, true));
            assert!(made.fallback.expect("and says so").contains("cannot drop silently"));
            assert!(!put(0, Hooks::Netdev, without).expect("cut").changed);
            put(0, Hooks::Inet, older).expect("cut");
            let mut netfilter = Netlink::netfilter().expect("a socket");
            assert_eq!(read::present(&mut netfilter).expect("read"), [rules::Family::Inet]);
        });
        on_its_own.join().expect("the thread");
    }
}

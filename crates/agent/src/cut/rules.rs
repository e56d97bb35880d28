//! What is meant: the table with its chains and rules, as the kernel's expressions. Pure.
//!
//! The rules read bytes of the packet, never what its sender says of it. On the way out the protocol that the kernel
//! notes beside a frame is the sender's own word when it comes from a packet socket (`packet_snd`,
//! `net/packet/af_packet.c`): a frame that holds IP can claim to be ARP. So the type in the Ethernet header is compared
//! as well.
//!
//! Fields are read at fixed places: an IPv4 header with options and IPv6 extension headers match nothing. Replies to a
//! probe have neither, and source routes and fragments hide behind them.

use std::net::IpAddr;

use netlink_packet_core::{DefaultNla, NLM_F_APPEND, NLM_F_CREATE};
use netlink_packet_netfilter::nftables::{
    Bitwise, ChainAttribute, ChainMessage, Cmp, DataAttribute, DevHookNumber, ExpressionAttribute, Expressions, Hook,
    HookNumber, Immediate, InetHookNumber, ListAttribute, Meta, MetaKey, NfTablesMessage, Operator, Payload, Register,
    RuleAttribute, RuleMessage, TableAttribute, TableFlags, TableMessage, Verdict, VerdictAttribute,
};

use super::links::Name;
use super::{Allow, Hooks, Message};

/// The table's name in either family.
pub(super) const TABLE: &str = "tourniquet";

/// `NF_DROP` and `NF_ACCEPT`, `include/uapi/linux/netfilter.h`.
pub(super) const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
/// `NFTA_DEVICE_NAME`, `include/uapi/linux/netfilter/nf_tables.h`.
pub(super) const NFTA_DEVICE_NAME: u16 = 1;
/// `NFTA_FWD_SREG_DEV`, the same file: the register that holds the interface's index.
const NFTA_FWD_SREG_DEV: u16 = 1;
/// `NFT_PAYLOAD_LL_HEADER`, `_NETWORK_HEADER` and `_TRANSPORT_HEADER`, the same file.
const LINK: u32 = 0;
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
/// `NFPROTO_IPV4` and `NFPROTO_IPV6`, `include/uapi/linux/netfilter.h`.
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
/// `ARPHRD_LOOPBACK`, `include/uapi/linux/if_arp.h`.
const ARPHRD_LOOPBACK: u16 = 772;
/// `ETH_P_ARP`, `ETH_P_IP`, `ETH_P_IPV6`, `include/uapi/linux/if_ether.h`.
const ETH_P_ARP: u16 = 0x0806;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
/// Protocol numbers (IANA).
const TCP: u8 = 6;
const ICMPV6: u8 = 58;
/// RFC 4861: router advertisement, neighbour solicitation, neighbour advertisement.
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// RFC 9293, the flags byte of the TCP header.
const ACK_OR_RST: u8 = 0x10 | 0x04;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Netdev,
    Inet,
}

pub(super) const FAMILIES: [Family; 2] = [Family::Netdev, Family::Inet];

pub(super) type Rule = Vec<ListAttribute<ExpressionAttribute>>;

#[derive(Debug)]
pub(super) struct Table {
    pub(super) family: Family,
    pub(super) chains: Vec<Chain>,
}

#[derive(Debug)]
pub(super) struct Chain {
    pub(super) name: &'static str,
    /// None: a chain that others jump to.
    pub(super) base: Option<Base>,
    pub(super) rules: Vec<Rule>,
}

#[derive(Debug)]
pub(super) struct Base {
    pub(super) hook: HookNumber,
    pub(super) priority: i32,
    pub(super) devices: Vec<Name>,
}

/// How the last frame of a chain of rules is told that it goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The sender in the pod hears nothing, as from a wire that is cut somewhere else. Only at an interface's egress.
    Silent,
    /// The sender is told. At an interface's egress (NET_XMIT_DROP) TCP takes it for a full queue, tries again every
    /// 500 ms without backing off, and gives up after 15 tries: measured, a connection with unacknowledged data is dead
    /// after 8 s.
    Told,
}

/// The table for these interfaces and probes.
pub(super) fn table(hooks: Hooks, interfaces: &[Name], allow: &Allow, end: End) -> Table {
    // The outermost place on both ways: what another chain would redirect or rewrite is judged as it is on the wire.
    let (family, ingress, egress) = match hooks {
        Hooks::Netdev => {
            let base =
                |hook: DevHookNumber| Base { hook: hook.into(), priority: i32::MIN, devices: interfaces.to_vec() };
            (Family::Netdev, base(DevHookNumber::Ingress), base(DevHookNumber::Egress))
        }
        // Not input, output and forward: a service mesh in the pod rewrites a probe's port between prerouting and
        // input.
        Hooks::Inet => {
            let base = |hook: InetHookNumber, priority| Base { hook: hook.into(), priority, devices: Vec::new() };
            (Family::Inet, base(InetHookNumber::PreRouting, i32::MIN), base(InetHookNumber::PostRouting, i32::MAX))
        }
    };
    let words = Words { family };
    let nodes = || allow.nodes.iter().copied();
    Table {
        family,
        chains: vec![
            Chain {
                name: "to-probes",
                base: None,
                rules: allow
                    .ports
                    .iter()
                    .map(|port| [bytes(TRANSPORT, 2, 2), is(port.to_be_bytes()), accept()].concat())
                    .collect(),
            },
            Chain {
                name: "replies",
                base: None,
                rules: allow
                    .ports
                    .iter()
                    .map(|port| {
                        [
                            bytes(TRANSPORT, 0, 2),
                            is(port.to_be_bytes()),
                            bytes(TRANSPORT, 13, 1),
                            mask([ACK_OR_RST]),
                            not([0]),
                            accept(),
                        ]
                        .concat()
                    })
                    .collect(),
            },
            Chain {
                name: "ingress",
                base: Some(ingress),
                rules: words
                    .always(MetaKey::Iftype)
                    .chain([[words.neighbour(ROUTER_ADVERTISEMENT), accept()].concat()])
                    .chain(nodes().map(|node| [words.tcp(node, Side::Source), jump("to-probes")].concat()))
                    .collect(),
            },
            Chain {
                name: "egress",
                base: Some(egress),
                rules: words
                    .always(MetaKey::Oiftype)
                    // Within the link: all nodes and solicited nodes (ff02::/16), link-local neighbours, the node
                    // itself. An advertisement to anywhere else would be forwarded, with whatever it carries.
                    .chain([
                        [words.neighbour(NEIGHBOUR_SOLICITATION), bytes(NETWORK, 24, 2), is([0xff, 0x02]), accept()]
                            .concat(),
                        [
                            words.neighbour(NEIGHBOUR_SOLICITATION),
                            bytes(NETWORK, 24, 2),
                            mask([0xff, 0xc0]),
                            is([0xfe, 0x80]),
                            accept(),
                        ]
                        .concat(),
                    ])
                    .chain(nodes().filter_map(|node| {
                        match node {
                            IpAddr::V4(_) => None,
                            IpAddr::V6(v6) => Some(
                                [
                                    words.neighbour(NEIGHBOUR_SOLICITATION),
                                    bytes(NETWORK, 24, 16),
                                    is(v6.octets()),
                                    accept(),
                                ]
                                .concat(),
                            ),
                        }
                    }))
                    .chain(nodes().map(|node| [words.tcp(node, Side::Destination), jump("replies")].concat()))
                    .chain((hooks == Hooks::Netdev && end == End::Silent).then(swallow))
                    .collect(),
            },
        ],
    }
}

#[derive(Clone, Copy)]
enum Side {
    Source,
    Destination,
}

/// What differs between the families.
struct Words {
    family: Family,
}

impl Words {
    /// What passes without a look inside. An interface hook sees ARP and no loopback, the IP hooks loopback and no ARP.
    fn always(&self, interface_type: MetaKey) -> impl Iterator<Item = Rule> {
        let rule = match self.family {
            Family::Netdev => [self.ether(ETH_P_ARP), accept()].concat(),
            Family::Inet => [meta(interface_type), is(ARPHRD_LOOPBACK.to_ne_bytes()), accept()].concat(),
        };
        [rule].into_iter()
    }

    fn ether(&self, protocol: u16) -> Rule {
        let noted = match (self.family, protocol) {
            (Family::Netdev, _) => {
                let on_the_wire = [bytes(LINK, 12, 2), is(protocol.to_be_bytes())].concat();
                return [meta(MetaKey::EtherTypeProtocol), is(protocol.to_be_bytes()), on_the_wire].concat();
            }
            (Family::Inet, ETH_P_IP) => NFPROTO_IPV4,
            (Family::Inet, _) => NFPROTO_IPV6,
        };
        [meta(MetaKey::Nfproto), is([noted])].concat()
    }

    /// Neighbour discovery from `first` on. A hop limit of 255 cannot have been forwarded.
    fn neighbour(&self, first: u8) -> Rule {
        let next_and_limit = [bytes(NETWORK, 6, 2), is([ICMPV6, 255])].concat();
        let kind = [bytes(TRANSPORT, 0, 1), compare(Operator::GreatherThanEqual, [first])].concat();
        let kind = [kind, bytes(TRANSPORT, 0, 1), compare(Operator::LessThanEqual, [NEIGHBOUR_ADVERTISEMENT])].concat();
        [self.ether(ETH_P_IPV6), next_and_limit, kind].concat()
    }

    /// TCP without options or extension headers from or to a node's address.
    fn tcp(&self, node: IpAddr, side: Side) -> Rule {
        match node {
            IpAddr::V4(v4) => {
                let at = match side {
                    Side::Source => 12,
                    Side::Destination => 16,
                };
                // Version 4, a header of five words.
                let header = [bytes(NETWORK, 0, 1), is([0x45]), bytes(NETWORK, 9, 1), is([TCP])].concat();
                [self.ether(ETH_P_IP), header, bytes(NETWORK, at, 4), is(v4.octets())].concat()
            }
            IpAddr::V6(v6) => {
                let at = match side {
                    Side::Source => 8,
                    Side::Destination => 24,
                };
                [self.ether(ETH_P_IPV6), bytes(NETWORK, 6, 1), is([TCP]), bytes(NETWORK, at, 16), is(v6.octets())]
                    .concat()
            }
        }
    }
}

/// The register that every expression here works on.
const REGISTER: Register = Register::Reg1;

fn bytes(base: u32, offset: u32, length: u32) -> Rule {
    let attributes = vec![
        Payload::DestinationRegister(REGISTER),
        Payload::Base(base),
        Payload::Offset(offset),
        Payload::Len(length),
    ];
    vec![Expressions::Payload(attributes).into()]
}

fn meta(key: MetaKey) -> Rule {
    vec![Expressions::Meta(vec![Meta::DestinationRegister(REGISTER), Meta::Key(key)]).into()]
}

fn compare<const N: usize>(operator: Operator, value: [u8; N]) -> Rule {
    let data = Cmp::Data(DataAttribute::Value(value.to_vec()));
    vec![Expressions::Cmp(vec![Cmp::SourceRegister(REGISTER), Cmp::Op(operator), data]).into()]
}

fn is<const N: usize>(value: [u8; N]) -> Rule {
    compare(Operator::Equal, value)
}

fn not<const N: usize>(value: [u8; N]) -> Rule {
    compare(Operator::NotEqual, value)
}

fn mask<const N: usize>(value: [u8; N]) -> Rule {
    let attributes = vec![
        Bitwise::SourceRegister(REGISTER),
        Bitwise::DestinationRegister(REGISTER),
        Bitwise::Length(u32::try_from(N).unwrap_or_default()),
        Bitwise::Mask(DataAttribute::Value(value.to_vec())),
        Bitwise::Xor(DataAttribute::Value(vec![0; N])),
    ];
    vec![Expressions::Bitwise(attributes).into()]
}

fn accept() -> Rule {
    verdict(vec![VerdictAttribute::Code(Verdict::Other(NF_ACCEPT))])
}

/// Hands the frame on to an interface that cannot exist (no index is negative): the kernel frees it, and its sender is
/// told that it was sent (`nf_fwd_netdev_egress`, `net/netfilter/nf_dup_netdev.c`; NF_STOLEN).
fn swallow() -> Rule {
    let nowhere = Immediate::Data(DataAttribute::Value((-1i32).to_ne_bytes().to_vec()));
    let load = Expressions::Immediate(vec![Immediate::DestinationRegister(REGISTER), nowhere]);
    let forward = Expressions::Other {
        expression_type: "fwd".into(),
        attributes: vec![DefaultNla::new(NFTA_FWD_SREG_DEV, u32::from(REGISTER).to_be_bytes().to_vec())],
    };
    vec![load.into(), forward.into()]
}

fn jump(chain: &str) -> Rule {
    verdict(vec![VerdictAttribute::Code(Verdict::Jump), VerdictAttribute::Chain(chain.into())])
}

fn verdict(attributes: Vec<VerdictAttribute>) -> Rule {
    let data = Immediate::Data(DataAttribute::Verdict(attributes));
    vec![Expressions::Immediate(vec![Immediate::DestinationRegister(Register::Verdict), data]).into()]
}

/// How a refused rule begins in [`super::nftables::Refused`].
pub(super) const NEW_RULE: &str = "NewRule";

/// The message that removes the table of a family.
pub(super) fn delete(family: Family) -> Message {
    let attributes = vec![TableAttribute::Name(TABLE.into())];
    (family, NfTablesMessage::DeleteTable(TableMessage { attributes }), 0)
}

/// The messages that create a table.
pub(super) fn create(table: &Table) -> Vec<Message> {
    let attributes = vec![TableAttribute::Name(TABLE.into()), TableAttribute::Flags(TableFlags::empty())];
    let mut messages = vec![(table.family, NfTablesMessage::NewTable(TableMessage { attributes }), NLM_F_CREATE)];
    for chain in &table.chains {
        let mut attributes = vec![ChainAttribute::Table(TABLE.into()), ChainAttribute::Name(chain.name.into())];
        if let Some(base) = &chain.base {
            let mut hook = vec![Hook::Number(base.hook), Hook::Priority(base.priority.cast_unsigned())];
            if !base.devices.is_empty() {
                let device = |name: &Name| DefaultNla::new(NFTA_DEVICE_NAME, [name.0.as_slice(), &[0]].concat());
                hook.push(Hook::NetDevices(base.devices.iter().map(device).collect()));
            }
            attributes.push(ChainAttribute::Hook(hook));
            attributes.push(ChainAttribute::Type("filter".into()));
            attributes.push(ChainAttribute::Policy(NF_DROP));
        }
        messages.push((table.family, NfTablesMessage::NewChain(ChainMessage { attributes }), NLM_F_CREATE));
    }
    for chain in &table.chains {
        for rule in &chain.rules {
            let attributes = vec![
                RuleAttribute::Table(TABLE.into()),
                RuleAttribute::Chain(chain.name.into()),
                RuleAttribute::Expressions(rule.clone()),
            ];
            let message = NfTablesMessage::NewRule(RuleMessage { attributes });
            messages.push((table.family, message, NLM_F_CREATE | NLM_F_APPEND));
        }
    }
    messages
}

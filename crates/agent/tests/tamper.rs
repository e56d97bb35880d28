//! Somebody in the pod has CAP_NET_ADMIN and changes the cut: it is noticed, named, and put back.

#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests: a panic is a failed test")]

mod lab;

use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;
use std::time::{Duration, Instant};

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_REQUEST, NetlinkMessage};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, DataAttribute, Expressions, Immediate, NfTablesMessage, Register, RuleAttribute,
    RuleMessage, TableAttribute, TableFlags, TableMessage, Verdict, VerdictAttribute,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_NETFILTER;
use tourniquet_agent::cut::{CutError, Hooks, State, cut, is_cut, lift, verify};
use tourniquet_agent::netns::NetNs;
use tourniquet_agent::watch::Watch;

use crate::lab::{Lab, PATIENCE, UNPROBED, V4, answers, echo_tcp, ip, times_out};

const TABLE: &str = "tourniquet";

/// One change, as the program nft would make it.
fn change(namespace: &NetNs, family: NetfilterProtoFamily, message: NfTablesMessage, flags: u16) {
    let control = |message| NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 10), message);
    let mut bytes = Vec::new();
    for (message, flags) in [
        (control(ControlMessage::BatchBegin), 0),
        (NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message), flags),
        (control(ControlMessage::BatchEnd), 0),
    ] {
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | flags;
        message.finalize();
        let mut part = vec![0; message.buffer_len()];
        message.serialize(&mut part);
        bytes.extend(part);
    }
    namespace.enter(|| Socket::new(NETLINK_NETFILTER)?.send(&bytes, 0)).expect("the namespace").expect("sent");
}

fn table(attributes: Vec<TableAttribute>) -> TableMessage {
    TableMessage { attributes: [vec![TableAttribute::Name(TABLE.into())], attributes].concat() }
}

fn chain(name: &str, attributes: Vec<ChainAttribute>) -> ChainMessage {
    let named = vec![ChainAttribute::Table(TABLE.into()), ChainAttribute::Name(name.into())];
    ChainMessage { attributes: [named, attributes].concat() }
}

fn rules(chain: &str, attributes: Vec<RuleAttribute>) -> RuleMessage {
    let named = vec![RuleAttribute::Table(TABLE.into()), RuleAttribute::Chain(chain.into())];
    RuleMessage { attributes: [named, attributes].concat() }
}

fn accept_all() -> RuleAttribute {
    let verdict = DataAttribute::Verdict(vec![VerdictAttribute::Code(Verdict::Other(1))]);
    let immediate = vec![Immediate::DestinationRegister(Register::Verdict), Immediate::Data(verdict)];
    RuleAttribute::Expressions(vec![Expressions::Immediate(immediate).into()])
}

#[test]
fn every_change_is_named_and_put_back() {
    let lab = Lab::new();
    echo_tcp(&lab.pod, UNPROBED);
    let outside = || SocketAddr::new(V4.pod, UNPROBED);
    answers(&lab.node, V4.outsider, outside());
    for (hooks, family) in [(Hooks::Netdev, NetfilterProtoFamily::NetDev), (Hooks::Inet, NetfilterProtoFamily::Inet)] {
        type Change = (NfTablesMessage, u16);
        let changes: Vec<(&str, bool, Vec<Change>)> = vec![
            (
                "is dormant",
                true,
                vec![(NfTablesMessage::NewTable(table(vec![TableAttribute::Flags(TableFlags::Dormant)])), 0)],
            ),
            (
                "policy is not drop",
                // The last rule of a chain at an interface holds without it.
                false,
                vec![
                    (NfTablesMessage::NewChain(chain("ingress", vec![ChainAttribute::Policy(1)])), 0),
                    (NfTablesMessage::NewChain(chain("egress", vec![ChainAttribute::Policy(1)])), 0),
                ],
            ),
            (
                "rules, not",
                true,
                vec![
                    (NfTablesMessage::NewRule(rules("ingress", vec![accept_all()])), NLM_F_CREATE),
                    (NfTablesMessage::NewRule(rules("egress", vec![accept_all()])), NLM_F_CREATE),
                ],
            ),
            ("0 rules, not", false, vec![(NfTablesMessage::DeleteRule(rules("ingress", vec![])), 0)]),
            (
                "chain to-probes: it has 0 rules",
                false,
                vec![(NfTablesMessage::DeleteRule(rules("to-probes", vec![])), 0)],
            ),
            (
                "rule 1 of 1 is another one",
                false,
                vec![
                    (NfTablesMessage::DeleteRule(rules("to-probes", vec![])), 0),
                    (NfTablesMessage::NewRule(rules("to-probes", vec![accept_all()])), NLM_F_CREATE),
                ],
            ),
            (
                "holds 3 objects, not its 4 chains",
                true,
                vec![
                    (NfTablesMessage::DeleteRule(rules("ingress", vec![])), 0),
                    (NfTablesMessage::DeleteRule(rules("egress", vec![])), 0),
                    (NfTablesMessage::DeleteChain(chain("ingress", vec![])), 0),
                    (NfTablesMessage::NewChain(chain("egress", vec![ChainAttribute::Policy(1)])), 0),
                ],
            ),
            ("holds 5 objects", false, vec![(NfTablesMessage::NewChain(chain("more", vec![])), NLM_F_CREATE)]),
            (
                "chain egress is gone",
                false,
                vec![
                    (NfTablesMessage::DeleteRule(rules("egress", vec![])), 0),
                    (NfTablesMessage::DeleteChain(chain("egress", vec![])), 0),
                    (NfTablesMessage::NewChain(chain("more", vec![])), NLM_F_CREATE),
                ],
            ),
            // An expression of a kind that the cut never uses.
            (
                "rules, not",
                false,
                vec![(
                    NfTablesMessage::NewRule(rules(
                        "ingress",
                        vec![RuleAttribute::Expressions(vec![
                            Expressions::Other {
                                expression_type: "log".into(),
                                attributes: vec![DefaultNla::new(2, vec![0xff, 0])],
                            }
                            .into(),
                        ])],
                    )),
                    NLM_F_CREATE,
                )],
            ),
        ];
        for (named, opens, messages) in changes {
            cut(&lab.pod, &lab.allow(), hooks).expect("the cut");
            assert_eq!(verify(&lab.pod, &lab.allow(), hooks).expect("read"), State::Cut);
            times_out(&lab.node, V4.outsider, outside());
            for (message, flags) in messages {
                change(&lab.pod, family, message, flags);
            }
            if opens {
                answers(&lab.node, V4.outsider, outside());
            }
            let state = verify(&lab.pod, &lab.allow(), hooks).expect("read");
            let State::Altered(difference) = &state else { panic!("{hooks:?} {named}: {state:?}") };
            assert!(difference.contains(named), "{hooks:?} {named}: {difference}");
            assert!(is_cut(&lab.pod).expect("read"), "{named}: a table of ours is one, whatever is in it");
            assert!(cut(&lab.pod, &lab.allow(), hooks).expect("the cut").changed, "{named}");
            assert_eq!(verify(&lab.pod, &lab.allow(), hooks).expect("read"), State::Cut, "{named}");
            times_out(&lab.node, V4.outsider, outside());
        }
        change(&lab.pod, family, NfTablesMessage::DeleteTable(table(vec![])), 0);
        assert_eq!(verify(&lab.pod, &lab.allow(), hooks).expect("read"), State::Open);
        assert!(!is_cut(&lab.pod).expect("read"));
        answers(&lab.node, V4.outsider, outside());
    }
}

/// A removed table is back within 100 ms, and the watch comes to rest.
#[test]
fn a_removed_table_is_noticed() {
    let lab = Lab::new();
    echo_tcp(&lab.pod, UNPROBED);
    let mut watch = Watch::new(&lab.pod).expect("a watch");
    cut(&lab.pod, &lab.allow(), Hooks::Netdev).expect("the cut");
    assert!(watch.wait(PATIENCE).expect("a notice"), "one's own change is a notice too");
    assert!(!cut(&lab.pod, &lab.allow(), Hooks::Netdev).expect("the cut").changed);
    assert!(!watch.wait(Duration::from_millis(50)).expect("rest"), "reading is no change");

    let removed = Instant::now();
    change(&lab.pod, NetfilterProtoFamily::NetDev, NfTablesMessage::DeleteTable(table(vec![])), 0);
    assert!(watch.wait(PATIENCE).expect("a notice"));
    assert!(cut(&lab.pod, &lab.allow(), Hooks::Netdev).expect("the cut").changed);
    let back = removed.elapsed();
    println!("removed and back after {back:?}");
    assert!(back < Duration::from_millis(100), "{back:?}");
    times_out(&lab.node, V4.outsider, SocketAddr::new(V4.pod, UNPROBED));
    while watch.wait(Duration::from_millis(50)).expect("rest") {}

    lab.wire("veth1", "eth1");
    assert!(watch.wait(PATIENCE).expect("a notice"), "an interface that appears is noticed");
    assert_eq!(cut(&lab.pod, &lab.allow(), Hooks::Netdev).expect("the cut").interfaces, ["eth0", "eth1"]);
}

/// An interface that is renamed: some kernels take the hook off it (6.16 and later bind hooks to names).
#[test]
fn a_renamed_interface_is_noticed() {
    let lab = Lab::new();
    echo_tcp(&lab.pod, UNPROBED);
    let mut watch = Watch::new(&lab.pod).expect("a watch");
    cut(&lab.pod, &lab.allow(), Hooks::Netdev).expect("the cut");
    while watch.wait(Duration::from_millis(50)).expect("rest") {}
    for change in ["link set eth0 down", "link set eth0 name other", "link set other up"] {
        ip(&lab.pod, change);
    }
    assert!(watch.wait(PATIENCE).expect("a notice"));
    assert_eq!(cut(&lab.pod, &lab.allow(), Hooks::Netdev).expect("the cut").interfaces, ["other"]);
    times_out(&lab.node, V4.outsider, SocketAddr::new(V4.pod, UNPROBED));
}

/// A name that is no text cannot be read back. The traffic stops all the same, and nothing is claimed.
#[test]
fn an_interface_whose_name_is_no_text() {
    let lab = Lab::new();
    echo_tcp(&lab.pod, UNPROBED);
    ip(&lab.pod, "link set eth0 down");
    let name = std::ffi::OsStr::from_bytes(b"\xff\xfe");
    let rename = || Command::new("ip").args(["link", "set", "eth0", "name"]).arg(name).status();
    assert!(lab.pod.enter(rename).expect("the namespace").expect("ip").success());
    assert!(
        lab.pod
            .enter(|| Command::new("ip").args(["link", "set", "up"]).arg(name).status())
            .expect("the namespace")
            .expect("ip")
            .success()
    );
    answers(&lab.node, V4.outsider, SocketAddr::new(V4.pod, UNPROBED));
    let result = cut(&lab.pod, &lab.allow(), Hooks::Netdev);
    assert!(matches!(result, Err(CutError::Unverified { .. })), "{result:?}");
    times_out(&lab.node, V4.outsider, SocketAddr::new(V4.pod, UNPROBED));
    assert!(lift(&lab.pod).expect("lifted"));
    answers(&lab.node, V4.outsider, SocketAddr::new(V4.pod, UNPROBED));
}

#[test]
fn the_end_of_the_process_that_the_pod_is_known_by_is_noticed_once() {
    let lab = Lab::new();
    let mut sandbox = std::process::Command::new("sleep").arg("60").spawn().expect("a process");
    let mut watch = Watch::new(&lab.pod).expect("a watch").with_process(sandbox.id());
    assert!(!watch.wait(Duration::from_millis(50)).expect("rest"), "it runs");
    sandbox.kill().expect("it is ours");
    assert!(watch.wait(PATIENCE).expect("a notice"));
    assert!(!watch.wait(Duration::from_millis(50)).expect("rest"), "it ended once");
    sandbox.wait().expect("it has ended");
}

//! What the kernel holds, compared with what is meant.
//!
//! Objects are asked for by name: what else is in the namespace, and how it is called, cannot keep this from reading
//! its own.

use std::io;

use netlink_packet_core::{DefaultNla, Nla};
use netlink_packet_netfilter::nftables::{
    Bitwise, ChainAttribute, ChainMessage, Cmp, ExpressionAttribute, Expressions, Hook, Immediate, ListAttribute, Meta,
    NfTablesMessage, Payload, RuleAttribute, RuleMessage, TableAttribute, TableFlags, TableMessage,
};

use super::links::Name;
use super::rules::{Chain, FAMILIES, Family, NF_DROP, NFTA_DEVICE_NAME, Rule, TABLE, Table};
use crate::netlink::Netlink;

/// How what is there differs from what is meant.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Difference {
    /// Not at all.
    None,
    /// There is nothing.
    Absent,
    /// In this.
    Some(String),
}

/// The families in which there is a table of ours.
pub(super) fn present(netfilter: &mut Netlink) -> io::Result<Vec<Family>> {
    let mut present = Vec::new();
    for family in FAMILIES {
        if table(netfilter, family)?.is_some() {
            present.push(family);
        }
    }
    Ok(present)
}

fn table(netfilter: &mut Netlink, family: Family) -> io::Result<Option<TableMessage>> {
    let attributes = vec![TableAttribute::Name(TABLE.into())];
    match netfilter.get(family, NfTablesMessage::GetTable(TableMessage { attributes }))? {
        Some(NfTablesMessage::NewTable(table)) => Ok(Some(table)),
        Some(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "asked for a table, got something else")),
        None => Ok(None),
    }
}

/// Compares a table with what is meant.
pub(super) fn compare(netfilter: &mut Netlink, meant: &Table) -> io::Result<Difference> {
    match differ(netfilter, meant) {
        // What cannot be decoded is not ours.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Ok(Difference::Some(format!("it holds something unknown ({error})")))
        }
        other => other,
    }
}

fn differ(netfilter: &mut Netlink, meant: &Table) -> io::Result<Difference> {
    let family = meant.family;
    let Some(table) = table(netfilter, family)? else { return Ok(Difference::Absent) };
    for other in FAMILIES.into_iter().filter(|other| *other != family) {
        if self::table(netfilter, other)?.is_some() {
            return Ok(Difference::Some(format!("there is a second table {other} {TABLE}")));
        }
    }
    let flags =
        table.attributes.iter().find_map(|it| if let TableAttribute::Flags(flags) = it { Some(*flags) } else { None });
    if flags.is_some_and(|flags| flags != TableFlags::empty()) {
        return Ok(Difference::Some(format!("the table is dormant or owned by a process (flags {flags:?})")));
    }
    let holds =
        table.attributes.iter().find_map(|it| if let TableAttribute::Use(count) = it { Some(*count) } else { None });
    if holds.is_some_and(|holds| holds as usize != meant.chains.len()) {
        let chains = meant.chains.len();
        return Ok(Difference::Some(format!(
            "the table holds {} objects, not its {chains} chains",
            holds.unwrap_or_default()
        )));
    }
    for chain in &meant.chains {
        let attributes = vec![ChainAttribute::Table(TABLE.into()), ChainAttribute::Name(chain.name.into())];
        let held = match netfilter.get(family, NfTablesMessage::GetChain(ChainMessage { attributes }))? {
            Some(NfTablesMessage::NewChain(held)) => held,
            _ => return Ok(Difference::Some(format!("chain {} is gone", chain.name))),
        };
        if let Some(difference) = chain_differs(chain, &held) {
            return Ok(Difference::Some(format!("chain {}: {difference}", chain.name)));
        }
        let attributes = vec![RuleAttribute::Table(TABLE.into()), RuleAttribute::Chain(chain.name.into())];
        let request = NfTablesMessage::GetRule(RuleMessage { attributes });
        let rules = rules(netfilter.dump(family, &request)?, chain.name);
        if let Some(difference) = rules_differ(&chain.rules, &rules) {
            return Ok(Difference::Some(format!("chain {}: {difference}", chain.name)));
        }
    }
    Ok(Difference::None)
}

fn chain_differs(meant: &Chain, held: &ChainMessage) -> Option<String> {
    let hook =
        held.attributes.iter().find_map(|it| if let ChainAttribute::Hook(hook) = it { Some(hook) } else { None });
    let (base, hook) = match (&meant.base, hook) {
        (None, None) => return None,
        (None, Some(_)) => return Some("it has a hook of its own".into()),
        (Some(_), None) => return Some("it has no hook".into()),
        (Some(base), Some(hook)) => (base, hook),
    };
    if !held.attributes.contains(&ChainAttribute::Policy(NF_DROP)) {
        return Some("its policy is not drop".into());
    }
    if !held.attributes.contains(&ChainAttribute::Type("filter".into())) {
        return Some("it is no filter".into());
    }
    let mut devices: Vec<Name> = Vec::new();
    let (mut number, mut priority) = (None, None);
    for attribute in hook {
        match attribute {
            Hook::Number(held) => number = Some(u32::from(*held)),
            Hook::Priority(held) => priority = Some(held.cast_signed()),
            Hook::NetDevices(held) => {
                devices.extend(held.iter().filter(|it| it.kind() == NFTA_DEVICE_NAME).map(device));
            }
            _ => {}
        }
    }
    if number != Some(u32::from(base.hook)) || priority != Some(base.priority) {
        return Some(format!("it is at hook {number:?} with priority {priority:?}"));
    }
    let uncovered = base.devices.iter().find(|device| !devices.contains(device));
    uncovered.map(|device| format!("interface {device} is not covered"))
}

fn device(attribute: &DefaultNla) -> Name {
    let mut bytes = vec![0; attribute.value_len()];
    attribute.emit_value(&mut bytes);
    bytes.truncate(bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()));
    Name(bytes)
}

fn rules(objects: Vec<NfTablesMessage>, chain: &str) -> Vec<Rule> {
    let mut rules = Vec::new();
    for object in objects {
        let NfTablesMessage::NewRule(rule) = object else { continue };
        // Kernels that do not filter by chain.
        if !rule.attributes.contains(&RuleAttribute::Chain(chain.into())) {
            continue;
        }
        let expressions = rule.attributes.into_iter().find_map(|attribute| match attribute {
            RuleAttribute::Expressions(expressions) => Some(expressions),
            _ => None,
        });
        rules.push(expressions.unwrap_or_default());
    }
    rules
}

fn rules_differ(meant: &[Rule], held: &[Rule]) -> Option<String> {
    if meant.len() != held.len() {
        return Some(format!("it has {} rules, not {}", held.len(), meant.len()));
    }
    let differs = |(meant, held): (&Rule, &Rule)| {
        meant.len() != held.len() || meant.iter().zip(held).any(|(meant, held)| !same(meant, held))
    };
    let at = meant.iter().zip(held).position(differs)?;
    Some(format!("rule {} of {} is another one", at + 1, meant.len()))
}

/// Whether an expression is the one that was meant. A kernel may add attributes that this version does not know, and
/// defaults of those that it does (an operation of 0 to a mask); what was meant has to be there, and nothing else.
fn same(meant: &ListAttribute<ExpressionAttribute>, held: &ListAttribute<ExpressionAttribute>) -> bool {
    let (Some((meant_name, meant)), Some((held_name, held))) = (parts(meant), parts(held)) else { return false };
    meant_name == held_name
        && match (meant, held) {
            (Expressions::Bitwise(meant), Expressions::Bitwise(held)) => {
                covers(meant, held, |it| matches!(it, Bitwise::Op(0) | Bitwise::Other(_)))
            }
            (Expressions::Cmp(meant), Expressions::Cmp(held)) => covers(meant, held, |it| matches!(it, Cmp::Other(_))),
            (Expressions::Immediate(meant), Expressions::Immediate(held)) => {
                covers(meant, held, |it| matches!(it, Immediate::Other(_)))
            }
            (Expressions::Meta(meant), Expressions::Meta(held)) => {
                covers(meant, held, |it| matches!(it, Meta::Other(_)))
            }
            (Expressions::Payload(meant), Expressions::Payload(held)) => {
                covers(meant, held, |it| matches!(it, Payload::Other(_)))
            }
            (Expressions::Other { attributes: meant, .. }, Expressions::Other { attributes: held, .. }) => {
                meant == held
            }
            _ => false,
        }
}

fn parts(expression: &ListAttribute<ExpressionAttribute>) -> Option<(&str, &Expressions)> {
    let ListAttribute::Element(attributes) = expression else { return None };
    let name = attributes
        .iter()
        .find_map(|it| if let ExpressionAttribute::Name(name) = it { Some(name.as_str()) } else { None });
    let data =
        attributes.iter().find_map(|it| if let ExpressionAttribute::Data(data) = it { Some(data) } else { None });
    Some((name?, data?))
}

fn covers<T: PartialEq>(meant: &[T], held: &[T], harmless: impl Fn(&T) -> bool) -> bool {
    meant.iter().all(|attribute| held.contains(attribute))
        && held.iter().all(|attribute| meant.contains(attribute) || harmless(attribute))
}

//! Powers: what whoever installs tourniquet need not give it. Each is some of the rights that the actions declare, so what a power that is switched off
//! takes away, from the ClusterRole and from the responses, follows from the same declaration.

use std::fmt;
use std::str::FromStr;

use k8s_openapi::api::rbac::v1::PolicyRule;
use tourniquet_api::IncidentResponseSpec;

use crate::action::{self, Refusal};
use crate::effect::Kind;
use crate::settings::Settings;

/// The reason of what is not done for want of a power.
pub const POWER_OFF: &str = "PowerOff";

/// One of them. What is only read is none: with it the operator would not see what it has to undo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Power {
    /// To start programs in pods. What is started in an agent's pod is not meant: that has a switch of its own, `agent.capture.enabled`.
    Exec,
    /// To change nodes.
    Nodes,
    /// To write policies of the network, of whatever engine.
    Policies,
    /// To read the Secrets of the operator's own namespace.
    Secrets,
}

impl Power {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::Exec, Self::Nodes, Self::Policies, Self::Secrets];

    /// Its name, below `powers` in the chart's values.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Nodes => "nodes",
            Self::Policies => "policies",
            Self::Secrets => "secrets",
        }
    }

    const fn describe(self) -> &'static str {
        match self {
            Self::Exec => "starting programs in pods",
            Self::Nodes => "changing nodes",
            Self::Policies => "writing network policies",
            Self::Secrets => "reading the Secrets of the operator's own namespace",
        }
    }

    /// That it is needed, and off.
    #[must_use]
    pub fn is_off(self) -> String {
        format!("the power {self} ({}), which is switched off (powers.{self} in the chart's values)", self.describe())
    }

    /// Which power a right is, if any.
    pub(crate) fn of(group: &str, resource: &str, verb: &str) -> Option<Self> {
        let writes = !matches!(verb, "get" | "list" | "watch");
        match (group, resource) {
            ("", "pods/exec") => Some(Self::Exec),
            ("", "nodes") if writes => Some(Self::Nodes),
            ("", "secrets") => Some(Self::Secrets),
            ("networking.k8s.io" | "cilium.io" | "projectcalico.org", _) if writes => Some(Self::Policies),
            _ => None,
        }
    }
}

impl fmt::Display for Power {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Power {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|power| power.as_str() == name);
        found.ok_or_else(|| format!("there is no power {name:?}, only exec, nodes, policies and secrets"))
    }
}

/// The part of some rules that is this power, or, without one, what is no power.
pub(crate) fn part(rules: &[PolicyRule], power: Option<Power>) -> Vec<PolicyRule> {
    let mut part = Vec::new();
    for rule in rules {
        for group in rule.api_groups.iter().flatten() {
            // Resources of which the same verbs are left stay together.
            let mut left: Vec<(Vec<String>, Vec<String>)> = Vec::new();
            for resource in rule.resources.iter().flatten() {
                let is_it = |verb: &&String| Power::of(group, resource, verb) == power;
                let verbs: Vec<String> = rule.verbs.iter().filter(is_it).cloned().collect();
                match left.iter_mut().find(|(of, _)| *of == verbs) {
                    Some((_, resources)) => resources.push(resource.clone()),
                    None => left.push((verbs, vec![resource.clone()])),
                }
            }
            let some = left.into_iter().filter(|(verbs, _)| !verbs.is_empty());
            part.extend(some.map(|(verbs, resources)| PolicyRule {
                api_groups: Some(vec![group.clone()]),
                resources: Some(resources),
                verbs,
                ..rule.clone()
            }));
        }
    }
    part
}

/// Whether a right is one over targets of another kind: whoever labels a pod does not change a node.
fn is_of_another_target(group: &str, resource: &str, kind: Kind) -> bool {
    let of = match (group, resource) {
        ("", "pods") => Kind::Pod,
        ("", "namespaces") => Kind::Namespace,
        ("", "nodes") => Kind::Node,
        _ => return false,
    };
    of != kind
}

/// The first action that takes a power which is switched off. So is a dry run of it: a plan says what would be done.
pub(crate) fn refuses(spec: &IncidentResponseSpec, kind: Kind, settings: &Settings) -> Option<Refusal> {
    for asked in &spec.actions {
        let Some((verb, act)) = asked.verb().and_then(|verb| Some((verb, action::action(verb)?))) else { continue };
        for rule in act.rbac_of(asked, settings.agents.is_some()) {
            for (group, resource) in rule
                .api_groups
                .iter()
                .flatten()
                .flat_map(|group| rule.resources.iter().flatten().map(move |resource| (group, resource)))
                .filter(|(group, resource)| !is_of_another_target(group, resource, kind))
            {
                let off = rule.verbs.iter().filter_map(|verb| Power::of(group, resource, verb));
                if let Some(power) = off.filter(|power| settings.powers_off.contains(power)).min() {
                    let message = format!(
                        "action {} ({verb}) takes {}; nothing was touched: create a response without it, or have the power switched on",
                        asked.effective_name(),
                        power.is_off(),
                    );
                    return Some(Refusal { reason: POWER_OFF, message });
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::rbac::rbac_rules;

    /// Each right on its own.
    fn rights(rules: &[PolicyRule]) -> BTreeSet<(String, String, String)> {
        let mut rights = BTreeSet::new();
        for rule in rules {
            for group in rule.api_groups.iter().flatten() {
                for resource in rule.resources.iter().flatten() {
                    rights.extend(rule.verbs.iter().map(|verb| (group.clone(), resource.clone(), verb.clone())));
                }
            }
        }
        rights
    }

    #[test]
    fn the_parts_are_the_whole_and_share_nothing() {
        let all = rbac_rules();
        let parts = Power::ALL.into_iter().map(Some).chain([None]).map(|power| rights(&part(&all, power)));
        let parts: Vec<_> = parts.collect();
        assert_eq!(parts.iter().flatten().cloned().collect::<BTreeSet<_>>(), rights(&all));
        assert_eq!(parts.iter().map(BTreeSet::len).sum::<usize>(), rights(&all).len());
    }

    #[test]
    fn what_is_no_power_writes_no_policy_changes_no_node_and_starts_nothing() {
        for (group, resource, verb) in rights(&part(&rbac_rules(), None)) {
            let reads = matches!(verb.as_str(), "get" | "list" | "watch");
            assert!(reads || resource != "nodes", "{verb} {resource}");
            assert!(reads || !resource.contains("polic") && !resource.contains("tiers"), "{verb} {resource}.{group}");
            assert!(resource != "pods/exec" && resource != "secrets", "{verb} {resource}");
        }
    }

    #[test]
    fn each_has_a_name_and_is_found_by_it() {
        for power in Power::ALL {
            assert_eq!(power.to_string().parse(), Ok(power));
        }
        assert!("Exec".parse::<Power>().unwrap_err().contains("only exec, nodes, policies and secrets"));
    }
}

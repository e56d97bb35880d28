//! The operator's rights: what its actions declare, and what it needs for itself.

use k8s_openapi::api::rbac::v1::PolicyRule;

use crate::action::ACTIONS;
use crate::power::{self, Power};
use crate::receipt;

/// One rule.
pub(crate) fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> PolicyRule {
    let strings = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    PolicyRule {
        api_groups: Some(strings(&[group])),
        resources: Some(strings(resources)),
        verbs: strings(verbs),
        ..PolicyRule::default()
    }
}

/// The part of the operator's ClusterRole that is a power, or, without one, what it has in any case. The chart's copies are generated from this.
#[must_use]
pub fn rbac_rules_of(power: Option<Power>) -> Vec<PolicyRule> {
    power::part(&rbac_rules(), power)
}

/// The rules of the operator's ClusterRole, with all powers.
#[must_use]
pub fn rbac_rules() -> Vec<PolicyRule> {
    let mut rules = vec![
        // Patch is for the finalizer.
        rule("tourniquet.dev", &["incidentresponses"], &["get", "list", "watch", "patch"]),
        rule("tourniquet.dev", &["incidentresponses/status"], &["update"]),
        // Asked for at admission of whoever takes the finalizer off.
        rule("tourniquet.dev", &["incidentresponses/finalizers"], &["update"]),
        // What is written of a store is what became of using it. The credentials that it names are in a Role: only of the operator's own namespace.
        rule("tourniquet.dev", &["evidencestores"], &["get", "list", "watch"]),
        rule("tourniquet.dev", &["evidencestores/status"], &["update"]),
        // Acceptance: whether the API server depends on a pod.
        rule(
            "admissionregistration.k8s.io",
            &["validatingwebhookconfigurations", "mutatingwebhookconfigurations"],
            &["list"],
        ),
        rule("apiregistration.k8s.io", &["apiservices"], &["list"]),
        rule("", &["services"], &["get"]),
        // Acceptance: the pods of a workload.
        rule("apps", &["deployments", "replicasets", "statefulsets", "daemonsets"], &["get"]),
        rule("apps", &["replicasets"], &["list"]),
        rule("batch", &["jobs"], &["get"]),
        // Leftovers: cuts that agents report and nobody asks for.
        rule("internal.tourniquet.dev", &["nodeagents"], &["list"]),
        // On responses and on their targets, in whatever namespace. Patch counts up one that is there.
        rule("events.k8s.io", &["events"], &["create", "patch"]),
    ];
    rules.extend(receipt::rbac());
    rules.extend(ACTIONS.iter().flat_map(|action| action.rbac()));
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_rule_grants_everything_of_anything() {
        for rule in rbac_rules() {
            let groups = rule.api_groups.iter().flatten();
            let all: Vec<&String> = groups.chain(rule.resources.iter().flatten()).chain(&rule.verbs).collect();
            assert!(all.iter().all(|word| *word != "*"), "{rule:?}");
            let powers = ["bind", "escalate", "impersonate"];
            assert!(rule.verbs.iter().all(|verb| !powers.contains(&verb.as_str())), "{rule:?}");
        }
    }
}

//! What rules of RBAC amount to, for whoever has to know what a stolen token is good for.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::rbac::v1::PolicyRule;

use super::words;

/// What a token is good for; the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Power {
    Everything,
    /// Gets whoever has it any other right.
    Escalate,
    ReadSecrets,
    Execute,
    CreatePods,
    Change,
    Read,
}

impl Power {
    /// Whether it leads beyond the pod.
    pub(super) fn is_high(self) -> bool {
        self < Self::Change
    }
}

/// Powers, each with what it is limited to; none is all of it.
pub(super) type Powers = BTreeMap<Power, Option<BTreeSet<String>>>;

/// Resources whose creation runs pods.
const RUN_PODS: &[(&str, &str)] = &[
    ("", "pods"),
    ("", "replicationcontrollers"),
    ("apps", "deployments"),
    ("apps", "daemonsets"),
    ("apps", "replicasets"),
    ("apps", "statefulsets"),
    ("batch", "jobs"),
    ("batch", "cronjobs"),
];

/// What gives other rights: a role or an identity that one does not have oneself. A kubelet's API runs commands in every pod of
/// its node.
const ESCALATE: &[(&str, &str, &[&str])] = &[
    ("rbac.authorization.k8s.io", "roles", &["bind", "escalate"]),
    ("rbac.authorization.k8s.io", "clusterroles", &["bind", "escalate"]),
    ("", "users", &["impersonate"]),
    ("", "groups", &["impersonate"]),
    ("", "serviceaccounts", &["impersonate"]),
    ("", "serviceaccounts/token", &["create"]),
    ("", "nodes/proxy", &["get", "create"]),
    ("certificates.k8s.io", "certificatesigningrequests/approval", &["update", "patch"]),
];

const RUN_COMMANDS: &[(&str, &[&str])] = &[
    // A WebSocket is a GET, and before Kubernetes 1.35 needed no more than that.
    ("pods/exec", &["create", "get"]),
    ("pods/attach", &["create", "get"]),
    ("pods/ephemeralcontainers", &["update", "patch"]),
];

/// What everybody may ask about himself (ClusterRole `system:basic-user`).
const ABOUT_ONESELF: &[&str] = &["selfsubjectaccessreviews", "selfsubjectrulesreviews", "selfsubjectreviews"];

/// What these rules amount to.
pub(super) fn powers(rules: &[PolicyRule]) -> Powers {
    let mut powers = Powers::new();
    for rule in rules {
        of_rule(rule, &mut powers);
    }
    if powers.contains_key(&Power::Everything) {
        powers.retain(|power, _| *power == Power::Everything);
    }
    powers
}

fn of_rule(rule: &PolicyRule, powers: &mut Powers) {
    let only: Option<BTreeSet<String>> =
        rule.resource_names.as_ref().filter(|names| !names.is_empty()).map(|names| names.iter().cloned().collect());
    let all = |list: Option<&Vec<String>>| list.is_some_and(|list| list.iter().any(|word| word == "*"));
    if only.is_none() && all(rule.api_groups.as_ref()) && all(rule.resources.as_ref()) && all(Some(&rule.verbs)) {
        add(powers, Power::Everything, None);
        return;
    }
    let mut high = false;
    let mut add_high = |power: Power, only: Option<BTreeSet<String>>| {
        high = true;
        add(powers, power, only);
    };
    if ESCALATE.iter().any(|(group, resource, verbs)| grants(rule, group, resource, verbs)) {
        add_high(Power::Escalate, None);
    }
    if grants(rule, "", "secrets", &["get", "list", "watch"]) {
        add_high(Power::ReadSecrets, only.clone());
    }
    if RUN_COMMANDS.iter().any(|(resource, verbs)| grants(rule, "", resource, verbs)) {
        add_high(Power::Execute, only.clone());
    }
    let runs = |(group, resource): &(&str, &str)| match (*resource, only.is_some()) {
        // What is created has no name yet when that is decided, and a pod that is there takes no other account.
        ("pods", named) => !named && grants(rule, group, resource, &["create"]),
        (_, true) => grants(rule, group, resource, &["update", "patch"]),
        (_, false) => grants(rule, group, resource, &["create", "update", "patch"]),
    };
    if RUN_PODS.iter().any(runs) {
        add_high(Power::CreatePods, None);
    }
    if high {
        return;
    }
    let resources = rule.resources.iter().flatten().filter(|resource| !ABOUT_ONESELF.contains(&resource.as_str()));
    let named: BTreeSet<String> = resources.cloned().collect();
    if named.is_empty() {
        return;
    }
    let reads = |verb: &String| matches!(verb.as_str(), "get" | "list" | "watch");
    let power = if rule.verbs.iter().all(reads) { Power::Read } else { Power::Change };
    add(powers, power, Some(named));
}

fn add(powers: &mut Powers, power: Power, only: Option<BTreeSet<String>>) {
    match (powers.entry(power).or_insert_with(|| Some(BTreeSet::new())), only) {
        (Some(known), Some(more)) => known.extend(more),
        (known, _) => *known = None,
    }
}

/// As the API server matches rules (Kubernetes 1.36, `pkg/apis/rbac/v1/evaluation_helpers.go`).
fn grants(rule: &PolicyRule, group: &str, resource: &str, verbs: &[&str]) -> bool {
    let any =
        |list: Option<&Vec<String>>, wanted: &dyn Fn(&str) -> bool| list.into_iter().flatten().any(|word| wanted(word));
    let sub = resource.split_once('/').map(|(_, sub)| format!("*/{sub}"));
    any(rule.api_groups.as_ref(), &|word| word == "*" || word == group)
        && any(rule.resources.as_ref(), &|word| word == "*" || word == resource || sub.as_deref() == Some(word))
        && any(Some(&rule.verbs), &|word| word == "*" || verbs.contains(&word))
}

/// The power in words.
pub(super) fn words(power: Power, only: Option<&BTreeSet<String>>) -> String {
    let named: Vec<&String> = only.into_iter().flatten().collect();
    let of = if named.is_empty() { String::new() } else { format!(" {}", words::list(&named)) };
    match power {
        Power::Everything => "do everything".to_owned(),
        Power::Escalate => {
            "get itself other rights (bind, escalate, impersonate, tokens of others, kubelets)".to_owned()
        }
        Power::ReadSecrets => format!("read secrets{of}"),
        Power::Execute => format!("run commands in pods{of}"),
        Power::CreatePods => "create pods".to_owned(),
        Power::Change => format!("change{of}"),
        Power::Read => format!("read{of}"),
    }
}

//! What a rendering of the chart grants to a service account.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// One verb on one resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Right {
    pub(crate) group: String,
    /// With its subresource.
    pub(crate) resource: String,
    pub(crate) verb: String,
    /// Where; none is everywhere.
    pub(crate) namespace: Option<String>,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { group, resource, verb, .. } = self;
        write!(f, "{verb} {resource}{}{group}", if group.is_empty() { "" } else { "." })?;
        self.namespace.as_ref().map_or(Ok(()), |namespace| write!(f, " in {namespace}"))
    }
}

/// The rights of a service account, by what is bound to it.
///
/// # Errors
/// When a binding names a role that is not there, or a rule names single objects, which nothing here looks at.
pub(crate) fn of(objects: &BTreeMap<String, Value>, (namespace, account): (&str, &str)) -> Result<BTreeSet<Right>> {
    let mut rights = BTreeSet::new();
    for binding in
        objects.values().filter(|object| object["kind"].as_str().unwrap_or_default().ends_with("RoleBinding"))
    {
        let is_it = |subject: &Value| {
            (&subject["kind"], &subject["name"], &subject["namespace"])
                == (&"ServiceAccount".into(), &account.into(), &namespace.into())
        };
        if !binding["subjects"].as_array().is_some_and(|subjects| subjects.iter().any(is_it)) {
            continue;
        }
        let role = |key: &str| binding["roleRef"][key].as_str().unwrap_or_default();
        let within = binding["metadata"]["namespace"].as_str();
        let name = match (role("kind"), within) {
            ("Role", Some(within)) => format!("Role {within}/{}", role("name")),
            (kind, _) => format!("{kind} {}", role("name")),
        };
        let rules = objects.get(&name).with_context(|| format!("{name} is bound and not there"))?["rules"].as_array();
        for rule in rules.into_iter().flatten() {
            ensure!(rule["resourceNames"].is_null(), "{name} has a rule for single objects: {rule}");
            for group in texts(&rule["apiGroups"]) {
                for resource in texts(&rule["resources"]) {
                    rights.extend(texts(&rule["verbs"]).map(|verb| Right {
                        group: group.to_owned(),
                        resource: resource.to_owned(),
                        verb: verb.to_owned(),
                        namespace: within.map(str::to_owned),
                    }));
                }
            }
        }
    }
    Ok(rights)
}

fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}

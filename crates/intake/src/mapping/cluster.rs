//! Which cluster it is.

use std::fmt;
use std::str::FromStr;

use super::quoted;

/// The Azure resource ID of a cluster. Azure takes upper and lower case in it for the same, and its services write both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterId(String);

/// Of AKS, and of clusters elsewhere that Azure Arc knows.
const TYPES: [&str; 2] = ["microsoft.containerservice/managedclusters", "microsoft.kubernetes/connectedclusters"];

impl ClusterId {
    /// Whether this is its ID.
    pub(super) fn is(&self, id: &str) -> Result<(), String> {
        if id.parse().is_ok_and(|other: Self| other == *self) {
            return Ok(());
        }
        Err(format!(
            "it is in the cluster {}, and this is {}: send it to that cluster's queue",
            quoted(id.rsplit('/').next().unwrap_or(id)),
            quoted(self.0.rsplit('/').next().unwrap_or(&self.0)),
        ))
    }
}

impl FromStr for ClusterId {
    type Err = String;

    fn from_str(id: &str) -> Result<Self, String> {
        let lower = id.trim_end_matches('/').to_ascii_lowercase();
        let parts: Vec<&str> = lower.split('/').collect();
        match parts.as_slice() {
            ["", "subscriptions", subscription, "resourcegroups", group, "providers", provider, kind, name]
                if TYPES.contains(&format!("{provider}/{kind}").as_str())
                    && [subscription, group, name].iter().all(|part| !part.is_empty()) =>
            {
                Ok(Self(lower))
            }
            _ => Err(format!(
                "{} is no resource ID of a cluster; one looks like /subscriptions/…/resourceGroups/…/providers/Microsoft.ContainerService/managedClusters/NAME",
                quoted(id)
            )),
        }
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

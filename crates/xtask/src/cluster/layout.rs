//! Where everything of a cluster is.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use sha2::{Digest, Sha256};

use crate::image::hex;

/// The state directory as the cluster sees it. Fixed and short: several daemons put Unix sockets below it, and a socket's path may not exceed
/// 107 bytes, which a workspace deep in somebody's home would break.
pub(super) const INSIDE: &str = "/run/tourniquet";
/// Where the kubelet finds pods that are files, inside the cluster.
pub const STATIC_PODS: &str = "/run/tourniquet/static-pods";
/// Where the API server's audit log is, inside the cluster; one that is full is put beside it.
pub const AUDIT_LOG: &str = "/run/tourniquet/logs/audit.log";

/// The node's name in every cluster.
pub const NODE: &str = "node-0";
/// The node's address; the API server listens on it.
pub const NODE_IP: &str = "10.99.0.1";
/// Addresses of pods.
pub const POD_CIDR: &str = "10.244.0.0/16";
/// Addresses of services.
pub const SERVICE_CIDR: &str = "10.96.0.0/16";
/// The first service address: `kubernetes.default`.
pub const KUBERNETES_IP: &str = "10.96.0.1";

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.ancestors().nth(2).unwrap_or(manifest).to_path_buf()
}

/// The folder that holds all clusters and the cache of binaries. Always `target/` of the workspace, whatever `CARGO_TARGET_DIR` says: a cluster
/// must be found again from a shell with another environment.
pub fn base() -> PathBuf {
    workspace().join("target/cluster")
}

/// The Go modules that the cluster is built from.
pub(super) fn modules() -> PathBuf {
    workspace().join("tests/cluster")
}

/// One cluster's files.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) name: String,
    pub(super) root: PathBuf,
}

impl Layout {
    pub(super) fn new(name: &str) -> Result<Self> {
        let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty()
            || name.len() > 40
            || !name.chars().all(label)
            || name.starts_with('-')
            || name.ends_with('-')
        {
            bail!(
                "cluster name {name:?}: use 1 to 40 lower-case letters, digits and dashes, not starting or ending with a dash"
            );
        }
        if matches!(name, "bin" | "images") {
            bail!("cluster name {name:?} is taken by the cache; choose another");
        }
        Ok(Self { name: name.to_owned(), root: base().join(name) })
    }

    pub(super) fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }
    pub(super) fn logs(&self) -> PathBuf {
        self.path("logs")
    }
    pub(super) fn log(&self, daemon: &str) -> PathBuf {
        self.path("logs").join(format!("{daemon}.log"))
    }
    pub(super) fn pki(&self) -> PathBuf {
        self.path("pki")
    }
    pub(super) fn bin(&self) -> PathBuf {
        self.path("bin")
    }
    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.path("kubeconfig")
    }
    /// What was asked for; read by the supervisor and by the next `up`.
    pub(super) fn spec(&self) -> PathBuf {
        self.path("cluster.json")
    }
    /// What the supervisor says about its daemons.
    pub(super) fn status(&self) -> PathBuf {
        self.path("status.json")
    }
    /// The supervisor's identity.
    pub(super) fn pid(&self) -> PathBuf {
        self.path("pid.json")
    }
    /// Written when `up` has seen everything work once.
    pub(super) fn ready(&self) -> PathBuf {
        self.path("ready")
    }
    /// The folder of this cluster's pods in every cgroup hierarchy. Cgroups are the whole machine's: two checkouts may each have a
    /// cluster of this name, and a kubelet removes pods that it does not know from its folder.
    pub(super) fn cgroup(&self) -> String {
        let checkout = hex(&Sha256::digest(self.root.as_os_str().as_encoded_bytes()));
        format!("tourniquet-{}-{}", self.name, checkout.get(..8).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_labels() {
        for good in ["tourniquet", "a", "plain-2"] {
            assert!(Layout::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a/b", "..", "bin", &"a".repeat(41)] {
            assert!(Layout::new(bad).is_err(), "{bad}");
        }
    }
}

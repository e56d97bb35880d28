//! What still passes a cut.

use std::collections::BTreeSet;
use std::net::IpAddr;

/// What still passes: the kubelet's probes, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allow {
    pub(super) nodes: BTreeSet<IpAddr>,
    pub(super) ports: BTreeSet<u16>,
}

/// The most addresses or ports. A pod has some probes, a node some addresses; this many still fit one message to the
/// kernel.
pub const MOST: usize = 64;

/// Why something cannot be allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AllowError {
    /// No host has this address.
    #[error("{0} cannot be an address that a node probes from; give the node's own addresses")]
    NotAHost(IpAddr),
    /// No connection has this port.
    #[error("0 is no port; give the ports of the pod's probes by number")]
    NotAPort,
    /// Too many.
    #[error(
        "{0} {1} are more than the {MOST} that a cut can let through; give only those that the kubelet's probes use"
    )]
    TooMany(usize, &'static str),
}

impl Allow {
    /// Connections from `nodes` to `ports` pass, and replies. No port: nothing passes.
    ///
    /// # Errors
    /// When an address or a port can be none, or there are too many. A hole is never guessed.
    pub fn new(
        nodes: impl IntoIterator<Item = IpAddr>,
        ports: impl IntoIterator<Item = u16>,
    ) -> Result<Self, AllowError> {
        let nodes: BTreeSet<IpAddr> = nodes.into_iter().map(|address| address.to_canonical()).collect();
        let ports: BTreeSet<u16> = ports.into_iter().collect();
        if let Some(address) = nodes
            .iter()
            .find(|it| it.is_unspecified() || it.is_loopback() || it.is_multicast() || **it == IpAddr::from([255; 4]))
        {
            return Err(AllowError::NotAHost(*address));
        }
        if ports.contains(&0) {
            return Err(AllowError::NotAPort);
        }
        for (count, what) in [(nodes.len(), "node addresses"), (ports.len(), "probe ports")] {
            if count > MOST {
                return Err(AllowError::TooMany(count, what));
            }
        }
        Ok(Self { nodes, ports })
    }

    /// Nothing passes but neighbour discovery.
    pub fn nothing() -> Self {
        Self { nodes: BTreeSet::new(), ports: BTreeSet::new() }
    }
}

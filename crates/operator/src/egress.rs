//! What agents try to reach from inside a pod, to prove that it reaches nobody.

use std::net::{IpAddr, SocketAddr};

/// DNS over TCP, which every cluster's DNS serves (RFC 7766).
const DNS: u16 = 53;

/// Addresses that nearly every pod can reach: the API server's Service, the cluster's DNS, and this operator. All three, since a
/// policy of somebody else's may deny a pod one of them; egress to DNS is what the strictest allow.
pub(crate) fn targets(own: Option<IpAddr>, health_port: u16) -> Vec<String> {
    let host = std::env::var("KUBERNETES_SERVICE_HOST").ok().and_then(|host| host.parse::<IpAddr>().ok());
    let port = std::env::var("KUBERNETES_SERVICE_PORT").ok().and_then(|port| port.parse().ok());
    let api = host.zip(port).map(SocketAddr::from);
    // The operator's own resolver is the cluster's.
    let resolver = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let dns = nameserver(&resolver).map(|address| SocketAddr::new(address, DNS));
    let own = own.map(|address| SocketAddr::new(address, health_port));
    let named = [api, dns, own].into_iter().flatten();
    named.filter(|target| is_elsewhere(target.ip())).map(|target| target.to_string()).collect()
}

/// A pod's loopback is its own and not cut: whatever answers there says nothing of whom it reaches.
fn is_elsewhere(address: IpAddr) -> bool {
    !address.to_canonical().is_loopback() && !address.is_unspecified()
}

/// The first name server (resolv.conf(5)).
fn nameserver(resolver: &str) -> Option<IpAddr> {
    resolver.lines().filter_map(|line| line.strip_prefix("nameserver")).find_map(|rest| rest.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::{is_elsewhere, nameserver};

    #[test]
    fn the_first_name_server_counts() {
        let resolver =
            "search shop.svc.cluster.local\n# nameserver 1.1.1.1\nnameserver 10.96.0.10\nnameserver fd00::10\n";
        assert_eq!(nameserver(resolver), Some("10.96.0.10".parse().unwrap()));
        assert_eq!(nameserver("nameserver\tfd00::10\n"), Some("fd00::10".parse().unwrap()));
        assert_eq!(nameserver("options ndots:5\n"), None);
    }

    #[test]
    fn a_pods_own_loopback_proves_nothing() {
        for own in ["127.0.0.1", "127.0.0.53", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::"] {
            assert!(!is_elsewhere(own.parse().unwrap()), "{own}");
        }
        // The node's own cache of names, as NodeLocal DNSCache has it.
        assert!(is_elsewhere("169.254.20.10".parse().unwrap()));
        assert!(is_elsewhere("10.96.0.10".parse().unwrap()));
    }
}

//! The daemons and their command lines.

use super::{
    Network, Profile,
    config::Spec,
    layout::{AUDIT_LOG, INSIDE, NODE, NODE_IP, POD_CIDR, SERVICE_CIDR},
};

/// One supervised process.
#[derive(Clone, Debug)]
pub(super) struct Daemon {
    pub(super) name: &'static str,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<(&'static str, String)>,
    /// Removed before each start: who waits for the new socket must not find the old one.
    pub(super) sockets: &'static [&'static str],
    /// Port and path on the loopback address that answer 200 when it is well.
    pub(super) health: Option<(u16, &'static str)>,
}

impl Daemon {
    fn new(name: &'static str, args: &[&str]) -> Self {
        let args = args.iter().map(|arg| arg.replace("@", INSIDE)).collect();
        Self { name, args, env: Vec::new(), sockets: &[], health: None }
    }
    fn health(mut self, port: u16, path: &'static str) -> Self {
        self.health = Some((port, path));
        self
    }
}

/// `@` in an argument is the state folder.
pub(super) fn etcd() -> Daemon {
    Daemon::new(
        "etcd",
        &[
            "--name=tourniquet",
            "--data-dir=@/etcd",
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--initial-advertise-peer-urls=http://127.0.0.1:2380",
            "--initial-cluster=tourniquet=http://127.0.0.1:2380",
            // Nothing here has to survive a power cut, and a developer's disk need not feel each write.
            "--unsafe-no-fsync",
            "--log-level=warn",
        ],
    )
    .health(2379, "/health")
}

pub(super) fn containerd() -> Daemon {
    let mut daemon = Daemon::new("containerd", &["--config=@/containerd.toml"]);
    daemon.sockets = &["/run/containerd/containerd.sock", "/run/containerd/containerd.sock.ttrpc"];
    daemon
}

pub(super) fn apiserver() -> Daemon {
    let mut daemon = Daemon::new(
        "kube-apiserver",
        &[
            "--etcd-servers=http://127.0.0.1:2379",
            "--secure-port=6443",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            "--service-account-key-file=@/pki/service-accounts.pub",
            "--service-account-signing-key-file=@/pki/service-accounts.key",
            "--tls-cert-file=@/pki/apiserver.crt",
            "--tls-private-key-file=@/pki/apiserver.key",
            "--client-ca-file=@/pki/ca.crt",
            "--kubelet-certificate-authority=@/pki/ca.crt",
            "--kubelet-client-certificate=@/pki/apiserver-kubelet-client.crt",
            "--kubelet-client-key=@/pki/apiserver-kubelet-client.key",
            "--kubelet-preferred-address-types=InternalIP",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            "--requestheader-client-ca-file=@/pki/front-proxy-ca.crt",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-username-headers=X-Remote-User",
            "--proxy-client-cert-file=@/pki/front-proxy-client.crt",
            "--proxy-client-key-file=@/pki/front-proxy-client.key",
            // Webhooks and aggregated APIs are called at their pods' addresses. A service address would need load balancing for the node's own
            // traffic, which Cilium does at sockets, by programs on the machine's root cgroup: outside the namespaces.
            "--enable-aggregator-routing=true",
            "--audit-policy-file=@/audit-policy.yaml",
            // Each line is written before the request's answer is complete.
            "--audit-log-mode=blocking",
            "--audit-log-maxsize=50",
            // 300 MiB: what the operator asks for during all end-to-end tests of a network has to be there at their end.
            "--audit-log-maxbackup=5",
            "--cert-dir=/run/kubernetes",
        ],
    );
    daemon.args.push(format!("--audit-log-path={AUDIT_LOG}"));
    daemon.args.push(format!("--service-cluster-ip-range={SERVICE_CIDR}"));
    daemon.args.push(format!("--advertise-address={NODE_IP}"));
    daemon
}

/// All others; they wait for the API server by themselves, so their order does not matter.
pub(super) fn rest(spec: &Spec) -> Vec<Daemon> {
    let mut daemons = vec![controller_manager(), scheduler(), kubelet()];
    match spec.network {
        Network::Cilium => daemons.extend([cilium_operator(), cilium_agent(spec.profile)]),
        Network::None => daemons.push(kube_proxy()),
    }
    daemons
}

fn controller_manager() -> Daemon {
    let mut daemon = Daemon::new(
        "kube-controller-manager",
        &[
            "--kubeconfig=@/pki/controller-manager.kubeconfig",
            "--authentication-kubeconfig=@/pki/controller-manager.kubeconfig",
            "--authorization-kubeconfig=@/pki/controller-manager.kubeconfig",
            "--use-service-account-credentials=true",
            "--service-account-private-key-file=@/pki/service-accounts.key",
            "--root-ca-file=@/pki/ca.crt",
            "--client-ca-file=@/pki/ca.crt",
            "--cluster-signing-cert-file=@/pki/ca.crt",
            "--cluster-signing-key-file=@/pki/ca.key",
            "--allocate-node-cidrs=true",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            "--cert-dir=/run/kubernetes",
        ],
    );
    daemon.args.push(format!("--cluster-cidr={POD_CIDR}"));
    daemon.args.push(format!("--service-cluster-ip-range={SERVICE_CIDR}"));
    daemon
}

fn scheduler() -> Daemon {
    Daemon::new(
        "kube-scheduler",
        &[
            "--kubeconfig=@/pki/scheduler.kubeconfig",
            "--authentication-kubeconfig=@/pki/scheduler.kubeconfig",
            "--authorization-kubeconfig=@/pki/scheduler.kubeconfig",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            "--cert-dir=/run/kubernetes",
        ],
    )
}

fn kubelet() -> Daemon {
    let mut daemon = Daemon::new(
        "kubelet",
        &[
            "--config=@/kubelet.yaml",
            "--kubeconfig=@/pki/kubelet.kubeconfig",
            "--root-dir=@/kubelet",
            "--cert-dir=@/kubelet/pki",
        ],
    )
    .health(10248, "/healthz");
    daemon.args.push(format!("--hostname-override={NODE}"));
    daemon.args.push(format!("--node-ip={NODE_IP}"));
    daemon
}

fn kube_proxy() -> Daemon {
    let mut daemon = Daemon::new(
        "kube-proxy",
        &[
            "--kubeconfig=@/pki/kube-proxy.kubeconfig",
            "--proxy-mode=iptables",
            // These are settings of the whole machine.
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0s",
            "--conntrack-tcp-timeout-close-wait=0s",
        ],
    )
    .health(10256, "/livez");
    daemon.args.push(format!("--hostname-override={NODE}"));
    daemon.args.push(format!("--cluster-cidr={POD_CIDR}"));
    if !std::path::Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables").exists() {
        // Without bridge netfilter the answer of a pod on the same bridge never passes the address translation; seen from the node's address,
        // it has to.
        daemon.args.push("--masquerade-all=true".to_owned());
    }
    daemon
}

fn cilium_operator() -> Daemon {
    let mut daemon = Daemon::new(
        "cilium-operator",
        &[
            "--k8s-kubeconfig-path=@/pki/cilium.kubeconfig",
            "--kvstore=",
            "--identity-allocation-mode=crd",
            "--ipam=kubernetes",
            "--enable-ipv6=false",
            "--operator-api-serve-addr=127.0.0.1:9234",
            // It restarts pods of kube-dns that started before the agent; there are none.
            "--unmanaged-pod-watcher-interval=0",
        ],
    )
    .health(9234, "/healthz");
    daemon.env = cilium_env();
    daemon
}

fn cilium_agent(profile: Profile) -> Daemon {
    let mut daemon = Daemon::new(
        "cilium-agent",
        &[
            "--k8s-kubeconfig-path=@/pki/cilium.kubeconfig",
            "--lib-dir=@/cilium",
            "--kvstore=",
            "--identity-allocation-mode=crd",
            "--ipam=kubernetes",
            "--enable-ipv6=false",
            "--enable-ipv4-masquerade=false",
            "--routing-mode=native",
            "--kube-proxy-replacement=true",
            // At sockets means at the machine's root cgroup. In the pods' interfaces it balances as well.
            "--bpf-lb-sock=false",
            "--devices=node0",
            "--enable-l7-proxy=false",
            "--enable-hubble=false",
            "--enable-health-checking=false",
            "--enable-endpoint-health-checking=false",
            // Maps are sized by the machine's memory, and several clusters share it.
            "--bpf-map-dynamic-size-ratio=0.0025",
            "--cni-exclusive=false",
            // Its iptables rules stay on: without them the node's own traffic counts as world, and each probe of a policed pod fails.
        ],
    )
    .health(9879, "/healthz");
    daemon.args.push(format!("--ipv4-native-routing-cidr={POD_CIDR}"));
    if profile == Profile::FastIdentity {
        // The random wait before a changed label reaches the data path; 30 s by default. The 5 s grace period after it stays.
        daemon.args.push("--identity-max-jitter=200ms".to_owned());
    }
    daemon.sockets = &["/run/cilium/cilium.sock"];
    daemon.env = cilium_env();
    daemon
}

fn cilium_env() -> Vec<(&'static str, String)> {
    vec![("K8S_NODE_NAME", NODE.to_owned()), ("CILIUM_K8S_NAMESPACE", "kube-system".to_owned())]
}

//! Configuration files of the daemons. Paths in them are paths inside the cluster's namespaces.

use std::{fs, os::unix::fs::symlink, path::Path};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    Network, Profile,
    build::{self, Binaries},
    images,
    layout::{INSIDE, Layout, STATIC_PODS},
    packages,
};

/// What a cluster was started as.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Spec {
    pub(super) name: String,
    pub(super) network: Network,
    pub(super) profile: Profile,
    pub(super) version: String,
}

/// Writes every configuration file and links the programs into one folder.
pub(super) fn create(layout: &Layout, spec: &Spec, binaries: &Binaries) -> Result<()> {
    for dir in ["cni/net.d", "cni/bin", "cni/data", "containerd", "etcd", "kubelet", "bin"] {
        fs::create_dir_all(layout.path(dir))?;
    }
    fs::create_dir_all(layout.path("static-pods"))?;
    fs::create_dir_all(layout.logs().join("pods"))?;
    link_programs(layout, spec, binaries)?;
    put(&layout.path("audit-policy.yaml"), AUDIT_POLICY)?;
    put(&layout.path("containerd.toml"), &containerd())?;
    put(&layout.path("kubelet.yaml"), &serde_json::to_string_pretty(&kubelet(&layout.cgroup()))?)?;
    match spec.network {
        Network::Cilium => {
            build::copy_tree(&binaries.program("cilium", "bpf")?, &layout.path("cilium/bpf"))?;
            let cilium = json!({"cniVersion": "1.0.0", "name": "cilium", "plugins": [{"type": "cilium-cni"}]});
            put(&layout.path("cni/net.d/05-cilium.conflist"), &cilium.to_string())?;
        }
        Network::None => put(&layout.path("cni/net.d/10-plain.conflist"), &plain().to_string())?,
    }
    put(&layout.spec(), &serde_json::to_string_pretty(spec)?)
}

fn link_programs(layout: &Layout, spec: &Spec, binaries: &Binaries) -> Result<()> {
    let mut links =
        vec![("containerd", "ctr"), ("containerd", "containerd"), ("containerd", "containerd-shim-runc-v2")];
    links.extend([("runc", "runc"), ("helm", "helm")]);
    let mut plugins = vec![("containerd", "loopback"), ("containerd", "portmap")];
    match spec.network {
        Network::Cilium => {
            links.extend([("cilium", "cilium-agent"), ("cilium", "cilium-operator")]);
            plugins.push(("cilium", "cilium-cni"));
        }
        Network::None => plugins.extend([("containerd", "bridge"), ("containerd", "host-local")]),
    }
    for (module, program) in links {
        link(&binaries.program(module, program)?, &layout.bin().join(program))?;
    }
    for (module, program) in plugins {
        link(&binaries.program(module, program)?, &layout.path("cni/bin").join(program))?;
    }
    let kubernetes = binaries.program("kubernetes", "kubernetes")?;
    for name in
        ["etcd", "kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet"]
    {
        link(&kubernetes, &layout.bin().join(name))?;
    }
    // The agent calls these by their plain names; Debian installs them with a version suffix.
    for tool in ["clang", "llc", "llvm-objcopy"] {
        if let Some(path) = packages::llvm(tool) {
            link(&path, &layout.bin().join(tool))?;
        }
    }
    Ok(())
}

fn link(target: &Path, at: &Path) -> Result<()> {
    let _ = fs::remove_file(at);
    symlink(target, at).with_context(|| format!("cannot link {}", at.display()))
}

fn put(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// What the operator and the agents asked of the API server, for the tests that hold their requests against what they may do. Nobody
/// else's: tests read the whole log. Bodies are left out: they would hold Secrets.
const AUDIT_POLICY: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  users:
  - system:serviceaccount:tourniquet-system:tourniquet-operator
  - system:serviceaccount:tourniquet-agent:tourniquet-agent
  # Of a test, that asks who broke the glass.
  - system:serviceaccount:default:e2e-break-glass
- level: None
";

fn containerd() -> String {
    let pause = images::PAUSE;
    // `opt` and NRI would make folders of the machine's /opt and /etc. AppArmor profiles would be loaded into the machine's kernel.
    // The score of a sandbox may only be lowered by a privileged owner of the machine's user namespace.
    format!(
        r#"version = 3
root = "{INSIDE}/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp"]

[grpc]
address = "/run/containerd/containerd.sock"

[plugins.'io.containerd.nri.v1.nri']
disable = true

[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "{pause}"

[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true
disable_apparmor = true

[plugins.'io.containerd.cri.v1.runtime'.containerd]
default_runtime_name = "runc"

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
BinaryName = "{INSIDE}/bin/runc"
SystemdCgroup = false

[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ["{INSIDE}/cni/bin"]
conf_dir = "{INSIDE}/cni/net.d"
"#
    )
}

fn kubelet(cgroup: &str) -> serde_json::Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": format!("{INSIDE}/pki/ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": format!("{INSIDE}/pki/kubelet-server.crt"),
        "tlsPrivateKeyFile": format!("{INSIDE}/pki/kubelet-server.key"),
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        // One folder per cluster, so that several on one machine do not clean up each other's pods.
        "cgroupRoot": format!("/{cgroup}"),
        "failCgroupV1": false,
        "failSwapOn": false,
        "localStorageCapacityIsolation": false,
        // No name server exists here; with a resolver configured each look-up would wait for its timeout.
        "resolvConf": "",
        // Not rotated at 10 MiB: the newest log file of a container has to come to be larger than what is taken of it.
        "containerLogMaxSize": "2Gi",
        // The disk is the developer's: it may be fuller than a node's may be, and an eviction in a test explains nothing.
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "0%",
            "nodefs.inodesFree": "0%",
            "imagefs.available": "0%",
            "imagefs.inodesFree": "0%",
        },
        "imageGCHighThresholdPercent": 100,
        // Below the state folder: the defaults are folders of the machine.
        "podLogsDir": format!("{INSIDE}/logs/pods"),
        "volumePluginDir": format!("{INSIDE}/kubelet/volume-plugins"),
        // A container that a test kills is back in a second, not in ten, then twenty, then forty.
        "featureGates": {"KubeletCrashLoopBackOffMax": true},
        "crashLoopBackOff": {"maxContainerRestartPeriod": "1s"},
        // Pods from files, as a node's administrator makes them.
        "staticPodPath": STATIC_PODS,
        "maxPods": 250,
    })
}

/// The plain bridge: pods reach each other, and nothing looks at a policy.
fn plain() -> serde_json::Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "plain",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": true,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    // The first block of the controller manager's range: this is the only node.
                    "ranges": [[{"subnet": "10.244.0.0/24"}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                    "dataDir": format!("{INSIDE}/cni/data"),
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

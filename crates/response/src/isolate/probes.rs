//! Probes of the kubelet that can fail because the pod is isolated. A liveness or startup probe that fails restarts its
//! container, and with that its memory and unsaved files are gone.

use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use tourniquet_api::Residual;

use super::pod::has_address;

/// How many probes are named. A pod can have any number of containers.
const NAMED: usize = 8;

/// What a probe rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A command that runs in the pod: it fails when it needs the network.
    Command,
    /// A connection from the node, which passes: what answers it may need the network itself.
    Connection,
}

/// What may come of the isolation, known before it: at most one for each kind of probe.
pub(super) fn residual(pod: &Pod) -> Vec<Residual> {
    let named = |kind: Kind| {
        let all: Vec<String> = found(pod).filter(|(of, _)| *of == kind).map(|(_, name)| name).collect();
        let more = all.len().saturating_sub(NAMED);
        let mut list = all.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
        if more > 0 {
            list += &format!(" and {more} more");
        }
        (!all.is_empty()).then_some(list)
    };
    let (namespace, name) = (pod.metadata.namespace.as_deref().unwrap_or_default(), pod.metadata.name.as_deref());
    let name = name.unwrap_or_default();
    let restarts =
        "when such a probe fails, the kubelet restarts the container, and its memory and unsaved files are lost";
    let first = "save the memory first: once isolated, there is only as long as the failures take";
    // Probes of a running pod cannot be changed (Kubernetes 1.36, `ValidatePodUpdate`): what is left is to know, and be first.
    let show = format!(
        "see what it does: kubectl --namespace {namespace} get pod {name} --output \
         jsonpath='{{..livenessProbe}}{{..startupProbe}}'"
    );
    let command = named(Kind::Command).map(|list| Residual {
        code: "ProbeMayFail".to_owned(),
        severity: "Medium".to_owned(),
        message: format!(
            "in pod {namespace}/{name} a probe runs a command, which fails when it needs the network: {list}; \
             {restarts}"
        ),
        remedy: Some(format!("{show}; when it needs the network, {first}")),
    });
    let connection = named(Kind::Connection).map(|list| Residual {
        code: "ProbeMayFail".to_owned(),
        severity: "Low".to_owned(),
        message: format!(
            "probes reach pod {namespace}/{name}, and fail when what answers them asks another service: {list}; \
             {restarts}"
        ),
        remedy: Some(format!("{show}; when what answers it asks other services, {first}")),
    });
    command.into_iter().chain(connection).collect()
}

/// The probes that can restart a container, each with its name.
fn found(pod: &Pod) -> impl Iterator<Item = (Kind, String)> {
    let spec = pod.spec.as_ref();
    // Sidecars are init containers, and have probes.
    let containers =
        spec.into_iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    containers.flat_map(move |container| {
        let liveness = container.liveness_probe.as_ref().map(|probe| ("liveness", probe));
        // It ends when it has succeeded, and begins again only after a restart: by then the memory is gone.
        let startup = container.startup_probe.as_ref().map(|probe| ("startup", probe));
        let startup = startup.filter(|_| !has_started(pod, container));
        liveness.into_iter().chain(startup).filter_map(move |(which, probe)| {
            let (kind, how) = kind(pod, probe)?;
            let failures = probe.failure_threshold.unwrap_or(3).max(1);
            let period = probe.period_seconds.unwrap_or(10).max(1);
            let name = &container.name;
            Some((kind, format!("{which} probe ({how}) of container {name} ({failures} failures, {period} s apart)")))
        })
    })
}

fn has_started(pod: &Pod, container: &Container) -> bool {
    let status = pod.status.as_ref();
    let mut statuses = status.into_iter().flat_map(|status| {
        status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten())
    });
    statuses.any(|status| status.name == container.name && status.started == Some(true))
}

/// Nothing for a probe that the isolation does not concern.
fn kind(pod: &Pod, probe: &Probe) -> Option<(Kind, &'static str)> {
    // The kubelet connects from the node, so a probe of another host goes on whatever becomes of the pod.
    let elsewhere = |host: Option<&String>| {
        host.is_some_and(|host| !host.is_empty() && !host.parse().is_ok_and(|address| has_address(pod, address)))
    };
    if probe.exec.is_some() {
        Some((Kind::Command, "exec"))
    } else if let Some(http) = &probe.http_get {
        (!elsewhere(http.host.as_ref())).then_some((Kind::Connection, "httpGet"))
    } else if let Some(tcp) = &probe.tcp_socket {
        (!elsewhere(tcp.host.as_ref())).then_some((Kind::Connection, "tcpSocket"))
    } else {
        probe.grpc.is_some().then_some((Kind::Connection, "grpc"))
    }
}

//! What the pod's own manifest opens to its node: neither a cut nor a policy is about that.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, SecurityContext, VolumeMount};
use tourniquet_api::Residual;

use super::words::{command, kubectl, list, shown, with};
use super::{HIGH, LOW, MEDIUM, Subject, residual};

/// What runtimes give a container that asks for nothing (containerd 2.2, `oci.WithDefaultUnixCaps`).
const BY_DEFAULT: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// With one of these a process of the pod can do something to its node, or to its cut.
const STRONG: &[&str] = &[
    "ALL",
    "BPF",
    "DAC_READ_SEARCH",
    "NET_ADMIN",
    "PERFMON",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_MODULE",
    "SYS_PTRACE",
    "SYS_RAWIO",
];
/// With these it can change its own network namespace, where the cut is.
const AGAINST_THE_CUT: &[&str] = &["ALL", "BPF", "NET_ADMIN", "SYS_ADMIN"];

/// What of a container matters here.
struct Part<'a> {
    name: &'a str,
    security: Option<&'a SecurityContext>,
    mounts: &'a [VolumeMount],
}

/// The containers that may run now: of the init containers the sidecars.
fn parts(pod: &Pod) -> Vec<Part<'_>> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let lasting = spec
        .containers
        .iter()
        .chain(sidecars)
        .map(|Container { name, security_context, volume_mounts, .. }| (name, security_context, volume_mounts));
    let debuggers = spec.ephemeral_containers.iter().flatten().map(
        |EphemeralContainer { name, security_context, volume_mounts, .. }| (name, security_context, volume_mounts),
    );
    lasting
        .chain(debuggers)
        .map(|(name, security, mounts)| Part {
            name,
            security: security.as_ref(),
            mounts: mounts.as_deref().unwrap_or_default(),
        })
        .collect()
}

/// All that the manifest says.
pub(super) fn residuals(of: &Subject<'_>) -> Vec<Residual> {
    [privileged(of), host_pid(of), host_ipc(of), host_paths(of), capabilities(of)].into_iter().flatten().collect()
}

/// What to do about a node that may be reached as well.
fn about_the_node(of: &Subject<'_>) -> String {
    let cordon = command(&["kubectl", "cordon"], &[of.node]);
    with("take its node for reached as well; keep new pods away from it", cordon)
}

fn privileged(of: &Subject<'_>) -> Option<Residual> {
    let parts = parts(of.pod);
    let is = |part: &&Part<'_>| part.security.is_some_and(|security| security.privileged == Some(true));
    let named: Vec<&str> = parts.iter().filter(is).map(|part| part.name).collect();
    (!named.is_empty()).then(|| {
        residual(
            "Privileged",
            HIGH,
            format!(
                "pod {} is privileged (container {}): its processes can do to node {} what root can, and reach others through the node",
                of.name,
                list(&named),
                shown(of.node)
            ),
            Some(about_the_node(of)),
        )
    })
}

fn host_pid(of: &Subject<'_>) -> Option<Residual> {
    of.pod.spec.as_ref().is_some_and(|spec| spec.host_pid == Some(true)).then(|| {
        residual(
            "HostPID",
            HIGH,
            format!(
                "pod {} sees all processes of node {}: as root it reads their environment and files, and with CAP_SYS_PTRACE their memory",
                of.name,
                shown(of.node)
            ),
            Some(about_the_node(of)),
        )
    })
}

fn host_ipc(of: &Subject<'_>) -> Option<Residual> {
    of.pod.spec.as_ref().is_some_and(|spec| spec.host_ipc == Some(true)).then(|| {
        residual(
            "HostIPC",
            MEDIUM,
            format!(
                "pod {} shares the IPC of node {}: it can exchange data with what uses it there",
                of.name,
                shown(of.node)
            ),
            Some(about_the_node(of)),
        )
    })
}

fn host_paths(of: &Subject<'_>) -> Option<Residual> {
    let parts = parts(of.pod);
    let volumes = of.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let mut paths: BTreeMap<&str, bool> = BTreeMap::new();
    for volume in volumes {
        let Some(host) = &volume.host_path else { continue };
        let mut mounts = parts.iter().flat_map(|part| part.mounts).filter(|mount| mount.name == volume.name).peekable();
        if mounts.peek().is_none() {
            // No container that runs sees it.
            continue;
        }
        *paths.entry(&host.path).or_default() |= mounts.any(|mount| mount.read_only != Some(true));
    }
    if paths.is_empty() {
        return None;
    }
    let writable = paths.values().any(|writable| *writable);
    // What can be written to comes first.
    let mut named: Vec<(&&str, &bool)> = paths.iter().collect();
    named.sort_by_key(|(path, writable)| (!**writable, **path));
    let named: Vec<String> = named
        .into_iter()
        .map(|(path, writable)| format!("{} ({})", shown(path), if *writable { "writable" } else { "read-only" }))
        .collect();
    Some(residual(
        "HostPath",
        if writable { HIGH } else { MEDIUM },
        format!(
            "pod {} mounts paths of node {}, which the isolation does not close: {}",
            of.name,
            shown(of.node),
            list(&named)
        ),
        Some(about_the_node(of)),
    ))
}

fn capabilities(of: &Subject<'_>) -> Option<Residual> {
    let mut added: Vec<String> = Vec::new();
    for part in parts(of.pod) {
        let capabilities = part.security.and_then(|security| security.capabilities.as_ref());
        let names = capabilities.into_iter().flat_map(|capabilities| capabilities.add.iter().flatten());
        added.extend(names.map(|name| name.strip_prefix("CAP_").unwrap_or(name).to_uppercase()));
    }
    added.retain(|name| !BY_DEFAULT.contains(&name.as_str()));
    added.sort_by_key(|name| (!STRONG.contains(&name.as_str()), name.clone()));
    added.dedup();
    if added.is_empty() {
        return None;
    }
    let has = |list: &[&str]| added.iter().any(|name| list.contains(&name.as_str()));
    let mut message = format!("containers of pod {} have capabilities beyond the usual: {}", of.name, list(&added));
    let remedy = if has(AGAINST_THE_CUT) {
        message += "; with them it can take off the cut in its own network namespace: the agent puts that back and reports it \
                    (CutTamperedWith), policies stay";
        let delete = kubectl(of.namespace, &["delete", "pod"], &[of.pod_name]);
        with("a running pod keeps them; stop its processes, or when its memory is saved", delete)
    } else {
        about_the_node(of)
    };
    Some(residual("AddedCapabilities", if has(STRONG) { HIGH } else { LOW }, message, Some(remedy)))
}

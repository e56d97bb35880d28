//! Which artifacts a collection has, and by which ways they are come by. Volatile ones first (RFC 3227, section 2.1).

use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use tourniquet_api::{Artifact as Kind, Collect, FilePath};

use crate::task::{Artifact, FromOutside, Way};

const MIB: u64 = 1024 * 1024;
/// Lists: of processes, sockets, variables; what the API server has.
const LIST: u64 = 64 * MIB;
/// A log: the kubelet rotates at 10 MiB unless told otherwise, and a pod that writes without end must not fill a store.
const LOG: u64 = 1024 * MIB;
/// A file, a folder's archive.
const FILE: u64 = 16 * 1024 * MIB;
/// The memory of one process.
const MEMORY: u64 = 16 * 1024 * MIB;
/// What is volatile is small, but for memory.
const SOON: Duration = Duration::from_secs(60);

/// What is wanted of this pod.
pub(super) fn wanted(collect: &Collect, pod: &Pod, agents: bool, may_exec: bool) -> Vec<Artifact> {
    let whole = collect.timeout.get();
    let containers = containers(pod);
    let of = |name: &str, what: &str, limit: u64, timeout: Duration, ways: Vec<Way>| Artifact {
        name: name.to_owned(),
        what: what.to_owned(),
        volatile: false,
        limit,
        timeout: timeout.min(whole),
        container: None,
        ways,
    };
    let mut artifacts = Vec::new();
    let includes = |kind: Kind| collect.include.contains(&kind);
    if includes(Kind::Processes) {
        artifacts.extend(volatile(
            "processes",
            "the processes",
            FromOutside::Processes,
            PROCESSES,
            agents,
            &containers,
        ));
    }
    if includes(Kind::Connections) {
        let outside = FromOutside::Connections;
        artifacts.extend(volatile(
            "connections",
            "sockets, routes and ARP caches",
            outside,
            CONNECTIONS,
            agents,
            &containers,
        ));
    }
    for process in &collect.memory {
        let name = format!("memory/{process}.core");
        let ways = if agents { vec![Way::Agent(FromOutside::Memory(process.clone()))] } else { Vec::new() };
        let what = if agents {
            format!("the memory of process {process}")
        } else {
            format!("the memory of process {process}: only an agent can read it, and there are none")
        };
        artifacts.push(Artifact { volatile: true, ..of(&name, &what, MEMORY, whole, ways) });
    }
    if includes(Kind::Processes) {
        let values = collect.environment_values;
        let what = if values { "the environment of each process" } else { "the names of each process's environment" };
        // Programs of the container would bring the values along.
        let ways = if agents { vec![Way::Agent(FromOutside::Environment { values })] } else { Vec::new() };
        if agents {
            artifacts.push(of("environment.jsonl", what, LIST, SOON, ways));
        }
    }
    artifacts.extend(collect.files.iter().map(|file| path(file, agents, &containers, whole)));
    if includes(Kind::Manifest) {
        artifacts.push(of("manifest.json", "the pod and what belongs to it", LIST, SOON, vec![Way::Manifest]));
    }
    if includes(Kind::Events) {
        artifacts.push(of("events.json", "the events about the pod", LIST, SOON, vec![Way::Events]));
    }
    if includes(Kind::Logs) {
        artifacts.extend(logs(pod, whole));
    }
    if !may_exec {
        for artifact in &mut artifacts {
            artifact.ways.retain(|way| !matches!(way, Way::Tool(_)));
        }
    }
    artifacts
}

/// Whether some of it is read by programs of the container's own, and by nothing else.
pub(super) fn take_tools(collect: &Collect, agents: bool) -> bool {
    let lists = [Kind::Processes, Kind::Connections];
    !agents && (!collect.files.is_empty() || collect.include.iter().any(|kind| lists.contains(kind)))
}

/// What tells of processes where no agent does: a program of the container's own, if it has a shell. A process that ends meanwhile is no failure; what
/// could not be read is in the output.
const PROCESSES: &str = "for p in /proc/[0-9]*; do echo \"== $p\"; tr '\\0' ' ' <$p/cmdline; echo; readlink $p/exe; cat $p/status; ls -l $p/fd; cat $p/maps; done 2>&1; exit 0";
const CONNECTIONS: &str =
    "for f in tcp tcp6 udp udp6 raw raw6 unix route arp; do echo \"== $f\"; cat /proc/net/$f; done 2>&1; exit 0";

fn volatile(
    name: &str,
    what: &str,
    outside: FromOutside,
    script: &str,
    agents: bool,
    containers: &[(String, String)],
) -> Vec<Artifact> {
    let artifact = |name: String, container: Option<(String, String)>, ways: Vec<Way>| Artifact {
        name,
        what: what.to_owned(),
        volatile: true,
        limit: LIST,
        timeout: SOON,
        container,
        ways,
    };
    if agents {
        return vec![artifact(format!("{name}.jsonl"), None, vec![Way::Agent(outside)])];
    }
    let tool = Way::Tool(["/bin/sh", "-c", script].map(str::to_owned).to_vec());
    let of_container = |container: &(String, String)| {
        artifact(format!("{name}/{}.txt", container.0), Some(container.clone()), vec![tool.clone()])
    };
    containers.iter().map(of_container).collect()
}

fn path(file: &FilePath, agents: bool, containers: &[(String, String)], timeout: Duration) -> Artifact {
    let found = match (&file.container, containers) {
        (Some(name), _) => containers.iter().find(|(container, _)| container == name),
        (None, [only]) => Some(only),
        (None, _) => None,
    };
    let name = |container: &str| format!("files/{container}{}", file.path);
    let artifact = |name: String, what: String, ways: Vec<Way>| Artifact {
        name,
        what,
        volatile: false,
        limit: FILE,
        timeout,
        container: found.cloned(),
        ways,
    };
    let Some((container, _)) = found else {
        let running: Vec<&str> = containers.iter().map(|(name, _)| name.as_str()).collect();
        let asked = file.container.as_deref().unwrap_or("unnamed");
        let what = format!(
            "{}: which container it is in is not said or it does not run; running: {}",
            file.path,
            running.join(", ")
        );
        return artifact(name(asked), what, Vec::new());
    };
    let mut ways = Vec::new();
    if agents {
        ways.push(Way::Agent(FromOutside::Path(file.path.clone())));
    }
    ways.push(Way::Tool(["tar", "-c", "-f", "-", &file.path].map(str::to_owned).to_vec()));
    ways.push(Way::Tool(["cat", &file.path].map(str::to_owned).to_vec()));
    artifact(name(container), format!("{} of container {container}", file.path), ways)
}

/// The containers that run, by name and ID.
fn containers(pod: &Pod) -> Vec<(String, String)> {
    let runs = |status: &&ContainerStatus| status.state.as_ref().is_some_and(|state| state.running.is_some());
    all_statuses(pod)
        .filter(runs)
        .filter_map(|status| Some((status.name.clone(), status.container_id.clone()?)))
        .collect()
}

fn all_statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let own = status.and_then(|status| status.container_statuses.as_ref());
    let ephemeral = status.and_then(|status| status.ephemeral_container_statuses.as_ref());
    let init = status.and_then(|status| status.init_container_statuses.as_ref());
    [own, ephemeral, init].into_iter().flatten().flatten()
}

/// Of every container, those that have ended and those that were started later for a look at the others included.
fn logs(pod: &Pod, timeout: Duration) -> Vec<Artifact> {
    let mut logs = Vec::new();
    for status in all_statuses(pod) {
        let Some(id) = status.container_id.clone() else { continue };
        let before = if status.restart_count > 0 { &[false, true][..] } else { &[false] };
        for previous in before {
            let (name, what) = if *previous {
                (format!("logs/{}.previous.log", status.name), "the log of the container before the last restart")
            } else {
                (format!("logs/{}.log", status.name), "the log of the container")
            };
            logs.push(Artifact {
                name,
                what: format!("{what}: the newest file of it, since the kubelet rotates logs"),
                volatile: false,
                limit: LOG,
                timeout,
                container: Some((status.name.clone(), id.clone())),
                ways: vec![Way::Log { previous: *previous }],
            });
        }
    }
    logs
}

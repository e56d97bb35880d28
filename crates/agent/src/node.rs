//! What the agent does on its node: from what a Containment asks for to what the kernel holds.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use tokio::sync::mpsc::Sender;
use tourniquet_agent::cut::queues::Queues;
use tourniquet_agent::cut::{self, Allow, Hooks};
use tourniquet_agent::netns::{NetNs, NsId};
use tourniquet_agent::pods::cgroup::Hierarchy;
use tourniquet_agent::pods::{self, FindError, PodNetwork};
use tourniquet_agent::watch::Watch;
use tourniquet_api::{ContainmentSpec, ContainmentState, ContainmentStatus};

/// The node that the agent runs on.
pub(crate) struct Node {
    proc: PathBuf,
    network: NetNs,
    hooks: Hooks,
    hierarchy: Hierarchy,
    ears: BTreeMap<String, Ears>,
    /// The queues of each cut pod's interfaces, held so that nobody in the pod gets one. The kernel takes them back when the agent
    /// ends; the next one takes them again.
    queues: BTreeMap<String, (NsId, Queues)>,
    woken: Sender<String>,
}

/// A thread that waits for changes in one cut namespace; it ends within [`EAR_TURNS`] of this being dropped.
struct Ears {
    namespace: NsId,
    deaf: Arc<AtomicBool>,
}

/// How often a waiting thread looks whether it is still needed.
const EAR_TURNS: Duration = Duration::from_secs(1);

impl Drop for Ears {
    fn drop(&mut self) {
        self.deaf.store(true, Ordering::Relaxed);
    }
}

impl Node {
    /// # Errors
    /// When the node's own network namespace cannot be seen.
    ///
    /// `woken` gets the UID of each pod in whose namespace something has changed that concerns its cut.
    pub(crate) fn new(proc: PathBuf, hooks: Hooks, woken: Sender<String>) -> Result<Self, FindError> {
        let network = pods::node_network(&proc)?;
        // What cannot be read teaches nothing, and then the first kubepods from the root counts.
        let own = std::fs::read_to_string(proc.join("self/cgroup")).unwrap_or_default();
        Ok(Self {
            proc,
            network,
            hooks,
            hierarchy: Hierarchy::of(&own),
            ears: BTreeMap::new(),
            queues: BTreeMap::new(),
            woken,
        })
    }

    /// Brings the kernel to where it should be, and says where it is.
    pub(crate) fn carry_out(
        &mut self,
        spec: &ContainmentSpec,
        before: &ContainmentStatus,
        now: Timestamp,
    ) -> ContainmentStatus {
        let network = match pods::find(&self.proc, &spec.pod.uid, &self.hierarchy, self.network.id()) {
            Ok(network) => network,
            Err(error) => {
                self.forget(&spec.pod.uid);
                return without_pod(spec, before, &error);
            }
        };
        let inode = Some(network.netns.id().inode());
        let done = if spec.holders.is_empty() { self.lift(spec, &network) } else { self.cut(spec, &network) };
        match done {
            Ok(None) => ContainmentStatus {
                state: ContainmentState::Lifted,
                network_namespace: inode,
                restored: before.restored,
                ..ContainmentStatus::default()
            },
            Ok(Some(cut)) => {
                let held = before.state == ContainmentState::Cut && before.network_namespace == inode;
                ContainmentStatus {
                    state: ContainmentState::Cut,
                    message: cut.fallback.clone().or_else(|| strays(&network)),
                    cut_at: before.cut_at.clone().filter(|_| held && !cut.changed).or(Some(MicroTime(now))),
                    network_namespace: inode,
                    hooks: Some(format!("{:?}", cut.hooks)),
                    restored: before.restored + i32::from(held && cut.changed),
                    probes: before.probes.clone(),
                    ..ContainmentStatus::default()
                }
            }
            Err(message) => ContainmentStatus {
                state: ContainmentState::Failed,
                message: Some(message),
                network_namespace: inode,
                restored: before.restored,
                ..ContainmentStatus::default()
            },
        }
    }

    fn cut(&mut self, spec: &ContainmentSpec, network: &PodNetwork) -> Result<Option<cut::Cut>, String> {
        self.listen(&spec.pod.uid, &network.netns);
        let mut nodes: Vec<IpAddr> = spec.node_addresses.iter().filter_map(|text| text.parse().ok()).collect();
        // Where the kubelet's probes come from depends on the network plugin: often a bridge's or a router's address, which
        // the Node object does not name.
        for pod in network.netns.addresses().map_err(|error| error.to_string())? {
            nodes.extend(self.network.source_towards(pod).ok());
        }
        let allow = Allow::new(nodes, spec.probe_ports.iter().copied()).map_err(|error| error.to_string())?;
        let cut = cut::cut(&network.netns, &allow, self.hooks).map_err(|error| error.to_string())?;
        self.hold_queues(&spec.pod.uid, &network.netns)?;
        Ok(Some(cut))
    }

    /// What is sent by AF_XDP passes no hook; a queue that is held is none for anybody else.
    fn hold_queues(&mut self, uid: &str, namespace: &NetNs) -> Result<(), String> {
        match self.queues.get_mut(uid).filter(|(of, _)| *of == namespace.id()) {
            Some((_, queues)) => queues.take_more(namespace).map_err(|error| error.to_string())?,
            None => {
                let queues = Queues::take(namespace).map_err(|error| error.to_string())?;
                self.queues.insert(uid.to_owned(), (namespace.id(), queues));
            }
        }
        let foreign = self.queues.get(uid).map_or(0, |(_, queues)| queues.foreign().len());
        if foreign > 0 {
            return Err(format!(
                "{foreign} queues of the pod's interfaces are held by AF_XDP sockets of its own, which send past the cut: everything \
                 else is cut; stop the process that has them, or delete the pod"
            ));
        }
        Ok(())
    }

    fn forget(&mut self, uid: &str) {
        self.ears.remove(uid);
        self.queues.remove(uid);
    }

    /// Listens before it cuts: what changes after the look is heard.
    fn listen(&mut self, uid: &str, namespace: &NetNs) {
        if self.ears.get(uid).is_some_and(|ears| ears.namespace == namespace.id()) {
            return;
        }
        let Ok(watch) = Watch::new(namespace) else {
            // The regular look finds it too, only later.
            return;
        };
        let deaf = Arc::new(AtomicBool::new(false));
        let (stop, woken, uid_of) = (Arc::clone(&deaf), self.woken.clone(), uid.to_owned());
        let started = std::thread::Builder::new().name("ears".to_owned()).spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                match watch.wait(EAR_TURNS) {
                    // Full: the look that is due sees this change as well.
                    Ok(true) => drop(woken.try_send(uid_of.clone())),
                    Ok(false) => {}
                    Err(_) => return,
                }
            }
        });
        if started.is_ok() {
            self.ears.insert(uid.to_owned(), Ears { namespace: namespace.id(), deaf });
        }
    }

    fn lift(&mut self, spec: &ContainmentSpec, network: &PodNetwork) -> Result<Option<cut::Cut>, String> {
        self.forget(&spec.pod.uid);
        cut::lift(&network.netns).map(|_| None).map_err(|error| error.to_string())
    }
}

/// Processes of the pod in other network namespaces are out of the cut's reach.
fn strays(network: &PodNetwork) -> Option<String> {
    let left: Vec<String> = network.strays.iter().map(|stray| stray.pid.to_string()).collect();
    (!left.is_empty())
        .then(|| format!("processes {} of the pod are in other network namespaces, which are not cut", left.join(", ")))
}

fn without_pod(spec: &ContainmentSpec, before: &ContainmentStatus, error: &FindError) -> ContainmentStatus {
    let state = match error {
        FindError::NotHere { .. } if spec.holders.is_empty() => ContainmentState::Lifted,
        FindError::NotHere { .. } => ContainmentState::PodGone,
        _ => ContainmentState::Failed,
    };
    ContainmentStatus {
        state,
        message: Some(error.to_string()),
        restored: before.restored,
        ..ContainmentStatus::default()
    }
}

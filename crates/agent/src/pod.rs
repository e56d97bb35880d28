//! What the agent does to one pod: from what a Containment asks for to what the kernel holds.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use tokio::sync::mpsc::Sender;
use tourniquet_agent::connections;
use tourniquet_agent::cut::queues::Queues;
use tourniquet_agent::cut::{self, Allow, Hooks};
use tourniquet_agent::netns::{NetNs, NsId};
use tourniquet_agent::pods::{FindError, PodNetwork};
use tourniquet_agent::reach::{self, Attempt};
use tourniquet_agent::watch::Watch;
use tourniquet_api::{Answer, Connections, ContainmentSpec, ContainmentState, ContainmentStatus, Direction, Probe};

/// How long the positive control may hold up a cut.
const CONTROL: Duration = Duration::from_millis(50);
/// How long an attempt from inside a cut pod waits for an answer: the first packet, and the one that is sent again after 1 s.
const SILENT: Duration = Duration::from_millis(1500);
/// Connections that are named; all are counted.
const NAMED: usize = 20;

/// The node that the agent runs on.
pub(crate) struct Node {
    /// Its own network, which is never cut.
    pub(crate) network: NetNs,
    /// Where in the kernel to cut.
    pub(crate) hooks: Hooks,
}

/// What the agent keeps of one pod between looks.
#[derive(Default)]
pub(crate) struct Hold {
    /// The pod's network namespace, while it is cut.
    pub(crate) namespace: Option<NetNs>,
    ears: Option<Ears>,
    /// The queues of the pod's interfaces, held so that nobody in the pod gets one. The kernel takes them back when the agent
    /// ends; the next one takes them again.
    queues: Option<(NsId, Queues)>,
    /// Where the kubelet's probes of this namespace come from.
    sources: Option<(NsId, Vec<IpAddr>)>,
    /// The namespace that was looked at before it was cut.
    seen: Option<NsId>,
    /// The namespace that this agent has cut.
    cut: Option<NsId>,
    /// The process that the pod is known by.
    process: Option<u32>,
    /// That process has ended, and another one of the pod has not: the runtime is about to make another sandbox.
    pub(crate) bereft: bool,
}

/// One piece of work.
pub(crate) struct Work {
    /// What is asked for.
    pub(crate) spec: ContainmentSpec,
    /// What was reported last.
    pub(crate) before: ContainmentStatus,
    /// When the agent heard of it.
    pub(crate) received: Timestamp,
    /// Nothing gave cause to look: while the pod has the namespace that it had, and its changes are heard, the kernel is not asked.
    pub(crate) idly: bool,
    /// Gets the pod's UID when something has changed that concerns its cut.
    pub(crate) woken: Sender<String>,
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

/// What the node has for the pod's UID.
pub(crate) fn name_on_node(spec: &ContainmentSpec) -> &str {
    spec.pod.config_hash.as_deref().unwrap_or(&spec.pod.uid)
}

/// Tries once more from inside what answered before the cut.
///
/// Returns nothing when it cannot be tried.
pub(crate) fn prove(namespace: &NetNs, peer: SocketAddr) -> Option<Answer> {
    reach::attempt(namespace, &[peer], SILENT).ok()?.into_iter().next().map(answer)
}

const fn answer(attempt: Attempt) -> Answer {
    match attempt {
        Attempt::Answered => Answer::Answered,
        Attempt::Refused => Answer::Refused,
        Attempt::TimedOut => Answer::TimedOut,
        Attempt::Unreachable => Answer::Unreachable,
    }
}

impl Node {
    /// Brings the kernel to where it should be, and says where it is. Blocks for milliseconds.
    pub(crate) fn carry_out(
        &self,
        hold: &mut Hold,
        work: &Work,
        found: Result<PodNetwork, FindError>,
    ) -> ContainmentStatus {
        match found {
            Err(error) => {
                *hold = Hold::default();
                without_pod(work, &error)
            }
            Ok(network) if work.spec.holders.is_empty() => lift(hold, work, network),
            Ok(network) => self.hold(hold, work, network),
        }
    }

    fn hold(&self, hold: &mut Hold, work: &Work, network: PodNetwork) -> ContainmentStatus {
        let before = &work.before;
        let (id, inode) = (network.netns.id(), Some(network.netns.id().inode()));
        let known = hold.process.replace(network.pid);
        hold.bereft = known.is_some_and(|known| known != network.pid);
        let held = before.state == ContainmentState::Cut && before.network_namespace == inode;
        let heard = hold.ears.as_ref().is_some_and(|ears| ears.namespace == id && !ears.deaf.load(Ordering::Relaxed));
        if work.idly && held && heard && network.strays.is_empty() {
            return before.clone();
        }
        let mut status = ContainmentStatus {
            network_namespace: inode,
            restored: before.restored,
            probes: before.probes.clone(),
            connections: before.connections.clone(),
            ..ContainmentStatus::default()
        };
        // What could be reached before the cut can be seen only now. What was seen in a former sandbox says nothing of this one.
        let first = !held && hold.seen != Some(id);
        if first {
            status.probes = control(&network.netns, &work.spec).into_iter().collect();
            hold.seen = Some(id);
        }
        let strays = strays(&network);
        let told = Timestamp::now();
        match self.cut(hold, work, network) {
            Err(message) => {
                status.state = ContainmentState::Failed;
                status.message = Some(message);
            }
            Ok(cut) => {
                let at = Timestamp::now();
                if held && cut.changed {
                    // It was open for a moment: what was proven has to be proven anew.
                    for probe in &mut status.probes {
                        (probe.after, probe.at) = (None, None);
                    }
                }
                let fresh = !held || cut.changed;
                status.state = ContainmentState::Cut;
                status.message = cut.fallback.or(strays);
                (status.received_at, status.told_at) = if held {
                    (before.received_at.clone(), before.told_at.clone())
                } else {
                    (Some(MicroTime(work.received)), Some(MicroTime(told)))
                };
                status.cut_at = before.cut_at.clone().filter(|_| !fresh).or(Some(MicroTime(at)));
                status.hooks = Some(format!("{:?}", cut.hooks));
                // At least once: several removals in quick succession are put back, and counted, as one.
                status.restored += i32::from(cut.changed && (held || hold.cut == Some(id)));
                hold.cut = Some(id);
            }
        }
        if first {
            // A cut changes no socket's state, so it need not wait for a list that somebody in the pod can make long.
            status.connections = hold.namespace.as_ref().and_then(open_connections).or(status.connections);
        }
        status
    }

    fn cut(&self, hold: &mut Hold, work: &Work, network: PodNetwork) -> Result<cut::Cut, String> {
        let namespace = network.netns;
        hold.namespace = Some(namespace.clone());
        hold.listen(&work.spec.pod.uid, &namespace, network.pid, &work.woken);
        let nodes = self.sources(hold, &work.spec, &namespace)?;
        let allow = Allow::new(nodes, work.spec.probe_ports.iter().copied()).map_err(text)?;
        let cut = cut::cut(&namespace, &allow, self.hooks).map_err(text)?;
        hold.take_queues(&namespace)?;
        Ok(cut)
    }

    /// Where the kubelet's probes come from depends on the network plugin: often a bridge's or a router's address, which the Node
    /// object does not name.
    fn sources(&self, hold: &mut Hold, spec: &ContainmentSpec, namespace: &NetNs) -> Result<Vec<IpAddr>, String> {
        if hold.sources.as_ref().is_none_or(|(of, _)| *of != namespace.id()) {
            let pods = namespace.addresses().map_err(text)?;
            let sources = pods.into_iter().filter_map(|pod| self.network.source_towards(pod).ok()).collect();
            hold.sources = Some((namespace.id(), sources));
        }
        let named = spec.node_addresses.iter().filter_map(|text| text.parse().ok());
        Ok(named.chain(hold.sources.iter().flat_map(|(_, sources)| sources.iter().copied())).collect())
    }
}

impl Hold {
    /// What is sent by AF_XDP passes no hook; a queue that is held is none for anybody else.
    fn take_queues(&mut self, namespace: &NetNs) -> Result<(), String> {
        match self.queues.as_mut().filter(|(of, _)| *of == namespace.id()) {
            Some((_, queues)) => queues.take_more(namespace).map_err(text)?,
            None => self.queues = Some((namespace.id(), Queues::take(namespace).map_err(text)?)),
        }
        let foreign = self.queues.as_ref().map_or(0, |(_, queues)| queues.foreign().len());
        if foreign > 0 {
            return Err(format!(
                "{foreign} queues of the pod's interfaces are held by AF_XDP sockets of its own, which send past the cut: everything \
                 else is cut; stop the process that has them, or delete the pod"
            ));
        }
        Ok(())
    }

    /// Listens before it cuts: what changes after the look is heard.
    fn listen(&mut self, uid: &str, namespace: &NetNs, pid: u32, woken: &Sender<String>) {
        if self.ears.as_ref().is_some_and(|ears| ears.namespace == namespace.id()) {
            return;
        }
        let Ok(watch) = Watch::new(namespace) else {
            // The regular look finds it too, only later.
            return;
        };
        let mut watch = watch.with_process(pid);
        let deaf = Arc::new(AtomicBool::new(false));
        let (stop, woken, uid) = (Arc::clone(&deaf), woken.clone(), uid.to_owned());
        let started = std::thread::Builder::new().name("ears".to_owned()).spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                match watch.wait(EAR_TURNS) {
                    // Waits while there is no room: a change that is heard must not be forgotten.
                    Ok(true) => {
                        if woken.blocking_send(uid.clone()).is_err() {
                            return;
                        }
                    }
                    Ok(false) => {}
                    Err(_) => stop.store(true, Ordering::Relaxed),
                }
            }
        });
        if started.is_ok() {
            self.ears = Some(Ears { namespace: namespace.id(), deaf });
        }
    }
}

/// Something that the pod can reach before it is cut.
fn control(namespace: &NetNs, spec: &ContainmentSpec) -> Option<Probe> {
    let targets: Vec<SocketAddr> = spec.egress_targets.iter().filter_map(|text| text.parse().ok()).collect();
    let at = Timestamp::now();
    let attempts = reach::attempt_until_one_is_reached(namespace, &targets, CONTROL).ok()?;
    let tried: Vec<(SocketAddr, Answer)> = targets.into_iter().zip(attempts.into_iter().map(answer)).collect();
    // Where none answers, the first says so: then nothing can be proven.
    let (peer, before) = tried.iter().find(|(_, before)| before.reached()).or(tried.first())?;
    Some(Probe {
        direction: Direction::Egress,
        peer: peer.to_string(),
        before: *before,
        before_at: Time(at),
        after: None,
        at: None,
    })
}

/// Who is connected at this moment. What cannot be listed is left out: it must not hold up a cut.
fn open_connections(namespace: &NetNs) -> Option<Connections> {
    let open = connections::open(namespace).ok()?;
    Some(Connections {
        count: i32::try_from(open.len()).unwrap_or(i32::MAX),
        first: open.iter().take(NAMED).map(ToString::to_string).collect(),
    })
}

fn lift(hold: &mut Hold, work: &Work, network: PodNetwork) -> ContainmentStatus {
    *hold = Hold::default();
    let done = cut::lift(&network.netns);
    ContainmentStatus {
        state: if done.is_ok() { ContainmentState::Lifted } else { ContainmentState::Failed },
        message: done.err().map(text),
        network_namespace: Some(network.netns.id().inode()),
        restored: work.before.restored,
        ..ContainmentStatus::default()
    }
}

/// Processes of the pod in other network namespaces are out of the cut's reach.
fn strays(network: &PodNetwork) -> Option<String> {
    let left: Vec<String> = network.strays.iter().map(|stray| stray.pid.to_string()).collect();
    let more = if network.more_strays > 0 { format!(" and {} more", network.more_strays) } else { String::new() };
    (!left.is_empty()).then(|| {
        format!("processes {}{more} of the pod are in other network namespaces, which are not cut", left.join(", "))
    })
}

fn without_pod(work: &Work, error: &FindError) -> ContainmentStatus {
    let state = match error {
        FindError::NotHere { .. } if work.spec.holders.is_empty() => ContainmentState::Lifted,
        FindError::NotHere { .. } => ContainmentState::PodGone,
        _ => ContainmentState::Failed,
    };
    ContainmentStatus {
        state,
        message: Some(error.to_string()),
        restored: work.before.restored,
        connections: work.before.connections.clone(),
        ..ContainmentStatus::default()
    }
}

fn text(error: impl ToString) -> String {
    error.to_string()
}

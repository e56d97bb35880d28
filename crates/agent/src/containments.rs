//! The Containments of this node: watched, carried out, reported. Pods are worked on beside each other, each by one at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::ExponentialBuilder;
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, PostParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, ExponentialBackoff, watcher};
use kube::{Client, ResourceExt};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{Receiver, Sender, UnboundedReceiver, UnboundedSender, channel, unbounded_channel};
use tourniquet_agent::netns::NsId;
use tourniquet_api::{Answer, Containment, ContainmentState, ContainmentStatus, NodeAgentStatus, OrphanedCut};
use tracing::{info, warn};

use crate::entry::Entry;
use crate::orphans::{self, Report};
use crate::pod::{Hold, Node, Work, name_on_node, prove};
use crate::scans::Scans;

/// How often the kernel is looked at without any cause: a sandbox that was made anew is heard of by nobody.
const LOOK: Duration = Duration::from_secs(1);
/// How often a pod is looked for whose sandbox has just ended: a new one starts its first container some 200 ms after it is there.
const SEEK: Duration = Duration::from_millis(50);
/// How often the kernel is asked without any cause what it holds, where changes are heard. Asking takes some 2 ms a pod.
const ASK: Duration = Duration::from_secs(10);
/// How often cuts are searched for that nobody asks for.
const SURVEY: Duration = Duration::from_secs(60);

/// The pauses of the watch when it fails. A pod that is to be cut waits for it. Shorter ones would be many, of all nodes, for an API server
/// that comes back: by default they grow to 30 s. The jitter adds up to as much again.
const AGAIN: [Duration; 2] = [Duration::from_millis(250), Duration::from_millis(2500)];
/// How long a status may take to be written. One that hangs must not keep the next from being written.
const WRITE_LIMIT: Duration = Duration::from_secs(15);

/// Something that went on beside the loop has come to its end.
enum Done {
    Worked { name: String, hold: Hold, status: Box<ContainmentStatus> },
    Wrote { name: String, written: Option<Box<Containment>> },
    Tried { name: String, namespace: NsId, peer: SocketAddr, answer: Option<Answer>, began: Timestamp },
    Surveyed(Option<Vec<OrphanedCut>>),
    Reported(Report),
}

/// The agent's loop.
pub(crate) struct Containments {
    api: Api<Containment>,
    field: String,
    node: Arc<Node>,
    scans: Scans,
    /// Away while it is being written.
    report: Option<Report>,
    about: NodeAgentStatus,
    entries: BTreeMap<String, Entry>,
    /// What is kept of pods that are cut and whose Containment is gone.
    orphaned: BTreeMap<String, Hold>,
    /// When cuts that nobody asks for were last searched for; none: it is due.
    surveyed: Option<Instant>,
    surveying: bool,
    /// Pods in whose namespace something has changed.
    wake: Sender<String>,
    woken: Receiver<String>,
    done: UnboundedSender<Done>,
    ended: UnboundedReceiver<Done>,
}

impl Containments {
    pub(crate) fn new(client: Client, namespace: &str, node_name: &str, node: Arc<Node>, scans: Scans) -> Self {
        let (wake, woken) = channel(64);
        let (done, ended) = unbounded_channel();
        Self {
            api: Api::namespaced(client.clone(), namespace),
            field: format!("spec.nodeName={node_name}"),
            node,
            scans,
            report: Some(Report::new(client, namespace, node_name)),
            about: NodeAgentStatus {
                version: Some(env!("CARGO_PKG_VERSION").to_owned()),
                started_at: Some(MicroTime(Timestamp::now())),
                ..NodeAgentStatus::default()
            },
            entries: BTreeMap::new(),
            orphaned: BTreeMap::new(),
            surveyed: None,
            surveying: false,
            wake,
            woken,
            done,
            ended,
        }
    }

    /// Until it is told to stop. A cut stays when the agent goes: only a Containment without holders lifts one.
    pub(crate) async fn run(mut self) {
        let Ok(mut terminate) = signal(SignalKind::terminate()) else { return };
        let config = watcher::Config::default().fields(&self.field);
        let pauses = ExponentialBuilder::default().with_min_delay(AGAIN[0]).with_max_delay(AGAIN[1]).with_jitter();
        let pauses = ExponentialBackoff::from(pauses.without_max_times());
        let mut events = watcher(self.api.clone(), config).backoff(pauses).boxed();
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut seek = tokio::time::interval(SEEK);
        seek.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut synchronized = false;
        loop {
            tokio::select! {
                _ = terminate.recv() => return,
                event = events.next() => match event {
                    Some(Ok(Event::Apply(containment) | Event::InitApply(containment))) => self.changed(containment),
                    Some(Ok(Event::Delete(containment))) => self.gone(&containment.name_any()),
                    Some(Ok(Event::Init)) => self.entries.values_mut().for_each(|entry| entry.listed = false),
                    Some(Ok(Event::InitDone)) => {
                        self.listed();
                        synchronized = true;
                    }
                    Some(Err(error)) => warn!(%error, "Containments are not watched at the moment; what is cut stays cut"),
                    None => return,
                },
                Some(done) = self.ended.recv() => self.take(done),
                Some(uid) = self.woken.recv() => self.work(&uid, false),
                // What is asked for is not known before the first list is whole: everything would be an orphan.
                _ = look.tick(), if synchronized => self.look(),
                _ = seek.tick(), if self.entries.values().any(|entry| entry.seeking.is_some()) => self.seek(),
            }
        }
    }

    fn changed(&mut self, containment: Containment) {
        let name = containment.name_any();
        let asks = match self.entries.get_mut(&name) {
            Some(entry) => entry.update(containment),
            None => {
                // Somebody has decided: it is asked for again, or to be lifted.
                self.about.orphans.retain(|orphan| orphan.pod_uid != name_on_node(&containment.spec));
                let hold = self.orphaned.remove(name_on_node(&containment.spec)).unwrap_or_default();
                self.entries.insert(name.clone(), Entry::new(containment, hold));
                true
            }
        };
        match self.entries.get(&name) {
            // It is made a moment before its first holder comes; looking for its processes now would be in the way of the cut. What
            // somebody else left behind is lifted at the next look.
            Some(entry) if asks && entry.containment.spec.holders.is_empty() && !entry.is_known() => {}
            Some(_) if asks => self.work(&name, false),
            _ => self.write(&name),
        }
    }

    fn listed(&mut self) {
        let gone: Vec<String> =
            self.entries.iter().filter(|(_, entry)| !entry.listed).map(|(name, _)| name.clone()).collect();
        for name in gone {
            self.gone(&name);
        }
        info!(containments = self.entries.len(), "synchronized");
    }

    /// A Containment that is gone lifts nothing: whoever takes it away by force must not set a pod free.
    fn gone(&mut self, name: &str) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        entry.gone = true;
        let Some(hold) = entry.hold.take() else { return };
        if entry.is_cut() {
            let pod = &entry.containment.spec.pod;
            warn!(
                uid = name,
                namespace = pod.namespace,
                pod = pod.name,
                "its Containment is gone; the pod stays cut off"
            );
            self.orphaned.insert(name_on_node(&entry.containment.spec).to_owned(), hold);
            self.surveyed = None;
        }
        self.entries.remove(name);
    }

    fn seek(&mut self) {
        let sought = self.entries.iter().filter(|(_, entry)| entry.seeking.is_some());
        for name in sought.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.work(&name, true);
        }
    }

    fn look(&mut self) {
        for name in self.entries.keys().cloned().collect::<Vec<_>>() {
            self.work(&name, true);
        }
        if !self.surveying && self.surveyed.is_none_or(|at| at.elapsed() >= SURVEY) {
            self.surveying = true;
            self.surveyed = Some(Instant::now());
            let asked_for: BTreeSet<String> =
                self.entries.values().map(|entry| name_on_node(&entry.containment.spec).to_owned()).collect();
            let (scans, done) = (self.scans.clone(), self.done.clone());
            tokio::spawn(async move { done.send(Done::Surveyed(orphans::find(&scans, asked_for).await)) });
        }
        let cut = self.entries.values().filter(|entry| entry.is_cut()).count();
        self.about.cut = i32::try_from(cut).unwrap_or(i32::MAX);
        if let Some(mut report) = self.report.take() {
            let (about, done) = (self.about.clone(), self.done.clone());
            tokio::spawn(async move {
                report.write(about).await;
                done.send(Done::Reported(report))
            });
        }
    }

    /// Has a pod worked on, or once more when it is being worked on. `idly`: nothing gave cause to.
    fn work(&mut self, name: &str, idly: bool) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        let Some(mut hold) = entry.hold.take() else {
            entry.again |= !idly;
            return;
        };
        let idly = idly && entry.asked.is_some_and(|asked| asked.elapsed() < ASK);
        if !idly {
            entry.asked = Some(Instant::now());
        }
        let work = Work {
            spec: entry.containment.spec.clone(),
            before: entry.status.clone(),
            received: entry.received,
            idly,
            woken: self.wake.clone(),
        };
        let generation = entry.containment.metadata.generation;
        let (node, scans, done, name) =
            (Arc::clone(&self.node), self.scans.clone(), self.done.clone(), name.to_owned());
        tokio::spawn(async move {
            let found = scans.find(name_on_node(&work.spec)).await;
            let worked = tokio::task::spawn_blocking(move || {
                let mut status = node.carry_out(&mut hold, &work, found);
                status.observed_generation = generation;
                (hold, status)
            });
            // An error is a panic: the next look begins with nothing kept, and what is cut stays cut.
            let (hold, status) = worked.await.unwrap_or_else(|error| {
                let status = ContainmentStatus {
                    observed_generation: generation,
                    state: ContainmentState::Failed,
                    message: Some(format!("the agent has a bug ({error}); it tries again")),
                    ..ContainmentStatus::default()
                };
                (Hold::default(), status)
            });
            // The receiver ends with the agent.
            let _ = done.send(Done::Worked { name, hold, status: Box::new(status) });
        });
    }

    fn take(&mut self, done: Done) {
        match done {
            Done::Worked { name, hold, status } => self.worked(&name, hold, *status),
            Done::Wrote { name, written } => {
                let Some(entry) = self.entries.get_mut(&name) else { return };
                entry.writing = false;
                // A version that is not written was overtaken: the newer one is on its way through the watch.
                let Some(written) = written else { return };
                if written.metadata.uid == entry.containment.metadata.uid
                    && written.metadata.generation == entry.containment.metadata.generation
                {
                    entry.containment = *written;
                }
                self.write(&name);
            }
            Done::Tried { name, namespace, peer, answer, began } => {
                let Some(entry) = self.entries.get_mut(&name) else { return };
                entry.tried(namespace, peer, answer, began);
                self.write(&name);
            }
            Done::Surveyed(found) => {
                self.surveying = false;
                let Some(mut orphans) = found else { return };
                // Of which somebody has decided since the search began.
                orphans.retain(|orphan| {
                    !self.entries.values().any(|entry| orphan.pod_uid == name_on_node(&entry.containment.spec))
                });
                let names: BTreeSet<&str> = orphans.iter().map(|orphan| orphan.pod_uid.as_str()).collect();
                self.orphaned.retain(|uid, _| names.contains(uid.as_str()));
                self.about.orphans = orphans;
            }
            Done::Reported(report) => self.report = Some(report),
        }
    }

    fn worked(&mut self, name: &str, hold: Hold, status: ContainmentStatus) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        entry.hold = Some(hold);
        if status.state != entry.status.state || status.restored != entry.status.restored {
            let pod = &entry.containment.spec.pod;
            info!(
                uid = name,
                namespace = pod.namespace,
                pod = pod.name,
                state = ?status.state,
                restored = status.restored,
                why = status.message.as_deref().unwrap_or_default(),
                "carried out"
            );
        }
        entry.saw(status);
        if entry.gone {
            self.gone(name);
            return;
        }
        if std::mem::take(&mut entry.again) {
            self.write(name);
            self.work(name, false);
            return;
        }
        if let Some((namespace, peer)) = entry.try_next() {
            let (done, name) = (self.done.clone(), name.to_owned());
            tokio::task::spawn_blocking(move || {
                let began = Timestamp::now();
                let answer = prove(&namespace, peer);
                let _ = done.send(Done::Tried { name, namespace: namespace.id(), peer, answer, began });
            });
        }
        self.write(name);
    }

    /// Has the status written when it is not what is stored.
    fn write(&mut self, name: &str) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        if entry.writing || entry.gone || entry.status.observed_generation.is_none() || !entry.is_stale() {
            return;
        }
        entry.writing = true;
        let mut wanted = entry.containment.clone();
        wanted.status = Some(entry.status.clone());
        wanted.metadata.managed_fields = None;
        let (api, done, name) = (self.api.clone(), self.done.clone(), name.to_owned());
        tokio::spawn(async move {
            let parameters = PostParams::default();
            let write = api.replace_status(&name, &parameters, &wanted);
            let written = match tokio::time::timeout(WRITE_LIMIT, write).await {
                Ok(Ok(written)) => Some(Box::new(written)),
                Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => None,
                Ok(Err(error)) => {
                    warn!(uid = name, %error, "the status is not written; it is tried again");
                    None
                }
                Err(_) => {
                    warn!(uid = name, "the API server does not answer; the status is written again");
                    None
                }
            };
            done.send(Done::Wrote { name, written })
        });
    }
}

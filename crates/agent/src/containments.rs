//! The Containments of this node: watched, carried out, reported.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use kube::api::{Api, PostParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::Receiver;
use tourniquet_api::{Containment, ContainmentState};
use tracing::{info, warn};

use crate::node::Node;

/// How often the kernel is looked at without any cause: a sandbox that was made anew is heard of by nobody.
const LOOK: Duration = Duration::from_secs(1);

/// The agent's loop.
pub(crate) struct Containments {
    api: Api<Containment>,
    field: String,
    node: Node,
    /// Pods in whose namespace something has changed.
    woken: Receiver<String>,
    known: BTreeMap<String, Containment>,
}

impl Containments {
    pub(crate) fn new(client: Client, namespace: &str, node_name: &str, node: Node, woken: Receiver<String>) -> Self {
        let api = Api::namespaced(client, namespace);
        Self { api, field: format!("spec.nodeName={node_name}"), node, woken, known: BTreeMap::new() }
    }

    /// Until it is told to stop. A cut stays when the agent goes: only a Containment without holders lifts one.
    pub(crate) async fn run(mut self) {
        let Ok(mut terminate) = signal(SignalKind::terminate()) else { return };
        let config = watcher::Config::default().fields(&self.field);
        let mut events = watcher(self.api.clone(), config).default_backoff().boxed();
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = terminate.recv() => return,
                event = events.next() => match event {
                    Some(Ok(Event::Apply(containment) | Event::InitApply(containment))) => self.changed(containment).await,
                    Some(Ok(Event::Delete(containment))) => self.gone(&containment),
                    Some(Ok(Event::Init)) => self.known.clear(),
                    Some(Ok(Event::InitDone)) => info!(containments = self.known.len(), "synchronized"),
                    Some(Err(error)) => warn!(%error, "Containments are not watched at the moment; what is cut stays cut"),
                    None => return,
                },
                Some(uid) = self.woken.recv() => self.carry_out(&uid).await,
                _ = look.tick() => self.look().await,
            }
        }
    }

    async fn changed(&mut self, containment: Containment) {
        let name = containment.name_any();
        self.known.insert(name.clone(), containment);
        self.carry_out(&name).await;
    }

    /// A Containment that is gone lifts nothing: whoever takes it away by force must not set a pod free.
    fn gone(&mut self, containment: &Containment) {
        let name = containment.name_any();
        let state = containment.status.as_ref().map(|status| status.state).unwrap_or_default();
        if state == ContainmentState::Cut {
            let pod = &containment.spec.pod;
            warn!(
                uid = name,
                namespace = pod.namespace,
                pod = pod.name,
                "its Containment is gone; the pod stays cut off"
            );
        }
        self.known.remove(&name);
    }

    async fn look(&mut self) {
        for name in self.known.keys().cloned().collect::<Vec<_>>() {
            self.carry_out(&name).await;
        }
    }

    async fn carry_out(&mut self, name: &str) {
        let Some(containment) = self.known.get(name) else { return };
        let before = containment.status.clone().unwrap_or_default();
        let mut status = self.node.carry_out(&containment.spec, &before, Timestamp::now());
        status.observed_generation = containment.metadata.generation;
        if containment.status.as_ref() == Some(&status) {
            return;
        }
        let pod = &containment.spec.pod;
        info!(
            uid = name,
            namespace = pod.namespace,
            pod = pod.name,
            state = ?status.state,
            restored = status.restored,
            why = status.message.as_deref().unwrap_or_default(),
            "carried out"
        );
        let mut wanted = containment.clone();
        wanted.status = Some(status);
        wanted.metadata.managed_fields = None;
        // A newer version is on its way through the watch, and is carried out then.
        match self.api.replace_status(name, &PostParams::default(), &wanted).await {
            Ok(written) => drop(self.known.insert(name.to_owned(), written)),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => warn!(uid = name, %error, "the status is not written; it is tried again"),
        }
    }
}

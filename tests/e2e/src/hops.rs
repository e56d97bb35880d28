//! Where the time goes between a response and the cut: what each hop takes.
//!
//! Two watches of our own see what the operator and the agent are told, at about the moment at which they are told it. The agent's
//! moments are in the Containment's status. All on one clock only where the node is this machine.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt;
use jiff::Timestamp;
use kube::api::Api;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::task::JoinHandle;
use tourniquet_api::{Containment, ContainmentState, IncidentResponse};

use crate::{AGENT_NAMESPACE, until};

type Seen = Arc<Mutex<BTreeMap<String, Timestamp>>>;

/// Two watches that note when each response was first seen, and when each was first seen to hold a pod.
pub struct Hops {
    containments: Api<Containment>,
    responses: Seen,
    holders: Seen,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Hops {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// The moments of one cut.
#[derive(Clone, Copy, Debug)]
pub struct Watched {
    /// A watch showed the response.
    pub response: Timestamp,
    /// A watch showed the Containment, held by the response.
    pub held: Timestamp,
    /// The agent had heard of it.
    pub received: Timestamp,
    /// The agent had found and looked at the pod.
    pub told: Timestamp,
    /// The kernel held the cut, and it was read back.
    pub cut: Timestamp,
}

impl Watched {
    /// The hops in milliseconds, from the moment when the response was asked for and the one when the API server had answered.
    pub fn hops(&self, asked: Timestamp, answered: Timestamp, refused: Timestamp) -> [(&'static str, f64); 6] {
        let span = |from: Timestamp, to: Timestamp| to.duration_since(from).as_micros() as f64 / 1000.0;
        // The watch may be quicker than the answer.
        let written = answered.min(self.response);
        // And the agent's watch quicker than ours.
        let held = self.held.min(self.received);
        [
            ("API server: response written", span(asked, written)),
            ("watch: the operator is told", span(written, self.response)),
            ("operator: looked, accepted, Containment written", span(self.response, held)),
            ("watch: the agent is told", span(held, self.received)),
            ("agent: pod found, tried from inside", span(self.received, self.told)),
            ("kernel: cut, and the next attempt is refused", span(self.told, refused)),
        ]
    }
}

impl Hops {
    /// Begins to watch.
    pub fn watch(client: &Client) -> Self {
        let responses: Api<IncidentResponse> = Api::all(client.clone());
        let containments: Api<Containment> = Api::namespaced(client.clone(), AGENT_NAMESPACE);
        let (seen, holders) = (Seen::default(), Seen::default());
        let uid = |response: &IncidentResponse| response.uid().into_iter().collect();
        let held = |containment: &Containment| containment.spec.holders.keys().cloned().collect();
        let tasks = [
            tokio::spawn(note(responses, Arc::clone(&seen), uid)),
            tokio::spawn(note(containments.clone(), Arc::clone(&holders), held)),
        ];
        Self { containments, responses: seen, holders, tasks }
    }

    /// The moments of the cut of a pod that this response asked for first.
    pub async fn of(&self, response_uid: &str, pod_uid: &str) -> Result<Watched> {
        let status = until("the agent says when it cut", Duration::from_secs(20), async || {
            let status = self.containments.get_opt(pod_uid).await?.and_then(|containment| containment.status);
            Ok(status.filter(|status| status.state == ContainmentState::Cut))
        })
        .await?;
        let first = |seen: &Seen| seen.lock().unwrap().get(response_uid).copied().context("no watch has seen it");
        Ok(Watched {
            response: first(&self.responses)?,
            held: first(&self.holders)?,
            received: status.received_at.context("no receivedAt")?.0,
            told: status.told_at.context("no toldAt")?.0,
            cut: status.cut_at.context("no cutAt")?.0,
        })
    }
}

/// Notes when each name was first in an object.
async fn note<K>(api: Api<K>, seen: Seen, names: impl Fn(&K) -> Vec<String>)
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let mut events = watcher(api, watcher::Config::default()).boxed();
    while let Some(event) = events.next().await {
        if let Ok(Event::Apply(object) | Event::InitApply(object)) = event {
            let now = Timestamp::now();
            for name in names(&object) {
                seen.lock().unwrap().entry(name).or_insert(now);
            }
        }
    }
}

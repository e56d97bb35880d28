//! When each effect was first seen on the cluster: by watches, which are told in the order in which the API server did it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::Resource;
use kube::api::Api;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Event, watcher};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::Scenario;

#[derive(Default)]
struct Seen {
    first: Mutex<BTreeMap<String, Timestamp>>,
    more: Notify,
    listed: Mutex<usize>,
}

/// Watches of all kinds that the measured verbs change.
pub struct Effects {
    seen: Arc<Seen>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Effects {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Effects {
    /// Begins to watch, and returns when all of it is watched.
    pub async fn watch(s: &Scenario) -> Result<Self> {
        let seen = Arc::new(Seen::default());
        let labels: fn(&kube::core::ObjectMeta) -> Vec<String> =
            |metadata| metadata.labels.iter().flatten().map(|(key, _)| key.clone()).collect();
        let name: fn(&kube::core::ObjectMeta) -> Vec<String> = |metadata| metadata.name.clone().into_iter().collect();
        let managers: fn(&kube::core::ObjectMeta) -> Vec<String> =
            |metadata| metadata.managed_fields.iter().flatten().filter_map(|entry| entry.manager.clone()).collect();
        let nodes: Api<PartialObjectMeta<Node>> = Api::all(s.env.client.clone());
        let tasks = vec![
            tokio::spawn(note(s.api::<PartialObjectMeta<Pod>>(), Arc::clone(&seen), labels)),
            tokio::spawn(note(s.api::<PartialObjectMeta<NetworkPolicy>>(), Arc::clone(&seen), name)),
            tokio::spawn(note(nodes, Arc::clone(&seen), managers)),
        ];
        let effects = Self { seen, tasks };
        crate::until("everything is watched", Duration::from_secs(60), async || {
            Ok((*effects.seen.listed.lock().unwrap() >= effects.tasks.len()).then_some(()))
        })
        .await?;
        Ok(effects)
    }

    /// When the first effect with this mark was seen; waits for it.
    pub async fn of(&self, mark: &str, limit: Duration) -> Result<Timestamp> {
        let found = async {
            loop {
                let more = self.seen.more.notified();
                tokio::pin!(more);
                more.as_mut().enable();
                if let Some(at) = self.seen.first.lock().unwrap().get(mark) {
                    return *at;
                }
                more.await;
            }
        };
        let found = tokio::time::timeout(limit, found).await;
        found.map_err(|_| anyhow::anyhow!("not within {} s: an effect is seen with mark {mark}", limit.as_secs()))
    }
}

/// Notes when each mark was first there.
async fn note<K>(api: Api<K>, seen: Arc<Seen>, marks: fn(&kube::core::ObjectMeta) -> Vec<String>)
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let mut events = watcher(api, watcher::Config::default()).boxed();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(object) | Event::InitApply(object)) => {
                let now = Timestamp::now();
                let mut first = seen.first.lock().unwrap();
                for mark in marks(object.meta()) {
                    first.entry(mark).or_insert(now);
                }
                drop(first);
                seen.more.notify_waiters();
            }
            Ok(Event::InitDone) => *seen.listed.lock().unwrap() += 1,
            _ => {}
        }
    }
}

//! Where the time goes between a response and its first effect: by watches of the operator's responses and of the bare client's copies, which are told in the
//! order in which the API server stored them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use futures::StreamExt;
use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Api, DynamicObject};
use kube::runtime::watcher::{self, Event, watcher};
use tokio::task::JoinHandle;

use super::figures::Figures;

/// What is stored on the way, in this order.
const STEPS: [&str; 3] = ["response", "finalizer", "status"];

/// A watch takes milliseconds.
const TOLD: Duration = Duration::from_secs(10);

type Seen = Arc<Mutex<BTreeMap<(String, &'static str), Timestamp>>>;

/// Two watches, of everything that is stored on the way to an effect.
pub struct Steps {
    seen: Seen,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Steps {
    /// Begins to watch.
    pub fn watch(responses: Api<DynamicObject>, copies: Api<DynamicObject>) -> Self {
        let seen = Seen::default();
        let tasks = [responses, copies].map(|api| tokio::spawn(note(api, Arc::clone(&seen))));
        Self { seen, tasks }
    }

    /// Adds what each step of this response took: from asking for it over all that was stored to its effect.
    pub async fn add_to(
        &self,
        figures: &mut Figures,
        whose: &str,
        name: &str,
        asked: Timestamp,
        effect: Timestamp,
    ) -> Result<()> {
        let mut from = asked;
        for step in STEPS {
            // The effect is seen by another watch, which can be faster.
            let at = crate::until(&format!("the {step} of {name} is seen"), TOLD, async || {
                Ok(self.seen.lock().unwrap().get(&(name.to_owned(), step)).copied())
            })
            .await?;
            figures.add(&label(whose, step), from, at);
            from = at;
        }
        figures.add(&label(whose, "effect"), from, effect);
        Ok(())
    }
}

/// The steps by which figures of these are found.
pub fn labels(whose: &str) -> impl Iterator<Item = String> {
    STEPS.into_iter().chain(["effect"]).map(move |step| label(whose, step))
}

fn label(whose: &str, step: &str) -> String {
    format!("{whose}: {step}")
}

/// Notes when each step was first seen of each.
async fn note(api: Api<DynamicObject>, seen: Seen) {
    let mut events = watcher(api, watcher::Config::default()).boxed();
    while let Some(event) = events.next().await {
        if let Ok(Event::Apply(object) | Event::InitApply(object)) = event {
            let now = Timestamp::now();
            let there = [true, !object.finalizers().is_empty(), object.data.get("status").is_some()];
            for (step, there) in STEPS.into_iter().zip(there) {
                if there {
                    seen.lock().unwrap().entry((object.name_any(), step)).or_insert(now);
                }
            }
        }
    }
}

//! Which pod has to be silent, and since when.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use jiff::Timestamp;

use super::schedule::PODS;
use crate::TestResponse;
use crate::responses::condition;

/// The books of one schedule.
#[derive(Default)]
pub(super) struct Books {
    /// Responses that isolate, that are there or about to be, and that nobody has asked to let go; with their pods.
    holders: BTreeMap<usize, BTreeSet<usize>>,
    /// Pods that have to be silent, and since when.
    held: BTreeMap<usize, Timestamp>,
    /// Times of silence that have ended.
    windows: Vec<(usize, Timestamp, Timestamp)>,
}

impl Books {
    pub(super) fn created(&mut self, response: usize, pods: BTreeSet<usize>) {
        if !pods.is_empty() {
            self.holders.insert(response, pods);
        }
    }

    /// Before it is asked to: from then on it may let go, where no other one holds.
    pub(super) fn lets_go(&mut self, response: usize) {
        self.holders.remove(&response);
        for pod in 0..PODS.len() {
            if self.is_free(pod)
                && let Some(from) = self.held.remove(&pod)
            {
                self.windows.push((pod, from, Timestamp::now()));
            }
        }
    }

    /// Whether nobody asks for its isolation.
    pub(super) fn is_free(&self, pod: usize) -> bool {
        !self.holders.values().any(|pods| pods.contains(&pod))
    }

    /// Reads what is claimed. A claim counts from when it was read.
    pub(super) async fn look(&mut self, responses: &[Option<TestResponse>]) -> Result<()> {
        let open = |pods: &BTreeSet<usize>| pods.iter().any(|pod| !self.held.contains_key(pod));
        let unseen: Vec<(usize, BTreeSet<usize>)> =
            self.holders.iter().filter(|(_, pods)| open(pods)).map(|(number, pods)| (*number, pods.clone())).collect();
        for (number, pods) in unseen {
            let Some(response) = responses.get(number).and_then(Option::as_ref) else { continue };
            let contained = condition(&response.get().await?, "Contained");
            if contained.is_some_and(|contained| contained.status == "True") {
                let now = Timestamp::now();
                for pod in pods {
                    self.held.entry(pod).or_insert(now);
                }
            }
        }
        Ok(())
    }

    /// All times of silence, with the pod.
    pub(super) fn windows(&self) -> Vec<(usize, Timestamp, Timestamp)> {
        self.windows.clone()
    }
}

//! Finding pods: one pass over the node's processes for everybody who asks meanwhile.
//!
//! A pass reads one small file for each process of the node (some 15 µs each). Fifty pods that are looked at each second, or
//! that are cut at once, must not mean fifty passes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tourniquet_agent::netns::NsId;
use tourniquet_agent::pods::cgroup::Hierarchy;
use tourniquet_agent::pods::{self, FindError, PodNetwork};

type Found = BTreeMap<String, Result<PodNetwork, FindError>>;

enum Wanted {
    One(String, oneshot::Sender<Result<PodNetwork, FindError>>),
    All(oneshot::Sender<Result<Found, FindError>>),
}

/// Where to ask for a pod.
#[derive(Clone)]
pub(crate) struct Scans {
    ask: mpsc::UnboundedSender<Wanted>,
}

impl Scans {
    /// Starts to answer, as long as somebody may ask.
    pub(crate) fn start(proc: PathBuf, hierarchy: Hierarchy, host: NsId) -> Self {
        let (ask, mut asked) = mpsc::unbounded_channel();
        let place = Arc::new((proc, hierarchy));
        tokio::spawn(async move {
            while let Some(first) = asked.recv().await {
                let mut waiting = vec![first];
                // Whoever asks from here on is answered by the next pass: this one may have passed over its pod already.
                while let Ok(another) = asked.try_recv() {
                    waiting.push(another);
                }
                let place = Arc::clone(&place);
                // Fails only when the agent is ending; then nobody waits for an answer.
                let _ = tokio::task::spawn_blocking(move || answer(waiting, &place.0, &place.1, host)).await;
            }
        });
        Self { ask }
    }

    /// The network of the pod that the node has under this name: its UID, or the hash of its file.
    ///
    /// # Errors
    /// As [`pods::find`].
    pub(crate) async fn find(&self, name: &str) -> Result<PodNetwork, FindError> {
        let not_here = || FindError::NotHere { uid: name.to_owned() };
        let (answer, answered) = oneshot::channel();
        self.ask.send(Wanted::One(name.to_owned(), answer)).map_err(|_| not_here())?;
        answered.await.map_err(|_| not_here())?
    }

    /// Every pod of the node.
    ///
    /// # Errors
    /// When the node's processes cannot be read.
    pub(crate) async fn all(&self) -> Result<Found, FindError> {
        let (answer, answered) = oneshot::channel();
        if self.ask.send(Wanted::All(answer)).is_err() {
            return Ok(Found::new());
        }
        answered.await.unwrap_or_else(|_| Ok(Found::new()))
    }
}

/// Answers everybody from one pass, or a single asker from a pass that looks for nothing else.
fn answer(waiting: Vec<Wanted>, proc: &std::path::Path, hierarchy: &Hierarchy, host: NsId) {
    // Whoever no longer waits needs no answer, below as well.
    let mut several = Vec::new();
    let alone = waiting.len() == 1;
    for wanted in waiting {
        match wanted {
            Wanted::One(name, answer) if alone => {
                let _ = answer.send(pods::find(proc, &name, hierarchy, host));
            }
            Wanted::All(answer) => {
                let _ = answer.send(pods::all(proc, hierarchy, host));
            }
            Wanted::One(name, answer) => several.push((name, answer)),
        }
    }
    if several.is_empty() {
        return;
    }
    match pods::all(proc, hierarchy, host) {
        Ok(mut found) => {
            for (name, answer) in several {
                let one = found.remove(&name).unwrap_or(Err(FindError::NotHere { uid: name }));
                let _ = answer.send(one);
            }
        }
        // An error has no copies; each asks the kernel for its own.
        Err(_) => {
            for (name, answer) in several {
                let _ = answer.send(pods::find(proc, &name, hierarchy, host));
            }
        }
    }
}

//! What a folder holds: in the store, and as far as it is known here.

use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;

use super::bag::{self, OPENED, PAYLOAD, RECORD, TAG_MANIFEST};
use super::free::{Taken, planned};
use super::place::safe_path;
use super::record::{ArtifactRecord, Facts, Record, SCHEMA};
use super::{Opening, State, artifact};
use crate::store::{Store, Trouble};

/// Blobs that are asked for at the same time.
const AT_ONCE: usize = 8;

/// What is there.
#[derive(Debug)]
pub(super) struct Contents {
    /// When it was opened first, and what was planned then.
    pub(super) opened_at: Timestamp,
    planned: Vec<String>,
    pub(super) opened_sha256: String,
    pub(super) artifacts: Vec<ArtifactRecord>,
    foreign: Vec<String>,
    taken: Taken,
    /// The record, once it is there.
    pub(super) recorded: Option<Vec<u8>>,
    pub(super) sealed: bool,
}

impl Contents {
    /// Of a folder that was opened just now.
    pub(super) fn new(opening: &Opening, opened: &[u8]) -> Self {
        let mut taken = Taken::default();
        taken.insert("record.json");
        Self {
            opened_at: opening.opened_at,
            planned: opening.planned.iter().map(|name| safe_path(name)).collect(),
            opened_sha256: bag::digest(opened),
            artifacts: Vec::new(),
            foreign: Vec::new(),
            taken,
            recorded: None,
            sealed: false,
        }
    }

    /// Of a folder that somebody opened before; none, when nobody did.
    pub(super) async fn read(store: &Store, path: &str) -> Result<Option<Self>, Trouble> {
        let opened_path = format!("{path}/{OPENED}");
        let Some(opened) = store.get_small(&opened_path).await? else { return Ok(None) };
        let opening: Opening =
            serde_json::from_slice(&opened).map_err(|error| not_ours(store, &opened_path, &error.to_string()))?;
        let mut contents = Self::new(&opening, &opened);
        contents.refresh(store, path).await?;
        Ok(Some(contents))
    }

    /// Adds what the store has and is not known here: of a process before, or of a request whose answer was lost.
    pub(super) async fn refresh(&mut self, store: &Store, path: &str) -> Result<(), Trouble> {
        let listed = store.list(&format!("{path}/")).await?;
        let names: Vec<&str> = listed.iter().filter_map(|blob| blob.path.get(path.len() + 1..)).collect();
        self.sealed = names.contains(&TAG_MANIFEST);
        if self.recorded.is_none() && names.contains(&RECORD) {
            self.recorded = store.get_small(&format!("{path}/{RECORD}")).await?;
        }
        let known = |name: &str| {
            self.artifacts.iter().filter_map(|artifact| artifact.blob.as_ref()).any(|blob| blob.path == name)
        };
        let new: Vec<String> = names
            .into_iter()
            .filter(|name| {
                name.starts_with(PAYLOAD)
                    && *name != RECORD
                    && !known(name)
                    && !self.foreign.iter().any(|foreign| foreign == name)
            })
            .map(str::to_owned)
            .collect();
        let found: Vec<(String, Option<ArtifactRecord>)> = futures::stream::iter(new)
            .map(|name| async move {
                let full = format!("{path}/{name}");
                let properties = store.properties(&full).await?;
                let found = properties.and_then(|properties| artifact::of(&properties, &full, &name));
                Ok::<_, Trouble>((name, found))
            })
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        for (name, found) in found {
            let below = name.strip_prefix(PAYLOAD).unwrap_or(&name).to_owned();
            self.taken.insert(&below);
            match found {
                Some(mut found) => {
                    // Where it lies is what counts.
                    found.plan.name = below;
                    // It was not known to be stored, and is.
                    self.artifacts.retain(|artifact| artifact.blob.is_some() || artifact.plan.name != found.plan.name);
                    self.artifacts.push(found);
                }
                None => self.foreign.push(name),
            }
        }
        Ok(())
    }

    /// A name for an artifact that nothing has yet.
    pub(super) fn take_name(&mut self, wanted: &str) -> String {
        self.taken.take(&safe_path(wanted))
    }

    pub(super) const fn state(&self) -> State {
        match (self.sealed, &self.recorded) {
            (true, _) => State::Sealed,
            (false, Some(_)) => State::Recorded,
            (false, None) => State::Open,
        }
    }

    /// The record of what is there.
    pub(super) fn record(&self, folder: String, facts: Facts) -> Record {
        let mut artifacts = self.artifacts.clone();
        artifacts.sort_by(|a, b| a.started_at.cmp(&b.started_at).then_with(|| a.plan.name.cmp(&b.plan.name)));
        let collected = |wanted: &String| {
            let same = |artifact: &ArtifactRecord| {
                artifact.plan.name == *wanted || is_of(planned(&artifact.plan.name), wanted)
            };
            artifacts.iter().any(same)
        };
        let not_collected: Vec<String> = self.planned.iter().filter(|wanted| !collected(wanted)).cloned().collect();
        let done = artifacts.iter().all(|artifact| artifact.outcome == super::Outcome::Done);
        Record {
            schema: SCHEMA.to_owned(),
            folder,
            opened_at: self.opened_at,
            sealed_at: Timestamp::now(),
            complete: done && not_collected.is_empty() && self.foreign.is_empty(),
            facts,
            artifacts,
            not_collected,
            foreign: self.foreign.clone(),
        }
    }
}

/// Whether a name is the planned one, or that of its archive: whether a path is a file or a folder shows only when it is read.
fn is_of(name: &str, wanted: &str) -> bool {
    name == wanted || name.strip_suffix(".tar") == Some(wanted)
}

pub(super) fn not_ours(store: &Store, path: &str, why: &str) -> Trouble {
    let message = format!(
        "{} is not what tourniquet would have written there ({why}): it was left as it is; look at who else may write into this container",
        store.url(path)
    );
    Trouble::new("NotOurs", message)
}

#[cfg(test)]
mod tests {
    use super::is_of;

    #[test]
    fn an_archive_is_what_was_planned_as_a_path() {
        assert!(is_of("files/web/etc", "files/web/etc") && is_of("files/web/etc.tar", "files/web/etc"));
        assert!(!is_of("files/web/etc.tar", "files/web/et") && !is_of("files/web/etc", "files/web/etc.tar"));
    }
}

//! The results of one action, by target: those that are kept, and the others by their number.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tourniquet_api::{Outcome, TargetResult};

/// How many results are kept one by one. A namespace can have any number of pods, and a status has to fit into the API server's store.
const KEPT: usize = 100;

/// The results of one action.
#[derive(Default)]
pub(crate) struct Results {
    before: BTreeMap<String, TargetResult>,
    /// How many more of those that are new have room.
    room: usize,
    /// The results, those of the targets first.
    pub(crate) kept: Vec<TargetResult>,
    /// The outcomes of the others.
    pub(crate) further: BTreeMap<Outcome, usize>,
    /// The worst of the others.
    pub(crate) worst_further: Option<TargetResult>,
    /// Whether all but the first are of what is in the first.
    pub(crate) members: bool,
}

impl Results {
    /// These and no others.
    pub(crate) fn of(kept: Vec<TargetResult>) -> Self {
        Self { kept, ..Self::default() }
    }

    /// Those that come after these.
    pub(crate) fn after(before: Vec<TargetResult>) -> Self {
        let room = KEPT.saturating_sub(before.len());
        Self {
            before: before.into_iter().map(|result| (result.target_uid.clone(), result)).collect(),
            room,
            ..Self::default()
        }
    }

    /// What was reported of a target.
    pub(crate) fn before(&self, uid: &str) -> Option<&TargetResult> {
        self.before.get(uid)
    }

    /// What was reported of something in a target. What there is no room for is taken to have been tried since the target was.
    pub(crate) fn before_of_member(&mut self, uid: &str, since: Timestamp) -> Option<TargetResult> {
        self.members = true;
        if let Some(before) = self.before.get(uid) {
            return Some(before.clone());
        }
        if self.room > 0 {
            self.room -= 1;
            return None;
        }
        Some(TargetResult { target_uid: uid.to_owned(), applied_at: Some(Time(since)), ..TargetResult::default() })
    }

    /// Adds a result.
    pub(crate) fn extend(&mut self, result: Option<TargetResult>) {
        let Some(result) = result else { return };
        if self.before.contains_key(&result.target_uid) || self.kept.len() < KEPT {
            self.kept.push(result);
            return;
        }
        *self.further.entry(result.outcome).or_default() += 1;
        if self
            .worst_further
            .as_ref()
            .is_none_or(|worst| crate::status::rank(worst.outcome) < crate::status::rank(result.outcome))
        {
            self.worst_further = Some(result);
        }
    }
}

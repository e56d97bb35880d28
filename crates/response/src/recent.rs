//! What was carried out of late, those deleted since included. No list of the API server has them any more, and whoever creates responses and deletes them in a
//! loop would have no limit without it.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use tourniquet_api::IncidentResponse;

use crate::pass::peer;

/// For how long a response counts.
pub(crate) const MINUTE: SignedDuration = SignedDuration::from_secs(60);

/// Responses of the last minute that were carried out, by UID. It is in the memory of the operator that leads: one that took over a moment ago knows of those
/// only that are still there.
#[derive(Clone, Debug, Default)]
pub struct Recent {
    created: BTreeMap<String, Timestamp>,
}

impl Recent {
    /// Keeps in mind what was written of a response, if it is carried out.
    pub fn written(&mut self, response: &IncidentResponse, now: Timestamp) {
        let peer = peer(response, now);
        if let Some(created) = peer.created.filter(|_| peer.decided && peer.carried_out) {
            self.created.insert(peer.uid, created);
        }
        // Twice as long: the clock of the API server, by which they were created, may be ahead of ours.
        self.created.retain(|_, created| now.duration_since(*created) < 2 * MINUTE);
    }

    /// When each was created.
    #[must_use]
    pub fn seen(&self) -> BTreeMap<String, Timestamp> {
        self.created.clone()
    }
}

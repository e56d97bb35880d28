//! When the receipt is made: never before the containment, once, and seldom again.

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tourniquet_api::{IncidentResponseStatus, Outcome, Residual};

use super::Look;
use crate::receipt;
use crate::status;
use crate::world::Unread;

/// How soon after the outcome is known. Responses that come by the hundred are to be in force first: what a receipt needs to see is
/// seen with some ten requests, a containment with two.
const AFTER_THE_OUTCOME: SignedDuration = SignedDuration::from_millis(500);
/// How long the outcome is waited for. On Cilium, without an agent, it can be half a minute away; the receipt is not about it.
const WITHOUT_OUTCOME: SignedDuration = SignedDuration::from_secs(2);
/// How long it is good for. What it is about is not watched: it is about every pod and binding of the cluster.
const GOOD_FOR: SignedDuration = SignedDuration::from_hours(1);
/// When something could not be looked at.
const INCOMPLETE_GOOD_FOR: SignedDuration = SignedDuration::from_mins(5);

impl Look<'_> {
    /// Adds the receipt to what is still open: what was said before, or a new one when it is due. In how long the first is due,
    /// when it is not yet.
    pub(super) fn receipt(
        &self,
        status: &mut IncidentResponseStatus,
        in_place: bool,
        residual: &mut Vec<Residual>,
    ) -> Result<Option<SignedDuration>, Unread> {
        if !status::isolates(self.response) {
            return Ok(None);
        }
        let mut kept: Vec<Residual> = status.residual.iter().filter(|one| receipt::is_of(one)).cloned().collect();
        let due = if in_place { Some(self.receipt_is_due_in(status, &kept)) } else { None };
        if due.is_some_and(|due| !due.is_positive()) {
            if let Some(made) = receipt::made(self.world, &status.targets)? {
                residual.extend(made);
                status.receipt_at = Some(Time(self.world.now));
                return Ok(None);
            }
            kept.retain(receipt::outlives);
            residual.append(&mut kept);
            return Ok(None);
        }
        residual.append(&mut kept);
        // One that was made is made again by a look that something else gives cause to: there is one every few minutes.
        Ok(due.filter(|_| status.receipt_at.is_none()))
    }

    fn receipt_is_due_in(&self, status: &IncidentResponseStatus, kept: &[Residual]) -> SignedDuration {
        let now = self.world.now;
        if let Some(at) = &status.receipt_at {
            let good_for = if kept.iter().any(receipt::is_incomplete) { INCOMPLETE_GOOD_FOR } else { GOOD_FOR };
            return good_for - now.duration_since(at.0);
        }
        let stored = self.response.status.as_ref();
        if stored.is_some_and(is_settled) {
            // Said before, so nobody waits for it any more.
            return SignedDuration::ZERO;
        }
        if is_settled(status) {
            return AFTER_THE_OUTCOME;
        }
        let results = stored.into_iter().flat_map(|status| status.actions.iter().flat_map(|action| &action.results));
        let applied = results.filter_map(|result| result.applied_at.as_ref()).map(|at| at.0).max();
        applied.map_or(WITHOUT_OUTCOME, |at| WITHOUT_OUTCOME - now.duration_since(at))
    }
}

fn is_settled(status: &IncidentResponseStatus) -> bool {
    status.actions.iter().all(|action| !matches!(action.outcome, Outcome::Pending | Outcome::Running))
}

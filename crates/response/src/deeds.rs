//! What we ourselves did to a target, and when, as the responses' statuses have it: whoever reads evidence has to tell the traces of an attack from ours.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry};
use tourniquet_api::{ActionStatus, IncidentResponse, Outcome};

use crate::conditions;
use crate::pass::full_name;

/// One thing that was done.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deed {
    /// When it was in place; of what takes its time, when it had begun. In whole seconds, as a status has them.
    pub at: Timestamp,
    /// Which response did what, such as `IncidentResponse soc/a: action isolate`. The same however it goes on.
    pub subject: String,
    /// What has become of it.
    pub became: String,
}

/// What a response did to a target, or to what is in it, as of the status: in no order.
#[must_use]
pub fn deeds(response: &IncidentResponse, target_uid: &str) -> Vec<Deed> {
    let Some(status) = &response.status else { return Vec::new() };
    let by = format!("IncidentResponse {}", full_name(&response.metadata));
    let mut deeds: Vec<Deed> = status.actions.iter().filter_map(|action| deed(&by, action, target_uid)).collect();
    let reverted = conditions::find(&status.conditions, "Reverted").filter(|reverted| reverted.status == "True");
    if let (Some(reverted), false) = (reverted, deeds.is_empty()) {
        let became = format!("is over ({}): {}", reverted.reason, reverted.message);
        deeds.push(Deed { at: reverted.last_transition_time.0, subject: by, became });
    }
    deeds
}

fn deed(by: &str, action: &ActionStatus, target_uid: &str) -> Option<Deed> {
    let result = action.results.iter().find(|result| result.target_uid == target_uid)?;
    // Without it nothing was put in place.
    let at = result.applied_at.as_ref().filter(|_| result.outcome != Outcome::Skipped)?.0;
    let (reason, message) =
        (result.reason.as_deref().unwrap_or_default(), result.message.as_deref().unwrap_or_default());
    let became = format!("is {} ({reason}): {message}", result.outcome.as_str());
    Some(Deed { at, subject: format!("{by}: action {}", action.name), became })
}

/// What has asked for the release: the field manager that wrote `spec.release`, which is a program and not a person. `None` when nothing did, or nobody can know.
#[must_use]
pub fn released_by(response: &IncidentResponse) -> Option<String> {
    let wrote = |entry: &&ManagedFieldsEntry| {
        let fields = entry.fields_v1.as_ref().map(|FieldsV1(fields)| fields);
        fields.is_some_and(|fields| fields.pointer("/f:spec/f:release").is_some())
    };
    let mut entries = response.metadata.managed_fields.iter().flatten().filter(|_| response.spec.release == Some(true));
    entries.find(wrote)?.manager.as_ref().map(|manager| format!("field manager {manager}"))
}

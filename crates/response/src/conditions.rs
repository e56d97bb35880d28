//! Conditions as the Kubernetes API conventions have them.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// A condition's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Is {
    True,
    False,
    Unknown,
}

impl Is {
    const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// The conditions of one status, at one time and generation.
pub(crate) struct Conditions<'a> {
    pub(crate) list: &'a mut Vec<Condition>,
    pub(crate) now: Timestamp,
    pub(crate) generation: Option<i64>,
}

impl Conditions<'_> {
    /// Sets a condition; `lastTransitionTime` moves only when the status does.
    pub(crate) fn set(&mut self, type_: &str, is: Is, reason: &str, message: impl Into<String>) {
        let mut condition = Condition {
            type_: type_.to_owned(),
            status: is.as_str().to_owned(),
            reason: reason.to_owned(),
            message: message.into(),
            observed_generation: self.generation,
            last_transition_time: Time(self.now),
        };
        match self.list.iter_mut().find(|existing| existing.type_ == type_) {
            Some(existing) => {
                if existing.status == condition.status {
                    condition.last_transition_time = existing.last_transition_time.clone();
                }
                *existing = condition;
            }
            None => self.list.push(condition),
        }
    }

    /// Removes a condition that says nothing any more.
    pub(crate) fn remove(&mut self, type_: &str) {
        self.list.retain(|condition| condition.type_ != type_);
    }
}

/// A condition by its type.
pub(crate) fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Whether a condition is there and True.
pub(crate) fn is_true(conditions: &[Condition], type_: &str) -> bool {
    find(conditions, type_).is_some_and(|condition| condition.status == "True")
}

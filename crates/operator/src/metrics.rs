//! What is counted, for Prometheus: `/metrics`, beside the health endpoints.
//!
//! All of it follows from the statuses that are written, so what is counted is what was said. Counters begin anew with the operator, and only the
//! one that leads counts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tourniquet_api::{Action, IncidentResponse, IncidentResponseStatus, Outcome};

/// In seconds. The cut takes tens of milliseconds, policies on Cilium up to half a minute.
const TIME_TO_CONTAIN: [f64; 14] = [0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];

/// The type that Prometheus asks for, and takes.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfAction {
    verb: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfResponse {
    outcome: &'static str,
}

/// The metrics of this operator.
#[derive(Clone)]
pub(crate) struct Metrics(Arc<Counted>);

struct Counted {
    registry: Registry,
    responses: Family<OfResponse, Counter>,
    actions: Family<OfAction, Counter>,
    time_to_contain: Histogram,
    undo_failures: Counter,
    reconcile_errors: Counter,
    evidence: Counter,
    queue_depth: Gauge,
    leader: Gauge,
    /// When a response was seen first, by UID: the time of its creation is stored without fractions of a second.
    seen: Mutex<BTreeMap<String, Instant>>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let (responses, actions) = (Family::default(), Family::default());
        let (undo_failures, reconcile_errors, evidence) = (Counter::default(), Counter::default(), Counter::default());
        let (queue_depth, leader) = (Gauge::default(), Gauge::default());
        let time_to_contain = Histogram::new(TIME_TO_CONTAIN);
        let mut registry = Registry::with_prefix("tourniquet");
        registry.register(
            "responses",
            "Responses, when they are accepted, refused, planned, in force as a whole or not, and undone",
            Family::clone(&responses),
        );
        registry.register("actions", "Outcomes of actions, each when it comes to it", Family::clone(&actions));
        registry.register_with_unit(
            "time_to_contain",
            "From the first sight of a response until every target that it isolates is seen to be held",
            Unit::Seconds,
            time_to_contain.clone(),
        );
        registry.register(
            "undo_failures",
            "Requests of an undo that failed; each is tried again",
            undo_failures.clone(),
        );
        registry.register(
            "reconcile_errors",
            "Reconciles that did not come to their end; each is tried again",
            reconcile_errors.clone(),
        );
        registry.register_with_unit("evidence", "Evidence stored", Unit::Bytes, evidence.clone());
        registry.register("queue_depth", "Responses of which nothing was decided yet", queue_depth.clone());
        registry.register("leader", "Whether this operator acts (1) or stands by (0)", leader.clone());
        let seen = Mutex::default();
        Self(Arc::new(Counted {
            registry,
            responses,
            actions,
            time_to_contain,
            undo_failures,
            reconcile_errors,
            evidence,
            queue_depth,
            leader,
            seen,
        }))
    }

    /// Everything, as text.
    pub(crate) fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.0.registry)?;
        Ok(text)
    }

    pub(crate) fn leads(&self) {
        self.0.leader.set(1);
    }

    /// How many responses wait to be decided.
    pub(crate) fn waiting(&self, count: usize) {
        self.0.queue_depth.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A reconcile did not come to its end.
    pub(crate) fn failed(&self) {
        self.0.reconcile_errors.inc();
    }

    /// So many requests of an undo failed.
    pub(crate) fn not_undone(&self, count: usize) {
        self.0.undo_failures.inc_by(count as u64);
    }

    /// A response is looked at.
    pub(crate) fn sees(&self, uid: &str, response: &IncidentResponse) {
        if response.status.is_none() {
            self.seen().entry(uid.to_owned()).or_insert_with(Instant::now);
        }
    }

    /// A response is gone.
    pub(crate) fn forget(&self, uid: &str) {
        self.seen().remove(uid);
    }

    /// A status was written in the place of another.
    pub(crate) fn written(
        &self,
        uid: &str,
        actions: &[Action],
        before: &IncidentResponseStatus,
        after: &IncidentResponseStatus,
    ) {
        for outcome in turned(before, after) {
            self.0.responses.get_or_create(&OfResponse { outcome }).inc();
        }
        for (verb, outcome) in come_to(actions, before, after) {
            self.0.actions.get_or_create(&OfAction { verb, outcome: outcome.as_str() }).inc();
        }
        self.0.evidence.inc_by(stored(after).saturating_sub(stored(before)));
        if is(after, "Contained", "True")
            && let Some(since) = self.seen().remove(uid)
        {
            self.0.time_to_contain.observe(since.elapsed().as_secs_f64());
        }
    }

    /// A thread that panicked while it held the lock left the table whole: each change of it is one assignment.
    fn seen(&self) -> MutexGuard<'_, BTreeMap<String, Instant>> {
        self.0.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is(status: &IncidentResponseStatus, type_: &str, value: &str) -> bool {
    status.conditions.iter().any(|condition| condition.type_ == type_ && condition.status == value)
}

/// What a response has turned into.
fn turned(before: &IncidentResponseStatus, after: &IncidentResponseStatus) -> Vec<&'static str> {
    let (before, after) = (states(before), states(after));
    after.into_iter().filter(|state| !before.contains(state)).collect()
}

/// All that may be said of a response.
fn states(status: &IncidentResponseStatus) -> Vec<&'static str> {
    let planned = status.conditions.iter().any(|condition| condition.type_ == "Ready" && condition.reason == "Planned");
    let (accepted, reverted) = (is(status, "Accepted", "True"), is(status, "Reverted", "True"));
    let states = [
        ("Accepted", accepted),
        ("Refused", is(status, "Accepted", "False")),
        ("Planned", planned),
        ("Done", is(status, "Ready", "True") && !planned && !reverted),
        ("Failed", is(status, "Stalled", "True") && accepted),
        ("Reverted", reverted),
    ];
    states.into_iter().filter(|(_, so)| *so).map(|(state, _)| state).collect()
}

/// The outcomes that actions have come to, by verb.
fn come_to(
    actions: &[Action],
    before: &IncidentResponseStatus,
    after: &IncidentResponseStatus,
) -> Vec<(&'static str, Outcome)> {
    let outcome_before =
        |name: &str| before.actions.iter().find(|action| action.name == name).map(|action| action.outcome);
    let come = after.actions.iter().filter(|now| {
        !matches!(now.outcome, Outcome::Pending | Outcome::Running) && outcome_before(&now.name) != Some(now.outcome)
    });
    come.filter_map(|now| {
        let verb = actions.iter().find(|action| action.effective_name() == now.name)?.verb()?;
        Some((verb.as_str(), now.outcome))
    })
    .collect()
}

/// Bytes of evidence that are stored.
fn stored(status: &IncidentResponseStatus) -> u64 {
    let results = status.actions.iter().flat_map(|action| &action.results);
    let bytes = results.filter_map(|result| result.evidence.as_ref()).map(|evidence| evidence.bytes);
    bytes.map(|bytes| u64::try_from(bytes).unwrap_or_default()).sum()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests: a panic is a failed test")]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn status(conditions: Value, outcome: &str, bytes: i64) -> IncidentResponseStatus {
        let conditions: Vec<Value> = conditions
            .as_object()
            .unwrap()
            .iter()
            .map(|(type_, status)| {
                json!({ "type": type_, "status": status, "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z" })
            })
            .collect();
        serde_json::from_value(json!({
            "conditions": conditions,
            "actions": [{ "name": "first", "outcome": outcome, "results": [
                { "targetUID": "u", "outcome": outcome, "evidence": { "artifactsDone": 1, "artifactsTotal": 2, "bytes": bytes } },
            ] }],
        }))
        .unwrap()
    }

    #[test]
    fn what_is_counted_follows_from_what_was_written() {
        let metrics = Metrics::new();
        let actions: Vec<Action> = serde_json::from_value(json!([{ "name": "first", "isolate": {} }])).unwrap();
        let response: IncidentResponse = serde_json::from_value(json!({
            "apiVersion": "tourniquet.dev/v1alpha1", "kind": "IncidentResponse", "metadata": { "name": "r", "uid": "u" },
            "spec": { "target": { "node": { "name": "n" } }, "actions": [{ "cordon": {} }] },
        }))
        .unwrap();
        let story = [
            IncidentResponseStatus::default(),
            status(json!({ "Accepted": "True", "Ready": "False" }), "Running", 0),
            status(json!({ "Accepted": "True", "Ready": "False" }), "Running", 100),
            status(json!({ "Accepted": "True", "Ready": "True", "Contained": "True" }), "Done", 150),
            status(json!({ "Accepted": "True", "Ready": "True", "Contained": "True" }), "Done", 150),
            status(
                json!({ "Accepted": "True", "Ready": "True", "Contained": "False", "Reverted": "True" }),
                "Undone",
                150,
            ),
        ];
        metrics.sees("u", &response);
        for two in story.windows(2) {
            metrics.written("u", &actions, &two[0], &two[1]);
        }
        metrics.not_undone(2);
        metrics.failed();
        metrics.leads();
        metrics.waiting(3);
        let text = metrics.text().unwrap();
        for line in [
            r#"tourniquet_responses_total{outcome="Accepted"} 1"#,
            r#"tourniquet_responses_total{outcome="Done"} 1"#,
            r#"tourniquet_responses_total{outcome="Reverted"} 1"#,
            r#"tourniquet_actions_total{verb="isolate",outcome="Done"} 1"#,
            r#"tourniquet_actions_total{verb="isolate",outcome="Undone"} 1"#,
            "tourniquet_time_to_contain_seconds_count 1",
            "tourniquet_undo_failures_total 2",
            "tourniquet_reconcile_errors_total 1",
            "tourniquet_evidence_bytes_total 150",
            "tourniquet_queue_depth 3",
            "tourniquet_leader 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("Running"), "{text}");
    }

    /// What Prometheus stores of each: counters and histograms have more names than one.
    #[test]
    fn dashboard_and_alerts_ask_only_for_what_is_counted() {
        let metrics = Metrics::new();
        metrics.0.responses.get_or_create(&OfResponse { outcome: "Done" }).inc();
        metrics.0.actions.get_or_create(&OfAction { verb: "isolate", outcome: "Done" }).inc();
        metrics.0.time_to_contain.observe(1.0);
        let text = metrics.text().unwrap();
        let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        let names = |text: &str| -> std::collections::BTreeSet<String> {
            let words = text.split(|letter: char| !is_name(letter));
            words.filter(|word| word.starts_with("tourniquet_")).map(str::to_owned).collect()
        };
        let lines = text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n");
        let there = names(&lines);
        let mut asked = std::collections::BTreeSet::new();
        for file in ["dashboard.json", "alerts.yaml"] {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/observability/").to_owned() + file;
            let content = std::fs::read_to_string(path).unwrap();
            let found = names(&content);
            assert!(found.is_subset(&there), "{file} asks for {found:?}, of which there is only {there:?}");
            asked.extend(found);
        }
        // Of a histogram, sum and count come with the buckets.
        let unused: Vec<&String> =
            there.difference(&asked).filter(|name| !name.ends_with("_sum") && !name.ends_with("_count")).collect();
        assert!(unused.is_empty(), "nobody looks at {unused:?}");
        serde_json::from_str::<Value>(include_str!("../../../deploy/observability/dashboard.json")).unwrap();
    }
}

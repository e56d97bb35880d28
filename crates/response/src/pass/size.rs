//! A status has to fit: into etcd, and into everybody's watch.
//!
//! Two rules. A response is refused of which too much could have to be kept: its targets, the journal, what is known of each target beside words. And words give
//! way to that, the same ones each time.

use serde::Serialize;
use tourniquet_api::{Action, IncidentResponse, IncidentResponseStatus, PinnedTarget, PlannedEffect};

/// The most that a status may have, in bytes of JSON. etcd takes 1.5 MiB of an object, which has its spec and its managed fields as well, and each write goes to every watch.
pub(crate) const MOST: usize = 256 * 1024;
/// What is left for words when everything else is as large as it can be.
const WORDS: usize = 48 * 1024;
/// The outputs' ends, of all commands of a response.
const TAILS: usize = 32 * 1024;
/// How long a text may be, in bytes of JSON, where not all of it fits: the first that does.
const TEXTS: [usize; 5] = [1024, 512, 256, 128, 48];
/// How many entries of a list there may be then.
const ENTRIES: [usize; 5] = [512, 256, 128, 64, 16];
/// How many open connections of a target are listed then.
const CONNECTIONS: [usize; 5] = [20, 10, 5, 2, 0];

/// Why not all that has to be kept could be; `None` when it can.
pub(crate) fn too_large(response: &IncidentResponse, targets: &[PinnedTarget]) -> Option<String> {
    let actions = &response.spec.actions;
    let folder = folder(response, targets);
    let each: usize = actions.iter().map(|action| kept(action, folder)).sum();
    let runs = actions.iter().any(|action| action.run.is_some());
    let kept = size(&targets) + targets.len() * each + actions.len() * 256 + if runs { TAILS } else { 0 };
    (kept + WORDS > MOST).then(|| {
        format!(
            "what has to be kept of {} actions on {} targets may come to {} KiB, and a status has {}: create several responses, of fewer actions or of fewer targets each",
            actions.len(),
            targets.len(),
            kept.div_ceil(1024),
            (MOST - WORDS) / 1024
        )
    })
}

/// How much of a result of this action has to be kept, in bytes, without its message.
fn kept(action: &Action, folder: usize) -> usize {
    // UID, outcome, reason, time.
    const RESULT: usize = 240;
    // Two directions, with addresses and times.
    const PROBES: usize = 2 * 240;
    // That it was begun, and by which instance: a pod's name, a number, a time. A command has a second one.
    const BEGUN: usize = 400;
    // A label's key, value and writer, each as long as it can be.
    const LABEL: usize = 317 + 63 + 128 + 60;
    const DIGEST: usize = 64 + 120;
    let journal = action.label.as_ref().filter(|label| label.overwrite).map_or(0, |label| label.set.len() * LABEL);
    let isolated = if action.isolate.is_some() { PROBES } else { 0 };
    let collected = if action.collect.is_some() { BEGUN + DIGEST + folder } else { 0 };
    let run = action
        .run
        .as_ref()
        .map_or(0, |run| 2 * BEGUN + 120 + if run.store_ref.is_some() { DIGEST + folder } else { 0 });
    RESULT + journal + isolated + collected + run
}

/// The longest URL of a folder of this response, in bytes. In one, every byte that is not plain becomes three.
fn folder(response: &IncidentResponse, targets: &[PinnedTarget]) -> usize {
    // Endpoint, container, prefix and cluster: of ordinary length. One that is longer takes from the words.
    const STORE: usize = 256;
    let name = |name: &Option<String>| name.as_deref().map_or(0, str::len);
    let target = targets.iter().map(|target| target.name.len()).max().unwrap_or_default();
    STORE + name(&response.metadata.namespace) + name(&response.metadata.name) + target + 63 + 2 * 9 + 5
}

/// Cuts what explains, until all of it fits.
pub(crate) fn fit(status: &mut IncidentResponseStatus) {
    for ((text, entries), connections) in TEXTS.into_iter().zip(ENTRIES).zip(CONNECTIONS) {
        if size(status) <= MOST {
            return;
        }
        shorten(status, text, entries, connections);
    }
}

fn shorten(status: &mut IncidentResponseStatus, text: usize, entries: usize, connections: usize) {
    for condition in &mut status.conditions {
        cut(&mut condition.message, text.max(512));
    }
    for action in &mut status.actions {
        action.message.iter_mut().for_each(|message| cut(message, text.max(256)));
        for result in &mut action.results {
            result.message.iter_mut().for_each(|message| cut(message, text));
            if let Some(open) = &mut result.connections {
                open.first.truncate(connections);
                open.first.iter_mut().for_each(|one| cut(one, 128));
            }
        }
    }
    // The worst are first.
    status.residual.truncate(entries);
    for residual in &mut status.residual {
        cut(&mut residual.message, text);
        // Half a command must not be pasted.
        residual.remedy.take_if(|remedy| size(remedy) > text);
    }
    let more = status.plan.len().saturating_sub(entries);
    if more > 0 {
        // Of those that were left out before as well.
        let already = status.plan.last().and_then(left_out).unwrap_or_default();
        let of_steps = more - usize::from(already > 0) + already + 1;
        status.plan.truncate(entries - 1);
        status.plan.push(PlannedEffect {
            verb: MORE.to_owned(),
            object: of_steps.to_string(),
            change: "further steps, for which there is no room here: plan a response for fewer targets or actions"
                .to_owned(),
            ..PlannedEffect::default()
        });
    }
    for step in &mut status.plan {
        cut(&mut step.change, text);
        step.meets.iter_mut().for_each(|meets| cut(meets, text));
    }
}

/// The verb of the entry that stands for steps that are left out.
const MORE: &str = "And";

fn left_out(last: &PlannedEffect) -> Option<usize> {
    Some(last).filter(|last| last.verb == MORE)?.object.parse().ok()
}

/// Cuts a text to so many bytes of JSON.
fn cut(text: &mut String, most: usize) {
    const END: &str = "…";
    if size(text) <= most {
        return;
    }
    let mut room = most.saturating_sub(END.len() + 2);
    let in_json = |letter: char| match letter {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        letter if letter < ' ' => 6,
        letter => letter.len_utf8(),
    };
    let over = text.char_indices().find(|(_, letter)| {
        let size = in_json(*letter);
        let fits = size <= room;
        room = room.saturating_sub(size);
        !fits
    });
    let end = over.map_or(text.len(), |(at, _)| at);
    text.truncate(end);
    text.push_str(END);
}

/// In bytes of JSON.
fn size(value: &(impl Serialize + ?Sized)) -> usize {
    // What cannot be written is not stored either.
    serde_json::to_vec(value).map_or(0, |json| json.len())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests: a panic is a failed test")]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
    use serde_json::{Value, json};
    use tourniquet_api::{
        ActionStatus, Answer, Change, Connections, Direction, EvidenceResult, Outcome, Outputs, PinnedContainer, Probe,
        Residual, RunResult, TargetResult,
    };

    use super::*;

    /// Six bytes of JSON each.
    fn words(count: usize) -> String {
        "\u{1}".repeat(count)
    }

    fn now() -> Time {
        Time("2026-11-23T03:12:00Z".parse().unwrap())
    }

    fn targets(count: usize) -> Vec<PinnedTarget> {
        let container = |index: usize| PinnedContainer {
            name: format!("{}-{index}", "c".repeat(30)),
            container_id: Some(format!("containerd://{}", "0".repeat(64))),
            restart_count: 1000,
        };
        let target = |index: usize| PinnedTarget {
            kind: "Pod".to_owned(),
            namespace: Some("n".repeat(63)),
            name: format!("{}-{index}", "p".repeat(60)),
            uid: format!("{index:036}"),
            node: Some("n".repeat(63)),
            containers: (0..3).map(container).collect(),
            pods: None,
        };
        (0..count).map(target).collect()
    }

    fn response(actions: &Value) -> IncidentResponse {
        serde_json::from_value(json!({
            "apiVersion": "tourniquet.dev/v1alpha1", "kind": "IncidentResponse",
            "metadata": { "namespace": "n".repeat(63), "name": "r".repeat(63) },
            "spec": { "target": { "pods": { "namespace": "n", "selector": {}, "limit": 50 } }, "actions": actions },
        }))
        .unwrap()
    }

    /// Everything as large as it can be, whatever it is of.
    fn worst(response: &IncidentResponse, targets: Vec<PinnedTarget>) -> IncidentResponseStatus {
        let outputs: usize =
            response.spec.actions.iter().filter(|action| action.run.is_some()).count() * targets.len() * 2;
        let tail = Some(words((4096.min(32 * 1024 / outputs.max(1))) / 6));
        let url = "u".repeat(folder(response, &targets));
        let result = |action: &Action, target: &PinnedTarget| {
            let mut result = TargetResult {
                target_uid: target.uid.clone(),
                outcome: Outcome::Unknown,
                reason: Some("ContainmentUnknownAndMore".to_owned()),
                message: Some(words(600)),
                applied_at: Some(now()),
                ..TargetResult::default()
            };
            let begun = Change {
                what: "undo command".to_owned(),
                before: Some(format!("{} 4194304 2026-11-23T03:12:00.123456789Z", "o".repeat(63))),
                ..Change::default()
            };
            if action.isolate.is_some() {
                let probe = Probe {
                    direction: Direction::Ingress,
                    peer: format!("[{}]:65535", "f".repeat(39)),
                    before: Answer::Unreachable,
                    before_at: now(),
                    after: Some(Answer::Unreachable),
                    at: Some(now()),
                };
                result.probes = vec![probe.clone(), probe];
                result.connections = Some(Connections { count: 10_000, first: vec![words(200); 20] });
            }
            if let Some(label) = &action.label {
                let changes = label.set.iter().map(|(key, value)| Change {
                    what: format!("label {key}"),
                    before: Some(value.clone()),
                    manager: Some("m".repeat(128)),
                });
                result.changes = changes.collect();
            }
            if action.collect.is_some() {
                result.changes = vec![begun.clone()];
                result.evidence = Some(EvidenceResult {
                    artifacts_done: i32::MAX,
                    artifacts_total: i32::MAX,
                    bytes: i64::MAX,
                    record_digest: Some("0".repeat(64)),
                    url: Some(url.clone()),
                });
            }
            if action.run.is_some() {
                result.changes = vec![begun.clone(), begun];
                result.run = Some(RunResult {
                    exit_code: Some(i32::MIN),
                    stdout_tail: tail.clone(),
                    stderr_tail: tail.clone(),
                    outputs: Some(Outputs::Incomplete),
                    digest: Some("0".repeat(64)),
                    url: Some(url.clone()),
                });
            }
            result
        };
        let action = |action: &Action| ActionStatus {
            name: action.effective_name().to_owned(),
            message: Some(words(600)),
            started_at: Some(now()),
            finished_at: Some(now()),
            results: targets.iter().map(|target| result(action, target)).collect(),
            ..ActionStatus::default()
        };
        let condition = |type_: &str| Condition {
            type_: type_.to_owned(),
            status: "Unknown".to_owned(),
            reason: "r".repeat(40),
            message: words(600),
            observed_generation: Some(3),
            last_transition_time: now(),
        };
        let residual = Residual {
            code: "SameServiceAccountElsewhere".to_owned(),
            severity: "Medium".to_owned(),
            message: words(600),
            remedy: Some(words(600)),
        };
        let step = PlannedEffect {
            action: "a".repeat(63),
            verb: "Apply".to_owned(),
            object: "o".repeat(350),
            change: words(600),
            when: Some("w".repeat(60)),
            meets: Some(words(600)),
        };
        IncidentResponseStatus {
            conditions: [
                "Accepted",
                "Ready",
                "Contained",
                "Reconciling",
                "Stalled",
                "Reverted",
                "EvidenceIntact",
                "ReleaseRecorded",
            ]
            .map(condition)
            .to_vec(),
            actions: response.spec.actions.iter().map(action).collect(),
            residual: vec![residual; 100],
            plan: vec![step; 600],
            targets,
            ..IncidentResponseStatus::default()
        }
    }

    fn label(count: usize) -> Value {
        let set: serde_json::Map<String, Value> =
            (0..count).map(|index| (format!("{}/{index:063}", "k".repeat(253)), json!("v".repeat(63)))).collect();
        json!({ "label": { "set": set, "overwrite": true } })
    }

    fn collect() -> Value {
        json!({ "collect": { "storeRef": { "name": "soc" } } })
    }

    fn run() -> Value {
        json!({ "run": { "command": ["/bin/true"], "storeRef": { "name": "soc" } } })
    }

    fn sixteen(verb: &Value) -> Value {
        let named = |index: usize| {
            let mut action = verb.clone();
            action["name"] = json!(format!("{}-{index}", "a".repeat(60)));
            action
        };
        (0..16).map(named).collect()
    }

    #[test]
    fn the_largest_status_that_is_accepted_fits_and_keeps_what_has_to_be_kept() {
        let isolate = json!({ "isolate": {} });
        let mut accepted = 0;
        for actions in [
            json!([isolate]),
            json!([isolate, collect(), { "label": { "set": { "a": "b" } } }]),
            json!([isolate, label(1), run()]),
            json!([label(16)]),
            json!([run(), collect()]),
            sixteen(&isolate),
            sixteen(&collect()),
            sixteen(&run()),
            sixteen(&label(16)),
        ] {
            let response = response(&actions);
            // As many as there may be, or as are accepted.
            let Some(most) = (1..=50).rev().find(|count| too_large(&response, &targets(*count)).is_none()) else {
                continue;
            };
            accepted += 1;
            let whole = worst(&response, targets(most));
            let mut fitted = whole.clone();
            fit(&mut fitted);
            let size = size(&fitted);
            assert!(size <= MOST, "{} actions on {most} targets: {size} bytes", response.spec.actions.len());
            assert_eq!(fitted.targets, whole.targets);
            for (fitted, whole) in fitted.actions.iter().zip(&whole.actions) {
                for (fitted, whole) in fitted.results.iter().zip(&whole.results) {
                    assert_eq!((&fitted.changes, &fitted.run), (&whole.changes, &whole.run));
                    assert_eq!((&fitted.evidence, &fitted.probes), (&whole.evidence, &whole.probes));
                }
            }
        }
        assert!(accepted >= 8, "{accepted}");
    }

    #[test]
    fn what_a_responder_would_ask_for_of_fifty_pods_is_accepted() {
        let all = json!([{ "isolate": {} }, collect(), { "label": { "set": { "incident": "4711" } } }]);
        assert_eq!(too_large(&response(&all), &targets(50)), None);
    }

    #[test]
    fn what_could_not_be_kept_is_refused_with_what_to_do() {
        let message = too_large(&response(&sixteen(&label(16))), &targets(50)).unwrap();
        assert!(message.contains("16 actions on 50 targets") && message.contains("several responses"), "{message}");
    }

    #[test]
    fn what_fits_stays_as_it_is_and_what_was_cut_is_not_cut_again() {
        let response = response(&json!([{ "isolate": {} }]));
        let mut small = worst(&response, targets(1));
        (small.plan, small.residual) = (Vec::new(), Vec::new());
        let mut fitted = small.clone();
        fit(&mut fitted);
        assert_eq!(fitted, small);
        let mut once = worst(&response, targets(50));
        fit(&mut once);
        let mut twice = once.clone();
        fit(&mut twice);
        assert_eq!(once, twice);
        assert_eq!(once.plan.last().and_then(left_out).map(|more| more + once.plan.len() - 1), Some(600));
    }

    #[test]
    fn a_text_is_cut_between_letters() {
        for (text, most, is) in
            [("short", 20, "short"), ("ääää", 9, "ää…"), ("a\u{1}b", 9, "a…"), ("\"\"\"\"", 9, "\"\"…")]
        {
            let mut cutting = text.to_owned();
            cut(&mut cutting, most);
            assert_eq!(cutting, is);
            assert!(size(&cutting) <= most);
        }
    }
}

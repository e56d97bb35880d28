//! What is worth an event: the changes from one status to the next, for whoever looks at the response, or at a pod that no
//! longer answers and asks why.
//!
//! The status is the record; events are how it is noticed, and may be lost (see `tourniquet-operator`). Nothing is noted but
//! transitions, so a status that is written again notes nothing.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use serde_json::Value;
use tourniquet_api::{IncidentResponse, IncidentResponseStatus, PinnedTarget, Residual};

use crate::conditions::{find, is_true};
use crate::{pass, status, target, unreadable};

/// The API server refuses an event with a longer note (Kubernetes 1.36, `pkg/apis/core/validation/events.go`).
const NOTE_LIMIT: usize = 1024;

/// An alert's identifier can be as long as a note.
const INCIDENT_LIMIT: usize = 64;

/// The residual that says what `Contained` says. Its remedy goes into the note about that.
const NOT_CONTAINED: &str = "NotContained";

/// How an event is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoteType {
    /// As it was asked for.
    Normal,
    /// Somebody may have to look.
    Warning,
}

/// What an event is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the fields name the object")]
pub enum About {
    /// The response.
    Response,
    /// A pod that it targets.
    Pod { namespace: String, name: String, uid: String },
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// How it is shown.
    pub type_: NoteType,
    /// Why, in one word.
    pub reason: String,
    /// What was being done, in one word.
    pub action: &'static str,
    /// A sentence for the responder, within what the API server takes.
    pub note: String,
    /// The object under which it is shown.
    pub about: About,
}

/// What is worth an event in the change from a status to the one that was written after it.
#[must_use]
pub fn notes(
    response: &IncidentResponse,
    before: &IncidentResponseStatus,
    after: &IncidentResponseStatus,
) -> Vec<Note> {
    let incident = response.spec.incident.as_ref().and_then(|incident| incident.id.as_deref());
    let verbs = response.spec.actions.iter().map(|action| action.effective_name());
    let mut change = Change {
        by: named(&response.metadata, incident),
        isolates: status::isolates(response),
        before,
        after,
        notes: Vec::new(),
    };
    change.decision(&verbs.collect::<Vec<_>>().join(", "));
    change.in_force();
    change.still_open();
    change.release();
    change.notes
}

/// The same of a stored object that this version cannot read.
#[must_use]
pub fn notes_of_unreadable(metadata: &ObjectMeta, before: &Value, after: &Value) -> Vec<Note> {
    let readable = |status: &Value| IncidentResponseStatus {
        conditions: unreadable::list(status, "conditions"),
        targets: unreadable::list(status, "targets"),
        ..IncidentResponseStatus::default()
    };
    let (before, after) = (readable(before), readable(after));
    let by = named(metadata, None);
    let mut change = Change { by, isolates: true, before: &before, after: &after, notes: Vec::new() };
    change.decision("");
    change.in_force();
    change.notes
}

/// The response, as it is called in the notes on its targets.
fn named(metadata: &ObjectMeta, incident: Option<&str>) -> String {
    let name = format!("IncidentResponse {}", pass::full_name(metadata));
    match incident {
        Some(id) => format!("{name} (incident {})", id.chars().take(INCIDENT_LIMIT).collect::<String>()),
        None => name,
    }
}

struct Change<'a> {
    by: String,
    isolates: bool,
    before: &'a IncidentResponseStatus,
    after: &'a IncidentResponseStatus,
    notes: Vec<Note>,
}

impl<'a> Change<'a> {
    fn note(&mut self, about: About, type_: NoteType, reason: &str, action: &'static str, note: &str) {
        self.notes.push(Note { type_, reason: reason.to_owned(), action, note: bounded(note), about });
    }

    fn on_response(&mut self, type_: NoteType, reason: &str, action: &'static str, note: &str) {
        self.note(About::Response, type_, reason, action, note);
    }

    fn on_pods(&mut self, type_: NoteType, reason: &str, action: &'static str, note: &str) {
        for target in self.after.targets.iter().filter(|target| target.kind == "Pod") {
            let about = About::Pod {
                namespace: target.namespace.clone().unwrap_or_default(),
                name: target.name.clone(),
                uid: target.uid.clone(),
            };
            self.note(about, type_, reason, action, note);
        }
    }

    /// The condition, where it has this status and had not before.
    fn turned(&self, type_: &str, is: &str) -> Option<&'a Condition> {
        let had = find(&self.before.conditions, type_).is_some_and(|before| before.status == is);
        find(&self.after.conditions, type_).filter(|after| !had && after.status == is)
    }

    /// The condition, where it has this status and had not before, or for another reason.
    fn turned_because(&self, type_: &str, is: &str) -> Option<&'a Condition> {
        let same = |before: &Condition, after: &Condition| before.status == is && before.reason == after.reason;
        find(&self.after.conditions, type_)
            .filter(|after| after.status == is)
            .filter(|after| !find(&self.before.conditions, type_).is_some_and(|before| same(before, after)))
    }

    /// What a condition says, without the name of the action that it begins with.
    fn said(&self, condition: &'a Condition) -> &'a str {
        let of = |name: &str| condition.message.strip_prefix(name)?.strip_prefix(": ");
        self.after.actions.iter().find_map(|action| of(&action.name)).unwrap_or(&condition.message)
    }

    /// The same, with what to do about a target that is open.
    fn said_with_remedy(&self, condition: &'a Condition) -> String {
        let open = self.after.residual.iter().find(|residual| residual.code == NOT_CONTAINED);
        with_remedy(self.said(condition), open.and_then(|residual| residual.remedy.as_deref()))
    }

    fn decision(&mut self, verbs: &str) {
        if let Some(accepted) = self.turned("Accepted", "True") {
            if accepted.reason == "PlanOnly" {
                let steps = self.after.plan.len();
                let note = format!("a dry run: nothing is touched; the plan in status.plan has {steps} steps");
                self.on_response(NoteType::Normal, "Planned", "Accept", &note);
            } else {
                let targets: Vec<String> = self.after.targets.iter().map(pinned).collect();
                let note = format!("{verbs} is carried out on {}", targets.join(", "));
                self.on_response(NoteType::Normal, "Accepted", "Accept", &note);
            }
        }
        if let Some(refused) = self.turned("Accepted", "False") {
            let note = format!("{}: {}; nothing was touched", refused.reason, refused.message);
            self.on_response(NoteType::Warning, "Refused", "Accept", &note);
        }
    }

    /// Whether it came into force, stopped being so, or ended up as something less than was asked for.
    fn in_force(&mut self) {
        let by = self.by.clone();
        // One that waits for another holder can stop and begin to wait again: that is no isolation that somebody asked for now.
        let held = find(&self.after.conditions, "Reverted").is_none();
        if let Some(contained) = self.turned("Contained", "True").filter(|_| held) {
            let said = self.said(contained);
            self.on_response(NoteType::Normal, "Contained", "Isolate", said);
            // For the pod's owner it is the answer to "why does nothing reach it": found with `--field-selector type=Warning`.
            self.on_pods(NoteType::Warning, "Isolated", "Isolate", &format!("Isolated by {by}: {said}"));
        }
        if let Some(evidence) = find(&self.after.conditions, "EvidenceIntact").filter(|now| now.status == "False") {
            let before = find(&self.before.conditions, "EvidenceIntact");
            if before.is_none_or(|before| before.status != "False" || before.message != evidence.message) {
                self.on_response(NoteType::Warning, "EvidenceLost", "Observe", &evidence.message);
            }
        }
        if self.lets_go() {
            return;
        }
        let no_longer = find(&self.after.conditions, "Contained").filter(|contained| contained.status != "True");
        if let Some(contained) = no_longer.filter(|_| is_true(&self.before.conditions, "Contained")) {
            let said = self.said_with_remedy(contained);
            let (reason, opening) = match (contained.status.as_str(), contained.reason.as_str()) {
                (_, "TargetGone") => {
                    self.on_response(NoteType::Warning, "TargetGone", "Observe", &said);
                    return;
                }
                ("Unknown", _) => ("ContainmentUnknown", "Nobody can see whether it is still isolated"),
                _ => ("ContainmentLost", "No longer isolated"),
            };
            self.on_response(NoteType::Warning, reason, "Observe", &said);
            self.on_pods(NoteType::Warning, reason, "Observe", &format!("{opening}, as {by} asks: {said}"));
        } else if let Some(stalled) = self.turned_because("Stalled", "True")
            && is_true(&self.after.conditions, "Accepted")
        {
            let said = self.said_with_remedy(stalled);
            self.on_response(NoteType::Warning, "NotDone", "Observe", &format!("{}: {said}", stalled.reason));
            if self.isolates && !is_true(&self.after.conditions, "Contained") {
                let note = format!("Not seen isolated, as {by} asks: {said}");
                self.on_pods(NoteType::Warning, "NotIsolated", "Observe", &note);
            }
        }
    }

    /// High residuals that are new, or say something new.
    fn still_open(&mut self) {
        let same = |one: &Residual, other: &Residual| one.code == other.code && one.message == other.message;
        for residual in &self.after.residual {
            let known = self.before.residual.iter().any(|before| same(before, residual));
            if residual.severity != "High" || residual.code == NOT_CONTAINED || known {
                continue;
            }
            let note = with_remedy(&residual.message, residual.remedy.as_deref());
            self.on_response(NoteType::Warning, &residual.code, "Observe", &note);
            // Something in the pod fights back: whoever looks at the pod has to know.
            if residual.code == "CutTamperedWith" {
                self.on_pods(NoteType::Warning, &residual.code, "Observe", &note);
            }
        }
    }

    fn release(&mut self) {
        if let Some(reverted) = self.turned_because("Reverted", "False") {
            match reverted.reason.as_str() {
                "UndoBlocked" | status::UNDO_FAILED => {
                    self.on_response(NoteType::Warning, &reverted.reason, "Release", &reverted.message);
                }
                "WaitingForHolder" => {
                    self.on_response(NoteType::Normal, &reverted.reason, "Release", &reverted.message);
                }
                _ => {}
            }
        }
        if let Some(reverted) = self.turned("Reverted", "True") {
            let contained = find(&self.after.conditions, "Contained");
            let held = contained.filter(|contained| contained.reason == "HeldByOther");
            let rest = held.map_or_else(String::new, |held| format!("; {}", held.message));
            self.on_response(NoteType::Normal, &reverted.reason, "Release", &format!("{}{rest}", reverted.message));
            let (by, expired) = (self.by.clone(), if reverted.reason == "Expired" { ", which expired" } else { "" });
            let note = format!("Released by {by}{expired}: {}{rest}", reverted.message);
            self.on_pods(NoteType::Normal, "Released", "Release", &note);
        }
    }

    /// Whether what it holds is being undone, and nothing is claimed of it any more. One that waits for another holder, or
    /// could not look yet, holds on.
    fn lets_go(&self) -> bool {
        find(&self.after.conditions, "Reverted")
            .is_some_and(|reverted| !matches!(reverted.reason.as_str(), "WaitingForHolder" | "CannotObserve"))
    }
}

fn pinned(target: &PinnedTarget) -> String {
    let node = target.node.as_ref().map_or_else(String::new, |node| format!(" on node {node}"));
    format!("{} (UID {}){node}", target::describe(target), target.uid)
}

fn with_remedy(message: &str, remedy: Option<&str>) -> String {
    remedy.map_or_else(|| message.to_owned(), |remedy| format!("{message}. What to do: {remedy}"))
}

/// Within the API server's limit, and in one line: parts of it come from alerts and error messages.
pub(crate) fn bounded(text: &str) -> String {
    const MORE: &str = "…";
    let line: String = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    if line.len() <= NOTE_LIMIT {
        return line;
    }
    let end = (0..=NOTE_LIMIT - MORE.len()).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
    format!("{}{MORE}", line.get(..end).unwrap_or_default())
}

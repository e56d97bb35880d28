//! What is worth an event: the changes from one status to the next, for whoever looks at the response, or at a pod that no
//! longer answers, a node that takes no pods, a namespace with a new label, and asks why.
//!
//! The status is the record; events are how it is noticed, and may be lost (see `tourniquet-operator`). Nothing is noted but
//! transitions, so a status that is written again notes nothing.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use serde_json::Value;
use tourniquet_api::{
    ActionStatus, IncidentResponse, IncidentResponseStatus, Outcome, PinnedTarget, Residual, TargetResult,
};

use crate::action::DRIFTED;
use crate::conditions::{find, is_true};
use crate::effect::{Kind, ObjectRef};
use crate::pass::RELEASE_RECORDED;
use crate::{pass, status, target, unreadable};

/// The API server refuses an event with a longer note (Kubernetes 1.36, `pkg/apis/core/validation/events.go`).
const NOTE_LIMIT: usize = 1024;

/// An alert's identifier can be as long as a note.
const INCIDENT_LIMIT: usize = 64;

/// The residual that says what `Contained` says. Its remedy goes into the note about that.
const NOT_CONTAINED: &str = "NotContained";

/// Something less than was asked for, on the response and on a target.
pub(crate) const NOT_DONE: &str = "NotDone";
pub(crate) const NOT_ISOLATED: &str = "NotIsolated";
/// A folder of evidence was finished.
const EVIDENCE_SEALED: &str = "EvidenceSealed";
/// The isolation is in force.
pub(crate) const CONTAINED: &str = "Contained";

/// How an event is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoteType {
    /// As it was asked for.
    Normal,
    /// Somebody may have to look.
    Warning,
}

/// What an event is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum About {
    /// The response, or whichever resource of ours it is that something is noted of.
    Response,
    /// An object that it targets.
    Object(ObjectRef),
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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

impl Note {
    /// One about the resource of ours itself, in one line and within what the API server takes.
    #[must_use]
    pub fn of_itself(type_: NoteType, reason: &str, action: &'static str, note: &str) -> Self {
        Self { type_, reason: reason.to_owned(), action, note: bounded(note), about: About::Response }
    }
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
    let isolating = response.spec.actions.iter().filter(|action| action.isolate.is_some());
    let mut change = Change {
        by: named(&response.metadata, incident),
        isolates: status::isolates(response),
        isolating: isolating.map(|action| action.effective_name()).collect(),
        before,
        after,
        notes: Vec::new(),
    };
    change.decision(&verbs.collect::<Vec<_>>().join(", "));
    change.in_force();
    change.in_place();
    change.stored();
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
    let mut change =
        Change { by, isolates: true, isolating: Vec::new(), before: &before, after: &after, notes: Vec::new() };
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
    /// The names of the actions that isolate, where they are known.
    isolating: Vec<&'a str>,
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

    fn on_target(&mut self, target: &PinnedTarget, type_: NoteType, reason: &str, action: &'static str, note: &str) {
        if let Some(kind) = target::kind(target) {
            self.note(About::Object(target::object(target, kind)), type_, reason, action, note);
        }
    }

    /// The targets that can be isolated.
    fn isolated(&self) -> impl Iterator<Item = &'a PinnedTarget> + use<'a> {
        let can_be = |target: &&PinnedTarget| matches!(target::kind(target), Some(Kind::Pod | Kind::Namespace));
        self.after.targets.iter().filter(can_be)
    }

    /// What became of the isolation of one target.
    fn isolation(&self, status: &'a IncidentResponseStatus, target: &PinnedTarget) -> Option<&'a TargetResult> {
        let mut isolations = status.actions.iter().filter(|action| self.isolating.contains(&action.name.as_str()));
        isolations.find_map(|action| result(action, &target.uid))
    }

    /// Whether this target is isolated as it was asked for, whatever became of others.
    fn is_done(&self, status: &'a IncidentResponseStatus, target: &PinnedTarget) -> bool {
        self.isolation(status, target).is_some_and(|result| result.outcome == Outcome::Done)
    }

    /// What is said of one target's isolation; of the only one it is what the condition says.
    fn said_of(&self, target: &PinnedTarget, condition: &'a Condition) -> &'a str {
        let several = self.after.targets.len() > 1;
        let own = self.isolation(self.after, target).filter(|_| several).and_then(|result| result.message.as_deref());
        own.unwrap_or_else(|| self.said(condition))
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
    fn with_open_remedy(&self, said: &str) -> String {
        let open = self.after.residual.iter().find(|residual| residual.code == NOT_CONTAINED);
        with_remedy(said, open.and_then(|residual| residual.remedy.as_deref()))
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
            self.on_response(NoteType::Normal, CONTAINED, "Isolate", said);
            // For the pod's owner it is the answer to "why does nothing reach it": found with `--field-selector type=Warning`.
            for target in self.isolated() {
                let note = format!("Isolated by {by}: {}", self.said_of(target, contained));
                self.on_target(target, NoteType::Warning, "Isolated", "Isolate", &note);
            }
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
        if let Some(no_longer) = no_longer.filter(|_| is_true(&self.before.conditions, "Contained")) {
            let said = self.with_open_remedy(self.said(no_longer));
            let (reason, opening) = match (no_longer.status.as_str(), no_longer.reason.as_str()) {
                (_, "TargetGone") => {
                    self.on_response(NoteType::Warning, "TargetGone", "Observe", &said);
                    return;
                }
                ("Unknown", _) => ("ContainmentUnknown", "Nobody can see whether it is still isolated"),
                _ => ("ContainmentLost", "No longer isolated"),
            };
            self.on_response(NoteType::Warning, reason, "Observe", &said);
            // Of several, those that are still held are not lost; where all are done, the results are older than the condition.
            let all_done = self.isolated().all(|target| self.is_done(self.after, target));
            for target in self.isolated() {
                if !all_done && self.is_done(self.after, target) {
                    continue;
                }
                let said = self.with_open_remedy(self.said_of(target, no_longer));
                self.on_target(
                    target,
                    NoteType::Warning,
                    reason,
                    "Observe",
                    &format!("{opening}, as {by} asks: {said}"),
                );
            }
        } else if let Some(stalled) = self.turned_because("Stalled", "True")
            && is_true(&self.after.conditions, "Accepted")
        {
            let said = self.with_open_remedy(self.said(stalled));
            self.on_response(NoteType::Warning, NOT_DONE, "Observe", &format!("{}: {said}", stalled.reason));
            if self.isolates && !is_true(&self.after.conditions, "Contained") {
                for target in self.isolated() {
                    let said = self.said_of(target, stalled);
                    if !self.is_done(self.after, target) {
                        let note = format!("Not seen isolated, as {by} asks: {}", self.with_open_remedy(said));
                        self.on_target(target, NoteType::Warning, NOT_ISOLATED, "Observe", &note);
                    } else if !self.is_done(self.before, target) {
                        let note = format!("Isolated by {by}: {said}");
                        self.on_target(target, NoteType::Warning, "Isolated", "Isolate", &note);
                    }
                }
            }
        }
    }

    /// What actions that contain nothing came to on each target, for whoever asks who labelled it or cordoned it.
    fn in_place(&mut self) {
        if self.lets_go() {
            return;
        }
        let is_in_place = |result: &TargetResult| {
            result.outcome == Outcome::Done && result.reason.as_deref().is_some_and(|reason| reason != "TargetGone")
        };
        let by = self.by.clone();
        let (before, after) = (self.before, self.after);
        for action in &after.actions {
            if self.isolating.contains(&action.name.as_str()) {
                continue;
            }
            let former = before.actions.iter().find(|before| before.name == action.name);
            for now in &action.results {
                let was = former.and_then(|former| result(former, &now.target_uid));
                let Some(target) = after.targets.iter().find(|target| target.uid == now.target_uid) else { continue };
                let (reason, message) = (now.reason.as_deref().unwrap_or_default(), now.message.as_deref());
                let message = message.unwrap_or_default();
                if is_in_place(now) && !was.is_some_and(is_in_place) {
                    let note = format!("{reason} by {by}: {message}");
                    self.on_target(target, NoteType::Normal, reason, "Apply", &note);
                } else if reason == DRIFTED && was.is_none_or(|was| was.reason.as_deref() != Some(DRIFTED)) {
                    let note = format!("No longer as {by} asks: {message}");
                    self.on_target(target, NoteType::Warning, reason, "Observe", &note);
                }
            }
        }
    }

    /// Evidence that was sealed: the digest of its record outside of the store, for whoever has to show later that nothing was changed in it. An event lasts
    /// for about an hour, and whoever keeps events keeps this.
    fn stored(&mut self) {
        let (before, after) = (self.before, self.after);
        for action in &after.actions {
            let former = before.actions.iter().find(|before| before.name == action.name);
            for now in &action.results {
                let was = former.and_then(|former| result(former, &now.target_uid));
                let Some((digest, url)) = sealed(now).filter(|_| was.is_none_or(|was| sealed(was).is_none())) else {
                    continue;
                };
                let Some(target) = after.targets.iter().find(|target| target.uid == now.target_uid) else { continue };
                let what = match &now.evidence {
                    Some(evidence) => format!(
                        "{} of {} artifacts of {} are stored whole",
                        evidence.artifacts_done,
                        evidence.artifacts_total,
                        target::describe(target)
                    ),
                    None => format!("the outputs of a command in {} are stored", target::describe(target)),
                };
                let note = format!("{}: {what}; SHA-256 of the record {digest}; {url}", action.name);
                self.on_response(NoteType::Normal, EVIDENCE_SEALED, "Collect", &note);
                let note = format!("Evidence of {}, {note}", self.by);
                self.on_target(target, NoteType::Normal, EVIDENCE_SEALED, "Collect", &note);
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
                for target in self.isolated().filter(|target| is_named(target, &residual.message)) {
                    self.on_target(target, NoteType::Warning, &residual.code, "Observe", &note);
                }
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
        if let Some(not_recorded) = self.turned(RELEASE_RECORDED, "False") {
            self.on_response(NoteType::Warning, "ReleaseNotRecorded", "Release", &not_recorded.message);
        }
        if let Some(reverted) = self.turned("Reverted", "True") {
            let contained = find(&self.after.conditions, "Contained");
            let held = contained.filter(|contained| contained.reason == "HeldByOther");
            let rest = held.map_or_else(String::new, |held| format!("; {}", held.message));
            self.on_response(NoteType::Normal, &reverted.reason, "Release", &format!("{}{rest}", reverted.message));
            let (by, expired) = (self.by.clone(), if reverted.reason == "Expired" { ", which expired" } else { "" });
            let note = format!("Released by {by}{expired}: {}{rest}", reverted.message);
            for target in &self.after.targets {
                self.on_target(target, NoteType::Normal, "Released", "Release", &note);
            }
        }
    }

    /// Whether what it holds is being undone, and nothing is claimed of it any more. One that waits for another holder, or
    /// could not look yet, holds on.
    fn lets_go(&self) -> bool {
        find(&self.after.conditions, "Reverted")
            .is_some_and(|reverted| !matches!(reverted.reason.as_str(), "WaitingForHolder" | "CannotObserve"))
    }
}

/// The digest of a sealed record, and where it lies.
fn sealed(result: &TargetResult) -> Option<(&str, &str)> {
    let collected = result.evidence.as_ref().map(|evidence| (&evidence.record_digest, &evidence.url));
    let (digest, url) = collected.or(result.run.as_ref().map(|run| (&run.digest, &run.url)))?;
    Some((digest.as_deref()?, url.as_deref().unwrap_or_default()))
}

fn result<'a>(action: &'a ActionStatus, target_uid: &str) -> Option<&'a TargetResult> {
    action.results.iter().find(|result| result.target_uid == target_uid)
}

/// Whether a message names this target, and not one whose name begins like its name.
fn is_named(target: &PinnedTarget, message: &str) -> bool {
    let name = target::describe(target);
    let goes_on = |next: char| next.is_ascii_alphanumeric() || matches!(next, '-' | '.');
    message
        .match_indices(&name)
        .any(|(at, _)| !message.get(at + name.len()..).is_some_and(|rest| rest.starts_with(goes_on)))
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

//! Events (events.k8s.io/v1), published beside the work.
//!
//! They are sent after the status that they are about was written and after the effects that it authorized were carried out, so
//! no cut waits for one. A crash in between loses them, and one that the API server refuses is not sent again: the status is
//! the record.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};
use tokio::sync::mpsc;
use tourniquet_api::IncidentResponse;
use tourniquet_response::{About, LEFTOVER_UNDONE, Note, NoteType, ObjectRef};
use tracing::{Instrument, info_span, warn};

/// The events' `reportingController`.
const CONTROLLER: &str = "tourniquet.dev/operator";
/// Events that wait for the API server. More than this are dropped: it has better things to do then.
const WAITING: usize = 1024;
/// A request that hangs must not hold up the others.
const LIMIT: Duration = Duration::from_secs(10);
/// Notes that are remembered, to be counted when they come again.
const REMEMBERED: usize = 256;

/// Where events are handed in.
#[derive(Clone)]
pub(crate) struct Publisher(mpsc::Sender<Report>);

struct Report {
    /// The response; of a response that no longer lives, the object that was left behind.
    response: ObjectReference,
    note: Note,
}

impl Publisher {
    /// Starts the one task that publishes: in order, as they were handed in.
    pub(crate) fn start(client: Client) -> Self {
        let (send, mut reports) = mpsc::channel::<Report>(WAITING);
        tokio::spawn(async move {
            let mut recorders = Recorders { client, by_note: HashMap::new() };
            while let Some(report) = reports.recv().await {
                let response = &report.response;
                let name = [response.namespace.as_deref(), response.name.as_deref()].map(Option::unwrap_or_default);
                let span = info_span!("response", response = name.join("/"), uid = response.uid);
                recorders.publish(&report).instrument(span).await;
            }
        });
        Self(send)
    }

    /// Hands in what is to be published about a response. Never waits.
    pub(crate) fn publish(&self, response: &ObjectMeta, notes: Vec<Note>) {
        for note in notes {
            let kind = (IncidentResponse::api_version(&()), IncidentResponse::kind(&()));
            let name = response.name.as_deref().unwrap_or_default();
            let of = reference((&kind.0, &kind.1), response.namespace.as_deref(), name, response.uid.as_deref());
            if let Err(error) = self.0.try_send(Report { response: of, note }) {
                warn!(%error, "an event was dropped; the status says the same");
            }
        }
    }

    /// Hands in that something was undone whose response no longer lives. Never waits.
    pub(crate) fn publish_leftover(&self, object: &ObjectRef, what: &str) {
        let kind = (object.kind.api_version(), object.kind.as_str());
        let of = reference(kind, object.namespace.as_deref(), &object.name, object.uid.as_deref());
        let note = Note {
            type_: NoteType::Warning,
            reason: LEFTOVER_UNDONE.to_owned(),
            action: "Undo",
            note: what.to_owned(),
            about: About::Response,
        };
        if let Err(error) = self.0.try_send(Report { response: of, note }) {
            warn!(%error, "an event was dropped; the log says the same");
        }
    }
}

/// An object, by its `apiVersion` and kind, its place and its UID.
fn reference(of: (&str, &str), namespace: Option<&str>, name: &str, uid: Option<&str>) -> ObjectReference {
    ObjectReference {
        api_version: Some(of.0.to_owned()),
        kind: Some(of.1.to_owned()),
        namespace: namespace.map(str::to_owned),
        name: Some(name.to_owned()),
        uid: uid.map(str::to_owned),
        ..ObjectReference::default()
    }
}

/// A recorder counts up the event of the same object and reason, and keeps the note of the first one (kube-runtime 5.0.0,
/// `events.rs`): what is counted in it, such as how often a cut was tampered with, would never be seen to change. So each note
/// has a recorder of its own: the same to the letter is counted, within 6 minutes, and another one is another event.
struct Recorders {
    client: Client,
    by_note: HashMap<String, Recorder>,
}

impl Recorders {
    async fn publish(&mut self, Report { response, note }: &Report) {
        if self.by_note.len() >= REMEMBERED {
            self.by_note.clear();
        }
        let recorder = self
            .by_note
            .entry(note.note.clone())
            .or_insert_with(|| Recorder::new(self.client.clone(), Reporter::from(CONTROLLER)));
        let (regarding, related) = match &note.about {
            About::Response => (response.clone(), None),
            About::Pod { namespace, name, uid } => {
                (reference(("v1", "Pod"), Some(namespace), name, Some(uid)), Some(response.clone()))
            }
        };
        let event = Event {
            type_: match note.type_ {
                NoteType::Normal => EventType::Normal,
                NoteType::Warning => EventType::Warning,
            },
            reason: note.reason.clone(),
            action: note.action.to_owned(),
            note: Some(note.note.clone()),
            secondary: related,
        };
        let cause = match tokio::time::timeout(LIMIT, recorder.publish(&event, &regarding)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("the API server did not answer within {} s", LIMIT.as_secs()),
        };
        warn!(cause, reason = note.reason, note = note.note, "an event was not published; the status says the same");
    }
}

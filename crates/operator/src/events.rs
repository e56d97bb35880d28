//! Events (events.k8s.io/v1), published beside the work.
//!
//! They are sent after the status that they are about was written and after the effects that it authorized were carried out, so
//! no cut waits for one. A crash in between loses them, and one that the API server refuses is not sent again: the status is
//! the record.
//!
//! Not by kube's `Recorder` (kube-runtime 5.0.0, `events.rs`). It counts up the event of the same object and reason, and keeps the note
//! of the first one: what is counted in a note, such as how often a cut was tampered with, would never be seen to change. And it
//! gives an event the whole name of its object and 17 characters: of an object whose name has more than 236 the API server refuses it.

use std::collections::HashMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, Resource, ResourceExt};
use serde_json::json;
use tokio::sync::mpsc;
use tourniquet_api::{EvidenceStore, IncidentResponse};
use tourniquet_response::{About, LEFTOVER_UNDONE, Note, NoteType, ObjectRef};
use tracing::{Instrument, info_span, warn};

/// The events' `reportingController`.
const CONTROLLER: &str = "tourniquet.dev/operator";
/// Events that wait for the API server. More than this are dropped: it has better things to do then.
const WAITING: usize = 1024;
/// A request that hangs must not hold up the others.
const LIMIT: Duration = Duration::from_secs(10);
/// The same note to the letter is counted for so long, and another event after that: kube's own limit.
const COUNTED: SignedDuration = SignedDuration::from_mins(6);
/// Events that are remembered, to be counted when they come again.
const REMEMBERED: usize = 256;
/// The longest name of an object (Kubernetes 1.36, `apimachinery/pkg/util/validation`, DNS-1123 subdomain).
const NAME_LIMIT: usize = 253;
/// Where events are that are about something in no namespace: `kubectl describe node` looks there, and the API server takes them
/// nowhere else (Kubernetes 1.36, `pkg/apis/core/validation/events.go`).
const CLUSTER_SCOPED: &str = "default";

/// Where events are handed in.
#[derive(Clone)]
pub(crate) struct Publisher(mpsc::Sender<Report>);

struct Report {
    /// The response, or the evidence store, while there is one.
    of: Option<ObjectReference>,
    note: Note,
}

impl Publisher {
    /// Starts the one task that publishes: in order, as they were handed in.
    pub(crate) fn start(client: Client) -> Self {
        let (send, mut reports) = mpsc::channel::<Report>(WAITING);
        tokio::spawn(async move {
            let mut events = Events { client, instance: instance(), remembered: HashMap::new() };
            while let Some(report) = reports.recv().await {
                let of = report.of.clone().unwrap_or_default();
                let name = [of.namespace.as_deref(), of.name.as_deref()].map(Option::unwrap_or_default);
                let span = info_span!("event", of = name.join("/"), kind = of.kind, uid = of.uid);
                events.publish(report).instrument(span).await;
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
            if let Err(error) = self.0.try_send(Report { of: Some(of), note }) {
                warn!(%error, "an event was dropped; the status says the same");
            }
        }
    }

    /// Hands in what is to be published about an evidence store. Never waits.
    pub(crate) fn publish_store(&self, name: &str, uid: &str, note: Note) {
        let kind = (EvidenceStore::api_version(&()), EvidenceStore::kind(&()));
        let of = reference((&kind.0, &kind.1), None, name, Some(uid));
        if let Err(error) = self.0.try_send(Report { of: Some(of), note }) {
            warn!(%error, "an event was dropped; the status says the same");
        }
    }

    /// Hands in that something was undone whose response no longer lives. Never waits.
    pub(crate) fn publish_leftover(&self, object: &ObjectRef, what: &str) {
        let note = Note {
            type_: NoteType::Warning,
            reason: LEFTOVER_UNDONE.to_owned(),
            action: "Undo",
            note: what.to_owned(),
            about: About::Object(object.clone()),
        };
        if let Err(error) = self.0.try_send(Report { of: None, note }) {
            warn!(%error, "an event was dropped; the log says the same");
        }
    }
}

/// Who reports: the operator's pod. The container runtime gives a container its pod's name as this.
fn instance() -> String {
    std::env::var("HOSTNAME").ok().filter(|name| !name.is_empty()).unwrap_or_else(|| CONTROLLER.to_owned())
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

struct Events {
    client: Client,
    instance: String,
    /// By what they say of whom.
    remembered: HashMap<(Note, Option<String>), Event>,
}

impl Events {
    async fn publish(&mut self, report: Report) {
        let Report { of, note } = report;
        let now = Timestamp::now();
        let key = (note.clone(), of.as_ref().and_then(|of| of.uid.clone()));
        if self.remembered.len() >= REMEMBERED {
            self.remembered.retain(|_, event| is_counted(event, now));
        }
        if self.remembered.len() >= REMEMBERED {
            self.remembered.clear();
        }
        let before = self.remembered.get(&key).filter(|event| is_counted(event, now));
        let sent = match before {
            Some(event) => self.count(event, now).await,
            None => self.create(&event(&note, of, &self.instance, now)).await,
        };
        match sent {
            Ok(event) => drop(self.remembered.insert(key, event)),
            Err(cause) => {
                // Whatever it is that was counted up: the next one begins afresh.
                self.remembered.remove(&key);
                warn!(
                    cause,
                    reason = note.reason,
                    note = note.note,
                    "an event was not published; the status says the same"
                );
            }
        }
    }

    async fn create(&self, event: &Event) -> Result<Event, String> {
        within(self.api(event).create(&PostParams::default(), event)).await
    }

    async fn count(&self, event: &Event, now: Timestamp) -> Result<Event, String> {
        let count = event.series.as_ref().map_or(1, |series| series.count) + 1;
        let series = EventSeries { count, last_observed_time: MicroTime(now) };
        let patch = Patch::Merge(json!({ "series": series }));
        within(self.api(event).patch(&event.name_any(), &PatchParams::default(), &patch)).await
    }

    fn api(&self, event: &Event) -> Api<Event> {
        Api::namespaced(self.client.clone(), event.metadata.namespace.as_deref().unwrap_or(CLUSTER_SCOPED))
    }
}

async fn within(request: impl Future<Output = kube::Result<Event>>) -> Result<Event, String> {
    match tokio::time::timeout(LIMIT, request).await {
        Ok(Ok(event)) => Ok(event),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("the API server did not answer within {} s", LIMIT.as_secs())),
    }
}

fn is_counted(event: &Event, now: Timestamp) -> bool {
    let last = event.series.as_ref().map(|series| series.last_observed_time.0);
    let last = last.or_else(|| event.event_time.as_ref().map(|time| time.0));
    last.is_some_and(|last| now.duration_since(last) < COUNTED)
}

fn event(note: &Note, of: Option<ObjectReference>, instance: &str, now: Timestamp) -> Event {
    let (regarding, related) = match &note.about {
        About::Response => (of.unwrap_or_default(), None),
        About::Object(object) => {
            let kind = (object.kind.api_version(), object.kind.as_str());
            (reference(kind, object.namespace.as_deref(), &object.name, object.uid.as_deref()), of)
        }
    };
    let namespace = regarding.namespace.clone().unwrap_or_else(|| CLUSTER_SCOPED.to_owned());
    Event {
        metadata: ObjectMeta {
            name: Some(name(regarding.name.as_deref().unwrap_or_default(), now)),
            namespace: Some(namespace),
            ..ObjectMeta::default()
        },
        type_: Some(match note.type_ {
            NoteType::Normal => "Normal".to_owned(),
            NoteType::Warning => "Warning".to_owned(),
        }),
        reason: Some(note.reason.clone()),
        action: Some(note.action.to_owned()),
        note: Some(note.note.clone()),
        event_time: Some(MicroTime(now)),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(instance.to_owned()),
        regarding: Some(regarding),
        related,
        ..Event::default()
    }
}

/// An event's name, as other reporters form it: that of its object, and the time.
fn name(of: &str, now: Timestamp) -> String {
    let time = format!(".{:x}", now.as_nanosecond());
    // Names are ASCII. A part that ends in a dash is none.
    let kept = of.get(..NAME_LIMIT - time.len()).unwrap_or(of).trim_end_matches(['-', '.']);
    format!("{kept}{time}")
}

#[cfg(test)]
mod tests {
    use tourniquet_response::Kind;

    use super::*;

    fn about(object: ObjectRef) -> Event {
        let note = Note {
            type_: NoteType::Normal,
            reason: "Cordoned".to_owned(),
            action: "Apply",
            note: "Cordoned by IncidentResponse a/b".to_owned(),
            about: About::Object(object),
        };
        event(&note, None, "tourniquet-operator-1", Timestamp::now())
    }

    fn object(kind: Kind, namespace: Option<&str>, name: &str) -> ObjectRef {
        ObjectRef { kind, namespace: namespace.map(str::to_owned), name: name.to_owned(), uid: Some("u".to_owned()) }
    }

    #[test]
    fn an_event_is_where_its_object_is_and_of_what_is_in_no_namespace_in_default() {
        let of = |object| about(object).metadata.namespace;
        assert_eq!(of(object(Kind::Pod, Some("shop"), "web")).as_deref(), Some("shop"));
        for kind in [Kind::Node, Kind::Namespace, Kind::CiliumClusterwideNetworkPolicy] {
            assert_eq!(of(object(kind, None, "x")).as_deref(), Some("default"));
        }
        let regarding = about(object(Kind::Node, None, "n")).regarding.unwrap();
        assert_eq!((regarding.namespace, regarding.uid.as_deref()), (None, Some("u")));
    }

    #[test]
    fn the_name_of_an_event_is_one_however_long_its_objects_is() {
        let now = Timestamp::now();
        assert_eq!(name("web", now), format!("web.{:x}", now.as_nanosecond()));
        // Cut off within "a-", after "a-", and after ".".
        for of in
            ["x".repeat(253), format!("{}-{}", "a".repeat(235), "b".repeat(17)), format!("{}.b", "a.".repeat(125))]
        {
            let name = name(&of, now);
            assert!(name.len() <= NAME_LIMIT, "{} characters", name.len());
            assert!(name.split('.').all(|part| !part.is_empty() && !part.ends_with('-')), "{name}");
        }
    }

    #[test]
    fn what_was_told_a_while_ago_is_told_anew() {
        let event = about(object(Kind::Node, None, "n"));
        let created = event.event_time.clone().unwrap().0;
        assert!(is_counted(&event, created + SignedDuration::from_mins(5)));
        assert!(!is_counted(&event, created + SignedDuration::from_mins(7)));
        let series = EventSeries { count: 2, last_observed_time: MicroTime(created + SignedDuration::from_mins(5)) };
        let counted = Event { series: Some(series), ..event };
        assert!(is_counted(&counted, created + SignedDuration::from_mins(7)));
    }
}

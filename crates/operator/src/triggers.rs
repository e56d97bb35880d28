//! What else than a response itself is a reason to look at it: its traces, and its targets.

use std::time::Duration;

use futures::StreamExt;
use futures::channel::mpsc::UnboundedSender;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::core::{DeserializeGuard, GroupVersionKind, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt};
use tourniquet_api::{IncidentResponse, names};
use tracing::debug;

/// A response as it is stored, readable or not.
pub(crate) type Stored = DeserializeGuard<IncidentResponse>;

/// How long to wait before a kind that is not served is asked for again.
const NOT_SERVED: Duration = Duration::from_secs(60);

/// The kinds that are watched, each by the label that its traces carry.
fn kinds() -> [(ApiResource, &'static str); 4] {
    let kind = |group: &str, version: &str, kind: &str, plural: &str| {
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
    };
    [
        (kind("", "v1", "Pod", "pods"), names::CONTAINED_LABEL),
        (kind("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies"), names::RESPONSE_LABEL),
        (kind("cilium.io", "v2", "CiliumEndpoint", "ciliumendpoints"), names::CONTAINED_LABEL),
        (
            kind("cilium.io", "v2", "CiliumClusterwideNetworkPolicy", "ciliumclusterwidenetworkpolicies"),
            names::RESPONSE_LABEL,
        ),
    ]
}

/// Watches every kind, each in a task of its own: one that is not served must not slow down the others.
pub(crate) fn spawn(client: &Client, responses: &Store<Stored>, send: &UnboundedSender<ObjectRef<Stored>>) {
    for (resource, label) in kinds() {
        tokio::spawn(watch(client.clone(), resource, label, responses.clone(), send.clone()));
    }
}

async fn watch(
    client: Client,
    resource: ApiResource,
    label: &'static str,
    responses: Store<Stored>,
    send: UnboundedSender<ObjectRef<Stored>>,
) {
    // Metadata is enough: a change of anything else is an event all the same.
    let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(client, &resource);
    let mut events = watcher(api, watcher::Config::default().labels(label)).default_backoff().boxed();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(object) | Event::InitApply(object) | Event::Delete(object)) => {
                for response in concerned(&object, &responses) {
                    // The receiver ends with the operator.
                    let _ = send.unbounded_send(response);
                }
            }
            Ok(Event::Init | Event::InitDone) => {}
            Err(error) => {
                debug!(kind = resource.kind, %error, "not watched at the moment");
                if not_served(&error) {
                    tokio::time::sleep(NOT_SERVED).await;
                }
            }
        }
    }
}

fn not_served(error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(kube::Error::Api(status))
    | watcher::Error::WatchStartFailed(kube::Error::Api(status))) = error
    else {
        return false;
    };
    status.code == 404
}

/// The responses that an object is a trace or a target of.
fn concerned(object: &PartialObjectMeta<DynamicObject>, responses: &Store<Stored>) -> Vec<ObjectRef<Stored>> {
    let of = object.labels().get(names::RESPONSE_LABEL);
    let namespace = object.namespace();
    let name = object.name_any();
    let is_concerned = |response: &IncidentResponse| match of {
        Some(uid) => response.metadata.uid.as_ref() == Some(uid),
        None => response
            .status
            .iter()
            .flat_map(|status| &status.targets)
            .any(|target| target.name == name && target.namespace == namespace),
    };
    responses
        .state()
        .iter()
        .filter(|stored| stored.0.as_ref().is_ok_and(is_concerned))
        .map(|stored| ObjectRef::from_obj(stored.as_ref()))
        .collect()
}

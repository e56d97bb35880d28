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
use tracing::{debug, info, warn};

use crate::pause;

/// A response as it is stored, readable or not.
pub(crate) type Stored = DeserializeGuard<IncidentResponse>;

/// How long to wait before a kind that is not served is asked for again.
const NOT_SERVED: Duration = Duration::from_secs(60);

/// The kinds that are watched, and the label that is asked for. Of network policies all are: where policies only add up,
/// somebody else's can open what we closed.
fn kinds() -> [(ApiResource, Option<&'static str>); 7] {
    let kind = |group: &str, version: &str, kind: &str, plural: &str| {
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
    };
    [
        (kind("internal.tourniquet.dev", "v1alpha1", "Containment", "containments"), None),
        // Nothing marks those that are acted on: a mark would be a change of theirs. Metadata of all of them is little.
        (kind("", "v1", "Node", "nodes"), None),
        (kind("", "v1", "Namespace", "namespaces"), None),
        (kind("", "v1", "Pod", "pods"), Some(names::CONTAINED_LABEL)),
        (kind("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies"), None),
        (kind("cilium.io", "v2", "CiliumEndpoint", "ciliumendpoints"), Some(names::CONTAINED_LABEL)),
        (
            kind("cilium.io", "v2", "CiliumClusterwideNetworkPolicy", "ciliumclusterwidenetworkpolicies"),
            Some(names::RESPONSE_LABEL),
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
    label: Option<&'static str>,
    responses: Store<Stored>,
    send: UnboundedSender<ObjectRef<Stored>>,
) {
    // Metadata is enough: a change of anything else is an event all the same.
    let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(client, &resource);
    let config = label.map_or_else(watcher::Config::default, |label| watcher::Config::default().labels(label));
    let mut events = watcher(api, config).backoff(pause::watch()).boxed();
    let mut blind = false;
    while let Some(event) = events.next().await {
        if event.is_ok() && std::mem::take(&mut blind) {
            info!(kind = resource.kind, "watched again");
        }
        match event {
            Ok(Event::Apply(object) | Event::InitApply(object) | Event::Delete(object)) => {
                for response in concerned(&resource.kind, &object, &responses) {
                    // The receiver ends with the operator.
                    let _ = send.unbounded_send(response);
                }
            }
            Ok(Event::Init) => {}
            Ok(Event::InitDone) => {
                // What was deleted while nobody watched is not in the list, and is no event either.
                for stored in responses.state() {
                    let _ = send.unbounded_send(ObjectRef::from_obj(stored.as_ref()));
                }
            }
            Err(error) if not_served(&error) => {
                debug!(kind = resource.kind, "not served");
                tokio::time::sleep(NOT_SERVED).await;
            }
            Err(error) => {
                if !std::mem::replace(&mut blind, true) {
                    warn!(kind = resource.kind, %error, "not watched at the moment; it is tried again");
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
fn concerned(
    kind: &str,
    object: &PartialObjectMeta<DynamicObject>,
    responses: &Store<Stored>,
) -> Vec<ObjectRef<Stored>> {
    let of = object.labels().get(names::RESPONSE_LABEL);
    let namespace = object.namespace();
    let name = object.name_any();
    let is_policy = kind == "NetworkPolicy";
    let is_concerned = |response: &IncidentResponse| match of {
        // Named by the pod's UID.
        None if kind == "Containment" => {
            response.status.iter().flat_map(|status| &status.targets).any(|target| target.uid == name)
        }
        Some(uid) => response.metadata.uid.as_ref() == Some(uid),
        // Somebody else's policy concerns every target of its namespace; a pod or its endpoint, the target of its name.
        None => response.status.iter().flat_map(|status| &status.targets).any(|target| {
            let of_kind = !matches!(kind, "Node" | "Namespace") || target.kind == kind;
            of_kind && target.namespace == namespace && (is_policy || target.name == name)
        }),
    };
    responses
        .state()
        .iter()
        .filter(|stored| stored.0.as_ref().is_ok_and(is_concerned))
        .map(|stored| ObjectRef::from_obj(stored.as_ref()))
        .collect()
}

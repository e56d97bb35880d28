//! What else than a response itself is a reason to look at it: its traces, and its targets.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::channel::mpsc::UnboundedSender;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::core::{DeserializeGuard, GroupVersionKind, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Resource};
use tourniquet_api::{IncidentResponse, names};
use tourniquet_response::Concerns;
use tracing::{debug, info, warn};

use crate::leftovers::Cause;
use crate::pause;

/// A response as it is stored, readable or not.
pub(crate) type Stored = DeserializeGuard<IncidentResponse>;

/// Takes away what nobody reads of a response that is remembered, which is most of it: the receipt, the plan and the managed fields. With a thousand responses
/// in force they would be most of the operator's memory.
pub(crate) fn lighten(stored: &mut Stored) {
    let Ok(response) = &mut stored.0 else { return };
    response.metadata.managed_fields = None;
    if let Some(status) = &mut response.status {
        status.residual = Vec::new();
        status.plan = Vec::new();
    }
}

/// Objects of one page of a list, of which one at a time is in memory. With pages of 500, and those of the sweep beside them, the operator's
/// memory peaked at 26 to 34 MiB at its start with 3,000 pods, from 20 MiB before pods were listed here; resident it stayed at 8.5 MiB.
const PAGE: u32 = 100;
/// How long to wait before a kind that is not served is asked for again.
pub(crate) const NOT_SERVED: Duration = Duration::from_secs(60);

/// Which responses a change concerns, as of now.
#[derive(Clone, Default)]
pub(crate) struct Known(Arc<Mutex<Concerns>>);

impl Known {
    fn concerns(&self) -> MutexGuard<'_, Concerns> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the watch of responses says.
    pub(crate) fn watched(&self, event: &Event<Stored>) {
        let mut concerns = self.concerns();
        match event {
            Event::Init => concerns.list_begins(),
            Event::InitDone => concerns.list_ends(),
            Event::Apply(stored) | Event::InitApply(stored) => match &stored.0 {
                Ok(response) => concerns.know(response),
                Err(invalid) => concerns.forget(invalid.metadata.uid.as_deref().unwrap_or_default()),
            },
            Event::Delete(stored) => concerns.forget(stored.meta().uid.as_deref().unwrap_or_default()),
        }
    }

    /// What was just written: its targets change from now on with us looking, whenever the watch of responses gets there.
    pub(crate) fn written(&self, response: &IncidentResponse) {
        self.concerns().learn(response);
    }
}

/// The kinds that are watched, and the label that is asked for.
///
/// Of network policies all are: where policies only add up, somebody else's can open what we closed. So can a tier of Calico's. Of pods, their endpoints, nodes and namespaces as
/// well: nothing marks those that are acted on before something of ours is on them, and what marks them can be taken off.
fn kinds() -> [(ApiResource, Option<&'static str>); 9] {
    let kind = |group: &str, version: &str, kind: &str, plural: &str| {
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
    };
    [
        (kind("internal.tourniquet.dev", "v1alpha1", "Containment", "containments"), None),
        (kind("", "v1", "Node", "nodes"), None),
        (kind("", "v1", "Namespace", "namespaces"), None),
        (kind("", "v1", "Pod", "pods"), None),
        (kind("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies"), None),
        (kind("cilium.io", "v2", "CiliumEndpoint", "ciliumendpoints"), None),
        (
            kind("cilium.io", "v2", "CiliumClusterwideNetworkPolicy", "ciliumclusterwidenetworkpolicies"),
            Some(names::RESPONSE_LABEL),
        ),
        (kind("projectcalico.org", "v3", "Tier", "tiers"), None),
        (kind("projectcalico.org", "v3", "GlobalNetworkPolicy", "globalnetworkpolicies"), Some(names::RESPONSE_LABEL)),
    ]
}

/// What a watch needs to know of responses, and where it says which of them to look at.
#[derive(Clone)]
pub(crate) struct Triggers {
    pub(crate) client: Client,
    pub(crate) responses: Store<Stored>,
    pub(crate) known: Known,
    pub(crate) send: UnboundedSender<ObjectRef<Stored>>,
    pub(crate) cause: Cause,
}

impl Triggers {
    /// Watches every kind, each in a task of its own: one that is not served must not slow down the others.
    pub(crate) fn spawn(&self) {
        for (resource, label) in kinds() {
            tokio::spawn(self.clone().watch(resource, label));
        }
    }

    async fn watch(self, resource: ApiResource, label: Option<&'static str>) {
        // Metadata is enough: a change of anything else is an event all the same. Nothing of it is kept.
        let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(self.client.clone(), &resource);
        let config = watcher::Config::default().page_size(PAGE);
        let config = label.map_or_else(|| config.clone(), |label| config.clone().labels(label));
        let mut events = watcher(api, config).backoff(pause::watch()).boxed();
        let mut blind = false;
        while let Some(event) = events.next().await {
            if event.is_ok() && std::mem::take(&mut blind) {
                info!(kind = resource.kind, "watched again");
            }
            if let Ok(Event::Apply(object)) = &event
                && self.known.concerns().is_stray(object.meta())
            {
                self.cause.stray();
            }
            match event {
                Ok(Event::Apply(object) | Event::Delete(object)) => {
                    let concerned = self.known.concerns().of(&resource.kind, object.meta());
                    for (namespace, name) in concerned {
                        // The receiver ends with the operator.
                        let _ = self.send.unbounded_send(ObjectRef::new(&name).within(&namespace));
                    }
                }
                Ok(Event::Init | Event::InitApply(_)) => {}
                Ok(Event::InitDone) => {
                    // What was deleted while nobody watched is not in the list, and is no event either.
                    for stored in self.responses.state() {
                        let _ = self.send.unbounded_send(ObjectRef::from_obj(stored.as_ref()));
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
}

/// Whether the API server knows no such kind.
pub(crate) fn not_served(error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(kube::Error::Api(status))
    | watcher::Error::WatchStartFailed(kube::Error::Api(status))) = error
    else {
        return false;
    };
    status.code == 404
}

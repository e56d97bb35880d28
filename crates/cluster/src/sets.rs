//! Sets of pods: by selector, by owner, and all of a namespace with what belongs to them.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::api::{Api, DynamicObject, ListParams};
use kube::core::{ApiResource, GroupVersionKind};
use tourniquet_api::{Containment, names};
use tourniquet_response::{CiliumEndpoint, Engines};

use crate::error::{Cause, Error};
use crate::observe::{cached, cilium_endpoint, cilium_endpoints, existing};
use crate::{Cluster, within};

/// How many pods of a set are read. More than any limit allows, so that a refusal can say how many there are.
const SET: u32 = 200;
/// Pods of one page: a pod has some 10 KB, and what is not needed of them is dropped page by page.
const PAGE: u32 = 250;
/// How long it stands which kinds are served.
const SERVED: Duration = Duration::from_secs(60);

impl Cluster {
    /// The pods that are selected, not from the API server's cache: what is pinned is pinned for good, and one that was started a
    /// moment ago is meant as well.
    pub(crate) async fn selected_pods(&self, namespace: &str, selector: &str) -> Result<Vec<Pod>, Error> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let list = within(api.list(&ListParams::default().labels(selector).limit(SET))).await;
        Ok(list.map_err(|cause| Error::request("list Pods of", namespace, cause))?.items)
    }

    /// The pods of a workload; `None` when there is no such workload.
    pub(crate) async fn owned_pods(&self, namespace: &str, kind: &str, name: &str) -> Result<Option<Vec<Pod>>, Error> {
        let Some(owner) = self.workload(namespace, kind, name).await? else { return Ok(None) };
        let uid = owner.metadata.uid.clone().unwrap_or_default();
        let Some(selector) = selector_of(&owner) else { return Ok(Some(Vec::new())) };
        let owners =
            if kind == "Deployment" { self.replica_sets(namespace, &selector, &uid).await? } else { vec![uid] };
        let pods = self.selected_pods(namespace, &selector).await?;
        let is_owned = |pod: &Pod| {
            let owners_of_pod = pod.metadata.owner_references.iter().flatten();
            owners_of_pod.into_iter().any(|owner| owner.controller == Some(true) && owners.contains(&owner.uid))
        };
        Ok(Some(pods.into_iter().filter(is_owned).collect()))
    }

    /// A workload; `None` when there is none, or its kind is not one of those whose pods are looked for.
    pub(crate) async fn workload(
        &self,
        namespace: &str,
        kind: &str,
        name: &str,
    ) -> Result<Option<DynamicObject>, Error> {
        let Some(resource) = workload(kind) else { return Ok(None) };
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource);
        existing(within(api.get(name)).await)
            .map_err(|cause| Error::request("read", format_args!("{kind} {namespace}/{name}"), cause))
    }

    /// The UIDs of a Deployment's ReplicaSets. Its pods are theirs.
    async fn replica_sets(&self, namespace: &str, selector: &str, deployment: &str) -> Result<Vec<String>, Error> {
        let resource =
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("apps", "v1", "ReplicaSet"), "replicasets");
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource);
        let list = within(api.list_metadata(&ListParams::default().labels(selector))).await;
        let list = list.map_err(|cause| Error::request("list ReplicaSets of", namespace, cause))?;
        let is_owned = |owners: Option<&Vec<_>>| {
            owners
                .into_iter()
                .flatten()
                .any(|owner: &k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference| owner.uid == deployment)
        };
        let owned = list.items.into_iter().filter(|set| is_owned(set.metadata.owner_references.as_ref()));
        Ok(owned.filter_map(|set| set.metadata.uid).collect())
    }

    /// All pods of a namespace, page by page, without what isolating them does not depend on.
    pub(crate) async fn namespace_pods(&self, namespace: &str) -> Result<BTreeMap<String, Pod>, Error> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let mut params = ListParams::default().limit(PAGE);
        let mut pods = BTreeMap::new();
        loop {
            let page = within(api.list(&params)).await;
            let page = page.map_err(|cause| Error::request("list Pods of", namespace, cause))?;
            let named = page.items.into_iter().filter_map(|pod| Some((pod.metadata.name.clone()?, trimmed(pod))));
            pods.extend(named);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => return Ok(pods),
            }
        }
    }

    pub(crate) async fn namespace_endpoints(&self, namespace: &str) -> Result<BTreeMap<String, CiliumEndpoint>, Error> {
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &cilium_endpoints());
        let list = existing(within(api.list(&cached())).await)
            .map_err(|cause| Error::request("list CiliumEndpoints of", namespace, cause))?;
        let named = list.into_iter().flat_map(|list| list.items);
        Ok(named.filter_map(|endpoint| Some((endpoint.metadata.name.clone()?, cilium_endpoint(&endpoint)))).collect())
    }

    /// The Containments of the pods of a namespace, by the UID of the pod.
    pub(crate) async fn namespace_containments(
        &self,
        namespace: &str,
        agents: &str,
    ) -> Result<BTreeMap<String, Containment>, Error> {
        let api: Api<Containment> = Api::namespaced(self.client.clone(), agents);
        let of = format!("{}={namespace}", names::POD_NAMESPACE_LABEL);
        let list = existing(within(api.list(&ListParams::default().labels(&of))).await)
            .map_err(|cause| Error::request("list Containments of", namespace, cause))?;
        let named = list.into_iter().flat_map(|list| list.items);
        Ok(named.map(|containment| (containment.spec.pod.uid.clone(), containment)).collect())
    }

    /// Which engines' kinds are served.
    pub(crate) async fn engines(&self) -> Result<Engines, Error> {
        let engines = self.engines.get_of_late(SERVED, async || {
            let (cilium, calico) = futures::join!(self.plurals("cilium.io/v2"), self.serves_calico());
            Ok::<_, Error>(Engines {
                cilium: cilium?.iter().any(|name| name == "ciliumclusterwidenetworkpolicies"),
                calico,
            })
        });
        engines.await.map(|engines| *engines)
    }

    /// What is served of a group.
    pub(crate) async fn plurals(&self, group: &str) -> Result<Vec<String>, Error> {
        let served = existing(within(self.client.list_api_group_resources(group)).await)
            .map_err(|cause: Cause| Error::request("look up which kinds are served of", group, cause))?;
        let resources = served.into_iter().flat_map(|list| list.resources);
        Ok(resources.map(|resource| resource.name).collect())
    }
}

/// The kinds of workload whose pods can be named through them.
pub(crate) fn workload(kind: &str) -> Option<ApiResource> {
    let (group, plural) = match kind {
        "Deployment" => ("apps", "deployments"),
        "ReplicaSet" => ("apps", "replicasets"),
        "StatefulSet" => ("apps", "statefulsets"),
        "DaemonSet" => ("apps", "daemonsets"),
        "Job" => ("batch", "jobs"),
        _ => return None,
    };
    Some(ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, "v1", kind), plural))
}

/// A workload's selector, as the API takes it in a list; `None` when it has none that can be read.
fn selector_of(workload: &DynamicObject) -> Option<String> {
    let selector = serde_json::from_value::<k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector>(
        workload.data.pointer("/spec/selector")?.clone(),
    );
    Some(kube::core::Selector::try_from(selector.ok()?).ok()?.to_string())
}

/// Without what is large and not looked at.
fn trimmed(mut pod: Pod) -> Pod {
    // What responses hold is withdrawn by what is in here.
    let is_ours = |entry: &ManagedFieldsEntry| {
        entry.manager.as_deref().is_some_and(|manager| names::response_of_field_manager(manager).is_some())
    };
    if let Some(entries) = &mut pod.metadata.managed_fields {
        entries.retain(is_ours);
    }
    if let Some(spec) = &mut pod.spec {
        spec.volumes = None;
        for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            container.env = None;
            container.volume_mounts = None;
        }
    }
    if let Some(status) = &mut pod.status {
        status.conditions = None;
    }
    pod
}

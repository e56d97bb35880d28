//! Looking: each [`Read`] becomes an [`Observation`], all of one round at the same time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use futures::stream::{FuturesUnordered, StreamExt};
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ServiceReference, ValidatingWebhookConfiguration, WebhookClientConfig,
};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::api::{Api, DynamicObject, ListParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::Value;
use tourniquet_api::Containment;
use tourniquet_response::{
    AdmissionBackend, CiliumEndpoint, ClusterwidePolicy, Kind, Observation, Read, ServiceSelector, TaskSeen, Unread,
    World,
};

use crate::error::{Cause, Error};
use crate::sets::workload;
use crate::surroundings::patiently;
use crate::{Cluster, api_resource, probe, within};

/// The positive control before a cut: containment must not wait for it.
const CONTROL_LIMIT: Duration = Duration::from_millis(50);

impl Cluster {
    /// Looks at everything that was asked for. `Read::Reach` is not a look at the cluster: its answers come from the
    /// attempts that go on in the background, so here it is answered with nothing.
    ///
    /// # Errors
    /// When something cannot be read. Nothing is then added: unread is not absent.
    pub async fn observe(&self, unread: Unread, world: &mut World) -> Result<(), Error> {
        let now = world.now;
        let looks = unread.0.into_iter().map(|read| async move {
            let observation = self.look(&read, now).await?;
            Ok::<_, Error>((read, observation))
        });
        world.observed.extend(all_of(looks.collect()).await?);
        Ok(())
    }

    async fn look(&self, read: &Read, now: jiff::Timestamp) -> Result<Observation, Error> {
        Ok(match read {
            Read::Pod { namespace, name } => {
                let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
                let pod = existing(within(api.get(name)).await)
                    .map_err(|cause| Error::request("read", format_args!("Pod {namespace}/{name}"), cause))?;
                Observation::Pod(pod.map(Box::new))
            }
            Read::SelectedPods { namespace, selector } => {
                Observation::SelectedPods(self.selected_pods(namespace, selector).await?)
            }
            Read::OwnedPods { namespace, kind, name } => {
                Observation::OwnedPods(self.owned_pods(namespace, kind, name).await?)
            }
            Read::NamespacePods { namespace } => Observation::NamespacePods(self.namespace_pods(namespace).await?),
            Read::NamespaceEndpoints { namespace } => {
                Observation::NamespaceEndpoints(self.namespace_endpoints(namespace).await?)
            }
            Read::NamespaceContainments { namespace, agents } => {
                Observation::NamespaceContainments(self.namespace_containments(namespace, agents).await?)
            }
            Read::Engines => Observation::Engines(self.engines().await?),
            Read::NetworkPolicy { namespace, name } => {
                let api: Api<NetworkPolicy> = Api::namespaced(self.client.clone(), namespace);
                let policy = existing(within(api.get(name)).await)
                    .map_err(|cause| Error::request("read", format_args!("NetworkPolicy {namespace}/{name}"), cause))?;
                Observation::NetworkPolicy(policy.map(Box::new))
            }
            Read::NetworkPolicies { namespace } => {
                Observation::NetworkPolicies(self.network_policies(namespace).await?)
            }
            Read::CiliumEndpoint { namespace, name } => {
                let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &cilium_endpoints());
                let endpoint = existing(within(api.get(name)).await).map_err(|cause| {
                    Error::request("read", format_args!("CiliumEndpoint {namespace}/{name}"), cause)
                })?;
                Observation::CiliumEndpoint(endpoint.as_ref().map(cilium_endpoint))
            }
            Read::ClusterwidePolicy { name } => {
                let resource = api_resource(Kind::CiliumClusterwideNetworkPolicy);
                let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource);
                let policy = existing(within(api.get(name)).await)
                    .map_err(|cause| Error::request("read", format_args!("{} {name}", resource.kind), cause))?;
                Observation::ClusterwidePolicy(policy.map(clusterwide_policy))
            }
            Read::Calico { tier } => Observation::Calico(self.calico(tier).await?),
            Read::Containment { namespace, name } => {
                let api: Api<Containment> = Api::namespaced(self.client.clone(), namespace);
                let containment = existing(within(api.get(name)).await)
                    .map_err(|cause| Error::request("read", format_args!("Containment {namespace}/{name}"), cause))?;
                Observation::Containment(containment.map(Box::new))
            }
            Read::Node { name } => {
                let api: Api<Node> = Api::all(self.client.clone());
                let node = existing(within(api.get(name)).await)
                    .map_err(|cause| Error::request("read", format_args!("Node {name}"), cause))?;
                Observation::Node(node.map(Box::new))
            }
            Read::Nodes => {
                let api: Api<Node> = Api::all(self.client.clone());
                let list = within(api.list(&cached())).await.map_err(|cause| Error::request("list", "Nodes", cause))?;
                Observation::Nodes(list.items)
            }
            Read::Namespace { name } => {
                let api: Api<Namespace> = Api::all(self.client.clone());
                let namespace = existing(within(api.get(name)).await)
                    .map_err(|cause| Error::request("read", format_args!("Namespace {name}"), cause))?;
                Observation::Namespace(namespace.map(Box::new))
            }
            Read::ServiceSelectors { namespace } => {
                let api: Api<Service> = Api::namespaced(self.client.clone(), namespace);
                let list = within(api.list(&cached()))
                    .await
                    .map_err(|cause| Error::request("list Services of", namespace, cause))?;
                let selector = |service: Service| {
                    let selector = service.spec?.selector.filter(|selector| !selector.is_empty())?;
                    Some(ServiceSelector { name: service.metadata.name.unwrap_or_default(), selector })
                };
                Observation::ServiceSelectors(list.items.into_iter().filter_map(selector).collect())
            }
            Read::OwnerSelector { kind, namespace, name, uid } => {
                Observation::OwnerSelector(self.owner_selector(kind, namespace, name, uid).await?)
            }
            Read::AdmissionBackends { namespace } => {
                Observation::AdmissionBackends(self.admission_backends(namespace).await?)
            }
            Read::Responses => Observation::Responses(self.peers(now).await?),
            Read::ResponsesOn { namespace, pod } => {
                Observation::Responses(self.peers_on(namespace, pod.as_deref(), now).await?)
            }
            Read::Control { address } => Observation::Control(probe::attempt(*address, CONTROL_LIMIT).await),
            Read::Reach { .. } => Observation::Reach(None),
            // Nor are these: of a task that nobody carries out nothing is known, and nobody remembers anything.
            Read::Recent => Observation::Recent(BTreeMap::new()),
            Read::Task(_) => Observation::Task(TaskSeen { instance: String::new(), state: None }),
            Read::ServiceAccount { namespace, name } => {
                Observation::ServiceAccount(patiently(self.service_account(namespace, name)).await)
            }
            Read::Grants { namespace, account } => {
                Observation::Grants(patiently(self.grants(namespace, account)).await)
            }
            Read::Neighbours { namespace, node } => {
                Observation::Neighbours(patiently(self.neighbours(namespace, node)).await)
            }
            Read::Services { namespace } => Observation::Services(patiently(self.services(namespace)).await),
        })
    }

    /// Of a namespace in which a hundred responses put a policy each, every one of them wants the list: a hundred lists of a hundred.
    async fn network_policies(&self, namespace: &str) -> Result<Arc<Vec<NetworkPolicy>>, Error> {
        let list = async || {
            let api: Api<NetworkPolicy> = Api::namespaced(self.client.clone(), namespace);
            let list = within(api.list(&cached())).await;
            let list = list.map_err(|cause| Error::request("list NetworkPolicies of", namespace, cause))?;
            Ok::<_, Error>(list.items)
        };
        self.policies.get_of_late(&namespace.to_owned(), Duration::ZERO, list).await
    }

    /// The selector of a workload; `None` when it is gone, or another one by now, or of a kind that has none.
    async fn owner_selector(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        uid: &str,
    ) -> Result<Option<LabelSelector>, Error> {
        let Some(resource) = workload(kind).filter(|_| kind != "Deployment") else { return Ok(None) };
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource);
        let found = existing(within(api.get(name)).await)
            .map_err(|cause| Error::request("read", format_args!("{kind} {namespace}/{name}"), cause))?;
        let found = found.filter(|found| found.metadata.uid.as_deref() == Some(uid));
        let selector = found.and_then(|found| found.data.pointer("/spec/selector").cloned());
        let readable = selector.map(serde_json::from_value).transpose();
        readable.map_err(|error| {
            Error::request("read", format_args!("{kind} {namespace}/{name}"), Cause::Transport(error.to_string()))
        })
    }

    /// The Services of a namespace that fail-closed webhooks and aggregated APIs depend on.
    async fn admission_backends(&self, namespace: &str) -> Result<Vec<AdmissionBackend>, Error> {
        let dependencies = self.dependencies.get(async || self.dependencies().await).await?;
        let of_namespace = dependencies.0.iter().filter(|((of, _), _)| of == namespace);
        let used: Vec<(String, String)> =
            of_namespace.map(|((_, service), used_by)| (service.clone(), used_by.clone())).collect();
        let services: Api<Service> = Api::namespaced(self.client.clone(), namespace);
        let services = &services;
        let backends = join_all(used.into_iter().map(|(service, used_by)| async move {
            let found = existing(within(services.get(&service)).await)
                .map_err(|cause| Error::request("read", format_args!("Service {namespace}/{service}"), cause))?;
            let selector = found.and_then(|found| found.spec).and_then(|spec| spec.selector).unwrap_or_default();
            Ok::<_, Error>(AdmissionBackend { used_by, service, selector })
        }))
        .await;
        backends.into_iter().collect()
    }

    /// The Services that the API server itself depends on.
    async fn dependencies(&self) -> Result<Dependencies, Error> {
        let all = cached();
        let validating: Api<ValidatingWebhookConfiguration> = Api::all(self.client.clone());
        let mutating: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        let aggregated: Api<APIService> = Api::all(self.client.clone());
        let (validating, mutating, aggregated) =
            futures::join!(within(validating.list(&all)), within(mutating.list(&all)), within(aggregated.list(&all)));
        let fails = |what: &'static str| move |cause| Error::request("list", what, cause);
        let mut used = BTreeMap::new();
        for configuration in validating.map_err(fails("ValidatingWebhookConfigurations"))? {
            for webhook in configuration.webhooks.into_iter().flatten() {
                if let Some(service) = depends(&webhook.client_config, webhook.failure_policy.as_deref()) {
                    used.insert(
                        service,
                        format!("ValidatingWebhookConfiguration {}", name_of(&configuration.metadata)),
                    );
                }
            }
        }
        for configuration in mutating.map_err(fails("MutatingWebhookConfigurations"))? {
            for webhook in configuration.webhooks.into_iter().flatten() {
                if let Some(service) = depends(&webhook.client_config, webhook.failure_policy.as_deref()) {
                    used.insert(service, format!("MutatingWebhookConfiguration {}", name_of(&configuration.metadata)));
                }
            }
        }
        for api in aggregated.map_err(fails("APIServices"))? {
            if let Some(service) = api.spec.and_then(|spec| spec.service) {
                let place = (service.namespace.unwrap_or_default(), service.name.unwrap_or_default());
                used.insert(place, format!("APIService {}", name_of(&api.metadata)));
            }
        }
        Ok(Dependencies(used))
    }
}

/// How long the answers of the others are waited for when one look has failed.
const OTHER_ANSWERS: Duration = Duration::from_millis(500);

/// What all of them bring, or the first failure. The others are given a moment even then: an answer that asks for a pause is heeded only when it
/// is read, and whoever hangs up before would come again too early.
async fn all_of<T>(mut looks: FuturesUnordered<impl Future<Output = Result<T, Error>>>) -> Result<Vec<T>, Error> {
    let mut seen = Vec::new();
    while let Some(look) = looks.next().await {
        match look {
            Ok(one) => seen.push(one),
            Err(error) => {
                let others = looks.for_each(|_| std::future::ready(()));
                // Those that hang are no reason to.
                let _ = tokio::time::timeout(OTHER_ANSWERS, others).await;
                return Err(error);
            }
        }
    }
    Ok(seen)
}

/// What uses each Service that the API server depends on, by namespace and name.
pub(crate) struct Dependencies(BTreeMap<(String, String), String>);

/// A list from the API server's cache. A list without this waits until the cache has caught up with the last write of the whole
/// cluster, 60 to 85 ms where there was just one (measured; the API server asks etcd for progress every 100 ms). What changes
/// after the look is a watch event, and looked at again.
pub(crate) fn cached() -> ListParams {
    ListParams::default().match_any()
}

fn name_of(metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> &str {
    metadata.name.as_deref().unwrap_or_default()
}

/// The Service, by namespace and name, without which the webhook refuses. A webhook without a policy fails closed.
fn depends(client: &WebhookClientConfig, failure_policy: Option<&str>) -> Option<(String, String)> {
    if failure_policy == Some("Ignore") {
        return None;
    }
    if let Some(ServiceReference { name, namespace, .. }) = &client.service {
        return Some((namespace.clone(), name.clone()));
    }
    // A URL may name a Service as well: NAME.NAMESPACE.svc, with or without the cluster's domain.
    let url: http::Uri = client.url.as_ref()?.parse().ok()?;
    let mut labels = url.host()?.split('.');
    let (name, namespace, svc) = (labels.next()?, labels.next()?, labels.next()?);
    (svc == "svc").then(|| (namespace.to_owned(), name.to_owned()))
}

/// 404 means absent, also where the kind is not served at all.
pub(crate) fn existing<T>(result: Result<T, Cause>) -> Result<Option<T>, Cause> {
    match result {
        Ok(object) => Ok(Some(object)),
        Err(Cause::Status { code: 404, .. }) => Ok(None),
        Err(cause) => Err(cause),
    }
}

pub(crate) fn cilium_endpoints() -> ApiResource {
    let kind = GroupVersionKind::gvk("cilium.io", "v2", "CiliumEndpoint");
    ApiResource::from_gvk_with_plural(&kind, "ciliumendpoints")
}

pub(crate) fn cilium_endpoint(object: &DynamicObject) -> CiliumEndpoint {
    let owners = object.metadata.owner_references.iter().flatten();
    let labels = object.data.pointer("/status/identity/labels").and_then(Value::as_array);
    CiliumEndpoint {
        pod_uid: owners.into_iter().find(|owner| owner.kind == "Pod").map(|owner| owner.uid.clone()),
        identity_labels: labels.into_iter().flatten().filter_map(|label| label.as_str().map(str::to_owned)).collect(),
        state: object.data.pointer("/status/state").and_then(Value::as_str).unwrap_or_default().to_owned(),
    }
}

pub(crate) fn clusterwide_policy(object: DynamicObject) -> ClusterwidePolicy {
    let conditions = object.data.pointer("/status/conditions").and_then(Value::as_array);
    let valid = conditions.into_iter().flatten().any(|condition| {
        condition.get("type").and_then(Value::as_str) == Some("Valid")
            && condition.get("status").and_then(Value::as_str) == Some("True")
    });
    ClusterwidePolicy {
        uid: object.metadata.uid.unwrap_or_default(),
        resource_version: object.metadata.resource_version,
        finalizers: object.metadata.finalizers.unwrap_or_default(),
        labels: object.metadata.labels.unwrap_or_default(),
        annotations: object.metadata.annotations.unwrap_or_default(),
        terminating: object.metadata.deletion_timestamp.is_some(),
        valid,
        spec: object.data.get("spec").cloned().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(url: &str) -> WebhookClientConfig {
        WebhookClientConfig { url: Some(url.to_owned()), ..WebhookClientConfig::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn the_answers_beside_a_failure_are_read_but_not_waited_for_without_end() {
        use std::sync::atomic::{AtomicU32, Ordering};
        let read = AtomicU32::new(0);
        let look = async |after: Option<u64>, fails: bool| {
            match after {
                Some(after) => tokio::time::sleep(Duration::from_millis(after)).await,
                None => std::future::pending().await,
            }
            read.fetch_add(1, Ordering::Relaxed);
            if fails { Err(Error::request("read", "it", Cause::TimedOut)) } else { Ok(()) }
        };
        let looks = [look(Some(1), true), look(Some(20), false), look(None, false)];
        assert!(all_of(looks.into_iter().collect()).await.is_err());
        assert_eq!(read.load(Ordering::Relaxed), 2);
        let looks = [look(Some(1), false), look(Some(2), false)];
        assert_eq!(all_of(looks.into_iter().collect()).await.map(|seen| seen.len()).ok(), Some(2));
    }

    #[test]
    fn a_url_can_name_a_service() {
        let hook = Some(("shop".to_owned(), "hook".to_owned()));
        assert_eq!(depends(&at("https://hook.shop.svc:8443/validate"), None), hook);
        assert_eq!(depends(&at("https://hook.shop.svc.cluster.local/"), Some("Fail")), hook);
        assert_eq!(depends(&at("https://hook.shop.svc/"), Some("Ignore")), None);
        assert_eq!(depends(&at("https://hook.example.com/"), None), None);
    }
}

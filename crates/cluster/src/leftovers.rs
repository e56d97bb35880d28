//! What may be left of responses that no longer live, listed consistently and page by page.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::api::{Api, DynamicObject, ListParams, ObjectList};
use kube::core::ApiResource;
use serde::de::DeserializeOwned;
use tourniquet_api::{Containment, IncidentResponse, NodeAgent, names};
use tourniquet_response::{Agents, Kind, Orphan, Standing, Traces, carries_trace, name_on_node};

use crate::error::{Cause, Error};
use crate::observe::existing;
use crate::{Cluster, api_resource, within};

/// Objects of one page. All pages are of the moment of the first (Kubernetes, `staging/src/k8s.io/apiserver/pkg/storage/interfaces.go`).
const PAGE: u32 = 500;

impl Cluster {
    /// All responses that exist, read consistently; one that cannot be read is among them.
    ///
    /// # Errors
    /// When the list is not whole. That the kind is not served is an error too: it says nothing about responses.
    pub async fn standings(&self) -> Result<Vec<Standing>, Error> {
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &ApiResource::erase::<IncidentResponse>(&()));
        let mut standings = Vec::new();
        let listed = pages(|params| list(api.clone(), params), |response| standings.push(Standing::of(&response)));
        listed.await.map_err(|cause| Error::request("list", "IncidentResponses", cause))?;
        Ok(standings)
    }

    /// Everything that may be a trace, read consistently.
    ///
    /// # Errors
    /// When one of the lists is not whole. What belongs to a kind that is not served does not exist.
    pub async fn traces(&self, agents: Option<&Agents>) -> Result<Traces, Error> {
        let mut traces = Traces::default();
        for kind in [Kind::CiliumClusterwideNetworkPolicy, Kind::NetworkPolicy] {
            self.metadata_of(kind, Some(names::RESPONSE_LABEL), |metadata| traces.policies.push((kind, metadata)))
                .await?;
        }
        // Where the API server of Calico does not answer, what is left there is found by a later sweep: it must not keep this one from
        // everything else. Nothing else depends on it, so it may be missing.
        for kind in [Kind::GlobalNetworkPolicy, Kind::Tier] {
            let mut found = Vec::new();
            if self
                .metadata_of(kind, Some(names::RESPONSE_LABEL), |metadata| found.push((kind, metadata)))
                .await
                .is_ok()
            {
                traces.policies.extend(found);
            }
        }
        let mut reported = Vec::new();
        if let Some(agents) = agents {
            traces.containments = self.internal::<Containment>(&agents.namespace).await?;
            for agent in self.internal::<NodeAgent>(&agents.namespace).await? {
                let orphans = agent.status.unwrap_or_default().orphans;
                reported.extend(orphans.into_iter().map(|orphan| (agent.spec.node_name.clone(), orphan.pod_uid)));
            }
        }
        // Field managers are no label, so everything has to be looked at that has any. Of the others' metadata nothing is kept.
        let contained: BTreeSet<&str> =
            traces.containments.iter().map(|containment| containment.spec.pod.uid.as_str()).collect();
        let mut places = BTreeMap::new();
        let mut marked = Vec::new();
        self.metadata_of(Kind::Pod, None, |metadata| {
            if let Some(name) = name_on_node(&metadata)
                && reported.iter().any(|(_, uid)| uid == name)
            {
                places.insert(name.to_owned(), (metadata.namespace.clone(), metadata.name.clone()));
            }
            if carries_trace(&metadata) || metadata.uid.as_deref().is_some_and(|uid| contained.contains(uid)) {
                marked.push((Kind::Pod, metadata));
            }
        })
        .await?;
        self.metadata_of(Kind::Namespace, None, |metadata| {
            if carries_trace(&metadata) {
                marked.push((Kind::Namespace, metadata));
            }
        })
        .await?;
        let hosts: BTreeSet<String> =
            traces.containments.iter().map(|containment| containment.spec.node_name.clone()).collect();
        self.metadata_of(Kind::Node, None, |metadata| {
            traces.nodes.extend(metadata.name.clone().filter(|name| hosts.contains(name)));
            if carries_trace(&metadata) {
                marked.push((Kind::Node, metadata));
            }
        })
        .await?;
        traces.marked = marked;
        let orphans = reported.into_iter().map(|(node, pod_uid)| async {
            let pod = match places.get(&pod_uid) {
                Some((Some(namespace), Some(name))) => self.pod_as_node_calls(namespace, name, &pod_uid).await?,
                _ => None,
            };
            Ok::<_, Error>(Orphan { node, pod_uid, pod })
        });
        traces.orphans = join_all(orphans).await.into_iter().collect::<Result<_, _>>()?;
        Ok(traces)
    }

    async fn metadata_of(
        &self,
        kind: Kind,
        label: Option<&str>,
        mut each: impl FnMut(ObjectMeta),
    ) -> Result<(), Error> {
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &api_resource(kind));
        let list = |mut params: ListParams| {
            let (api, label) = (api.clone(), label.map(str::to_owned));
            async move {
                params.label_selector = label;
                api.list_metadata(&params).await
            }
        };
        let listed = pages(list, |object| each(object.metadata)).await;
        existing(listed).map(drop).map_err(|cause| Error::request("list", format_args!("{}s", kind.as_str()), cause))
    }

    /// All objects of a kind in which operator and agents meet.
    async fn internal<K>(&self, namespace: &str) -> Result<Vec<K>, Error>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        let mut all = Vec::new();
        let listed = pages(|params| list(api.clone(), params), |object| all.push(object)).await;
        existing(listed).map_err(|cause| Error::request("list", format_args!("{}s", K::kind(&())), cause))?;
        Ok(all)
    }

    /// The pod, if it is the one that its node calls by this name.
    async fn pod_as_node_calls(&self, namespace: &str, name: &str, uid: &str) -> Result<Option<Box<Pod>>, Error> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let pod = existing(within(api.get(name)).await)
            .map_err(|cause| Error::request("read", format_args!("Pod {namespace}/{name}"), cause))?;
        Ok(pod.filter(|pod| name_on_node(&pod.metadata) == Some(uid)).map(Box::new))
    }
}

/// Lists page by page: one answer with the metadata of all pods of a large cluster would not fit into the operator's memory. Consistent,
/// not from whatever the API server has cached: an old list would show what has been undone since.
async fn pages<K: Clone, Page>(list: impl Fn(ListParams) -> Page, mut each: impl FnMut(K)) -> Result<(), Cause>
where
    Page: Future<Output = kube::Result<ObjectList<K>>>,
{
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page = within(list(params.clone())).await?;
        page.items.into_iter().for_each(&mut each);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok(()),
        }
    }
}

async fn list<K: Clone + DeserializeOwned + std::fmt::Debug>(
    api: Api<K>,
    params: ListParams,
) -> kube::Result<ObjectList<K>> {
    api.list(&params).await
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use kube::Client;
    use kube::client::Body;
    use serde_json::{Value, json};

    use super::*;

    /// A cluster whose API server answers like this to a path with its query.
    fn cluster(answer: fn(&str) -> (u16, Value)) -> Cluster {
        let service = tower::service_fn(move |request: Request<Body>| async move {
            let (status, body) = answer(&request.uri().to_string());
            let response = Response::builder().status(status).body(Body::from(body.to_string().into_bytes()));
            Ok::<_, tower::BoxError>(response.unwrap())
        });
        Cluster::new(Client::new(service, "default"))
    }

    fn page(names: &[&str], more: &str) -> (u16, Value) {
        let items: Vec<Value> =
            names.iter().map(|name| json!({ "metadata": { "name": name, "namespace": "n", "uid": name } })).collect();
        (200, json!({ "apiVersion": "v1", "kind": "List", "metadata": { "continue": more }, "items": items }))
    }

    fn failure(code: u16) -> (u16, Value) {
        (code, json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no", "code": code }))
    }

    #[tokio::test]
    async fn a_list_is_read_to_its_last_page() {
        let cluster = cluster(|uri| if uri.contains("continue=") { page(&["b"], "") } else { page(&["a"], "more") });
        assert_eq!(cluster.standings().await.unwrap().len(), 2);
    }

    #[tokio::test]
    async fn a_list_of_responses_that_breaks_off_is_none() {
        let cluster = cluster(|uri| if uri.contains("continue=") { failure(410) } else { page(&["a"], "more") });
        assert!(cluster.standings().await.is_err());
    }

    #[tokio::test]
    async fn that_responses_are_not_served_does_not_mean_that_there_are_none() {
        for answer in [|_: &str| failure(404), |_: &str| failure(500), |_: &str| (200, json!({ "kind": "Status" }))] {
            assert!(cluster(answer).standings().await.is_err());
        }
    }

    #[tokio::test]
    async fn policies_that_are_not_served_left_nothing() {
        let cluster = cluster(|uri| if uri.contains("cilium") { failure(404) } else { page(&[], "") });
        assert_eq!(cluster.traces(None).await.unwrap(), Traces::default());
    }

    #[tokio::test]
    async fn traces_that_cannot_all_be_listed_are_none() {
        let cluster = cluster(|uri| if uri.contains("/pods") { failure(403) } else { page(&[], "") });
        assert!(cluster.traces(None).await.is_err());
    }

    #[tokio::test]
    async fn of_what_is_others_only_that_with_a_trace_is_kept() {
        let cluster = cluster(|_| page(&["web", "api"], ""));
        assert_eq!(cluster.traces(None).await.unwrap().marked, Vec::new());
    }

    #[tokio::test]
    async fn nodes_and_namespaces_can_have_traces_and_are_listed_whole() {
        let cluster = cluster(|uri| {
            let left = |uri: &str| uri.contains("/nodes") || uri.contains("/namespaces?");
            let manager = "tourniquet-4711aaaa-0000-4000-8000-000000000001";
            let held =
                json!({ "name": "x", "uid": "u", "managedFields": [{ "manager": manager, "operation": "Apply" }] });
            match uri {
                uri if left(uri) && uri.contains("continue=") => {
                    let items = [json!({ "metadata": held })];
                    (200, json!({ "apiVersion": "v1", "kind": "List", "metadata": {}, "items": items }))
                }
                uri if left(uri) => page(&["y"], "more"),
                _ => page(&[], ""),
            }
        });
        let marked = cluster.traces(None).await.unwrap().marked;
        let kinds: Vec<Kind> = marked.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [Kind::Namespace, Kind::Node]);
    }
}

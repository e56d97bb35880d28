//! The responses themselves: read, status, finalizer.

use std::time::Duration;

use futures::future::try_join_all;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::DeserializeGuard;
use serde_json::{Value, json};
use tourniquet_api::{IncidentResponse, IncidentResponseStatus, names};
use tourniquet_response::{PeerResponse, peer};

use crate::error::{Cause, Error};
use crate::{Cluster, within};

/// What became of a write that is tied to what was read.
#[derive(Debug)]
pub enum Written<T> {
    /// What is stored now.
    Done(T),
    /// Somebody changed the object since it was read, or it is gone: read again and decide afresh.
    Stale,
}

impl Cluster {
    fn api_of(&self, namespace: &str) -> Api<IncidentResponse> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// A response as it is now; `None` when it is gone.
    ///
    /// # Errors
    /// When the API server cannot be asked.
    pub async fn response(&self, namespace: &str, name: &str) -> Result<Option<IncidentResponse>, Error> {
        within(self.api_of(namespace).get_opt(name))
            .await
            .map_err(|cause| Error::request("read", format_args!("IncidentResponse {namespace}/{name}"), cause))
    }

    /// Writes the status, if nobody changed the object since it was read.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn write_status(
        &self,
        response: &IncidentResponse,
        status: &IncidentResponseStatus,
    ) -> Result<Written<Box<IncidentResponse>>, Error> {
        let mut wanted = response.clone();
        wanted.status = Some(status.clone());
        wanted.metadata.managed_fields = None;
        let (namespace, name) = place(&response.metadata);
        let parameters =
            PostParams { field_manager: Some(names::OPERATOR_MANAGER.to_owned()), ..PostParams::default() };
        let result = within(self.api_of(namespace).replace_status(name, &parameters, &wanted)).await;
        written(result.map(Box::new), "write the status of", &response.metadata)
    }

    /// Adds or removes our finalizer, if nobody changed the object since it was read. What is returned is its metadata now.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn set_finalizer(&self, metadata: &ObjectMeta, wanted: bool) -> Result<Written<Box<ObjectMeta>>, Error> {
        let mut finalizers = metadata.finalizers.clone().unwrap_or_default();
        finalizers.retain(|finalizer| finalizer != names::FINALIZER);
        if wanted {
            finalizers.push(names::FINALIZER.to_owned());
        }
        let patch = json!({ "metadata": {
            "resourceVersion": metadata.resource_version,
            "uid": metadata.uid,
            "finalizers": finalizers,
        }});
        let (namespace, name) = place(metadata);
        let parameters =
            PatchParams { field_manager: Some(names::OPERATOR_MANAGER.to_owned()), ..PatchParams::default() };
        // Metadata only: the object may be one that cannot be read.
        let result = within(self.bare(namespace).patch_metadata(name, &parameters, &Patch::Merge(&patch))).await;
        written(result.map(|patched| Box::new(patched.metadata)), "set the finalizer of", metadata)
    }

    /// A response as it is stored, also when it cannot be read as one; `None` when it is gone.
    ///
    /// # Errors
    /// When the API server cannot be asked.
    pub async fn stored(&self, namespace: &str, name: &str) -> Result<Option<DynamicObject>, Error> {
        let api = self.bare(namespace);
        within(api.get_opt(name))
            .await
            .map_err(|cause| Error::request("read", format_args!("IncidentResponse {namespace}/{name}"), cause))
    }

    /// Writes the status of an object that cannot be read as a response, if nobody changed it since it was read.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn write_bare_status(&self, stored: &DynamicObject, status: Value) -> Result<(), Error> {
        let mut wanted = stored.clone();
        wanted.data["status"] = status;
        wanted.metadata.managed_fields = None;
        let (namespace, name) = place(&stored.metadata);
        let parameters =
            PostParams { field_manager: Some(names::OPERATOR_MANAGER.to_owned()), ..PostParams::default() };
        let result = within(self.bare(namespace).replace_status(name, &parameters, &wanted)).await;
        written(result, "write the status of", &stored.metadata).map(drop)
    }

    fn bare(&self, namespace: &str) -> Api<DynamicObject> {
        let resource = kube::core::ApiResource::erase::<IncidentResponse>(&());
        Api::namespaced_with(self.client.clone(), namespace, &resource)
    }

    /// All responses, read from the API server and not from a cache.
    pub(crate) async fn peers(&self, now: jiff::Timestamp) -> Result<Vec<PeerResponse>, Error> {
        self.peers_by(None, now).await
    }

    /// Those whose target is a pod of this namespace (of this name, if one is given), pods of it, or all of it. Each is in one of the three lists, and
    /// stays in it: a target cannot change.
    pub(crate) async fn peers_on(
        &self,
        namespace: &str,
        pod: Option<&str>,
        now: jiff::Timestamp,
    ) -> Result<Vec<PeerResponse>, Error> {
        let name = pod.map(|name| format!(",spec.target.pod.name={name}")).unwrap_or_default();
        let lists = [
            format!("spec.target.pod.namespace={namespace}{name}"),
            format!("spec.target.pods.namespace={namespace}"),
            format!("spec.target.namespace.name={namespace}"),
        ];
        match try_join_all(lists.map(|fields| self.peers_by(Some(fields), now))).await {
            Ok(lists) => Ok(lists.concat()),
            // The definition is older than this operator, and knows no such fields.
            Err(Error::Request { cause: Cause::Status { code: 400, .. }, .. }) => self.peers(now).await,
            Err(error) => Err(error),
        }
    }

    async fn peers_by(&self, fields: Option<String>, now: jiff::Timestamp) -> Result<Vec<PeerResponse>, Error> {
        // One by one: a typed list fails as a whole on one object that cannot be read.
        let api: Api<DeserializeGuard<IncidentResponse>> = Api::all(self.client.clone());
        let list = async || {
            let parameters = ListParams { field_selector: fields.clone(), ..ListParams::default() };
            let list = within(api.list(&parameters)).await;
            list.map(|list| list.items).map_err(|cause| Error::request("list", "IncidentResponses", cause))
        };
        let list = self.responses.get_of_late(&fields, Duration::ZERO, list).await?;
        Ok(list.iter().filter_map(|item| item.0.as_ref().ok()).map(|response| peer(response, now)).collect())
    }
}

fn place(metadata: &ObjectMeta) -> (&str, &str) {
    (metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
}

fn written<T>(result: Result<T, Cause>, doing: &'static str, metadata: &ObjectMeta) -> Result<Written<T>, Error> {
    match result {
        Ok(now) => Ok(Written::Done(now)),
        Err(Cause::Status { code: 404 | 409, .. }) => Ok(Written::Stale),
        Err(cause) => {
            let (namespace, name) = place(metadata);
            Err(Error::request(doing, format_args!("IncidentResponse {namespace}/{name}"), cause))
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use kube::Client;
    use kube::client::Body;

    use super::*;

    fn response(name: &str, target: &Value) -> Value {
        json!({ "metadata": { "namespace": "soc", "name": name, "uid": name }, "spec": { "target": target, "actions": [{ "isolate": {} }] } })
    }

    /// A cluster with a response on each kind of target, whose API server lists by all fields of targets, or, with a definition of before, by none.
    fn cluster(knows_fields: bool) -> Cluster {
        let service = tower::service_fn(move |request: Request<Body>| async move {
            let query = request.uri().query().unwrap_or_default().replace("%3D", "=").replace("%2C", ",");
            let all = [
                (
                    "spec.target.pod.namespace=shop,spec.target.pod.name=web",
                    response("pod", &json!({ "pod": { "namespace": "shop", "name": "web" } })),
                ),
                (
                    "spec.target.pods.namespace=shop",
                    response("pods", &json!({ "pods": { "namespace": "shop", "limit": 9 } })),
                ),
                ("spec.target.namespace.name=shop", response("namespace", &json!({ "namespace": { "name": "shop" } }))),
                (
                    "spec.target.pod.namespace=bank",
                    response("other", &json!({ "pod": { "namespace": "bank", "name": "web" } })),
                ),
            ];
            let asked = query.contains("fieldSelector");
            let found: Vec<&Value> = all
                .iter()
                .filter(|(fields, _)| !asked || query.contains(fields))
                .map(|(_, response)| response)
                .collect();
            let (status, body) = if asked && !knows_fields {
                (
                    400,
                    json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "field label not supported", "code": 400 }),
                )
            } else {
                (200, json!({ "apiVersion": "v1", "kind": "List", "metadata": {}, "items": found }))
            };
            let response = Response::builder().status(status).body(Body::from(body.to_string().into_bytes()));
            Ok::<_, tower::BoxError>(response.unwrap())
        });
        Cluster::new(Client::new(service, "default"))
    }

    async fn on_the_pod(cluster: &Cluster) -> Vec<String> {
        let peers = cluster.peers_on("shop", Some("web"), jiff::Timestamp::UNIX_EPOCH).await.unwrap();
        peers.into_iter().map(|peer| peer.uid).collect()
    }

    #[tokio::test]
    async fn whoever_may_hold_a_pod_is_listed_by_the_fields_of_targets_and_nobody_else() {
        assert_eq!(on_the_pod(&cluster(true)).await, ["pod", "pods", "namespace"]);
    }

    #[tokio::test]
    async fn a_definition_that_knows_no_fields_of_targets_gives_all() {
        assert_eq!(on_the_pod(&cluster(false)).await, ["pod", "pods", "namespace", "other"]);
    }
}

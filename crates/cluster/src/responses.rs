//! The responses themselves: read, status, finalizer.

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
        // One by one: a typed list fails as a whole on one object that cannot be read.
        let api: Api<DeserializeGuard<IncidentResponse>> = Api::all(self.client.clone());
        let list = self.responses.get(async || {
            let list = within(api.list(&ListParams::default())).await;
            list.map(|list| list.items).map_err(|cause| Error::request("list", "IncidentResponses", cause))
        });
        Ok(list.await?.iter().filter_map(|item| item.0.as_ref().ok()).map(|response| peer(response, now)).collect())
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

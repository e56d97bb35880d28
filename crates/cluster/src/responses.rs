//! The responses themselves: read, status, finalizer.

use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::core::DeserializeGuard;
use serde_json::json;
use tourniquet_api::{IncidentResponse, IncidentResponseStatus, names};
use tourniquet_response::{PeerResponse, peer};

use crate::error::{Cause, Error};
use crate::{Cluster, within};

/// What became of a write that is tied to what was read.
#[derive(Debug)]
pub enum Written {
    /// The object as it is now.
    Done(Box<IncidentResponse>),
    /// Somebody changed the object since it was read, or it is gone: read again and decide afresh.
    Stale,
}

impl Cluster {
    fn responses(&self, namespace: &str) -> Api<IncidentResponse> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// A response as it is now; `None` when it is gone.
    ///
    /// # Errors
    /// When the API server cannot be asked.
    pub async fn response(&self, namespace: &str, name: &str) -> Result<Option<IncidentResponse>, Error> {
        within(self.responses(namespace).get_opt(name))
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
    ) -> Result<Written, Error> {
        let mut wanted = response.clone();
        wanted.status = Some(status.clone());
        wanted.metadata.managed_fields = None;
        let (namespace, name) = place(response);
        let parameters =
            PostParams { field_manager: Some(names::OPERATOR_MANAGER.to_owned()), ..PostParams::default() };
        let result = within(self.responses(namespace).replace_status(name, &parameters, &wanted)).await;
        written(result, "write the status of", response)
    }

    /// Adds or removes our finalizer, if nobody changed the object since it was read.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn set_finalizer(&self, response: &IncidentResponse, wanted: bool) -> Result<Written, Error> {
        let mut finalizers = response.metadata.finalizers.clone().unwrap_or_default();
        finalizers.retain(|finalizer| finalizer != names::FINALIZER);
        if wanted {
            finalizers.push(names::FINALIZER.to_owned());
        }
        let patch = json!({ "metadata": {
            "resourceVersion": response.metadata.resource_version,
            "uid": response.metadata.uid,
            "finalizers": finalizers,
        }});
        let (namespace, name) = place(response);
        let parameters =
            PatchParams { field_manager: Some(names::OPERATOR_MANAGER.to_owned()), ..PatchParams::default() };
        let result = within(self.responses(namespace).patch(name, &parameters, &Patch::Merge(&patch))).await;
        written(result, "set the finalizer of", response)
    }

    /// Writes the status of an object that cannot be read as a response.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn mark_unreadable(
        &self,
        namespace: &str,
        name: &str,
        status: &IncidentResponseStatus,
    ) -> Result<(), Error> {
        // As a bare object: the typed one cannot hold what is stored.
        let resource = kube::core::ApiResource::erase::<IncidentResponse>(&());
        let api: Api<kube::api::DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource);
        let describe = || format!("IncidentResponse {namespace}/{name}");
        let current = within(api.get_opt(name)).await.map_err(|cause| Error::request("read", describe(), cause))?;
        let Some(mut current) = current else { return Ok(()) };
        let wanted = json!(status);
        if let Some(message) = current.data.pointer("/status/conditions/0/message")
            && Some(message) == wanted.pointer("/conditions/0/message")
        {
            return Ok(());
        }
        current.data["status"] = wanted;
        current.metadata.managed_fields = None;
        let parameters =
            PostParams { field_manager: Some(names::OPERATOR_MANAGER.to_owned()), ..PostParams::default() };
        within(api.replace_status(name, &parameters, &current))
            .await
            .map(drop)
            .map_err(|cause| Error::request("write the status of", describe(), cause))
    }

    /// All responses, read from the API server and not from a cache.
    pub(crate) async fn peers(&self, now: jiff::Timestamp) -> Result<Vec<PeerResponse>, Error> {
        // One by one: a typed list fails as a whole on one object that cannot be read.
        let api: Api<DeserializeGuard<IncidentResponse>> = Api::all(self.client.clone());
        let list = within(api.list(&ListParams::default()))
            .await
            .map_err(|cause| Error::request("list", "IncidentResponses", cause))?;
        Ok(list.items.iter().filter_map(|item| item.0.as_ref().ok()).map(|response| peer(response, now)).collect())
    }
}

fn place(response: &IncidentResponse) -> (&str, &str) {
    let metadata = &response.metadata;
    (metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
}

fn written(
    result: Result<IncidentResponse, Cause>,
    doing: &'static str,
    response: &IncidentResponse,
) -> Result<Written, Error> {
    match result {
        Ok(now) => Ok(Written::Done(Box::new(now))),
        Err(Cause::Status { code: 404 | 409, .. }) => Ok(Written::Stale),
        Err(cause) => {
            let (namespace, name) = place(response);
            Err(Error::request(doing, format_args!("IncidentResponse {namespace}/{name}"), cause))
        }
    }
}

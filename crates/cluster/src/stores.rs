//! Evidence stores: the secrets that they name, and their status.

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DynamicObject, GetParams, PostParams};
use kube::core::{ApiResource, Request};
use kube::{Resource, ResourceExt};
use secrecy::SecretString;
use tourniquet_api::{EvidenceStore, EvidenceStoreStatus, names};

use crate::error::{Cause, Error};
use crate::{Cluster, Written, within};

/// How often a status is written anew because somebody changed the object in between.
const ATTEMPTS: usize = 3;

/// What is at a key of a Secret.
#[derive(Clone, Debug)]
pub enum SecretValue {
    /// This.
    Found(SecretString),
    /// It is not text.
    NotText,
    /// The Secret has no such key.
    NoKey,
    /// There is no such Secret.
    NoSecret,
}

impl Cluster {
    /// What is at a key of a Secret.
    ///
    /// # Errors
    /// When the API server cannot be asked, or refuses. Nothing of the Secret is in the error.
    pub async fn secret_value(&self, namespace: &str, name: &str, key: &str) -> Result<SecretValue, Error> {
        let failed = |cause| Error::request("read", format_args!("Secret {namespace}/{name}"), cause);
        let request = Request::new(Secret::url_path(&(), Some(namespace))).get(name, &GetParams::default());
        let request = request.map_err(|error| failed(Cause::Transport(error.to_string())))?;
        // Not by `Api::get`: of an answer that it cannot read it writes all into the log (kube-client 5.0.0, `Client::request`), and serde quotes what it did not expect.
        let text = match within(self.client.request_text(request)).await {
            Ok(text) => text,
            Err(Cause::Status { code: 404, .. }) => return Ok(SecretValue::NoSecret),
            Err(cause) => return Err(failed(cause)),
        };
        let secret: Secret = serde_json::from_str(&text)
            .map_err(|_| failed(Cause::Transport("the API server's answer is no Secret".to_owned())))?;
        let Some(value) = secret.data.and_then(|mut data| data.remove(key)) else { return Ok(SecretValue::NoKey) };
        Ok(String::from_utf8(value.0).map_or(SecretValue::NotText, |text| SecretValue::Found(text.into())))
    }

    /// Writes the status of an evidence store that `decide` makes of the present one. It may be one that cannot be read as an evidence store, and so may its status.
    ///
    /// # Errors
    /// When the API server cannot be asked, or refuses.
    pub async fn write_store_status(
        &self,
        name: &str,
        uid: &str,
        decide: impl Fn(&EvidenceStoreStatus) -> EvidenceStoreStatus,
    ) -> Result<Written<()>, Error> {
        let failed = |doing, cause| Error::request(doing, format_args!("EvidenceStore {name}"), cause);
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &ApiResource::erase::<EvidenceStore>(&()));
        let parameters =
            PostParams { field_manager: Some(names::OPERATOR_MANAGER.to_owned()), ..PostParams::default() };
        for _ in 0..ATTEMPTS {
            let found = within(api.get_opt(name)).await.map_err(|cause| failed("read", cause))?;
            let Some(mut object) = found.filter(|object| object.meta().uid.as_deref() == Some(uid)) else {
                return Ok(Written::Stale);
            };
            let before = object.data.get("status").cloned().and_then(|status| serde_json::from_value(status).ok());
            let status = decide(&before.unwrap_or_default());
            let status =
                serde_json::to_value(status).map_err(|error| failed("write", Cause::Transport(error.to_string())))?;
            object.managed_fields_mut().clear();
            object.data["status"] = status;
            match within(api.replace_status(name, &parameters, &object)).await {
                Ok(_) => return Ok(Written::Done(())),
                Err(Cause::Status { code: 404, .. }) => return Ok(Written::Stale),
                Err(Cause::Status { code: 409, .. }) => {}
                Err(cause) => return Err(failed("write the status of", cause)),
            }
        }
        Ok(Written::Stale)
    }
}

//! Effects, one request each.

use http::StatusCode;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions};
use serde_json::{Value, json};
use tourniquet_response::{Effect, Kind, ObjectRef, merge};

use crate::error::{Cause, Error};
use crate::{Cluster, api_resource, within};

impl Cluster {
    /// Carries out one effect. An object that is gone or was replaced is success: the next look sees it, and decides.
    ///
    /// # Errors
    /// When the API server refuses, or somebody else holds a field with another value.
    pub async fn perform(&self, effect: &Effect) -> Result<(), Error> {
        let object = effect.object();
        let api = self.api(object);
        let done = match effect {
            Effect::Apply { manager, fields, .. } => {
                let mut manifest = object.manifest();
                merge(&mut manifest, fields);
                within(api.patch(&object.name, &apply(manager), &Patch::Apply(&manifest))).await.map(drop)
            }
            Effect::Withdraw { manager, .. } => {
                within(api.patch(&object.name, &apply(manager), &Patch::Apply(&object.manifest()))).await.map(drop)
            }
            Effect::Patch { manager, version, fields, .. } => {
                let mut patch = json!({ "metadata": { "uid": object.uid, "resourceVersion": version } });
                merge(&mut patch, fields);
                let parameters = PatchParams { field_manager: Some(manager.clone()), ..PatchParams::default() };
                within(api.patch(&object.name, &parameters, &Patch::Merge(&patch))).await.map(drop)
            }
            Effect::Put { manager, manifest, replaces: None, .. } => {
                // Forced: the object is ours, and one that appeared since it was looked for is brought into shape.
                match within(api.patch(&object.name, &apply(manager).force(), &Patch::Apply(manifest))).await {
                    // Calico's API server up to 3.32.0 creates no policy by an apply (projectcalico/calico#12841).
                    Err(Cause::Status { code: 404, .. }) if object.kind == Kind::GlobalNetworkPolicy => {
                        self.create(&api, manager, manifest).await
                    }
                    done => done.map(drop),
                }
            }
            Effect::Put { manager, manifest, replaces: Some(_), .. } => {
                match serde_json::from_value(manifest.clone()) {
                    Ok(whole) => {
                        let parameters = PostParams { field_manager: Some(manager.clone()), ..PostParams::default() };
                        within(api.replace(&object.name, &parameters, &whole)).await.map(drop)
                    }
                    Err(error) => Err(Cause::Transport(error.to_string())),
                }
            }
            Effect::Delete { version, .. } => {
                let preconditions = Preconditions { uid: object.uid.clone(), resource_version: version.clone() };
                let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
                within(api.delete(&object.name, &parameters)).await.map(drop)
            }
            Effect::Start { .. } | Effect::Stop { .. } => {
                Err(Cause::Transport("it is no request: whoever carries out tasks does it".to_owned()))
            }
        };
        match done {
            // But not of what is to be created: then its namespace is gone, or its kind is not served.
            Err(Cause::Status { code, field_conflict: false, .. })
                if code == StatusCode::CONFLICT
                    || code == StatusCode::NOT_FOUND && !matches!(effect, Effect::Put { replaces: None, .. }) =>
            {
                Ok(())
            }
            Err(cause) => Err(Error::request(doing(effect), object, cause)),
            Ok(()) => Ok(()),
        }
    }

    async fn create(&self, api: &Api<DynamicObject>, manager: &str, manifest: &Value) -> Result<(), Cause> {
        let whole = serde_json::from_value(manifest.clone()).map_err(|error| Cause::Transport(error.to_string()))?;
        let parameters = PostParams { field_manager: Some(manager.to_owned()), ..PostParams::default() };
        within(api.create(&parameters, &whole)).await.map(drop)
    }

    fn api(&self, object: &ObjectRef) -> Api<DynamicObject> {
        let resource = api_resource(object.kind);
        match &object.namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }
}

const fn doing(effect: &Effect) -> &'static str {
    match effect {
        Effect::Apply { .. } => "apply to",
        Effect::Withdraw { .. } => "withdraw from",
        Effect::Patch { .. } => "change",
        Effect::Put { .. } => "create or restore",
        Effect::Delete { .. } => "delete",
        Effect::Start { .. } | Effect::Stop { .. } => "begin or end a task on",
    }
}

fn apply(manager: &str) -> PatchParams {
    PatchParams::apply(manager)
}

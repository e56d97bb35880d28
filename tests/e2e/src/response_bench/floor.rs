//! The floor: a bare client that makes the requests that nobody could leave out, one after the other, with nothing in between.
//!
//! Of what the operator does before its first effect, the laws demand: that the finalizer is on the response, that its target is read (its UID is to be
//! pinned), that the status that pins it is stored, then the effect. The bare client makes these, with the status that the operator has
//! written in the same round, on a copy of the API's definition that no operator watches: same schema, same rules. What the admission policies
//! cost is left out of it.

use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::verbs::Verb;
use crate::{Scenario, until};

const GROUP: &str = "floor.tourniquet.dev";
const FINALIZER: &str = "floor.tourniquet.dev/undo";

/// A definition of responses that nobody acts upon.
pub struct Floor {
    scenario: Scenario,
    definitions: Api<CustomResourceDefinition>,
    pub copies: Api<DynamicObject>,
}

impl Floor {
    /// Copies the definition.
    pub async fn begin(scenario: &Scenario) -> Result<Self> {
        let definitions: Api<CustomResourceDefinition> = Api::all(scenario.env.client.clone());
        let mut copy = definitions.get("incidentresponses.tourniquet.dev").await?;
        let name = format!("incidentresponses.{GROUP}");
        copy.metadata = kube::core::ObjectMeta { name: Some(name.clone()), ..Default::default() };
        copy.status = None;
        GROUP.clone_into(&mut copy.spec.group);
        // Whoever asks for `ir` meanwhile means ours.
        copy.spec.names.short_names = None;
        copy.spec.names.categories = None;
        match definitions.create(&PostParams::default(), &copy).await {
            // A measurement that was interrupted left it.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            created => drop(created.context("cannot copy the definition")?),
        }
        until("the copy of the definition is served", Duration::from_secs(30), async || {
            let status = definitions.get(&name).await?.status.unwrap_or_default();
            let mut conditions = status.conditions.into_iter().flatten();
            Ok(conditions.any(|one| one.type_ == "Established" && one.status == "True").then_some(()))
        })
        .await?;
        let gvk = kube::core::GroupVersionKind::gvk(GROUP, "v1alpha1", "IncidentResponse");
        let resource = ApiResource::from_gvk_with_plural(&gvk, "incidentresponses");
        let copies = Api::namespaced_with(scenario.env.client.clone(), &scenario.namespace, &resource);
        // Established is said a moment before it is served.
        until("the copy of the definition answers", Duration::from_secs(30), async || {
            Ok(copies.list(&kube::api::ListParams::default()).await.ok().map(drop))
        })
        .await?;
        Ok(Self { scenario: scenario.clone(), definitions, copies })
    }

    /// All requests of one response up to its first effect. `status` is what the operator wrote for the same.
    pub async fn respond(&self, name: &str, key: &str, verb: Verb, target: &str, status: &Value) -> Result<()> {
        let response = serde_json::from_value(json!({
            "apiVersion": format!("{GROUP}/v1alpha1"), "kind": "IncidentResponse",
            "metadata": { "name": name }, "spec": verb.spec(&self.scenario, target, key),
        }))?;
        let mut stored = self.copies.create(&PostParams::default(), &response).await?;
        let finalizer = json!({ "metadata": {
            "resourceVersion": stored.metadata.resource_version, "uid": stored.metadata.uid, "finalizers": [FINALIZER],
        }});
        let patched = self.copies.patch_metadata(name, &PatchParams::default(), &Patch::Merge(&finalizer)).await?;
        stored.metadata.resource_version = patched.metadata.resource_version;
        verb.read(&self.scenario, target).await?;
        stored.data["status"] = status.clone();
        self.copies.replace_status(name, &PostParams::default(), &stored).await?;
        self.effect(key, verb, target).await
    }

    /// The effect alone.
    pub async fn effect(&self, key: &str, verb: Verb, target: &str) -> Result<()> {
        verb.apply(&self.scenario, target, key, true).await
    }

    /// Takes the effect back, and removes the copy of the response if there is one.
    pub async fn undo(&self, name: &str, key: &str, verb: Verb, target: &str) -> Result<()> {
        verb.apply(&self.scenario, target, key, false).await?;
        if self.copies.get_opt(name).await?.is_some() {
            let bare = json!({ "metadata": { "finalizers": null } });
            self.copies.patch_metadata(name, &PatchParams::default(), &Patch::Merge(&bare)).await?;
            self.copies.delete(name, &DeleteParams::default()).await?;
        }
        Ok(())
    }

    /// Removes the definition, and with it what was made by it.
    pub async fn end(&self) -> Result<()> {
        for copy in self.copies.list_metadata(&kube::api::ListParams::default()).await? {
            let bare = json!({ "metadata": { "finalizers": null } });
            self.copies.patch_metadata(&copy.name_any(), &PatchParams::default(), &Patch::Merge(&bare)).await?;
        }
        self.definitions.delete(&format!("incidentresponses.{GROUP}"), &DeleteParams::default()).await?;
        Ok(())
    }
}

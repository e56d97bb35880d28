//! Responses, as a responder creates and reads them.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tourniquet_api::{ActionStatus, IncidentResponse};

use crate::scenario::TEST_LABEL;
use crate::{RESPONSE_NAMESPACE, Scenario, TestPod, until};

/// What a response asks for.
pub struct Spec(pub Value);

impl Spec {
    /// Isolate a pod.
    pub fn isolate(pod: &TestPod) -> Self {
        Self(json!({
            "target": { "pod": { "namespace": pod.namespace, "name": pod.name } },
            "actions": [{ "isolate": {} }],
        }))
    }

    /// The same with another field.
    pub fn with(mut self, field: &str, value: Value) -> Self {
        self.0[field] = value;
        self
    }

    /// The same with another field of `target.pod`.
    pub fn with_pod(mut self, field: &str, value: Value) -> Self {
        self.0["target"]["pod"][field] = value;
        self
    }
}

/// A response that was created.
#[derive(Clone)]
pub struct TestResponse {
    client: Client,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// When the API server was asked to create it.
    pub asked: Timestamp,
}

impl Scenario {
    /// Creates a response in the response namespace.
    pub async fn respond(&self, name: &str, spec: Spec) -> Result<TestResponse> {
        self.respond_in(RESPONSE_NAMESPACE, name, spec).await
    }

    /// Creates a response in a namespace.
    pub async fn respond_in(&self, namespace: &str, name: &str, spec: Spec) -> Result<TestResponse> {
        let response: IncidentResponse = serde_json::from_value(json!({
            "apiVersion": "tourniquet.dev/v1alpha1",
            "kind": "IncidentResponse",
            "metadata": {
                "name": format!("{}-{name}", self.namespace),
                "labels": { TEST_LABEL: self.namespace },
            },
            "spec": spec.0,
        }))?;
        let client = self.env.client.clone();
        let api: Api<IncidentResponse> = Api::namespaced(client.clone(), namespace);
        let asked = Timestamp::now();
        let created = api.create(&PostParams::default(), &response).await.context("cannot create the response")?;
        Ok(TestResponse {
            client,
            namespace: namespace.to_owned(),
            name: created.name_any(),
            uid: created.uid().unwrap_or_default(),
            asked,
        })
    }
}

impl Scenario {
    /// A response that was created from a manifest.
    pub async fn known(&self, namespace: &str, name: &str) -> Result<TestResponse> {
        let client = self.env.client.clone();
        let api: Api<IncidentResponse> = Api::namespaced(client.clone(), namespace);
        let uid = api.get(name).await?.uid().unwrap_or_default();
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        Ok(TestResponse { client, namespace, name, uid, asked: Timestamp::now() })
    }

    /// Tries to create a response without keeping it; the error is what a user reads.
    pub async fn try_response(&self, spec: Value, strict: bool) -> Result<(), String> {
        let body = json!({
            "apiVersion": "tourniquet.dev/v1alpha1", "kind": "IncidentResponse",
            "metadata": { "name": format!("{}-try", self.namespace) }, "spec": spec,
        });
        let validation = if strict { "Strict" } else { "Warn" };
        let path = format!(
            "/apis/tourniquet.dev/v1alpha1/namespaces/{RESPONSE_NAMESPACE}/incidentresponses?dryRun=All&fieldValidation={validation}"
        );
        self.try_to_create(&path, &body).await
    }

    /// Asks the API server to create an object, at a path that keeps nothing; the error is what a user reads.
    pub(crate) async fn try_to_create(&self, path: &str, body: &Value) -> Result<(), String> {
        let request =
            http::Request::post(path).header("content-type", "application/json").body(body.to_string().into_bytes());
        let created = self.env.client.request::<Value>(request.map_err(|error| error.to_string())?).await;
        created.map(drop).map_err(|error| match error {
            kube::Error::Api(status) => status.message.clone(),
            other => format!("not an answer of the API server: {other}"),
        })
    }
}

impl TestResponse {
    pub fn api(&self) -> Api<IncidentResponse> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub async fn get(&self) -> Result<IncidentResponse> {
        Ok(self.api().get(&self.name).await?)
    }

    /// The condition as it is now.
    pub async fn condition(&self, type_: &str) -> Result<Option<Condition>> {
        Ok(condition(&self.get().await?, type_))
    }

    /// The condition, once it has this status.
    pub async fn becomes(&self, type_: &str, status: &str, limit: Duration) -> Result<Condition> {
        self.condition_that(type_, &format!("is {status}"), limit, |condition| condition.status == status).await
    }

    /// The condition, once it has this reason.
    pub async fn becomes_because(&self, type_: &str, reason: &str, limit: Duration) -> Result<Condition> {
        self.condition_that(type_, &format!("has reason {reason}"), limit, |condition| condition.reason == reason).await
    }

    async fn condition_that(
        &self,
        type_: &str,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&Condition) -> bool,
    ) -> Result<Condition> {
        let mut last = None;
        let found = until(&format!("{type_} of {} {what}", self.name), limit, async || {
            last = self.condition(type_).await?;
            Ok(last.clone().filter(&wanted))
        })
        .await;
        found.with_context(|| format!("the last {type_} was {last:?}"))
    }

    /// What became of an action.
    pub async fn action(&self, name: &str) -> Result<ActionStatus> {
        let status = self.get().await?.status.unwrap_or_default();
        status
            .actions
            .into_iter()
            .find(|action| action.name == name)
            .with_context(|| format!("no action {name} in status"))
    }

    /// Waits until the operator has said whether it is carried out, and expects that it is not.
    pub async fn refused(&self) -> Result<Condition> {
        let accepted = until(&format!("{} is decided", self.name), Duration::from_secs(30), async || {
            self.condition("Accepted").await
        })
        .await?;
        if accepted.status != "False" {
            bail!("{} was accepted, and should have been refused: {accepted:?}", self.name);
        }
        Ok(accepted)
    }

    /// Asks for its deletion; returns the time of asking.
    pub async fn delete(&self) -> Result<Timestamp> {
        let asked = Timestamp::now();
        self.api().delete(&self.name, &DeleteParams::default()).await?;
        Ok(asked)
    }

    /// Deletes it and takes its finalizer off by hand, so that nothing of it is undone.
    pub async fn vanish(&self) -> Result<()> {
        let bare = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
        let patched = self.api().patch(&self.name, &PatchParams::default(), &bare).await?;
        // One that was deleted before went with its last finalizer.
        if patched.metadata.deletion_timestamp.is_none() {
            self.delete().await?;
        }
        self.gone(Duration::from_secs(10)).await
    }

    /// Waits until it is gone.
    pub async fn gone(&self, limit: Duration) -> Result<()> {
        until(&format!("{} is gone", self.name), limit, async || {
            Ok(self.api().get_metadata_opt(&self.name).await?.is_none().then_some(()))
        })
        .await
    }

    /// Changes its spec by a merge patch.
    pub async fn change(&self, spec: Value) -> kube::Result<IncidentResponse> {
        self.api().patch(&self.name, &PatchParams::default(), &Patch::Merge(&json!({ "spec": spec }))).await
    }
}

/// A condition of a response.
pub fn condition(response: &IncidentResponse, type_: &str) -> Option<Condition> {
    response.status.iter().flat_map(|status| &status.conditions).find(|condition| condition.type_ == type_).cloned()
}

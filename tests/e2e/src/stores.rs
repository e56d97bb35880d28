//! Evidence stores, as an administrator creates and reads them.

use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tourniquet_api::EvidenceStore;
use tourniquet_azurite::{Azurite, Sas};

use crate::scenario::{TEST_LABEL, ignore_missing};
use crate::{Gate, OPERATOR_NAMESPACE, Scenario, azurite, until};

/// A store that was created, and the Secret that it names.
pub struct TestStore {
    client: Client,
    test: String,
    pub name: String,
    pub container: String,
}

impl Scenario {
    /// A store whose way to Azurite is shut: see [`Gate`].
    pub async fn store_behind_a_gate(&self, name: &str) -> Result<(TestStore, Gate)> {
        let azurite = azurite().await?;
        let gate = Gate::shut(azurite).await?;
        azurite.create_container(&self.container(name)).await;
        let store = self.store_at(name, &azurite.endpoint_at(gate.address), azurite).await?;
        store.sign(Sas::new(&store.container).sign()).await?;
        Ok((store, gate))
    }

    /// A store that can be used: a container of Azurite, and a signature for it.
    pub async fn store(&self, name: &str) -> Result<TestStore> {
        let azurite = azurite().await?;
        let container = self.container(name);
        azurite.create_container(&container).await;
        let store = self.store_at(name, &azurite.endpoint(), azurite).await?;
        store.sign(Sas::new(&container).sign()).await?;
        Ok(store)
    }

    /// A store of a container that nobody made, with a Secret that nobody made, behind this endpoint.
    pub async fn store_at(&self, name: &str, endpoint: &str, azurite: &Azurite) -> Result<TestStore> {
        let store = TestStore {
            client: self.env.client.clone(),
            test: self.namespace.clone(),
            name: format!("{}-{name}", self.namespace),
            container: self.container(name),
        };
        let object: EvidenceStore = serde_json::from_value(json!({
            "apiVersion": "tourniquet.dev/v1alpha1",
            "kind": "EvidenceStore",
            "metadata": { "name": store.name, "labels": { TEST_LABEL: self.namespace } },
            "spec": { "azureBlob": {
                "endpoint": endpoint,
                "container": store.container,
                "prefix": "prod",
                "auth": { "sas": { "secretRef": { "name": store.name } } },
                "caBundle": azurite.pki.ca,
            } },
        }))?;
        store.api().create(&PostParams::default(), &object).await.context("cannot create the evidence store")?;
        Ok(store)
    }

    /// The store of a manifest that is meant for Azure: of its name and its container, with Azurite in the place of the account, and a signature in the
    /// place of an identity.
    pub async fn store_like(&self, manifest: &str) -> Result<TestStore> {
        let azurite = azurite().await?;
        let mut object: EvidenceStore = serde_saphyr::from_str(manifest).context("this is no evidence store")?;
        let name = object.name_any();
        let blob = &mut object.spec.azure_blob;
        let container = blob.container.clone();
        azurite.create_container(&container).await;
        blob.endpoint = azurite.endpoint();
        blob.ca_bundle = Some(azurite.pki.ca.clone());
        blob.auth = serde_json::from_value(json!({ "sas": { "secretRef": { "name": name } } }))?;
        object.labels_mut().insert(TEST_LABEL.to_owned(), self.namespace.clone());
        let store = TestStore { client: self.env.client.clone(), test: self.namespace.clone(), name, container };
        store.api().create(&PostParams::default(), &object).await.context("cannot create the evidence store")?;
        store.sign(Sas::new(&store.container).sign()).await?;
        Ok(store)
    }

    /// The name of a container of this test alone.
    pub fn container(&self, name: &str) -> String {
        format!("{}-{name}", self.namespace)
    }

    /// Tries to create a store without keeping it; the error is what a user reads.
    pub async fn try_store(&self, spec: Value) -> Result<(), String> {
        let body = json!({
            "apiVersion": "tourniquet.dev/v1alpha1", "kind": "EvidenceStore",
            "metadata": { "name": format!("{}-try", self.namespace) }, "spec": spec,
        });
        let path = "/apis/tourniquet.dev/v1alpha1/evidencestores?dryRun=All&fieldValidation=Strict";
        self.try_to_create(path, &body).await
    }

    /// Removes the stores of this test, and their Secrets.
    pub async fn remove_stores(&self) -> Result<()> {
        let mine = ListParams::default().labels(&format!("{TEST_LABEL}={}", self.namespace));
        let client = &self.env.client;
        let (stores, secrets): (Api<EvidenceStore>, Api<Secret>) =
            (Api::all(client.clone()), Api::namespaced(client.clone(), OPERATOR_NAMESPACE));
        for store in stores.list_metadata(&mine).await?.items {
            let deleted = stores.delete(&store.name_any(), &DeleteParams::default()).await;
            deleted.map(drop).or_else(ignore_missing)?;
        }
        for secret in secrets.list_metadata(&mine).await?.items {
            let deleted = secrets.delete(&secret.name_any(), &DeleteParams::default()).await;
            deleted.map(drop).or_else(ignore_missing)?;
        }
        Ok(())
    }
}

impl TestStore {
    pub fn api(&self) -> Api<EvidenceStore> {
        Api::all(self.client.clone())
    }

    pub async fn get(&self) -> Result<EvidenceStore> {
        Ok(self.api().get(&self.name).await?)
    }

    /// Puts a signature into the store's Secret, in place of one that is there.
    pub async fn sign(&self, sas: SecretString) -> Result<()> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), OPERATOR_NAMESPACE);
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": { "name": self.name, "labels": { TEST_LABEL: self.test } },
            "stringData": { "sas": sas.expose_secret() },
        });
        let parameters = PatchParams::apply("e2e").force();
        secrets.patch(&self.name, &parameters, &Patch::Apply(&secret)).await.context("cannot write the Secret")?;
        Ok(())
    }

    /// A change of the spec, as `kubectl patch` makes it.
    pub async fn change(&self, blob: Value) -> Result<EvidenceStore> {
        let patch = json!({ "spec": { "azureBlob": blob } });
        Ok(self.api().patch(&self.name, &PatchParams::default(), &Patch::Merge(&patch)).await?)
    }

    /// The condition Ready, once it has this status and reason.
    pub async fn becomes(&self, status: &str, reason: &str, limit: Duration) -> Result<Condition> {
        let mut last = None;
        let found = until(&format!("Ready of {} is {status}, {reason}", self.name), limit, async || {
            let conditions = self.get().await?.status.unwrap_or_default().conditions;
            last = conditions.into_iter().find(|condition| condition.type_ == "Ready");
            Ok(last.clone().filter(|ready| ready.status == status && ready.reason == reason))
        })
        .await;
        found.with_context(|| format!("the last Ready was {last:?}"))
    }

    /// Once it can be used.
    pub async fn is_ready(&self, limit: Duration) -> Result<Condition> {
        self.becomes("True", "RoundTripSucceeded", limit).await
    }
}

//! Where evidence goes: one [`EvidenceStore`] for each container.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// A place that evidence is stored in, and as whom.
///
/// Where it is cannot change, only as whom it is used. A response that is under way has part of its evidence there, its status says so by URL, and an operator that
/// restarts looks there for what it has to finish: moved, the evidence of one response would be in two places, and the first part never finished.
/// And whoever may change a store could have what is collected from now on sent to a container of their own, without anything that refers to it changing.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[kube(
    group = "tourniquet.dev",
    version = "v1alpha1",
    kind = "EvidenceStore",
    plural = "evidencestores",
    shortname = "evs",
    category = "security",
    derive = "PartialEq",
    status = "EvidenceStoreStatus",
    doc = "A container that evidence is stored in. Ready is the result of storing something there and reading it back.",
    printcolumn(name = "Endpoint", type_ = "string", json_path = ".spec.azureBlob.endpoint"),
    printcolumn(name = "Container", type_ = "string", json_path = ".spec.azureBlob.container"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Immutability", type_ = "string", json_path = ".status.immutability"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct EvidenceStoreSpec {
    /// A container of Azure Blob Storage.
    pub azure_blob: AzureBlob,
}

/// One container of one storage account.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    // `has` also of what is required: see IncidentResponseSpec.
    validation = Rule::new("has(self.endpoint) == has(oldSelf.endpoint) && (!has(self.endpoint) || self.endpoint == oldSelf.endpoint)")
        .message("endpoint cannot change, since evidence would be in two places: create another EvidenceStore")
        .field_path(".endpoint"),
    validation = Rule::new("has(self.container) == has(oldSelf.container) && (!has(self.container) || self.container == oldSelf.container)")
        .message("container cannot change, since evidence would be in two places: create another EvidenceStore")
        .field_path(".container"),
    validation = Rule::new("has(self.prefix) == has(oldSelf.prefix) && (!has(self.prefix) || self.prefix == oldSelf.prefix)")
        .message("prefix cannot change, since evidence would be in two places: create another EvidenceStore")
)]
pub struct AzureBlob {
    /// The account's blob endpoint, such as `https://ACCOUNT.blob.core.windows.net`.
    #[schemars(schema_with = "schema::blob_endpoint")]
    pub endpoint: String,
    /// The container. It must exist: whoever stores evidence needs no right to create containers.
    #[schemars(schema_with = "schema::blob_container")]
    pub container: String,
    /// What the name of each blob begins with, such as the cluster's name, without a slash at either end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::blob_prefix")]
    pub prefix: Option<String>,
    /// As whom.
    pub auth: StoreAuth,
    /// Certificate authorities to trust besides the system's, as PEM as it is, not as base64 of it; for a proxy that inspects TLS, or a private endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::ca_bundle")]
    pub ca_bundle: Option<String>,
}

/// As whom a store is used: exactly one of the fields.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "[has(self.workloadIdentity), has(self.managedIdentity), has(self.sas)].filter(x, x).size() == 1")
    .message("auth is exactly one of workloadIdentity, managedIdentity and sas"))]
pub struct StoreAuth {
    /// The operator's service account, by Microsoft Entra Workload ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_identity: Option<WorkloadIdentity>,
    /// The identity of the node that the operator runs on. Every pod there can use it as well: prefer `workloadIdentity`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed_identity: Option<ManagedIdentity>,
    /// A shared access signature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sas: Option<SharedAccessSignature>,
}

/// The operator's service account, by Microsoft Entra Workload ID.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadIdentity {
    /// The identity's client ID; else that of the annotation of the operator's service account.
    #[serde(rename = "clientID", default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::guid")]
    pub client_id: Option<String>,
    /// The identity's tenant; else the cluster's.
    #[serde(rename = "tenantID", default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::guid")]
    pub tenant_id: Option<String>,
}

/// The identity of the node.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ManagedIdentity {
    /// The client ID of a user-assigned identity; else the system-assigned one is used.
    #[serde(rename = "clientID", default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::guid")]
    pub client_id: Option<String>,
}

/// A shared access signature: the query string `sv=…&sig=…`. It needs create, write, read and list (`cwrl`) on the container.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SharedAccessSignature {
    /// The Secret that has it, in the operator's own namespace.
    pub secret_ref: SecretKeyRef,
}

/// A key of a Secret in the operator's own namespace.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// The Secret's name.
    #[schemars(schema_with = "schema::subdomain")]
    pub name: String,
    /// The key.
    #[serde(default = "sas")]
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[-._a-zA-Z0-9]+$"))]
    pub key: String,
}

fn sas() -> String {
    "sas".to_owned()
}

/// What the last round trip showed.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EvidenceStoreStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready: whether something could be stored and read back. The reason of False is the service's own error code, where it gave one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// Whether what is stored can be changed or deleted, as far as the service says so.
    #[serde(default)]
    pub immutability: Immutability,
    /// The store's clock less the operator's, in seconds, true within one and half of the round trip. Absent while not ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_offset_seconds: Option<i64>,
    /// When that was seen. The store is looked at every 5 minutes, and more often while it is not ready: when this is older, the operator does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checked_at: Option<Time>,
}

/// Write-once protection. A string without an enum in the schema: see [`crate::Outcome`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum Immutability {
    /// An immutability policy or a legal hold is in force.
    Verified,
    /// The service says that there is none.
    Absent,
    /// Nobody could say. Also what a value of a newer operator is read as.
    #[default]
    #[serde(other)]
    Unknown,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(auth: &Value) -> EvidenceStoreSpec {
        let blob = json!({ "endpoint": "https://a.blob.core.windows.net", "container": "evidence", "auth": auth });
        serde_json::from_value(json!({ "azureBlob": blob })).unwrap()
    }

    #[test]
    fn a_signature_is_under_the_key_sas_unless_another_is_named() {
        let key = |reference: Value| {
            read(&json!({ "sas": { "secretRef": reference } })).azure_blob.auth.sas.map(|sas| sas.secret_ref.key)
        };
        assert_eq!(key(json!({ "name": "evidence" })).as_deref(), Some("sas"));
        assert_eq!(key(json!({ "name": "evidence", "key": "token" })).as_deref(), Some("token"));
    }

    #[test]
    fn an_identity_without_further_fields_is_one() {
        let auth = read(&json!({ "workloadIdentity": {} })).azure_blob.auth;
        assert_eq!(auth, StoreAuth { workload_identity: Some(WorkloadIdentity::default()), ..StoreAuth::default() });
        let named = read(&json!({ "managedIdentity": { "clientID": "c" } })).azure_blob.auth.managed_identity;
        assert_eq!(named.and_then(|identity| identity.client_id).as_deref(), Some("c"));
    }

    #[test]
    fn what_a_newer_operator_says_of_immutability_is_no_protection_to_this_one() {
        let status: EvidenceStoreStatus = serde_json::from_value(json!({ "immutability": "Locked" })).unwrap();
        assert_eq!(status.immutability, Immutability::Unknown);
        assert_eq!(serde_json::to_value(Immutability::Verified).unwrap(), "Verified");
    }

    #[test]
    fn a_store_is_of_the_cluster_and_its_strings_are_bounded() {
        let crd = serde_json::to_value(crate::evidence_store_crd()).unwrap();
        assert_eq!((&crd["spec"]["scope"], &crd["spec"]["names"]["shortNames"]), (&json!("Cluster"), &json!(["evs"])));
        let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        let mut strings = 0;
        bounded(spec, "spec", &mut strings);
        assert_eq!(strings, 9, "endpoint, container, prefix, caBundle, three IDs, a Secret's name and key");
    }

    fn bounded(schema: &Value, at: &str, strings: &mut usize) {
        if schema["type"] == "string" {
            *strings += 1;
            assert!(schema["maxLength"].is_u64(), "{at} is not bounded");
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            bounded(property, &format!("{at}.{name}"), strings);
        }
    }
}

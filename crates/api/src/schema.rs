//! Schemas of strings that Kubernetes has rules for, with messages that say what to write instead.
//!
//! Bounds are part of every schema: the API server estimates what a CEL rule can cost from them, and refuses a CRD
//! whose rules could cost too much.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use schemars::{Schema, SchemaGenerator, json_schema};

/// A pod's or node's name: a DNS subdomain (RFC 1123), at most 253 characters.
pub(crate) fn subdomain(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "minLength": 1,
        "maxLength": 253,
        "x-kubernetes-validations": [{
            "rule": "!format.dns1123Subdomain().validate(self).hasValue()",
            "message": "write the object's name as Kubernetes has it: lower case letters, digits, '-' and '.'",
        }],
    })
}

/// A namespace's or container's name: a DNS label (RFC 1123), at most 63 characters.
pub(crate) fn dns_label(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "minLength": 1,
        "maxLength": 63,
        "x-kubernetes-validations": [{
            "rule": "!format.dns1123Label().validate(self).hasValue()",
            "message": "write the name as Kubernetes has it: lower case letters, digits and '-'",
        }],
    })
}

/// An object's UID. Not always a UUID: the UID of a static pod is a hash.
pub(crate) fn uid(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "minLength": 1, "maxLength": 64, "pattern": "^[A-Za-z0-9-]+$" })
}

/// A free string of an alert, bounded.
fn text(max: u32) -> Schema {
    json_schema!({ "type": "string", "maxLength": max })
}

/// A short identifier from outside.
pub(crate) fn text_256(_: &mut SchemaGenerator) -> Schema {
    text(256)
}

/// A title or a link from outside.
pub(crate) fn text_1024(_: &mut SchemaGenerator) -> Schema {
    text(1024)
}

const LABEL_RULE: &str = "self.all(k, !format.qualifiedName().validate(k).hasValue())";
const LABEL_MESSAGE: &str =
    "a label's key is an optional DNS prefix and '/', then at most 63 letters, digits, '-', '_' and '.'";

fn label_value() -> serde_json::Value {
    serde_json::json!({
        "type": "string",
        "maxLength": 63,
        "x-kubernetes-validations": [{
            "rule": "!format.labelValue().validate(self).hasValue()",
            "message": "a label's value has at most 63 letters, digits, '-', '_' and '.', and begins and ends with a letter or digit",
        }],
    })
}

/// The key of a label that is asked for.
pub(crate) fn label_key(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "minLength": 1,
        "maxLength": 317,
        "x-kubernetes-validations": [{
            "rule": "!format.qualifiedName().validate(self).hasValue()",
            "message": LABEL_MESSAGE,
        }],
    })
}

/// Values that a label is compared with.
pub(crate) fn label_values(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "maxItems": 32, "items": label_value() })
}

/// A time as RFC 3339 has it. The format alone accepts hours and offsets that no clock shows.
pub(crate) fn time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "format": "date-time",
        "maxLength": 35,
        "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$",
    })
}

/// Labels to set: at least one.
pub(crate) fn labels_to_set(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "minProperties": 1,
        "maxProperties": 16,
        "additionalProperties": label_value(),
        "x-kubernetes-validations": [{ "rule": LABEL_RULE, "message": LABEL_MESSAGE }],
    })
}

/// Labels to match.
pub(crate) fn labels_to_match(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": label_value(),
        "x-kubernetes-validations": [{ "rule": LABEL_RULE, "message": LABEL_MESSAGE }],
    })
}

/// A program and its arguments, as `execve` takes them; no shell is involved.
pub(crate) fn command(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": 32,
        "items": { "type": "string", "maxLength": 1024 },
    })
}

/// The endpoint of a storage account.
pub(crate) fn blob_endpoint(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "minLength": 1,
        "maxLength": 512,
        "x-kubernetes-validations": [
            {
                "rule": "self.startsWith('https://')",
                "message": "evidence is sent over https only: write https://ACCOUNT.blob.core.windows.net",
            },
            {
                "rule": "!self.contains('?') && !self.contains('#') && !self.contains('@')",
                "message": "write the endpoint without what follows '?': a shared access signature belongs into a Secret that auth.sas.secretRef names",
            },
            {
                "rule": r"self.matches(r'^[A-Za-z]+://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[A-Za-z0-9._~-]*)*([?#].*)?$') || self.contains('@')",
                "message": "write the account's blob endpoint, such as https://ACCOUNT.blob.core.windows.net",
            },
        ],
    })
}

/// The name of a container (Azure: Naming and Referencing Containers, Blobs, and Metadata). Its own containers, such as `$web`, are not for evidence.
pub(crate) fn blob_container(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "minLength": 3,
        "maxLength": 63,
        "x-kubernetes-validations": [{
            "rule": "self.matches('^[a-z0-9]+(-[a-z0-9]+)*$')",
            "message": "write the container's name as Azure has it: lower case letters, digits and single '-' between them",
        }],
    })
}

/// What the names of blobs begin with: what `tourniquet-evidence` takes for a safe name, and short enough to leave room for the rest of 1,024 characters.
pub(crate) fn blob_prefix(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "minLength": 1,
        "maxLength": 256,
        "x-kubernetes-validations": [{
            "rule": "self.matches('^[A-Za-z0-9._=~-]*[A-Za-z0-9_=~-](/[A-Za-z0-9._=~-]*[A-Za-z0-9_=~-])*$')",
            "message": "write the prefix as segments of letters, digits and . _ - = ~, with single slashes between them, none ending in a dot; leave it out for none",
        }],
    })
}

/// Certificate authorities. 64 KiB are some 30 of them.
pub(crate) fn ca_bundle(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "minLength": 1,
        "maxLength": 65536,
        "x-kubernetes-validations": [
            {
                "rule": "self.contains('-----BEGIN CERTIFICATE-----')",
                "message": "write the certificates as PEM as it is, from -----BEGIN CERTIFICATE----- on, not as base64 of it",
            },
            {
                "rule": "!self.contains('PRIVATE KEY-----')",
                "message": "write certificates only: a private key is in this bundle, and everybody who may read this resource could read it",
            },
        ],
    })
}

/// The ID of an identity or a tenant.
pub(crate) fn guid(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 36,
        "x-kubernetes-validations": [{
            "rule": "self.matches('^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$')",
            "message": "write the ID as Azure shows it: 32 hexadecimal digits in groups of 8-4-4-4-12",
        }],
    })
}

/// The holders of a containment: an open map, which server-side apply merges key by key.
pub(crate) fn holders(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": generator.subschema_for::<crate::Holder>(),
    })
}

/// A list of objects that server-side apply merges by `key`.
fn map_list<T: schemars::JsonSchema>(generator: &mut SchemaGenerator, key: &str) -> Schema {
    json_schema!({
        "type": "array",
        "items": generator.subschema_for::<T>(),
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": [key],
    })
}

/// Conditions, merged by type.
pub(crate) fn conditions(generator: &mut SchemaGenerator) -> Schema {
    map_list::<k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition>(generator, "type")
}

/// Pinned targets, merged by UID.
pub(crate) fn targets(generator: &mut SchemaGenerator) -> Schema {
    map_list::<crate::PinnedTarget>(generator, "uid")
}

/// Outcomes of actions, merged by name.
pub(crate) fn actions(generator: &mut SchemaGenerator) -> Schema {
    map_list::<crate::ActionStatus>(generator, "name")
}

/// Results of one action, merged by target.
pub(crate) fn results(generator: &mut SchemaGenerator) -> Schema {
    map_list::<crate::TargetResult>(generator, "targetUID")
}

/// Takes `nullable` out of a schema, to the last field.
///
/// Optional fields are nullable by default, and a null is then stored and counts as present in CEL: `- isolate:` without
/// its `{}` would pass as a verb and mean none.
pub(crate) fn refuse_null(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    for property in schema.properties.iter_mut().flat_map(|properties| properties.values_mut()) {
        refuse_null(property);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        refuse_null(items);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        refuse_null(values);
    }
}

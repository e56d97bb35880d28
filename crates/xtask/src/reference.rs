//! docs/api.md: each field of the resources that people write, from their definitions.

use std::fmt::Write;

use anyhow::{Context, Result};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::Value;

const HEADER: &str = "\
<!-- Generated from the code by `cargo xtask generate`. Do not edit. -->
# API reference

What people write and read. `kubectl explain incidentresponse.spec` says the same on a cluster. A `[]` after a name stands for each item of a list, `{}` for each value of
a map; fields in bold have to be there. \"Rule\" is what the API server refuses beyond that, in the words with which it does.

The kinds of the group `internal.tourniquet.dev` (`Containment`, `NodeAgent`), in which the operator and its agents meet, are nobody else's to write:
[architecture](architecture.md#isolating-a-pod).
";

/// The page.
///
/// # Errors
/// When a definition has no version with a schema.
pub(crate) fn page(definitions: &[CustomResourceDefinition]) -> Result<String> {
    let mut page = HEADER.to_owned();
    for definition in definitions {
        kind(&mut page, definition)?;
    }
    Ok(page)
}

fn kind(page: &mut String, definition: &CustomResourceDefinition) -> Result<()> {
    let (spec, names) = (&definition.spec, &definition.spec.names);
    let version = spec.versions.first().with_context(|| format!("{} has no version", names.kind))?;
    let schema = version.schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref());
    let schema = serde_json::to_value(schema.with_context(|| format!("{} has no schema", names.kind))?)?;
    let short = names.short_names.iter().flatten().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    write!(
        page,
        "\n## {}\n\n`{}/{}`, {}, short name {short}. {}\n",
        names.kind,
        spec.group,
        version.name,
        if spec.scope == "Namespaced" { "namespaced" } else { "in no namespace" },
        text(&schema["description"]),
    )?;
    for part in ["spec", "status"] {
        let schema = &schema["properties"][part];
        write!(page, "\n### {}: {part}\n\n{}\n\n", names.kind, paragraphs(&schema["description"]))?;
        for rule in rules(schema) {
            writeln!(page, "* Rule: {rule}")?;
        }
        page.push_str("\n| field | type | |\n|-|-|-|\n");
        fields(page, "", schema)?;
    }
    Ok(())
}

/// One row for each field of an object, and for theirs.
fn fields(page: &mut String, path: &str, schema: &Value) -> Result<()> {
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let (suffix, inner) = inside(field);
        let path = if path.is_empty() { format!("{name}{suffix}") } else { format!("{path}.{name}{suffix}") };
        let shown = if required.contains(&name.as_str()) { format!("**`{path}`**") } else { format!("`{path}`") };
        writeln!(page, "| {shown} | {} | {} |", kind_of(field), said(field, inner))?;
        fields(page, &path, inner)?;
    }
    Ok(())
}

/// What the items of a list or the values of a map are; an object itself.
fn inside(field: &Value) -> (&'static str, &Value) {
    match field["type"].as_str() {
        Some("array") => ("[]", &field["items"]),
        Some("object") if field["additionalProperties"].is_object() => ("{}", &field["additionalProperties"]),
        _ => ("", field),
    }
}

fn kind_of(field: &Value) -> String {
    let name = |field: &Value| match (field["type"].as_str(), field["format"].as_str()) {
        (Some("string"), Some("date-time")) => "time".to_owned(),
        (Some(name), _) => name.to_owned(),
        (None, _) => "any".to_owned(),
    };
    match inside(field) {
        ("[]", items) => format!("list of {}", name(items)),
        ("{}", values) => format!("map of {}", name(values)),
        _ => name(field),
    }
}

/// Its description, bounds and rules, in one line.
fn said(field: &Value, inner: &Value) -> String {
    let mut parts = vec![text(&field["description"])];
    if !std::ptr::eq(field, inner) {
        parts.push(bounds(field));
    }
    parts.push(bounds(inner));
    if let Some(default) = field.get("default") {
        parts.push(format!("Default: `{default}`."));
    }
    let inner_rules = if std::ptr::eq(field, inner) { Vec::new() } else { rules(inner) };
    parts.extend(rules(field).into_iter().chain(inner_rules).map(|rule| format!("Rule: {rule}.")));
    parts.retain(|part| !part.is_empty());
    parts.join(" ").replace('|', "\\|")
}

fn bounds(field: &Value) -> String {
    let mut bounds = Vec::new();
    if let Some(values) = field["enum"].as_array() {
        let values: Vec<String> = values.iter().filter_map(Value::as_str).map(|value| format!("`{value}`")).collect();
        bounds.push(format!("one of {}", values.join(", ")));
    }
    for (least, most, what) in [
        ("minLength", "maxLength", "characters"),
        ("minItems", "maxItems", "items"),
        ("minProperties", "maxProperties", "entries"),
        ("minimum", "maximum", ""),
    ] {
        let bound = match (field[least].as_f64(), field[most].as_f64()) {
            (None, None) => continue,
            (Some(least), Some(most)) => format!("{least} to {most} {what}"),
            (None, Some(most)) => format!("at most {most} {what}"),
            (Some(least), None) => format!("at least {least} {what}"),
        };
        bounds.push(bound.trim().to_owned());
    }
    if let Some(pattern) = field["pattern"].as_str() {
        bounds.push(format!("matches `{pattern}`"));
    }
    if bounds.is_empty() {
        return String::new();
    }
    let bounds = bounds.join("; ");
    let mut letters = bounds.chars();
    letters.next().map_or(String::new(), |first| format!("{}{}.", first.to_uppercase(), letters.as_str()))
}

fn rules(schema: &Value) -> Vec<String> {
    let rules = schema["x-kubernetes-validations"].as_array().into_iter().flatten();
    rules.filter_map(|rule| rule["message"].as_str()).map(str::to_owned).collect()
}

/// In one line, as a cell of a table.
fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn paragraphs(value: &Value) -> String {
    value.as_str().unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::page;

    #[test]
    fn each_field_is_a_row_with_what_bounds_it() {
        let page = page(&[tourniquet_api::incident_response_crd(), tourniquet_api::evidence_store_crd()]).unwrap();
        for row in [
            "| **`actions[].collect.files[].path`** | string | The absolute path. 1 to 1024 characters. Rule: write an absolute path, such as /etc/passwd. |",
            "| `actions[].collect.headStart` | string |",
            "Default: `\"5s\"`.",
            "One of `Processes`, `Connections`, `Manifest`, `Events`, `Logs`.",
            "| `conditions[]` | list of object |",
        ] {
            assert!(page.contains(row), "{row}\n{page}");
        }
    }
}

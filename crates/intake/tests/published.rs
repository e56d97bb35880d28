//! The resources of deploy/azure, by what Azure publishes of their types (`arm/README.md`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests: a failed expectation ends the test")]

use std::fs;
use std::path::Path;

use boon::{Compiler, Draft, Schemas};
use serde_json::Value;
use tourniquet_workflow::read;

const PUBLISHED: &str = "https://schema.management.azure.com/schemas";

/// Leaves out the patterns of names that look ahead: boon's regular expressions cannot.
fn without_look_ahead(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.retain(|name, value| name != "pattern" || !value.as_str().is_some_and(|text| text.contains("(?")));
            fields.values_mut().for_each(without_look_ahead);
        }
        Value::Array(items) => items.iter_mut().for_each(without_look_ahead),
        _ => {}
    }
}

fn folder(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// By its type and version: the file, and the definition in it.
fn definition(resource: &Value) -> (String, String) {
    let (type_, version) =
        (resource["type"].as_str().expect("a type"), resource["apiVersion"].as_str().expect("a version"));
    let provider = type_.split('/').next().unwrap_or_default();
    let name = format!("{version}/{provider}.json");
    let file = read(&folder("tests/arm").join(&name));
    let definitions = file["resourceDefinitions"].as_object().expect("definitions");
    let (found, _) = definitions
        .iter()
        .find(|(_, definition)| definition["properties"]["type"]["enum"][0] == type_)
        .unwrap_or_else(|| panic!("{name} defines no {type_}"));
    (name.clone(), format!("{PUBLISHED}/{name}#/resourceDefinitions/{found}"))
}

/// Why it is not what Azure publishes of its type; nothing, if it is.
fn wrong(resource: &Value) -> Option<String> {
    let (file, definition) = definition(resource);
    let mut compiler = Compiler::new();
    compiler.set_default_draft(Draft::V4);
    for name in [file.as_str(), "common/definitions.json"] {
        let mut published = read(&folder("tests/arm").join(name));
        without_look_ahead(&mut published);
        compiler.add_resource(&format!("{PUBLISHED}/{name}"), published).unwrap();
    }
    let mut schemas = Schemas::new();
    let schema = compiler.compile(&definition, &mut schemas).unwrap_or_else(|error| panic!("{definition}: {error:#}"));
    let mut resource = resource.clone();
    // By its name the schema tells the kinds of configuration apart, and every kind may be an expression.
    if resource["type"] == "Microsoft.Web/sites/config" {
        let name = resource["name"].as_str().unwrap_or_default();
        let kind = name.rsplit_once("'/").and_then(|(_, rest)| rest.strip_suffix("')]")).expect("a kind");
        resource["name"] = Value::from(format!("name/{kind}"));
    }
    schemas.validate(&resource, schema).err().map(|error| format!("{}: {error:#}", resource["type"]))
}

/// Every template, of both ways to a cluster.
fn templates() -> Vec<Value> {
    let files = ["deploy/azure", "deploy/azure/direct"]
        .into_iter()
        .flat_map(|path| fs::read_dir(folder("../..").join(path)).unwrap().map(|entry| entry.unwrap().path()));
    let of_json = files.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    of_json.map(|path| read(&path)).filter(|file| file["resources"].is_array()).collect()
}

#[test]
fn each_resource_is_what_azure_publishes_of_its_type() {
    let templates = templates();
    let resources: Vec<&Value> =
        templates.iter().flat_map(|template| template["resources"].as_array().expect("resources")).collect();
    assert!(resources.len() >= 36, "{}", resources.len());

    let wrong: Vec<String> = resources.into_iter().filter_map(wrong).collect();

    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_button_leads_to_a_template_of_this_project() {
    let raw = env!("CARGO_PKG_REPOSITORY").replace("https://github.com/", "https://raw.githubusercontent.com/");
    let mut led = Vec::new();
    for path in ["deploy/azure", "deploy/azure/direct"] {
        let text = fs::read_to_string(folder("../..").join(path).join("README.md")).unwrap();
        for button in text.split("https://portal.azure.com/#create/Microsoft.Template/uri/").skip(1) {
            let address = button.split(')').next().unwrap().replace("%3A", ":").replace("%2F", "/");
            let template = address.strip_prefix(&format!("{raw}/main/")).unwrap_or_else(|| panic!("{address}"));
            assert!(read(&folder("../..").join(template))["resources"].is_array(), "{template}");
            led.push(template.to_owned());
        }
    }
    assert_eq!(led.len(), templates().len(), "{led:?}");
}

#[test]
fn what_azure_does_not_take_is_found() {
    let storage = read(&folder("../../deploy/azure/storage.json"));
    let mut account = storage["resources"][0].clone();
    assert_eq!(wrong(&account), None);

    account["properties"]["allowSharedKeyAccess"] = Value::from("no");

    let said = wrong(&account).expect("a text where a Boolean is asked for");
    assert!(said.contains("allowSharedKeyAccess"), "{said}");
}

//! The Helm chart without a cluster: what it renders.

pub(crate) mod rights;
pub mod switches;

use std::{collections::BTreeMap, path::PathBuf, process::Command};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{
    cluster::{self, workspace},
    install::NAMESPACE,
};

/// Helm asks no cluster for its version here, and would take an old one.
const KUBERNETES: &str = "1.36.3";

/// What the chart renders.
///
/// # Errors
/// With what helm said.
pub(crate) fn template(set: &[&str]) -> Result<String> {
    let mut helm = Command::new(cluster::ensure_helm()?);
    helm.args(["template", "tourniquet", "--namespace", NAMESPACE, "--kube-version", KUBERNETES]).arg(path());
    for pair in set {
        helm.args(["--set", pair]);
    }
    output(&mut helm)
}

/// The chart's folder.
pub(crate) fn path() -> PathBuf {
    workspace().join("charts/tourniquet")
}

/// The objects of a rendering by what they are called.
///
/// # Errors
/// When it is no YAML, or one object is there twice.
pub(crate) fn objects(text: &str) -> Result<BTreeMap<String, Value>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).context("this is no YAML")?;
    let mut objects = BTreeMap::new();
    for object in documents.into_iter().filter(|document| !document.is_null()) {
        let identity = identity(&object)?;
        ensure!(objects.insert(identity.clone(), object).is_none(), "{identity} is there twice");
    }
    Ok(objects)
}

/// `Kind namespace/name`, or `Kind name`.
fn identity(object: &Value) -> Result<String> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let kind = text(&object["kind"]).with_context(|| format!("an object without a kind: {object}"))?;
    ensure!(object["apiVersion"].is_string(), "a {kind} without an apiVersion");
    let name = text(&object["metadata"]["name"]).with_context(|| format!("a {kind} without a name"))?;
    Ok(match text(&object["metadata"]["namespace"]) {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    })
}

/// What a program printed.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot run {name}"))?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}

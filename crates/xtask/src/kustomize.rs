//! Plain manifests for those who use no Helm: what the chart renders as it is shipped, in a folder for kustomize.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::{chart, generate::yaml, install::NAMESPACE};

/// Where they lie.
pub(crate) const FOLDER: &str = "deploy/kustomize";

/// The files and what they hold: one for each template of the chart.
///
/// # Errors
/// With what helm said.
pub(crate) fn files() -> Result<Vec<(PathBuf, String)>> {
    let mut files: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for document in chart::template(&[])?.split("\n---\n") {
        let source = document.lines().find_map(|line| line.strip_prefix("# Source: tourniquet/templates/"));
        let name = source.context("helm does not say which template an object is from")?.replace('/', "-");
        let mut object: Value =
            serde_saphyr::from_str(document).with_context(|| format!("{name} renders no object"))?;
        if object.is_null() {
            continue;
        }
        without_helm(&mut object);
        files.entry(name).or_default().push(yaml(&object)?);
    }
    // Helm makes it with `--create-namespace`, and without labels.
    let namespace = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": NAMESPACE,
            "labels": {"app.kubernetes.io/name": "tourniquet", "pod-security.kubernetes.io/enforce": "restricted"},
        },
    });
    files.insert("namespace.yaml".to_owned(), vec![yaml(&namespace)?]);
    let kustomization = json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": files.keys().collect::<Vec<_>>(),
    });
    files.insert("kustomization.yaml".to_owned(), vec![yaml(&kustomization)?]);
    Ok(files.into_iter().map(|(name, objects)| (PathBuf::from(FOLDER).join(name), objects.join("---\n"))).collect())
}

/// Takes away what is true of an installation by Helm only.
fn without_helm(object: &mut Value) {
    for (map, keys) in [
        ("labels", &["app.kubernetes.io/managed-by", "helm.sh/chart"][..]),
        ("annotations", &["helm.sh/resource-policy"][..]),
    ] {
        if let Some(map) = object["metadata"][map].as_object_mut() {
            map.retain(|key, _| !keys.contains(&key.as_str()));
        }
    }
}

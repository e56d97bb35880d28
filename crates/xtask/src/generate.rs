//! Files that are derived from the code or from the chart, and the check that they are up to date.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use tourniquet_response::Power;

use crate::{cluster::workspace, kustomize, reference};

const HEADER: &str = "# Generated from the code by `cargo xtask generate`. Do not edit.\n";

/// The generated files and what they hold.
fn files() -> Result<Vec<(PathBuf, String)>> {
    #[derive(Serialize)]
    struct Rules {
        rules: Vec<k8s_openapi::api::rbac::v1::PolicyRule>,
    }
    let generated = Path::new("charts/tourniquet/generated");
    let definitions = [
        ("incidentresponses.yaml", tourniquet_api::incident_response_crd()),
        ("containments.yaml", tourniquet_api::containment_crd()),
        ("evidencestores.yaml", tourniquet_api::evidence_store_crd()),
        ("nodeagents.yaml", tourniquet_api::node_agent_crd()),
    ];
    let rules = yaml(&Rules { rules: tourniquet_response::rbac_rules_of(None) })?;
    let reference = reference::page(&[tourniquet_api::incident_response_crd(), tourniquet_api::evidence_store_crd()])?;
    let mut files = vec![(generated.join("rules.yaml"), rules), (PathBuf::from("docs/api.md"), reference)];
    for power in Power::ALL {
        // What is in no ClusterRole, Secrets, is in a Role of the chart.
        let rules = tourniquet_response::rbac_rules_of(Some(power));
        if !rules.is_empty() {
            files.push((generated.join(format!("powers/{power}.yaml")), yaml(&rules)?));
        }
    }
    for (name, definition) in definitions {
        let text = yaml(&definition)?;
        files.push((Path::new("crds").join(name), text.clone()));
        files.push((generated.join("crds").join(name), text));
    }
    Ok(files)
}

/// Those that are rendered from the chart, which holds some of the others.
fn rendered() -> Result<Vec<(PathBuf, String)>> {
    kustomize::files()
}

/// Files of an earlier state that nothing generates any more.
fn left(rendered: &[(PathBuf, String)]) -> Result<Vec<PathBuf>> {
    let folder = workspace().join(kustomize::FOLDER);
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let there = entries.flatten().map(|entry| Path::new(kustomize::FOLDER).join(entry.file_name()));
    Ok(there.filter(|path| !rendered.iter().any(|(of, _)| of == path)).collect())
}

/// As YAML with the header of what is generated.
pub(crate) fn yaml(value: &impl Serialize) -> Result<String> {
    // Through JSON: absent fields stay absent, and keys have one order.
    let value = serde_json::to_value(value)?;
    Ok(format!("{HEADER}{}\n", serde_saphyr::to_string(&value)?.trim_end()))
}

/// Writes the generated files.
///
/// # Errors
/// When one cannot be written.
pub fn write() -> Result<()> {
    write_all(files()?)?;
    let rendered = rendered()?;
    for path in left(&rendered)? {
        fs::remove_file(workspace().join(&path)).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    write_all(rendered)
}

fn write_all(files: Vec<(PathBuf, String)>) -> Result<()> {
    for (path, text) in files {
        let path = workspace().join(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Fails when a generated file is not what the code says.
///
/// # Errors
/// Names each such file.
pub fn check() -> Result<()> {
    let rendered = rendered()?;
    let left = left(&rendered)?;
    let stale: Vec<String> = files()?
        .into_iter()
        .chain(rendered)
        .filter(|(path, text)| fs::read_to_string(workspace().join(path)).ok().as_ref() != Some(text))
        .map(|(path, _)| path)
        .chain(left)
        .map(|path| display(&path))
        .collect();
    if !stale.is_empty() {
        bail!("not up to date: {}\n  next: cargo xtask generate", stale.join(", "));
    }
    Ok(())
}

fn display(path: &Path) -> String {
    path.display().to_string()
}

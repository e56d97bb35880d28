//! The templates for Azure, held against checkov's rules.

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{cluster::workspace, python::Package};

const CHECKOV: Package = Package { name: "checkov", pinned: "checkov==3.3.30", module: "checkov" };

/// Rules that the templates do not follow, and why.
const NOT_FOLLOWED: [(&str, &str); 14] = [
    ("CKV_AZURE_35", "playbooks of Consumption come from addresses of Azure's; for evidence it is a parameter"),
    ("CKV_AZURE_43", "it takes the parameter for the account's name"),
    (
        "CKV_AZURE_206",
        "for evidence copies in several zones are the default, and where else it may lie is for its owner to say; the app keeps runs",
    ),
    ("CKV_AZURE_222", "playbooks of Consumption call from addresses of Azure's, and sign in by Entra ID"),
    ("CKV_AZURE_17", "playbooks sign in by Entra ID; Logic Apps have no certificates of their own"),
    ("CKV_AZURE_212", ONE),
    ("CKV_AZURE_225", ONE),
    ("CKV_AZURE_213", "workflows have no path that says whether they are well"),
    ("CKV_AZURE_13", SIGN_IN),
    ("CKV_AZURE_63", SIGN_IN),
    ("CKV_AZURE_65", SIGN_IN),
    ("CKV_AZURE_66", SIGN_IN),
    ("CKV_AZURE_80", SIGN_IN),
    ("CKV_AZURE_88", SIGN_IN),
];

const ONE: &str =
    "one instance, in one zone: runs go on where they were, and kubectl and the queue are there without it";
const SIGN_IN: &str = "it takes who may sign in (authsettingsV2) for all of the app's configuration";

/// Fails when a template breaks a rule that is not listed here, and when one that is listed is followed by now. Where checkov cannot be had, it says so.
///
/// # Errors
/// With the rules, and the resources that break them.
pub(crate) fn check() -> Result<()> {
    let python = match CHECKOV.ensure() {
        Ok(python) => python,
        Err(error) => {
            eprintln!("not checked: the rules of checkov for deploy/azure; {error:#}");
            return Ok(());
        }
    };
    let output = Command::new(python)
        .args([
            "-m",
            "checkov.main",
            "--directory",
            "deploy/azure",
            "--framework",
            "arm",
            "--output",
            "json",
            "--quiet",
        ])
        // It would ask its makers' servers for more.
        .args(["--skip-download", "--soft-fail"])
        .current_dir(workspace())
        .output()
        .context("cannot run checkov")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let report: Value = serde_json::from_str(&text)
        .with_context(|| format!("checkov printed no report:\n{text}\n{}", String::from_utf8_lossy(&output.stderr)))?;
    let checked = report["summary"]["resource_count"].as_u64().unwrap_or_default();
    let unread = report["summary"]["parsing_errors"].as_u64();
    ensure!(checked > 0 && unread == Some(0), "checkov did not read every template: {}", report["summary"]);
    let failed: Vec<&Value> = report["results"]["failed_checks"].as_array().into_iter().flatten().collect();
    let is = |check: &Value, id: &str| check["check_id"] == id;
    let broken: Vec<String> = failed
        .iter()
        .filter(|check| !NOT_FOLLOWED.iter().any(|(id, _)| is(check, id)))
        .map(|check| {
            format!("{} {}: {}{}", check["check_id"], check["check_name"], check["resource"], check["file_path"])
        })
        .collect();
    if !broken.is_empty() {
        bail!("{}\n  see: crates/xtask/src/templates.rs", broken.join("\n"));
    }
    for (id, why) in NOT_FOLLOWED {
        ensure!(failed.iter().any(|check| is(check, id)), "{id} is followed by now, and listed as not: {why}");
    }
    Ok(())
}

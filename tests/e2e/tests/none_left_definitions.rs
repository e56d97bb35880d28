//! Where the definitions of an engine are served and it does not run.
//!
//! One test: while they are there, every isolation of the cluster would be Cilium's.

use anyhow::{Context, Result, ensure};
use tourniquet_e2e::{Scenario, definitions, not_enforced, scenario};

/// Cilium's own, as its operator would create them.
fn ciliums(s: &Scenario) -> Result<String> {
    let folder = s.env.cilium_crds.clone().context("TOURNIQUET_CILIUM_CRDS is not set")?;
    let mut texts = Vec::new();
    for entry in std::fs::read_dir(&folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            texts.push(std::fs::read_to_string(path)?);
        }
    }
    ensure!(!texts.is_empty(), "no definitions in {}", folder.display());
    Ok(texts.join("\n---\n"))
}

#[test]
fn definitions_that_an_uninstalled_engine_left_behind_prove_nothing() {
    scenario("leftover", |s| async move {
        definitions::applied(&s, &ciliums(&s)?, Box::pin(not_enforced::is_said(&s))).await
    });
}

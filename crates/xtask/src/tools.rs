//! Cargo's tools that the checks need and that are no libraries, each built once from its pinned version.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result};

use crate::{
    cluster::{base, workspace},
    ui::{Step, run_logged},
};

/// A tool of the registry.
pub(crate) struct Tool {
    name: &'static str,
    version: &'static str,
    /// Its own build takes that long on two cores, so that nobody takes it for a hang.
    cold: &'static str,
}

/// Licences, bans and sources of dependencies.
pub(crate) const DENY: Tool = Tool { name: "cargo-deny", version: "0.20.2", cold: "1 min" };
/// Bills of materials.
pub(crate) const CYCLONEDX: Tool = Tool { name: "cargo-cyclonedx", version: "0.5.9", cold: "1 min" };

impl Tool {
    /// The program, built when it is not there.
    ///
    /// # Errors
    /// When it does not build.
    pub(crate) fn ensure(&self) -> Result<PathBuf> {
        let root = workspace().join("target/tools").join(format!("{}-{}", self.name, self.version));
        let program = root.join("bin").join(self.name);
        if program.exists() {
            return Ok(program);
        }
        std::fs::create_dir_all(base()).with_context(|| format!("cannot create {}", base().display()))?;
        let step = Step::start(format!("Building {} {} ({} on two cores, once)", self.name, self.version, self.cold));
        let mut cargo = Command::new("cargo");
        // Without optimisation: it runs for a second, and would be built for minutes.
        cargo.args(["install", self.name, "--version", self.version, "--locked", "--debug", "--root"]).arg(&root);
        run_logged(
            cargo.current_dir(workspace()),
            &base().join(format!("{}.log", self.name)),
            &format!("building {}", self.name),
            "check the network (crates.io), then run the command again",
        )?;
        step.done();
        Ok(program)
    }
}

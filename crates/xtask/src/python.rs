//! Tools from PyPI, each in an environment of its own under `target/`.

use std::{path::PathBuf, process::Command};

use anyhow::Result;

use crate::{
    cluster::workspace,
    ui::{Step, run_logged},
};

/// A package, and what of it shows that it is there.
pub(crate) struct Package {
    pub(crate) name: &'static str,
    /// As pip takes it.
    pub(crate) pinned: &'static str,
    pub(crate) module: &'static str,
}

impl Package {
    /// The Python that has it; installs it first unless it is there.
    ///
    /// # Errors
    /// When there is no `python3` with `venv`, or pip reaches no index.
    pub(crate) fn ensure(&self) -> Result<PathBuf> {
        let dir = workspace().join("target").join(self.name);
        let python = dir.join("bin/python");
        let import = format!("import {}", self.module);
        if Command::new(&python).args(["-c", &import]).output().is_ok_and(|output| output.status.success()) {
            return Ok(python);
        }
        let step = Step::start(format!("Installing {}", self.name));
        let log = workspace().join("target").join(format!("{}.log", self.name));
        let next = "install python3-venv, and see that pip reaches an index";
        run_logged(Command::new("python3").args(["-m", "venv"]).arg(&dir), &log, "making a virtual environment", next)?;
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "install", "--quiet", self.pinned]);
        run_logged(&mut pip, &log, &format!("installing {}", self.name), next)?;
        step.done();
        Ok(python)
    }
}

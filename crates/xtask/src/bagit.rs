//! `bagit`, the Library of Congress' own tool, from PyPI: what the tests of `crates/evidence` have their bags verified by, besides themselves.

use std::{path::PathBuf, process::Command};

use crate::{
    cluster::workspace,
    ui::{Step, run_logged},
};

/// The environment variable that tells the tests of a Python that has it.
pub const VARIABLE: &str = "TOURNIQUET_BAGIT";

const PINNED: &str = "bagit==1.9.0";

/// Installs it into `target/` unless it is there, and returns the Python that has it; none where it cannot be had, which is said. The tests then check by
/// themselves what RFC 8493 asks for.
pub fn ensure() -> Option<PathBuf> {
    let dir = workspace().join("target/bagit");
    let python = dir.join("bin/python");
    let is_there =
        || Command::new(&python).args(["-c", "import bagit"]).output().is_ok_and(|output| output.status.success());
    if is_there() {
        return Some(python);
    }
    let step = Step::start("Installing bagit");
    let log = workspace().join("target/bagit.log");
    let next = "install python3-venv, and see that pip reaches an index";
    let made =
        run_logged(Command::new("python3").args(["-m", "venv"]).arg(&dir), &log, "making a virtual environment", next)
            .and_then(|()| {
                run_logged(
                    Command::new(&python).args(["-m", "pip", "install", "--quiet", PINNED]),
                    &log,
                    "installing bagit",
                    next,
                )
            });
    match made {
        Ok(()) => {
            step.done();
            Some(python)
        }
        Err(error) => {
            step.done_with(format!("bags are verified without it: {error:#}"));
            None
        }
    }
}

//! Azurite, Microsoft's emulator of Azure Storage, which the tests of `crates/evidence` store evidence in, and those of `crates/intake` put messages into. Pinned with all that it needs in `tests/azurite`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::{
    cluster::workspace,
    image::hex,
    ui::{Step, run_logged},
};

/// The environment variable that tells the tests where it is.
pub const VARIABLE: &str = "TOURNIQUET_AZURITE";

/// What is run by node, in the folder that is installed into.
const PROGRAM: &str = "node_modules/azurite/dist/src/blob/main.js";

/// Installs it into `target/` unless it is there, and returns the program that node runs.
///
/// # Errors
/// When node or npm is missing, or what is pinned cannot be installed.
pub fn ensure() -> Result<PathBuf> {
    for program in ["node", "npm"] {
        if !runs(program) {
            bail!(
                "{program} is missing: evidence is stored in Azurite here, which runs on node\n  next: install Node.js 20 or newer with npm (Debian: apt-get install -y nodejs npm), and run the command again"
            );
        }
    }
    let pinned = workspace().join("tests/azurite");
    let lock = fs::read(pinned.join("package-lock.json")).context("cannot read tests/azurite/package-lock.json")?;
    let base = workspace().join("target/azurite");
    let wanted = base.join(&hex(&Sha256::digest(&lock))[..12]);
    let program = wanted.join(PROGRAM);
    if program.exists() {
        return Ok(program);
    }
    let step = Step::start("Installing Azurite (1 min the first time)");
    // Beside it first: one that was interrupted is not taken for one that is whole.
    let partial = base.join("partial");
    remove(&partial)?;
    fs::create_dir_all(&partial).with_context(|| format!("cannot create {}", partial.display()))?;
    for file in ["package.json", "package-lock.json"] {
        fs::copy(pinned.join(file), partial.join(file)).with_context(|| format!("cannot copy {file}"))?;
    }
    // No scripts: what is installed is run by the tests alone, and needs nothing built.
    run_logged(
        Command::new("npm").args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&partial),
        &base.join("install.log"),
        "installing Azurite",
        "see that npm reaches a registry, then run the command again",
    )?;
    remove(&wanted)?;
    fs::rename(&partial, &wanted).with_context(|| format!("cannot move {} into place", partial.display()))?;
    step.done();
    Ok(program)
}

fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

fn runs(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

//! What is linked into our programs: whether it may be (deny.toml), and a bill of it.

#![allow(clippy::print_stdout, reason = "where the bills are is what the command was asked for")]

use std::{fs, process::Command};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{
    cluster::workspace,
    tools::{CYCLONEDX, DENY},
};

/// What is shipped.
const PROGRAMS: [&str; 3] = ["operator", "agent", "intake"];
/// What a bill is called until it is taken from where it was written.
const FILE: &str = "tourniquet-sbom.cdx";

/// Licences, bans and sources, as deny.toml has them; known vulnerabilities where the database of them can be reached.
///
/// # Errors
/// With what cargo-deny found.
pub fn check() -> Result<()> {
    let deny = DENY.ensure()?;
    let run = |args: &[&str]| {
        let output = Command::new(&deny).args(["--color", "never"]).args(args).current_dir(workspace()).output();
        output.with_context(|| format!("cannot run {}", deny.display()))
    };
    let mut wanted = vec!["--locked", "check", "licenses", "bans", "sources"];
    let database = run(&["fetch", "db"])?;
    if database.status.success() {
        wanted.push("advisories");
    } else {
        eprintln!(
            "not checked: known vulnerabilities; the database of them (github.com/RustSec/advisory-db) cannot be reached"
        );
    }
    let output = run(&wanted)?;
    if !output.status.success() {
        bail!("{}\n  see: deny.toml", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Writes a bill of materials (CycloneDX) for each program into target/sbom, and says where.
///
/// # Errors
/// When cargo-cyclonedx fails, or a bill does not name what it is of.
pub fn bills() -> Result<()> {
    let folder = workspace().join("target/sbom");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let mut cyclonedx = Command::new(CYCLONEDX.ensure()?);
    cyclonedx
        .args(["cyclonedx", "--quiet", "--format", "json", "--spec-version", "1.5"])
        .args(["--no-build-deps", "--target", &target, "--override-filename", FILE])
        // The same dependencies give the same bill: no time, and a serial number that follows from the content.
        .env("SOURCE_DATE_EPOCH", "0")
        .current_dir(workspace());
    let output = cyclonedx.output().context("cannot run cargo-cyclonedx")?;
    // It writes beside the manifest of each crate of the workspace.
    let mut bills = Vec::new();
    for crates in ["crates", "tests"] {
        let folder = workspace().join(crates);
        let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
        for file in
            entries.flatten().map(|entry| entry.path().join(format!("{FILE}.json"))).filter(|file| file.exists())
        {
            let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
            bills.push((file, text));
        }
    }
    ensure!(output.status.success(), "cargo-cyclonedx: {}", String::from_utf8_lossy(&output.stderr).trim());
    for program in PROGRAMS {
        let (_, text) = bills
            .iter()
            .find(|(file, _)| file.starts_with(workspace().join("crates").join(program)))
            .with_context(|| format!("cargo-cyclonedx wrote no bill of {program}"))?;
        // Where it was built is nobody's business, and another place would give another bill.
        let text = text.replace(&format!("file://{}", workspace().display()), "file://");
        let bill: Value = serde_json::from_str(&text).context("cargo-cyclonedx wrote no JSON")?;
        let components = bill["components"].as_array().map_or(0, Vec::len);
        ensure!(
            bill["metadata"]["component"]["name"] == format!("tourniquet-{program}") && components > 0,
            "the bill of {program} is of {} and names {components} components",
            bill["metadata"]["component"]["name"]
        );
        let path = folder.join(format!("tourniquet-{program}.cdx.json"));
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{} ({components} components)", path.display());
    }
    Ok(())
}

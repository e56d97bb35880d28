//! `cargo xtask test`: everything that has to hold, the fast checks first.

#![allow(clippy::print_stdout, reason = "the report of the tests is what this command is for")]

use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::{
    azurite, bagit,
    cluster::{self, Network, workspace},
    dependencies, end_to_end, generate,
    least_privilege::Verdict,
    lifecycle, templates,
    transcript::{Count, Transcript},
    ui::seconds,
};

/// What the pure crates must not depend on: an async runtime or a client.
const IMPURE: [&str; 9] =
    ["tokio", "async-std", "smol", "hyper", "tower", "reqwest", "kube-client", "kube-runtime", "futures-executor"];

/// One part of the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Formatting, clippy, dependencies, generated files.
    Checks,
    /// Unit and property tests.
    Unit,
    /// The test cluster itself (up, run, heal, down), and the chart: installed, upgraded, rolled back, uninstalled.
    Lifecycle,
    /// End-to-end tests on the cluster with Cilium.
    Cilium,
    /// End-to-end tests on the cluster without a policy engine.
    None,
}

/// `cargo xtask test`
#[derive(Debug, Args)]
pub struct TestCommand {
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Only end-to-end tests whose name contains this
    #[arg(long)]
    filter: Option<String>,
    /// Leave the test clusters running
    #[arg(long)]
    keep: bool,
    /// Run the end-to-end tests of Cilium on this context of your kubeconfig instead (with --only cilium; needs --image)
    #[arg(long, requires = "image")]
    context: Option<String>,
    /// The operator image that the cluster of --context can pull
    #[arg(long)]
    image: Option<String>,
}

impl TestCommand {
    /// Runs the tests. The last line says how many passed and how many failed.
    ///
    /// # Errors
    /// When a check fails, or something that the tests need does not come up.
    pub fn run(self) -> Result<ExitCode> {
        let wanted = |part: Part| self.only.is_empty() || self.only.contains(&part);
        let mut count = Count::default();
        println!("{}", room(free_bytes()?));
        if wanted(Part::Checks) {
            checks(&mut count)?;
        }
        if wanted(Part::Unit) {
            // The agent's tests make network namespaces.
            cluster::ensure_packages()?;
            let (azurite, bagit) = (azurite::ensure()?, bagit::ensure());
            count += phase("unit and property tests", || {
                let mut cargo = cargo(&["test", "--workspace", "--exclude", "tourniquet-e2e", "--locked", "--quiet"]);
                let cargo = cargo.env(azurite::VARIABLE, azurite).envs(bagit.map(|python| (bagit::VARIABLE, python)));
                tests(cargo, |line| {
                    print!("{line}");
                    let _ = std::io::stdout().flush();
                })
            })?;
        }
        if wanted(Part::Lifecycle) && self.context.is_none() {
            for (name, check) in lifecycle::checks() {
                phase(name, check)?;
                count.passed += 1;
            }
        }
        let networks: Vec<Network> = [(Part::Cilium, Network::Cilium), (Part::None, Network::None)]
            .into_iter()
            .filter(|(part, _)| wanted(*part) && (self.context.is_none() || self.only.contains(part)))
            .map(|(_, network)| network)
            .collect();
        let filter = self.filter.as_deref();
        if let Some(context) = &self.context {
            let image = self.image.as_deref().unwrap_or_default();
            for network in networks {
                count += end_to_end::on_context(context, image, network, filter)?;
            }
        } else if !networks.is_empty() {
            let (tests, asked) = end_to_end::on_our_clusters(&networks, filter, self.keep)?;
            count += tests;
            // Of some tests alone most rights are unused.
            let whole = filter.is_none() && networks.len() == 2;
            count += phase("least privilege", || asked.judge(whole).map(held))?;
        }
        // Once more: what a test said when it failed is an hour of output further up.
        for reason in &count.reasons {
            println!("\n{reason}");
        }
        println!("\n{} passed, {} failed", count.passed, count.failed);
        Ok(if count.failed == 0 && count.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// What a run from nothing leaves on the disk, with Go's caches. Measured: 12 GiB here and 9 there.
const ROOM: u64 = 21 << 30;

/// Whether it will fit. A disk that becomes full is told by whatever comes to write next, a compiler or a kubelet, in words that lead nowhere.
fn room(free: u64) -> String {
    let (free, needed) = (free >> 30, ROOM >> 30);
    let verdict =
        if free < needed { ": this run may end for want of room unless much of it was built before" } else { "" };
    format!("free on this disk: {free} GiB; a first run needs {needed}{verdict}")
}

/// What is free where the project is built.
fn free_bytes() -> Result<u64> {
    let disk = nix::sys::statvfs::statvfs(&workspace()).context("cannot find out how much room is on the disk")?;
    Ok(disk.blocks_available().saturating_mul(disk.fragment_size()))
}

/// Shows and counts them as the test programs do.
fn held(verdicts: Vec<Verdict>) -> Count {
    let mut count = Count::default();
    for Verdict { name, wrong } in verdicts {
        println!("test {name} ... {}", if wrong.is_empty() { "ok" } else { "FAILED" });
        if wrong.is_empty() {
            count.passed += 1;
        } else {
            count.failed += 1;
            count.reasons.push(format!("failed: {name}\n{}", wrong.join("\n")));
        }
    }
    count
}

fn checks(count: &mut Count) -> Result<()> {
    let mut check = |name: &str, run: &dyn Fn() -> Result<()>| {
        phase(name, run)?;
        count.passed += 1;
        Ok::<_, anyhow::Error>(())
    };
    check("formatting", &|| succeed(&mut cargo(&["fmt", "--all", "--check"])))?;
    check("clippy", &|| {
        succeed(&mut cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--quiet", "--", "-D", "warnings"]))
    })?;
    check("the pure crates stay pure", &|| {
        ["tourniquet-api", "tourniquet-response", "tourniquet-capture"].into_iter().try_for_each(pure)
    })?;
    check("licences, bans and sources of dependencies", &dependencies::check)?;
    check("the templates for Azure, by the rules of checkov", &templates::check)?;
    check("generated files", &generate::check)
}

/// Fails when a crate depends on a runtime or a client.
fn pure(name: &str) -> Result<()> {
    let output =
        cargo(&["tree", "--package", name, "--edges", "normal", "--prefix", "none", "--format", "{p}", "--locked"])
            .output()
            .context("cannot run cargo tree")?;
    if !output.status.success() {
        bail!("cargo tree failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let tree = String::from_utf8_lossy(&output.stdout);
    let found: Vec<&str> =
        tree.lines().filter_map(|line| line.split(' ').next()).filter(|name| IMPURE.contains(name)).collect();
    if !found.is_empty() {
        bail!(
            "{name} is pure and must stay so, but depends on {}\n  see: cargo tree --package {name}",
            found.join(", ")
        );
    }
    Ok(())
}

fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.args(args).current_dir(workspace());
    command
}

/// Says what begins, and how long it took.
pub(crate) fn phase<T>(name: &str, run: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("== {name}");
    let started = Instant::now();
    let result = run().with_context(|| name.to_owned())?;
    println!("== {name}: {}", seconds(started.elapsed()));
    Ok(result)
}

fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status().context("cannot run cargo")?;
    if !status.success() {
        bail!("failed ({status})");
    }
    Ok(())
}

/// Runs test programs, gives each line that they print, and counts. Programs that end without a result count as one failure.
///
/// # Errors
/// When they cannot be run.
pub(crate) fn tests(command: &mut Command, mut show: impl FnMut(&str)) -> Result<Count> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start the tests")?;
    let mut transcript = Transcript::default();
    if let Some(stdout) = child.stdout.take() {
        let mut reader = BufReader::new(stdout);
        let mut line = String::new();
        while reader.read_line(&mut line)? > 0 {
            show(&line);
            transcript.read(line.trim_end());
            line.clear();
        }
    }
    let status = child.wait()?;
    let mut count = transcript.count;
    if !status.success() && count.failed == 0 {
        count.failed = 1;
        count.reasons.push(format!("{} ended with {status}", command.get_program().display()));
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_is_nearly_full_is_said_to_be_before_anything_is_built() {
        assert_eq!(room(ROOM), "free on this disk: 21 GiB; a first run needs 21");
        assert!(room(ROOM - 1).contains("may end for want of room"), "{}", room(ROOM - 1));
    }
}

//! `cargo xtask test`: everything that has to hold, the fast checks first.

#![allow(clippy::print_stdout, reason = "the report of the tests is what this command is for")]

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::{
    azurite, bagit,
    cluster::{self, Handle, Network, base, workspace},
    dependencies, generate,
    install::{self, NAMESPACE, Place},
    least_privilege::{Asked, Verdict},
    lifecycle,
    transcript::{Count, Transcript},
    ui::seconds,
};

/// What the pure crates must not depend on: an async runtime or a client.
const IMPURE: [&str; 9] =
    ["tokio", "async-std", "smol", "hyper", "tower", "reqwest", "kube-client", "kube-runtime", "futures-executor"];

/// Scenarios that run at the same time on one cluster. They mostly wait for Cilium.
const THREADS: &str = "--test-threads=6";

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
        if wanted(Part::Checks) {
            checks(&mut count)?;
        }
        if wanted(Part::Unit) {
            // The agent's tests make network namespaces.
            cluster::ensure_packages()?;
            let (azurite, bagit) = (azurite::ensure()?, bagit::ensure());
            count += phase("unit and property tests", || {
                let mut cargo = cargo(&["test", "--workspace", "--exclude", "tourniquet-e2e", "--locked", "--quiet"]);
                tests(cargo.env(azurite::VARIABLE, azurite).envs(bagit.map(|python| (bagit::VARIABLE, python))))
            })?;
        }
        if wanted(Part::Lifecycle) && self.context.is_none() {
            for (name, check) in lifecycle::checks() {
                phase(name, check)?;
                count.passed += 1;
            }
        }
        let mut asked = Asked::default();
        let networks = [(Part::Cilium, Network::Cilium), (Part::None, Network::None)];
        for (part, network) in networks {
            if wanted(part) && (self.context.is_none() || self.only.contains(&part)) {
                count += self.end_to_end(network, &mut asked)?;
            }
        }
        if self.context.is_none() && networks.iter().any(|(part, _)| wanted(*part)) {
            // Of some tests alone most rights are unused.
            let whole = self.filter.is_none() && networks.iter().all(|(part, _)| wanted(*part));
            count += phase("least privilege", || asked.judge(whole).map(held))?;
        }
        // Once more: what a test said when it failed is an hour of output further up.
        for reason in &count.reasons {
            println!("\n{reason}");
        }
        println!("\n{} passed, {} failed", count.passed, count.failed);
        Ok(if count.failed == 0 && count.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn end_to_end(&self, network: Network, asked: &mut Asked) -> Result<Count> {
        let name = format!("end-to-end tests, network {network}");
        let programs = phase("end-to-end tests: build", || programs(network))?;
        if programs.is_empty() {
            bail!("there are no end-to-end tests for network {network}");
        }
        if let Some(context) = &self.context {
            let place = Place::Context(context);
            install::install(&place, self.image.as_deref().unwrap_or_default(), None, &[])?;
            return phase(&name, || {
                let (apart, programs): (Vec<_>, Vec<_>) =
                    programs.iter().partition(|program| needs_our_cluster(program));
                for program in apart {
                    println!(
                        "not run on --context, it needs the node's processes, our agent or Azurite: {}",
                        program.display()
                    );
                }
                let traffic = install::build_traffic()?;
                let commands =
                    programs.into_iter().map(|program| place.program(program, network, false, &traffic, None));
                self.run_all(commands.collect::<Result<_>>()?, &place)
            });
        }
        let options = cluster::Options {
            name: format!("test-{network}"),
            network: Some(network),
            profile: Some(cluster::Profile::Default),
        };
        let handle = cluster::ensure_up(&options)?;
        let begun = jiff::Timestamp::now();
        let count = self.rounds(&programs, network, &handle);
        asked.read(&handle.logs_dir(), begun)?;
        if !self.keep {
            cluster::down(&options.name)?;
        }
        count
    }

    /// First with policies only, then with agents: programs say in their names which they want.
    fn rounds(&self, programs: &[PathBuf], network: Network, handle: &Handle) -> Result<Count> {
        let place = Place::Ours(handle);
        let traffic = install::build_traffic()?;
        let mut count = Count::default();
        for agents in [false, true] {
            let programs: Vec<&PathBuf> = programs.iter().filter(|program| wants_agents(program) == agents).collect();
            if programs.is_empty() {
                continue;
            }
            let images = install::install_ours(handle, agents, &[])?;
            let what = if agents { "agents" } else { "policies only" };
            count += phase(&format!("end-to-end tests, network {network}, {what}"), || {
                let commands = programs
                    .iter()
                    .map(|program| place.program(program, network, agents, &traffic, Some(&images.operator)));
                self.run_all(commands.collect::<Result<_>>()?, &place)
            })?;
        }
        Ok(count)
    }

    fn run_all(&self, commands: Vec<Command>, place: &Place<'_>) -> Result<Count> {
        let mut count = Count::default();
        for mut command in commands {
            command.args([THREADS, "--show-output"]).args(&self.filter);
            count += tests(&mut command)?;
        }
        if count.failed > 0 {
            explain(place);
        }
        Ok(count)
    }
}

/// Tests that run an operator of their own do so in a pod's network namespace, and those of evidence stores run Azurite where pods reach it;
/// agents are not on by themselves elsewhere.
fn needs_our_cluster(program: &Path) -> bool {
    let of = |word: &str| program.file_name().is_some_and(|name| name.to_string_lossy().contains(word));
    ["crash", "leader", "blast_radius", "stores", "collect", "run_store", "intake"].iter().any(|word| of(word))
        || wants_agents(program)
}

fn wants_agents(program: &Path) -> bool {
    program.file_name().is_some_and(|name| name.to_string_lossy().contains("_agent"))
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

/// What a responder of the tests wants to see first.
fn explain(place: &Place<'_>) {
    let show = |title: &str, mut command: Command| {
        eprintln!("\n--- {title}");
        if let Ok(output) = command.stdin(Stdio::null()).output() {
            let text = String::from_utf8_lossy(&output.stdout);
            let lines: Vec<&str> = text.lines().collect();
            for line in lines.iter().skip(lines.len().saturating_sub(200)) {
                eprintln!("{line}");
            }
        }
    };
    show(
        "the operator's log",
        place.kubectl(&["--namespace", NAMESPACE, "logs", "deployment/tourniquet-operator", "--tail=200"]),
    );
    show("responses", place.kubectl(&["get", "incidentresponses", "--all-namespaces", "--output=wide"]));
    show("policies", place.kubectl(&["get", "networkpolicies", "--all-namespaces"]));
    show("pods", place.kubectl(&["get", "pods", "--all-namespaces", "--output=wide", "--show-labels"]));
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

fn phase<T>(name: &str, run: impl FnOnce() -> Result<T>) -> Result<T> {
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

/// Runs test programs, shows what they print, and counts. Programs that end without a result count as one failure.
fn tests(command: &mut Command) -> Result<Count> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start the tests")?;
    let mut transcript = Transcript::default();
    if let Some(stdout) = child.stdout.take() {
        let mut reader = BufReader::new(stdout);
        let mut line = String::new();
        while reader.read_line(&mut line)? > 0 {
            print!("{line}");
            std::io::stdout().flush()?;
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

/// Builds the end-to-end tests; those of a network are in test targets whose name starts with it.
fn programs(network: Network) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(base())?;
    let prefix = network.to_string();
    let mut programs: Vec<PathBuf> =
        install::executables(&["test", "--package", "tourniquet-e2e", "--tests", "--no-run"])?
            .into_iter()
            .filter(|built| built.kind == "test" && built.name.starts_with(&prefix))
            .map(|built| built.path)
            .collect();
    programs.sort();
    Ok(programs)
}

//! The end-to-end tests: programs, each on the cluster that its name asks for.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what the tests say is part of the report of `cargo xtask test`"
)]

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context, Result, anyhow, bail};

use crate::{
    cluster::{self, Handle, Network, base},
    install::{self, Image, Images, NAMESPACE, Place},
    least_privilege::Asked,
    test::{phase, tests},
    transcript::Count,
};

/// Scenarios that run at the same time on one cluster. They mostly wait for Cilium.
const THREADS: &str = "--test-threads=6";

/// The clusters, and on each of them the rounds, one after the other: with policies only, and with agents.
const CLUSTERS: [(&str, Network, &[bool]); 3] = [
    ("test-cilium", Network::Cilium, &[false, true]),
    ("test-none", Network::None, &[false]),
    ("test-none-agents", Network::None, &[true]),
];

/// A test program, and what its name says.
struct Program {
    path: PathBuf,
    name: String,
}

impl Program {
    fn wants_agents(&self) -> bool {
        self.name.contains("_agent")
    }

    /// Tests that run an operator of their own do so in a pod's network namespace, and those of evidence stores run Azurite where pods reach it;
    /// agents are not on by themselves elsewhere.
    fn needs_our_cluster(&self) -> bool {
        ["crash", "leader", "blast_radius", "stores", "collect", "run_store", "intake"]
            .iter()
            .any(|word| self.name.contains(word))
            || self.wants_agents()
    }

    fn wants_intake(&self) -> bool {
        self.name.contains("intake")
    }

    /// Whether it has a test of which the name contains this.
    fn has(&self, filter: &str) -> Result<bool> {
        let output = Command::new(&self.path).args(["--list", filter]).output();
        let output = output.with_context(|| format!("cannot run {}", self.path.display()))?;
        Ok(String::from_utf8_lossy(&output.stdout).contains(": test"))
    }
}

/// What every program needs.
struct Tests<'a> {
    programs: Vec<Program>,
    traffic: PathBuf,
    /// The intake's, where one of them installs it.
    intake: Option<Image>,
    filter: Option<&'a str>,
}

/// The tests of these networks on clusters of our own, and what was asked of their API servers. The clusters stand side by side, since their tests wait for
/// most of their time.
///
/// # Errors
/// When something does not build, or a cluster does not come up. What fails in a test is counted.
pub(crate) fn on_our_clusters(networks: &[Network], filter: Option<&str>, keep: bool) -> Result<(Count, Asked)> {
    let tests = Tests::build(networks, filter)?;
    let images = install::build_images()?;
    let mut clusters = Vec::new();
    for (name, network, rounds) in CLUSTERS {
        let wanted = |agents: &bool| tests.of(network, *agents).next().is_some();
        if rounds.iter().any(wanted) {
            let options = cluster::Options {
                name: name.to_owned(),
                network: Some(network),
                profile: Some(cluster::Profile::Default),
            };
            clusters.push((cluster::ensure_up(&options)?, rounds));
        }
    }
    let begun = jiff::Timestamp::now();
    let counts: Vec<Result<Count>> = thread::scope(|scope| {
        let running: Vec<_> =
            clusters.iter().map(|(handle, rounds)| scope.spawn(|| tests.rounds(rounds, handle, &images))).collect();
        let ended = running.into_iter().map(thread::ScopedJoinHandle::join);
        ended.map(|count| count.unwrap_or_else(|_| Err(anyhow!("the thread of a cluster panicked")))).collect()
    });
    let mut asked = Asked::default();
    for (handle, _) in &clusters {
        asked.read(&handle.logs_dir(), begun)?;
        if !keep {
            cluster::down(handle.name())?;
        }
    }
    let mut all = Count::default();
    for count in counts {
        all += count?;
    }
    Ok((all, asked))
}

/// The tests of a network on a context of the user's own kubeconfig, with an operator image that its cluster can pull. Says which ones it leaves out.
///
/// # Errors
/// When something does not build, or the chart does not install.
pub(crate) fn on_context(context: &str, image: &str, network: Network, filter: Option<&str>) -> Result<Count> {
    let tests = Tests::build(&[network], filter)?;
    let place = Place::Context(context);
    install::install(&place, image, None, &[])?;
    let (apart, programs): (Vec<_>, Vec<_>) = tests.programs.iter().partition(|program| program.needs_our_cluster());
    for program in apart {
        println!("not run on --context, it needs the node's processes, our agent or Azurite: {}", program.name);
    }
    phase(&format!("end-to-end tests, network {network}"), || {
        tests.run(programs.into_iter(), &place, |program| {
            place.program(&program.path, network, false, &tests.traffic, None)
        })
    })
}

impl<'a> Tests<'a> {
    /// Those of these networks that have a test of which the name contains the filter.
    fn build(networks: &[Network], filter: Option<&'a str>) -> Result<Self> {
        let mut programs = phase("end-to-end tests: build", programs)?;
        programs.retain(|program| networks.iter().any(|network| program.name.starts_with(&network.to_string())));
        if let Some(filter) = filter {
            let mut having = Vec::new();
            for program in programs {
                if program.has(filter)? {
                    having.push(program);
                }
            }
            programs = having;
        }
        if programs.is_empty() {
            bail!("there are no such end-to-end tests");
        }
        let intake = programs.iter().any(Program::wants_intake).then(install::build_intake).transpose()?;
        Ok(Self { programs, traffic: install::build_traffic()?, intake, filter })
    }

    fn of(&self, network: Network, agents: bool) -> impl Iterator<Item = &Program> {
        let of_network = network.to_string();
        self.programs
            .iter()
            .filter(move |program| program.name.starts_with(&of_network) && program.wants_agents() == agents)
    }

    fn rounds(&self, rounds: &[bool], handle: &Handle, images: &Images) -> Result<Count> {
        let (place, network) = (Place::Ours(handle), handle.network());
        let mut count = Count::default();
        for &agents in rounds {
            if self.of(network, agents).next().is_none() {
                continue;
            }
            install::install_on(handle, images, agents, &[])?;
            let intake = self.intake.as_ref().filter(|_| self.of(network, agents).any(Program::wants_intake));
            if let Some(intake) = intake {
                handle.load(&intake.archive)?;
            }
            let what = if agents { "agents" } else { "policies only" };
            count += phase(&format!("end-to-end tests, network {network}, {what}"), || {
                self.run(self.of(network, agents), &place, |program| {
                    let mut command =
                        place.program(&program.path, network, agents, &self.traffic, Some(&images.operator))?;
                    command.envs(intake.map(|intake| ("TOURNIQUET_INTAKE", &intake.reference)));
                    Ok(command)
                })
            })?;
        }
        Ok(count)
    }

    /// One program after the other. What each says comes as a whole when it ends: others run beside it.
    fn run<'p>(
        &self,
        programs: impl Iterator<Item = &'p Program>,
        place: &Place<'_>,
        command: impl Fn(&Program) -> Result<Command>,
    ) -> Result<Count> {
        let mut count = Count::default();
        for program in programs {
            let mut said = format!("\n== {}\n", program.name);
            let mut command = command(program)?;
            command.args([THREADS, "--show-output"]).args(self.filter);
            count += tests(&mut command, |line| said.push_str(line))?;
            print!("{said}");
        }
        if count.failed > 0 {
            explain(place);
        }
        Ok(count)
    }
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

/// Builds them.
fn programs() -> Result<Vec<Program>> {
    fs::create_dir_all(base())?;
    let mut programs: Vec<Program> =
        install::executables(&["test", "--package", "tourniquet-e2e", "--tests", "--no-run"])?
            .into_iter()
            .filter(|built| built.kind == "test")
            .map(|built| Program { path: built.path, name: built.name })
            .collect();
    programs.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(programs)
}

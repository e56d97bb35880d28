//! `cargo xtask bench evidence`: a large file of a real pod, many small ones, and a log without an end, through the agent and the operator into Azurite; beside
//! the same exec stream thrown away, and the same bytes stored by the SDK from memory.
//!
//! Nothing is asserted but that what is collected is collected: it prints tables, and writes all figures as JSON.

#![allow(clippy::print_stdout, reason = "its output is its result")]

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use azure_core::Bytes;
use serde::Serialize;
use serde_json::json;
use tourniquet_api::Outcome;
use tourniquet_azurite::Azurite;
use tourniquet_e2e::evidence_bench::floor::{self, Agent};
use tourniquet_e2e::evidence_bench::rounds::{Bench, Collected, one_file};
use tourniquet_e2e::response_bench::figures::{Figures, write};
use tourniquet_e2e::response_bench::usage::Process;
use tourniquet_e2e::{Scenario, azurite};

const MIB: f64 = 1024.0 * 1024.0;
/// As many single files as a response may name.
const SINGLE: usize = 64;
/// More than is taken of a log.
const LOG_MIB: usize = 1100;

const OURS: &str = "from the pod into the store, MiB/s";
const THROWN_AWAY: &str = "floor: the same exec stream, thrown away, MiB/s";
const FROM_MEMORY: &str = "floor: the SDK, the same bytes from memory, MiB/s";
const MEMORY: &str = "operator: peak above idle, MiB";

/// What is asked for.
struct Asked {
    mebibytes: usize,
    rounds: usize,
    files: usize,
    log: bool,
    json: Option<String>,
}

#[derive(Default, Serialize)]
struct Results {
    mebibytes: usize,
    rounds: usize,
    /// A large file.
    large: Figures,
    /// CPU time in seconds of the rounds through the operator, by program.
    cpu: Vec<BTreeMap<&'static str, f64>>,
    /// A folder of small files, as one archive.
    folder: Vec<Collected>,
    /// Small files, each by itself.
    single: Vec<Collected>,
    /// A log without an end.
    log: Option<Collected>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let asked = asked()?;
    let scenario = Scenario::begin("measure-evidence").await?;
    let measured = measure(&scenario, &asked).await;
    let ended = scenario.end().await;
    write(&measured?, asked.json.as_deref())?;
    ended
}

fn asked() -> Result<Asked> {
    let mut args = std::env::args().skip(1);
    let mut next = |what: &str| args.next().with_context(|| format!("{what} is missing; run this through cargo xtask"));
    let mut number = |what: &str| next(what)?.parse().with_context(|| what.to_owned());
    let (mebibytes, rounds) = (number("the size of the large file")?, number("the number of rounds")?);
    let (files, log) = (number("the number of small files")?, number("whether a log is measured")? > 0);
    Ok(Asked { mebibytes, rounds, files, log, json: args.next() })
}

async fn measure(s: &Scenario, asked: &Asked) -> Result<Results> {
    let (azurite, store) = (azurite().await?, s.store("soc").await?);
    store.is_ready(std::time::Duration::from_secs(60)).await?;
    let operator = Process::operator()?;
    let bench = Bench { scenario: s, azurite, store: &store, operator: &operator };
    let mut results = Results { mebibytes: asked.mebibytes, rounds: asked.rounds, ..Results::default() };
    println!("network {}, Azurite on the same machine, {} rounds", s.env.network, asked.rounds);
    large(&bench, asked, &mut results).await?;
    print_large(asked, &results);
    small(&bench, asked, &mut results).await?;
    print_small(asked, &results);
    if asked.log {
        let collected = log(&bench).await?;
        println!(
            "\nA log of {LOG_MIB} MiB: {:.0} MiB of it stored in {:.1} s ({:.0} MiB/s), marked truncated; the operator's peak above idle is {:.1} MiB.",
            collected.bytes / MIB,
            collected.seconds,
            collected.mebibytes_a_second(),
            collected.memory
        );
        results.log = Some(collected);
    }
    Ok(results)
}

/// One large file. Each of the three goes first in every third round: whatever becomes slower meanwhile does so for all.
async fn large(bench: &Bench<'_>, asked: &Asked, results: &mut Results) -> Result<()> {
    let pod = bench.scenario.pod("large").await?;
    let count = format!("count={}", asked.mebibytes);
    bench.scenario.exec(&pod, &["/bin/dd", "if=/dev/urandom", "of=/tmp/file", "bs=1048576", &count]).await?;
    let spec = bench.scenario.get_pod(&pod.name).await?.spec.context("a pod without a spec")?;
    let agent = Agent::on(bench.scenario, &spec.node_name.context("a pod without a node")?).await?;
    // Not counted: whatever is done the first time only. And it tells how the agent was asked.
    let first = bench.collect("first", &pod, one_file("/tmp/file"), Outcome::Done).await?;
    let argv = first.record["artifacts"][0]["argv"].as_array().context("no command")?;
    let argv: Vec<String> = argv.iter().filter_map(|word| word.as_str().map(str::to_owned)).collect();
    let mut bytes = vec![0; asked.mebibytes * 1024 * 1024];
    getrandom(&mut bytes)?;
    let bytes = Bytes::from(bytes);
    for round in 0..asked.rounds {
        for turn in 0..3 {
            match (round + turn) % 3 {
                0 => {
                    let name = format!("large-{round}");
                    let collected = bench.collect(&name, &pod, one_file("/tmp/file"), Outcome::Done).await?;
                    ensure!(collected.bytes == bytes.len() as f64, "{} bytes were stored", collected.bytes);
                    results.large.put(OURS, collected.mebibytes_a_second());
                    results.large.put(MEMORY, collected.memory);
                    results.cpu.push(collected.cpu);
                }
                1 => {
                    let began = Instant::now();
                    let length = agent.read(&argv).await?;
                    ensure!(length == bytes.len() as u64, "{length} bytes came");
                    results.large.put(THROWN_AWAY, asked.mebibytes as f64 / began.elapsed().as_secs_f64());
                }
                _ => {
                    let began = Instant::now();
                    upload(bench.azurite, bench, round, bytes.clone()).await?;
                    results.large.put(FROM_MEMORY, asked.mebibytes as f64 / began.elapsed().as_secs_f64());
                }
            }
        }
    }
    bench.scenario.delete_pod(&pod.name).await
}

async fn upload(azurite: &Azurite, bench: &Bench<'_>, round: usize, bytes: Bytes) -> Result<()> {
    floor::upload(azurite, &bench.store.container, &format!("floor-{round}"), bytes).await
}

/// Bytes that nothing can make smaller.
fn getrandom(bytes: &mut [u8]) -> Result<()> {
    use std::io::Read;
    std::fs::File::open("/dev/urandom")?.read_exact(bytes).context("no random bytes")
}

/// Many small files: as a folder, and as many single ones as a response may name.
async fn small(bench: &Bench<'_>, asked: &Asked, results: &mut Results) -> Result<()> {
    let pod = bench.scenario.pod("small").await?;
    let script = format!(
        "mkdir /tmp/many; text=$(head -c 3072 /dev/urandom | base64 -w 0); i=0; while [ $i -lt {} ]; do echo \"$text\" > /tmp/many/$i; i=$((i+1)); done",
        asked.files.max(SINGLE)
    );
    bench.scenario.exec(&pod, &["/bin/sh", "-c", &script]).await?;
    let single: Vec<_> = (0..SINGLE).map(|number| json!({ "path": format!("/tmp/many/{number}") })).collect();
    for round in 0..asked.rounds {
        let folder = bench.collect(&format!("folder-{round}"), &pod, one_file("/tmp/many"), Outcome::Done).await?;
        results.folder.push(folder);
        let fields = json!({ "include": [], "files": single });
        results.single.push(bench.collect(&format!("single-{round}"), &pod, fields, Outcome::Done).await?);
    }
    bench.scenario.delete_pod(&pod.name).await
}

/// A container that has written more than is taken of its log. It stops then, for the disk's sake: what comes after the limit makes no difference.
async fn log(bench: &Bench<'_>) -> Result<Collected> {
    let script = format!(
        "yes \"$(head -c 6000 /dev/urandom | base64 -w 0)\" | head -c {LOG_MIB}m; touch /tmp/written; exec /traffic/traffic serve 8080"
    );
    let command = json!({ "spec": { "containers": [{ "command": ["/bin/sh", "-c", script] }] } });
    let pod = bench.scenario.pod_with("log", command).await?;
    tourniquet_e2e::until("the log is written", std::time::Duration::from_secs(120), async || {
        Ok(bench.scenario.exec(&pod, &["/bin/ls", "/tmp"]).await?.contains("written").then_some(()))
    })
    .await?;
    let collected = bench.collect("log", &pod, json!({ "include": ["Logs", "Manifest"] }), Outcome::Partial).await?;
    let artifacts = collected.record["artifacts"].as_array().cloned().unwrap_or_default();
    let is_marked = |name: &str, result: &str| {
        artifacts.iter().any(|artifact| artifact["name"] == name && artifact["outcome"]["result"] == result)
    };
    ensure!(is_marked("logs/main.log", "Truncated") && is_marked("manifest.json", "Done"), "{artifacts:?}");
    bench.scenario.delete_pod(&pod.name).await?;
    Ok(collected)
}

fn print_large(asked: &Asked, results: &Results) {
    println!("\nOne file of {} MiB:\n\n| | least | median | most |\n|-|-|-|-|", asked.mebibytes);
    for (what, _) in &results.large.0 {
        let at = |share| results.large.at(what, share);
        println!("| {what} | {:.1} | {:.1} | {:.1} |", at(0), at(50), at(100));
    }
    let slower = results.large.at(THROWN_AWAY, 50).min(results.large.at(FROM_MEMORY, 50));
    println!("\nratio to the slower floor: {:.2}", results.large.at(OURS, 50) / slower.max(0.001));
    println!("\n| CPU time of the last round into the store | s | ms a MiB |\n|-|-|-|");
    for (program, seconds) in results.cpu.last().into_iter().flatten() {
        println!("| {program} | {seconds:.2} | {:.1} |", seconds * 1000.0 / asked.mebibytes as f64);
    }
}

fn print_small(asked: &Asked, results: &Results) {
    println!("\n| small files, 4 KiB each | files a second, median | operator: peak above idle, MiB |\n|-|-|-|");
    let folder = format!("a folder of {}, as one archive", asked.files.max(SINGLE));
    for (what, count, rounds) in [
        (folder, asked.files.max(SINGLE), &results.folder),
        (format!("{SINGLE} by their paths, each an artifact"), SINGLE, &results.single),
    ] {
        let mut figures = Figures::default();
        for collected in rounds {
            figures.put("rate", count as f64 / collected.seconds);
            figures.put("memory", collected.memory);
        }
        println!("| {what} | {:.0} | {:.1} |", figures.at("rate", 50), figures.at("memory", 100));
    }
}

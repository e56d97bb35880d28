//! `cargo xtask bench response`: from the resource to its first effect, beside a bare client that makes the same requests; with more and
//! more pods in the cluster, and responses in force; then a hundred responses at once, also while commands hang and the operator is killed.
//!
//! Nothing is asserted: it prints tables, and writes all figures as JSON.

#![allow(clippy::print_stdout, reason = "its output is its result")]

use anyhow::{Context, Result};
use kube::api::{Api, ApiResource};
use serde::Serialize;
use tourniquet_api::IncidentResponse;
use tourniquet_e2e::response_bench::at_once::{AtOnce, LAST, LAST_OF_FLOOR};
use tourniquet_e2e::response_bench::disturbed::{Disturbed, Trouble};
use tourniquet_e2e::response_bench::effects::Effects;
use tourniquet_e2e::response_bench::figures::write;
use tourniquet_e2e::response_bench::floor::Floor;
use tourniquet_e2e::response_bench::paper::PaperPods;
use tourniquet_e2e::response_bench::points::{BARE, Bench, FLOOR, OURS, Point};
use tourniquet_e2e::response_bench::steps::{self, Steps};
use tourniquet_e2e::response_bench::usage::Process;
use tourniquet_e2e::response_bench::verbs::Verb;
use tourniquet_e2e::{PaperNode, RESPONSE_NAMESPACE, Scenario};

/// How often a hundred responses are created at once.
const RUNS: usize = 3;

/// What is asked for.
struct Asked {
    rounds: usize,
    pods: Vec<usize>,
    responses: usize,
    json: Option<String>,
}

#[derive(Default, Serialize)]
struct Results {
    network: String,
    rounds: usize,
    points: Vec<Point>,
    at_once: Vec<AtOnce>,
    disturbed: Vec<Disturbed>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let asked = asked()?;
    println!("It takes about {} min.\n", minutes(&asked));
    let scenario = Scenario::begin("measure-response").await?;
    let node = scenario.paper_node().await?;
    let measured = async {
        let floor = Floor::begin(&scenario).await?;
        let measured = measure(&scenario, &node, &floor, &asked).await;
        floor.end().await?;
        measured
    };
    let measured = measured.await;
    PaperPods::on(&scenario, &node).remove().await?;
    let ended = scenario.end().await;
    node.delete().await?;
    write(&measured?, asked.json.as_deref())?;
    ended
}

fn asked() -> Result<Asked> {
    let mut args = std::env::args().skip(1);
    let mut next = |what: &str| args.next().with_context(|| format!("{what} is missing; run this through cargo xtask"));
    let mut pods = next("the numbers of pods")?
        .split(',')
        .map(|count| count.parse().with_context(|| format!("{count} is no number of pods")))
        .collect::<Result<Vec<usize>>>()?;
    pods.sort_unstable();
    let rounds = next("the number of rounds")?.parse().context("the number of rounds")?;
    let responses = next("the number of responses")?.parse().context("the number of responses")?;
    Ok(Asked { rounds, pods, responses, json: args.next() })
}

/// On 2 cores: a round of all verbs takes 1.5 s, a pod 5 ms, a response in force 40 ms to come and as much to go, a hundred at once 20 s.
fn minutes(asked: &Asked) -> usize {
    let points = asked.pods.len() + usize::from(asked.responses > 0);
    let pods = asked.pods.last().copied().unwrap_or_default();
    let milliseconds =
        asked.rounds * points * 1500 + pods * 5 + asked.responses * 80 + RUNS * 5 * 20_000 + points * 5000;
    milliseconds / 60_000 + 1
}

async fn measure(s: &Scenario, node: &PaperNode, floor: &Floor, asked: &Asked) -> Result<Results> {
    let effects = Effects::watch(s).await?;
    let operator = Process::operator()?;
    let kind = ApiResource::erase::<IncidentResponse>(&());
    let responses = Api::namespaced_with(s.env.client.clone(), RESPONSE_NAMESPACE, &kind);
    let steps = Steps::watch(responses, floor.copies.clone());
    let bench = Bench { scenario: s, floor, effects: &effects, steps: &steps, operator: &operator, node };
    let mut results = Results { network: s.env.network.clone(), rounds: asked.rounds, ..Results::default() };
    println!("network {}, {} rounds, without agents; times in ms\n", results.network, asked.rounds);
    println!(
        "| pods | responses in force | verb | created -> first effect: median (p99) | the same requests bare | the effect alone, bare | ratio of medians | operator: MiB resident (peak) | CPU for each |\n|-|-|-|-|-|-|-|-|-|"
    );
    let mut pods = PaperPods::on(s, node);
    for count in &asked.pods {
        pods.grow_to(*count).await?;
        let point = bench.point(&pods, (*count, 0), asked.rounds).await?;
        print_point(&point);
        results.points.push(point);
    }
    if asked.responses > 0 {
        let standing = bench.stand(&pods, asked.responses).await?;
        let count = asked.pods.last().copied().unwrap_or_default();
        let point = bench.point(&pods, (count, asked.responses), asked.rounds).await?;
        print_point(&point);
        results.points.push(point);
        bench.let_go(&standing).await?;
    }
    print_steps(&results.points);
    pods.grow_to(tourniquet_e2e::response_bench::at_once::MANY).await?;
    for run in 0..RUNS {
        for verb in [Verb::Label, Verb::Isolate] {
            let at_once = bench.at_once(&pods, verb, run).await?;
            print_at_once(&at_once);
            results.at_once.push(at_once);
        }
    }
    // Last: the operator that was measured before is killed in it.
    for run in 0..RUNS {
        for trouble in Trouble::ALL {
            results.disturbed.push(bench.disturbed(&pods, trouble, run).await?);
        }
    }
    print_disturbed(&results.disturbed);
    Ok(results)
}

fn print_point(point: &Point) {
    for (verb, figures) in &point.verbs {
        let both = |what| format!("{:.1} ({:.1})", figures.at(what, 50), figures.at(what, 99));
        println!(
            "| {} | {} | {} | {} | {} | {} | {:.2} | {:.1} ({:.1}) | {:.1} |",
            point.pods,
            point.responses,
            verb.name(),
            both(OURS),
            both(FLOOR),
            both(BARE),
            figures.at(OURS, 50) / figures.at(FLOOR, 50).max(0.001),
            point.after.resident,
            point.after.peak,
            point.cpu_each
        );
    }
}

fn print_steps(points: &[Point]) {
    println!(
        "\nWhere it goes, medians of ours / of the same requests bare:\n\n| pods | responses in force | verb | response stored | finalizer stored | status stored | effect |\n|-|-|-|-|-|-|-|"
    );
    for point in points {
        for (verb, figures) in &point.verbs {
            print!("| {} | {} | {} |", point.pods, point.responses, verb.name());
            for (ours, floor) in steps::labels(OURS).zip(steps::labels(FLOOR)) {
                print!(" {:.1} / {:.1} |", figures.at(&ours, 50), figures.at(&floor, 50));
            }
            println!();
        }
    }
}

fn print_disturbed(all: &[Disturbed]) {
    println!(
        "\nA hundred isolations at once while something goes wrong, ms:\n\n| meanwhile | in force | created -> in force, each: median (most) | {LAST} |\n|-|-|-|-|"
    );
    for Disturbed { trouble, count, figures } in all {
        let at = |share| figures.at("created -> in force, each", share);
        println!("| {} | {count} | {:.0} ({:.0}) | {:.0} |", trouble.name(), at(50), at(100), figures.at(LAST, 50));
    }
}

fn print_at_once(at_once: &AtOnce) {
    let AtOnce { verb, count, figures, cpu, requests, until_reported } = at_once;
    println!("\n{count} responses at once, {}:\n\n| ms | median | most |\n|-|-|-|", verb.name());
    for (what, _) in &figures.0 {
        println!("| {what} | {:.1} | {:.1} |", figures.at(what, 50), figures.at(what, 100));
    }
    println!("| operator: CPU until the last is in force | {cpu:.0} | |");
    println!("| ratio to the floor | {:.2} | |", figures.at(LAST, 50) / figures.at(LAST_OF_FLOOR, 50).max(0.001));
    println!(
        "\n| requests of the operator for each | until the last is in force | until every outcome is stored |\n|-|-|-|"
    );
    for (what, all) in until_reported {
        println!("| {what} | {:.2} | {all:.2} |", requests.get(what).copied().unwrap_or_default());
    }
    let sum = |counts: &std::collections::BTreeMap<String, f64>| counts.values().sum::<f64>();
    println!("| all | {:.2} | {:.2} |", sum(requests), sum(until_reported));
}

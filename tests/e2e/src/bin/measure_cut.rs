//! `cargo xtask bench cut`: how long the cut and the release take with agents, from the resource to real connections, beside what
//! the kernel and the API server take for the least of it; then many pods of one node at once.
//!
//! Nothing is asserted: it prints tables, then the same as JSON.

#![allow(clippy::print_stdout, reason = "its output is its result")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::future::try_join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, PostParams};
use serde::Serialize;
use tourniquet_agent::cut::{self, Allow, Hooks};
use tourniquet_agent::netns::NetNs;
use tourniquet_agent::pods;
use tourniquet_api::{Containment, ContainmentState};
use tourniquet_e2e::{AGENT_NAMESPACE, Attempts, Hops, Scenario, Spec, TestPod, TestResponse, until};

const SOON: Duration = Duration::from_secs(20);
/// Between two attempts, in milliseconds.
const PAUSE: u64 = 5;
/// Pods that are isolated at once.
const MANY: usize = 50;
/// How many of them are tried by real connections: each takes its share of the machine.
const TRIED: usize = 3;

/// Milliseconds of all rounds, by what was measured, in the order in which it is printed.
#[derive(Default, Serialize)]
struct Measured(Vec<(String, Vec<f64>)>);

impl Measured {
    fn add(&mut self, what: &str, from: Timestamp, to: Timestamp) {
        self.add_milliseconds(what, to.duration_since(from).as_micros() as f64 / 1000.0);
    }

    fn add_milliseconds(&mut self, what: &str, value: f64) {
        match self.0.iter_mut().find(|(name, _)| name == what) {
            Some((_, values)) => values.push(value),
            None => self.0.push((what.to_owned(), vec![value])),
        }
    }

    fn print(&self) {
        println!("| ms | least | median | p99 | most |\n|-|-|-|-|-|");
        for (name, values) in &self.0 {
            let mut values = values.clone();
            values.sort_by(f64::total_cmp);
            let at =
                |share: usize| values.get(values.len() * share / 100).or(values.last()).copied().unwrap_or_default();
            println!("| {name} | {:.1} | {:.1} | {:.1} | {:.1} |", at(0), at(50), at(99), at(100));
        }
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let rounds: usize = std::env::args().nth(1).map_or(Ok(100), |text| text.parse()).context("the number of rounds")?;
    let scenario = Scenario::begin("measure-cut").await?;
    let measured = measure(&scenario, rounds).await;
    scenario.end().await?;
    let results = measured?;
    println!("\n{}", serde_json::to_string(&results)?);
    Ok(())
}

async fn measure(s: &Scenario, rounds: usize) -> Result<BTreeMap<&'static str, Measured>> {
    println!("network {}, {rounds} rounds, connections tried every {PAUSE} ms\n", s.env.network);
    let (rounds, hops) = one_by_one(s, rounds).await?;
    rounds.print();
    println!("\nOf created -> first refused connection:\n");
    hops.print();
    println!("\n{MANY} pods of one node at once, {TRIED} of them tried by connections:\n");
    let many = at_once(s).await?;
    many.print();
    Ok([("rounds", rounds), ("hops", hops), ("at once", many)].into())
}

/// One pod, isolated and let go again and again: within a minute no label changes, so no round disturbs the next.
async fn one_by_one(s: &Scenario, rounds: usize) -> Result<(Measured, Measured)> {
    let (web, peer) = tokio::try_join!(s.pod("web"), s.pod("peer"))?;
    let idle = s.pod("idle").await?;
    let attempts = s.attempts_every(PAUSE, &peer, &web).await?;
    let watch = Hops::watch(&s.env.client);
    let (mut measured, mut hops) = (Measured::default(), Measured::default());
    for index in 0..rounds {
        attempts.answered(Timestamp::now(), SOON).await?;
        let response = s.respond(&format!("r{index}"), Spec::isolate(&web)).await?;
        let answered = Timestamp::now();
        let contained = is_contained(&response).await?;
        let refused = attempts.silent(response.asked, Duration::from_millis(200), SOON).await?.start;
        let moments = watch.of(&response.uid, &web.uid).await?;
        let deleted = response.delete().await?;
        let accepted = attempts.answered(deleted, SOON).await?.end;
        response.gone(SOON).await?;
        measured.add("created -> first refused connection", response.asked, refused);
        measured.add("created -> seen to be contained (asked every 50 ms)", response.asked, contained);
        measured.add("deleted -> first accepted connection", deleted, accepted);
        measured.add("deleted -> gone (asked every 50 ms)", deleted, Timestamp::now());
        for (hop, milliseconds) in moments.hops(response.asked, answered, refused) {
            hops.add_milliseconds(hop, milliseconds);
        }
        floor(s, &idle, &mut measured).await?;
    }
    Ok((measured, hops))
}

/// The least that it could take: a bare write to the API server, and the kernel's part alone, on a pod that nobody uses.
async fn floor(s: &Scenario, idle: &TestPod, measured: &mut Measured) -> Result<()> {
    let maps = s.api::<ConfigMap>();
    let map: ConfigMap = serde_json::from_value(serde_json::json!({ "metadata": { "name": "floor" } }))?;
    let began = Timestamp::now();
    maps.create(&PostParams::default(), &map).await?;
    measured.add("floor: one bare write to the API server", began, Timestamp::now());
    maps.delete("floor", &DeleteParams::default()).await?;

    let namespace = network_of(idle)?;
    let allow = Allow::new([], [])?;
    let began = Instant::now();
    cut::cut(&namespace, &allow, Hooks::Netdev)?;
    measured.add_milliseconds("floor: the kernel cuts, and is read back", began.elapsed().as_secs_f64() * 1000.0);
    let began = Instant::now();
    cut::lift(&namespace)?;
    measured.add_milliseconds("floor: the kernel lets go", began.elapsed().as_secs_f64() * 1000.0);
    Ok(())
}

fn network_of(pod: &TestPod) -> Result<NetNs> {
    let proc = Path::new("/proc");
    let host = pods::node_network(proc)?;
    Ok(pods::find(proc, &pod.uid, &pods::hierarchy(proc), host.id())?.netns)
}

async fn is_contained(response: &TestResponse) -> Result<Timestamp> {
    until("it is contained", SOON, async || {
        let contained = response.condition("Contained").await?;
        Ok(contained.filter(|contained| contained.status == "True").map(|_| Timestamp::now()))
    })
    .await
}

/// Many responses for as many pods, created in one go.
async fn at_once(s: &Scenario) -> Result<Measured> {
    let names: Vec<String> = (0..MANY).map(|index| format!("many-{index}")).collect();
    let pods = try_join_all(names.iter().map(|name| s.pod(name))).await?;
    let peer = s.running("peer").await?;
    let mut tried: Vec<(usize, Attempts)> = Vec::new();
    for (index, pod) in pods.iter().enumerate().step_by(MANY / TRIED).take(TRIED) {
        tried.push((index, s.attempts_every(PAUSE, &peer, pod).await?));
    }
    for (_, attempts) in &tried {
        attempts.answered(Timestamp::now(), SOON).await?;
    }
    let began = Timestamp::now();
    let responses = try_join_all(pods.iter().map(|pod| s.respond(&pod.name, Spec::isolate(pod)))).await?;
    let mut measured = Measured::default();
    measured.add("all created", began, Timestamp::now());
    let containments: Api<Containment> = Api::namespaced(s.env.client.clone(), AGENT_NAMESPACE);
    let cut_at = async |pod: &TestPod| {
        until("the pod is cut", SOON, async || {
            let status = containments.get_opt(&pod.uid).await?.and_then(|containment| containment.status);
            Ok(status.filter(|status| status.state == ContainmentState::Cut).and_then(|status| status.cut_at))
        })
        .await
    };
    let cuts = try_join_all(pods.iter().map(cut_at)).await?;
    for (response, cut) in responses.iter().zip(&cuts) {
        measured.add("created -> cut, as read back from the kernel, each", response.asked, cut.0);
    }
    let last = cuts.iter().map(|cut| cut.0).max().context("no pods")?;
    measured.add("first created -> last one cut", began, last);
    for (index, attempts) in &tried {
        let asked = responses.get(*index).context("no response")?.asked;
        let refused = attempts.silent(asked, Duration::from_millis(200), SOON).await?.start;
        measured.add("created -> first refused connection, of those that are tried", asked, refused);
    }
    try_join_all(responses.iter().map(is_contained)).await?;
    let began = Timestamp::now();
    let deleted = try_join_all(responses.iter().map(TestResponse::delete)).await?;
    for (index, attempts) in &tried {
        let asked = *deleted.get(*index).context("no response")?;
        let accepted = attempts.answered(asked, SOON).await?.end;
        measured.add("deleted -> first accepted connection, of those that are tried", asked, accepted);
    }
    try_join_all(responses.iter().map(|response| response.gone(SOON * 3))).await?;
    measured.add("first deleted -> last one gone", began, Timestamp::now());
    Ok(measured)
}

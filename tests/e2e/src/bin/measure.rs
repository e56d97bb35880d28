//! `cargo xtask bench isolate`: how long isolating and letting go take, and what becomes of connections that were open before.
//!
//! Nothing is asserted: it prints a table, then the same as JSON.

#![allow(clippy::print_stdout, reason = "its output is its result")]

use std::time::Duration;

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use serde::Serialize;
use tourniquet_api::names;
use tourniquet_e2e::responses::condition;
use tourniquet_e2e::traffic::Stream;
use tourniquet_e2e::{Scenario, Spec, TestPod, until};

const SECOND: Duration = Duration::from_secs(1);
/// A label change that Cilium skips policies for can last that long.
const SETTLED: Duration = Duration::from_secs(180);
/// Rounds that run at the same time: they mostly wait.
const BESIDE: usize = 3;
/// How long a flow is watched after the isolation is in force, and after it is lifted.
const WATCHED: Duration = Duration::from_secs(10);

#[derive(Serialize)]
struct Results {
    network: String,
    rounds: Vec<Round>,
    flows: Vec<Flow>,
}

/// Milliseconds.
#[derive(Serialize)]
struct Round {
    created_to_policies_accepted: i128,
    created_to_first_refused_to_pod: i128,
    created_to_first_refused_from_pod: i128,
    created_to_reported: i128,
    deleted_to_first_accepted: i128,
}

#[derive(Serialize)]
struct Flow {
    protocol: String,
    opened_by: String,
    /// Numbers that came back in the 10 s before, of 200 sent.
    before: usize,
    /// In the 10 s after the isolation was in force.
    isolated: usize,
    /// In the 10 s after a new connection was accepted again.
    released: usize,
}

#[tokio::main]
async fn main() -> Result<()> {
    let rounds: usize = std::env::args().nth(1).map_or(Ok(6), |text| text.parse()).context("the number of rounds")?;
    let scenario = Scenario::begin("measure").await?;
    let measured = measure(&scenario, rounds).await;
    scenario.end().await?;
    let results = measured?;
    print(&results);
    println!("\n{}", serde_json::to_string(&results)?);
    Ok(())
}

async fn measure(s: &Scenario, rounds: usize) -> Result<Results> {
    let measured: Vec<Round> =
        stream::iter(0..rounds).map(|index| round(s, index)).buffered(BESIDE).try_collect().await?;
    Ok(Results { network: s.env.network.clone(), rounds: measured, flows: flows(s).await? })
}

/// One response on a fresh pod.
async fn round(s: &Scenario, index: usize) -> Result<Round> {
    let (web, peer) = (format!("web-{index}"), format!("peer-{index}"));
    let (web, peer) = tokio::try_join!(s.pod(&web), s.pod(&peer))?;
    let inbound = s.attempts(&peer, &web).await?;
    let outbound = s.attempts(&web, &peer).await?;
    inbound.answered(Timestamp::UNIX_EPOCH, SECOND * 20).await?;
    outbound.answered(Timestamp::UNIX_EPOCH, SECOND * 20).await?;

    let response = s.respond(&web.name, Spec::isolate(&web)).await?;
    // The isolating label goes on after the policies: seen on the pod, the API server has taken all of them.
    let label = names::isolation_label(&response.uid);
    let accepted = until("the policies are accepted", SECOND * 20, async || {
        let labels = s.get_pod(&web.name).await?.metadata.labels.unwrap_or_default();
        Ok(labels.contains_key(&label).then(Timestamp::now))
    })
    .await?;
    let refused_in = inbound.silent(response.asked, SECOND * 3, SETTLED).await?.start;
    let refused_out = outbound.silent(response.asked, SECOND * 3, SETTLED).await?.start;
    response.becomes("Contained", "True", SETTLED).await?;
    let reported = condition(&response.get().await?, "Contained").context("no Contained")?.last_transition_time.0;

    let deleted = response.delete().await?;
    let answered = inbound.answered(deleted, SETTLED).await?.end;
    response.gone(SECOND * 60).await?;
    s.delete_pod(&web.name).await?;
    s.delete_pod(&peer.name).await?;
    let since = |from: Timestamp, to: Timestamp| to.duration_since(from).as_millis();
    Ok(Round {
        created_to_policies_accepted: since(response.asked, accepted),
        created_to_first_refused_to_pod: since(response.asked, refused_in),
        created_to_first_refused_from_pod: since(response.asked, refused_out),
        created_to_reported: since(response.asked, reported),
        deleted_to_first_accepted: since(deleted, answered),
    })
}

/// TCP and UDP flows, opened by the pod and opened to it, before it is isolated.
async fn flows(s: &Scenario) -> Result<Vec<Flow>> {
    let (web, peer) = tokio::try_join!(s.pod("web"), s.pod("peer"))?;
    let open = async |protocol: &'static str, from: &TestPod, to: &TestPod| s.stream(protocol, from, to).await;
    let streams: Vec<(&str, &str, Stream)> = vec![
        ("tcp", "the pod", open("tcp", &web, &peer).await?),
        ("tcp", "its peer", open("tcp", &peer, &web).await?),
        ("udp", "the pod", open("udp", &web, &peer).await?),
        ("udp", "its peer", open("udp", &peer, &web).await?),
        ("tcp, sent by its peer only,", "the pod", open("tcp-push", &web, &peer).await?),
        ("tcp, sent by the pod only,", "its peer", open("tcp-push", &peer, &web).await?),
        ("udp, sent by its peer only,", "the pod", open("udp-push", &web, &peer).await?),
        ("udp, sent by the pod only,", "its peer", open("udp-push", &peer, &web).await?),
    ];
    let inbound = s.attempts(&peer, &web).await?;
    let outbound = s.attempts(&web, &peer).await?;
    let begin = passed(Timestamp::now()).await?;

    let response = s.respond("flows", Spec::isolate(&web)).await?;
    inbound.silent(response.asked, SECOND * 2, SETTLED).await?;
    outbound.silent(response.asked, SECOND * 2, SETTLED).await?;
    let isolated = passed(Timestamp::now()).await?;

    let deleted = response.delete().await?;
    inbound.answered(deleted, SETTLED).await?;
    outbound.answered(deleted, SETTLED).await?;
    let released = passed(Timestamp::now()).await?;
    let within = |stream: &Stream, from: Timestamp| stream.echoes(from, from + WATCHED);
    Ok(streams
        .iter()
        .map(|(protocol, opened_by, stream)| Flow {
            protocol: (*protocol).to_owned(),
            opened_by: (*opened_by).to_owned(),
            before: within(stream, begin),
            isolated: within(stream, isolated),
            released: within(stream, released),
        })
        .collect())
}

/// Lets the time of observation pass, and returns its beginning.
async fn passed(from: Timestamp) -> Result<Timestamp> {
    tokio::time::sleep(WATCHED).await;
    Ok(from)
}

fn print(results: &Results) {
    println!(
        "network {}, {} rounds on fresh pods, connections tried every 50 ms\n",
        results.network,
        results.rounds.len()
    );
    type Value = fn(&Round) -> i128;
    let rows: [(&str, Value); 5] = [
        ("created -> policies and label accepted", |round| round.created_to_policies_accepted),
        ("created -> first refused connection to the pod", |round| round.created_to_first_refused_to_pod),
        ("created -> first refused connection from the pod", |round| round.created_to_first_refused_from_pod),
        ("created -> reported as contained", |round| round.created_to_reported),
        ("deleted -> first accepted connection to the pod", |round| round.deleted_to_first_accepted),
    ];
    println!("| ms | least | median | most |\n|-|-|-|-|");
    for (name, value) in rows {
        let mut values: Vec<i128> = results.rounds.iter().map(value).collect();
        values.sort_unstable();
        if let (Some(least), Some(median), Some(most)) = (values.first(), values.get(values.len() / 2), values.last()) {
            println!("| {name} | {least} | {median} | {most} |");
        }
    }
    println!("\n| flow opened before | arrived in 10 s before | while isolated | after the release |\n|-|-|-|-|");
    for flow in &results.flows {
        println!(
            "| {} opened by {} | {} | {} | {} |",
            flow.protocol, flow.opened_by, flow.before, flow.isolated, flow.released
        );
    }
}

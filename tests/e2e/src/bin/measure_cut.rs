//! `cargo xtask bench cut`: how long the cut and the release take with agents, from the resource to real connections.
//!
//! Nothing is asserted: it prints a table, then the same as JSON.

#![allow(clippy::print_stdout, reason = "its output is its result")]

use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::Serialize;
use tourniquet_e2e::{Scenario, Spec, until};

const SOON: Duration = Duration::from_secs(20);
/// Between two attempts, in milliseconds.
const PAUSE: u64 = 5;

/// Milliseconds.
#[derive(Serialize)]
struct Round {
    created_to_first_refused: i128,
    created_to_seen_contained: i128,
    deleted_to_first_accepted: i128,
    deleted_to_gone: i128,
}

#[tokio::main]
async fn main() -> Result<()> {
    let rounds: usize = std::env::args().nth(1).map_or(Ok(100), |text| text.parse()).context("the number of rounds")?;
    let scenario = Scenario::begin("measure-cut").await?;
    let measured = measure(&scenario, rounds).await;
    scenario.end().await?;
    let results = measured?;
    print(&scenario.env.network, &results);
    println!("\n{}", serde_json::to_string(&results)?);
    Ok(())
}

/// One pod, isolated and let go again and again: within a minute no label changes, so no round disturbs the next.
async fn measure(s: &Scenario, rounds: usize) -> Result<Vec<Round>> {
    let (web, peer) = tokio::try_join!(s.pod("web"), s.pod("peer"))?;
    let attempts = s.attempts_every(PAUSE, &peer, &web).await?;
    let mut results = Vec::new();
    for index in 0..rounds {
        attempts.answered(Timestamp::now(), SOON).await?;
        let response = s.respond(&format!("r{index}"), Spec::isolate(&web)).await?;
        let contained = until("it is contained", SOON, async || {
            let contained = response.condition("Contained").await?;
            Ok(contained.filter(|contained| contained.status == "True").map(|_| Timestamp::now()))
        })
        .await?;
        let refused = attempts.silent(response.asked, Duration::from_millis(200), SOON).await?.start;
        let deleted = response.delete().await?;
        let answered = attempts.answered(deleted, SOON).await?.end;
        response.gone(SOON).await?;
        let gone = Timestamp::now();
        let since = |from: Timestamp, to: Timestamp| to.duration_since(from).as_millis();
        results.push(Round {
            created_to_first_refused: since(response.asked, refused),
            created_to_seen_contained: since(response.asked, contained),
            deleted_to_first_accepted: since(deleted, answered),
            deleted_to_gone: since(deleted, gone),
        });
    }
    Ok(results)
}

fn print(network: &str, results: &[Round]) {
    type Value = fn(&Round) -> i128;
    println!("network {network}, {} rounds, connections tried every {PAUSE} ms\n", results.len());
    let rows: [(&str, Value); 4] = [
        ("created -> first refused connection", |round| round.created_to_first_refused),
        ("created -> seen to be contained (asked every 50 ms)", |round| round.created_to_seen_contained),
        ("deleted -> first accepted connection", |round| round.deleted_to_first_accepted),
        ("deleted -> gone (asked every 50 ms)", |round| round.deleted_to_gone),
    ];
    println!("| ms | least | median | p99 | most |\n|-|-|-|-|-|");
    for (name, value) in rows {
        let mut values: Vec<i128> = results.iter().map(value).collect();
        values.sort_unstable();
        let at = |share: usize| values.get(values.len() * share / 100).or(values.last()).copied().unwrap_or_default();
        let ends = (values.first().copied().unwrap_or_default(), values.last().copied().unwrap_or_default());
        println!("| {name} | {} | {} | {} | {} |", ends.0, at(50), at(99), ends.1);
    }
}

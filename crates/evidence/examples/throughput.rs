//! How fast evidence is stored, and what memory that takes, beside the bare requests that carry the same bytes. Asserts nothing.
//!
//! `TOURNIQUET_AZURITE=$(cargo xtask azurite) cargo run --release --package tourniquet-evidence --example throughput -- 512`: as many MiB, five rounds of each.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a measurement that a person runs"
)]

#[path = "../tests/lab/mod.rs"]
mod lab;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use lab::sources::bytes;
use lab::{Lab, options, well};
use tokio::io::{AsyncRead, ReadBuf};

const MIB: usize = 1024 * 1024;
const BLOCK: usize = 4 * MIB;
const ROUNDS: usize = 6;

/// The same block again and again, from memory.
struct Memory {
    block: Bytes,
    at: usize,
    left: usize,
}

impl AsyncRead for Memory {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let take = buf.remaining().min(self.left).min(BLOCK - self.at);
        buf.put_slice(&self.block[self.at..self.at + take]);
        self.at = (self.at + take) % BLOCK;
        self.left -= take;
        Poll::Ready(Ok(()))
    }
}

#[tokio::main]
async fn main() {
    let size: usize = std::env::args().nth(1).map_or(512, |text| text.parse().expect("MiB, a multiple of 4"));
    let (mut stored, mut bare) = (Vec::new(), Vec::new());
    let mut peak = 0;
    for round in 0..ROUNDS {
        let lab = Lab::new().await;
        let store = lab.store();
        store.check().await.unwrap();
        // Azurite becomes slower with what it holds: each goes first in every other round.
        for turn in 0..2 {
            if (round + turn) % 2 == 0 {
                let source = Memory { block: bytes(BLOCK).into(), at: 0, left: size * MIB };
                let idle = kib("VmRSS");
                let began = Instant::now();
                store.put("artifact", source, well, options()).await.unwrap();
                stored.push(rate(size, began));
                // Only of the first round: the peak is the process'.
                peak = if round == 0 { kib("VmHWM") - idle } else { peak };
            } else {
                let block = Bytes::from(bytes(BLOCK));
                let began = Instant::now();
                bare_requests(&lab, block, size * MIB / BLOCK).await;
                bare.push(rate(size, began));
            }
        }
    }
    println!("stored, MiB/s: {stored:.0?}\nbare requests, MiB/s: {bare:.0?}");
    let (stored, bare) = (median(stored), median(bare));
    println!(
        "{size} MiB, median of {ROUNDS}: stored {stored:.0} MiB/s, bare requests {bare:.0} MiB/s, ratio {:.2}",
        stored / bare
    );
    println!("peak memory above idle: {:.1} MiB", peak as f64 / 1024.0);
}

/// The same blocks and the commit, from one buffer, with nothing hashed, looked at or tried again.
async fn bare_requests(lab: &Lab, block: Bytes, count: usize) {
    let client = lab.azurite.pki.client();
    let url = |query: &str| {
        format!("{}/{}/bare?{query}&{}", lab.azurite.endpoint(), lab.container, tourniquet_azurite::account())
    };
    let ids: Vec<String> = (0..count).map(|number| STANDARD.encode(format!("{number:08}"))).collect();
    let staging = ids.iter().map(|id| {
        let encoded: String = url::form_urlencoded::byte_serialize(id.as_bytes()).collect();
        client
            .put(url(&format!("comp=block&blockid={encoded}")))
            .header("x-ms-version", "2022-11-02")
            .body(block.clone())
            .send()
    });
    futures::stream::iter(staging)
        .buffer_unordered(3)
        .try_for_each(async |answer| answer.error_for_status().map(drop))
        .await
        .unwrap();
    let list: String = ids.iter().map(|id| format!("<Latest>{id}</Latest>")).collect();
    let list = format!("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>{list}</BlockList>");
    let answer =
        client.put(url("comp=blocklist")).header("x-ms-version", "2022-11-02").body(list).send().await.unwrap();
    answer.error_for_status().unwrap();
}

fn rate(size: usize, began: Instant) -> f64 {
    size as f64 / began.elapsed().as_secs_f64()
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// A line of this process' memory, in KiB.
fn kib(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

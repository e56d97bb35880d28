//! `cargo xtask bench soak`: responses that come and go for minutes on a few pods, in each other's way, while the operator is killed at random; and what is
//! left of them at the end.
//!
//! What is left is an error: objects, labels, annotations and field managers of the whole cluster are compared with what was there before.

#![allow(clippy::print_stdout, reason = "its output is its result")]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::{join_all, try_join_all};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until};
use tourniquet_api::Containment;
use tourniquet_e2e::response_bench::figures::{Figures, write};
use tourniquet_e2e::response_bench::usage::{Process, Usage};
use tourniquet_e2e::snapshot::Snapshot;
use tourniquet_e2e::{AGENT_NAMESPACE, OPERATOR_NAMESPACE, Scenario, Spec, TestPod, until};

const PODS: usize = 8;
/// The longest that a response is in force.
const HELD: Duration = Duration::from_secs(12);
/// An operator that was killed is back after seconds, and each response waits for it.
const GONE: Duration = Duration::from_secs(180);
const GONE_FROM: &str = "deleted -> gone, ms";

struct Asked {
    responses: usize,
    over: Duration,
    restarts: usize,
    seed: u64,
    json: Option<String>,
}

#[derive(Serialize)]
struct Results {
    responses: usize,
    seconds: u64,
    restarts: usize,
    seed: u64,
    figures: Figures,
    /// Of an operator that was just started and has nothing to do, of the last one when everything is over, and how many responses came while that one ran.
    fresh: Usage,
    over: Usage,
    responses_of_the_last: usize,
}

#[tokio::main]
async fn main() -> Result<()> {
    let asked = asked()?;
    println!("It takes about {} min; seed {}.\n", asked.over.as_secs() / 60 + 2, asked.seed);
    let scenario = Scenario::begin("measure-soak").await?;
    let measured = measure(&scenario, &asked).await;
    let ended = scenario.end().await;
    let results = measured?;
    print(&results);
    write(&results, asked.json.as_deref())?;
    ended
}

fn asked() -> Result<Asked> {
    let mut args = std::env::args().skip(1);
    let mut number = |what: &str| {
        let text = args.next().with_context(|| format!("{what} missing; run this through cargo xtask"))?;
        text.parse::<u64>().with_context(|| format!("{what}: {text} is no number"))
    };
    let (responses, seconds) = (number("the number of responses")?, number("the seconds")?);
    let (restarts, seed) = (number("the number of restarts")?, number("the seed")?);
    Ok(Asked {
        responses: usize::try_from(responses)?,
        over: Duration::from_secs(seconds),
        restarts: usize::try_from(restarts)?,
        seed,
        json: args.next(),
    })
}

async fn measure(s: &Scenario, asked: &Asked) -> Result<Results> {
    let names: Vec<String> = (0..PODS).map(|number| format!("web-{number}")).collect();
    let pods = try_join_all(names.iter().map(|name| s.pod(name))).await?;
    let before = Snapshot::take(&s.env.client, |_| true).await?;
    Process::operator()?.kill()?;
    anew(s).await?;
    operator_is_back(s).await?;
    Process::operator()?.rests().await?;
    let fresh = Process::operator()?.usage()?;

    let mut random = fastrand::Rng::with_seed(asked.seed);
    let begun = Instant::now();
    // Not in the last fifth: what the last operator keeps is to be seen.
    let mut kills: Vec<Duration> = (0..asked.restarts).map(|_| asked.over.mul_f64(random.f64() * 0.8)).collect();
    kills.sort_unstable();
    let last_kill = kills.last().copied().unwrap_or_default();
    let killed = async {
        for at in kills {
            sleep_until(begun + at).await;
            // Between two lives there is nobody to kill.
            if let Ok(operator) = Process::operator() {
                operator.kill()?;
                anew(s).await?;
            }
        }
        Ok::<_, anyhow::Error>(())
    };
    let every = asked.over / u32::try_from(asked.responses.max(1))?;
    let responses = (0..asked.responses).map(|number| {
        let at = begun + every * u32::try_from(number).unwrap_or(u32::MAX);
        let (held, spec) = (HELD.mul_f64(random.f64()), spec(&pods[random.usize(..PODS)], random.u8(..3)));
        async move {
            sleep_until(at).await;
            let response = s.respond(&format!("r-{number}"), Spec(spec)).await?;
            sleep(held).await;
            let deleted = response.delete().await?;
            response.gone(GONE).await?;
            Ok::<_, anyhow::Error>(jiff::Timestamp::now().duration_since(deleted))
        }
    });
    let (killed, gone) = tokio::join!(killed, join_all(responses));
    killed?;
    let mut figures = Figures::default();
    for took in gone {
        figures.put(GONE_FROM, took?.as_millis() as f64);
    }
    nothing_is_left(s, &before).await?;
    let operator = Process::operator()?;
    operator.rests().await?;
    let of_the_last = asked.over.saturating_sub(last_kill).as_secs_f64() / every.as_secs_f64().max(f64::MIN_POSITIVE);
    Ok(Results {
        responses: asked.responses,
        seconds: asked.over.as_secs(),
        restarts: asked.restarts,
        seed: asked.seed,
        figures,
        fresh,
        over: operator.usage()?,
        responses_of_the_last: of_the_last as usize,
    })
}

fn spec(pod: &TestPod, kind: u8) -> Value {
    let label = json!({ "label": { "set": { "incident": "soak" } } });
    let isolate = json!({ "isolate": {} });
    let actions = match kind {
        0 => json!([isolate]),
        1 => json!([label]),
        _ => json!([label, isolate]),
    };
    json!({ "target": { "pod": { "namespace": pod.namespace, "name": pod.name } }, "actions": actions })
}

/// Has the Deployment make another pod: a container that dies again and again is started again only after minutes.
async fn anew(s: &Scenario) -> Result<()> {
    let all =
        ["--namespace", OPERATOR_NAMESPACE, "delete", "pods", "--all", "--grace-period=0", "--force", "--wait=false"];
    s.env.kubectl_output(&all).await.map(drop)
}

async fn operator_is_back(s: &Scenario) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(s.env.client.clone(), OPERATOR_NAMESPACE);
    until("the operator is back", Duration::from_secs(60), async || {
        let ready = |pod: &Pod| {
            let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
            conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
        };
        let all = pods.list(&ListParams::default()).await?.items;
        Ok((Process::operator().is_ok() && !all.is_empty() && all.iter().all(ready)).then_some(()))
    })
    .await
}

async fn nothing_is_left(s: &Scenario, before: &Snapshot) -> Result<()> {
    let containments: Api<Containment> = Api::namespaced(s.env.client.clone(), AGENT_NAMESPACE);
    let left = until("the Containments are gone", Duration::from_secs(60), async || {
        Ok(containments.list_metadata(&ListParams::default()).await?.items.is_empty().then_some(()))
    });
    left.await?;
    let of_test = ListParams::default().labels(&format!("e2e.tourniquet.dev/test={}", s.namespace));
    let responses = s.responses().list_metadata(&of_test).await?.items;
    let named: Vec<String> = responses.iter().map(ResourceExt::name_any).collect();
    ensure!(named.is_empty(), "responses are left, which a finalizer holds: {named:?}");
    let difference = before.diff(&Snapshot::take(&s.env.client, |_| true).await?);
    ensure!(difference.is_empty(), "the cluster is not what it was:\n{difference}");
    Ok(())
}

fn print(results: &Results) {
    let Results { responses, seconds, restarts, figures, fresh, over, responses_of_the_last, .. } = results;
    println!("{responses} responses created and deleted over {seconds} s, the operator killed {restarts} times");
    println!("nothing is left: no response, policy, Containment, label, annotation, field manager");
    for (what, share) in [("median", 50), ("p99", 99), ("most", 100)] {
        println!("  {GONE_FROM}, {what:<6} {:>8.0}", figures.at(GONE_FROM, share));
    }
    println!("  resident, just started, MiB   {:>6.1}", fresh.resident);
    println!("  resident, after {responses_of_the_last} responses, MiB {:>6.1} (peak {:.1})", over.resident, over.peak);
}

//! Laws 1 and 2 on a real cluster: responses of mixed verbs over the same two pods, one by one, together and with their namespace, over
//! that namespace and a node, created, released and deleted in random order while the operator is killed again and again.
//!
//! A pod is held from the first `Contained=True` on, for as long as a response that isolates it is there and not asked to let go. In
//! that time no connection is answered, to it or from it; held by nobody, it answers again; and in the end everything is what it was.

mod books;
mod schedule;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::Api;
use serde_json::{Value, json};

use self::books::Books;
use self::schedule::{PODS, Schedule, Step};
use crate::crash::{CrashAt, Exclusive, Operator, Side};
use crate::snapshot::{Snapshot, traces};
use crate::traffic::Attempts;
use crate::{PaperNode, Scenario, Spec, TestPod, TestResponse, until};

/// Everything takes milliseconds but for this: where labels of the namespace or the pod change at about the time at which a policy goes, Cilium skips that for as long as its identities
/// change: measured up to two minutes, with Cilium's default timing.
const LET_GO: Duration = Duration::from_secs(180);
/// How many seeds are tried when nothing else is asked for: some 10 s each.
const SEEDS: u64 = 8;
/// How many attempts are waited for to watch a pod: a second's.
const WATCHED: usize = 20;
/// How often the operator is killed in one schedule at most.
const KILLS: u32 = 12;

/// The seeds to try: `TOURNIQUET_SEED` is one, to be tried again; `TOURNIQUET_SEEDS` how many.
pub fn seeds() -> Result<Vec<u64>> {
    let number = |name: &str| {
        let text = std::env::var(name).ok();
        text.map(|text| text.parse().with_context(|| format!("{name}={text}: this has to be a number"))).transpose()
    };
    if let Some(seed) = number("TOURNIQUET_SEED")? {
        return Ok(vec![seed]);
    }
    Ok((1..=number("TOURNIQUET_SEEDS")?.unwrap_or(SEEDS)).collect())
}

/// One schedule after the other, on the same pods. They are tried from `outside`, where the operator is as well: of what is in their
/// namespace, all is cut off when that is isolated.
pub async fn run(s: &Scenario, outside: &Scenario) -> Result<()> {
    let node = s.paper_node_with("overlap", json!({ schedule::OWNED: "platform" })).await?;
    let exclusive = Exclusive::begin(s).await?;
    let ended = all(s, outside, &node).await;
    exclusive.end().await?;
    node.delete().await?;
    ended
}

async fn all(s: &Scenario, outside: &Scenario, node: &PaperNode) -> Result<()> {
    let (key, value) = schedule::SELECTED;
    let owned = json!({ "metadata": { "labels": { schedule::OWNED: "shop", key: value } } });
    let (seat, peer) = tokio::try_join!(outside.pod("operator-seat"), outside.pod("peer"))?;
    let (web, db) = tokio::try_join!(s.pod_with(PODS[0], owned.clone()), s.pod_with(PODS[1], owned))?;
    let label = format!("{}=shop", schedule::OWNED);
    s.env.kubectl_output(&["label", "namespace", &s.namespace, &label]).await?;
    let mut talks = Vec::new();
    for pod in [&web, &db] {
        talks.push([outside.attempts(&peer, pod).await?, s.attempts(pod, &peer).await?]);
    }
    for seed in seeds()? {
        let stage = Stage { s, node, seat: &seat, pods: [&web, &db], talks: &talks };
        let replay = format!(
            "to try it again: TOURNIQUET_SEED={seed} cargo xtask test --only {} --filter overlap",
            s.env.network
        );
        let started = Timestamp::now();
        let told = stage.play(seed).await.with_context(|| format!("seed {seed}; {replay}"))?;
        println!("seed {seed}: {told}, {} s", Timestamp::now().duration_since(started).as_secs());
    }
    Ok(())
}

struct Stage<'a> {
    s: &'a Scenario,
    node: &'a PaperNode,
    seat: &'a TestPod,
    pods: [&'a TestPod; 2],
    /// To each pod, and from it.
    talks: &'a [[Attempts; 2]],
}

impl Stage<'_> {
    async fn play(&self, seed: u64) -> Result<String> {
        let schedule = Schedule::new(seed);
        println!("seed {seed}: {schedule}");
        for pod in 0..PODS.len() {
            self.answers(pod, Timestamp::now()).await?;
        }
        let before = self.look().await?;
        let mut books = Books::default();
        let mut running = Running { stage: self, operator: None, rng: fastrand::Rng::with_seed(seed), kills: 0 };
        running.tend().await?;
        let played = self.steps(&schedule, &mut books, &mut running).await;
        let kills = running.end().await?;
        let uids = played.with_context(|| format!("the schedule was: {schedule}"))?;

        let after = self.look().await?;
        let difference = before.0.diff(&after.0);
        ensure!(difference.is_empty(), "it is not what it was:\n{difference}");
        ensure!(before.1 == after.1, "who holds what is not what it was:\n{}\n{}", before.1, after.1);
        for uid in &uids {
            let left = traces(&self.s.env, uid).await?;
            ensure!(left.is_empty(), "left of {uid}: {left:?}");
        }
        for pod in self.pods {
            self.s.no_containment(&pod.uid).await?;
        }
        let windows = books.windows();
        for (pod, from, to) in &windows {
            for talk in &self.talks[*pod] {
                // Between two of them, 50 ms apart, a window can have passed.
                if to.duration_since(*from).unsigned_abs() > Duration::from_millis(500) {
                    talk.none_answered(*from, *to)?;
                }
            }
        }
        let held: i64 = windows.iter().map(|(_, from, to)| to.duration_since(*from).as_secs()).sum();
        Ok(format!("{} responses, the operator killed {kills} times, pods held for {held} s", uids.len()))
    }

    async fn steps(&self, schedule: &Schedule, books: &mut Books, running: &mut Running<'_>) -> Result<Vec<String>> {
        let mut responses: Vec<Option<TestResponse>> = schedule.asked.iter().map(|_| None).collect();
        for step in &schedule.steps {
            match *step {
                Step::Create(number) => {
                    let asked = &schedule.asked[number];
                    let spec = Spec(asked.spec(&self.s.namespace, &self.node.name));
                    books.created(number, asked.isolates());
                    responses[number] = Some(self.s.respond(&format!("s{}-{number}", schedule.seed), spec).await?);
                }
                Step::Settle(number) => {
                    let response = responses[number].as_ref().context("settled before it was created")?;
                    running
                        .until(&format!("{} is carried out", response.name), books, &responses, async || {
                            let reason = response.condition("Ready").await?.map(|ready| ready.reason);
                            let at_work = matches!(reason.as_deref(), None | Some("Applying" | "Pending" | "Accepted"));
                            Ok(!at_work)
                        })
                        .await?;
                }
                Step::Release(number) => {
                    let response = responses[number].as_ref().context("released before it was created")?;
                    books.lets_go(number);
                    response.change(json!({ "release": true })).await?;
                }
                Step::Delete(number) => {
                    let response = responses[number].as_ref().context("deleted before it was created")?;
                    books.lets_go(number);
                    response.delete().await?;
                }
                Step::Kill => running.kill().await?,
                Step::Watch(pod) => {
                    let talks = &self.talks[pod];
                    let so_far = talks.each_ref().map(|talk| talk.all().len());
                    let more = || talks.iter().zip(so_far).all(|(talk, so_far)| talk.all().len() >= so_far + WATCHED);
                    running.until("more is tried", books, &responses, async || Ok(more())).await?;
                }
                Step::Answers(pod) => {
                    // Only where nobody asks for it any more: another one may hold it.
                    if books.is_free(pod) {
                        let from = Timestamp::now();
                        let name = format!("{} is answered", PODS[pod]);
                        running
                            .until(&name, books, &responses, async || {
                                Ok(self.talks[pod].iter().all(|talk| talk.is_answered(from)))
                            })
                            .await?;
                    }
                }
            }
            running.tend().await?;
            books.look(&responses).await?;
        }
        let responses: Vec<TestResponse> = responses.into_iter().flatten().collect();
        for response in &responses {
            running
                .until(&format!("{} is gone", response.name), books, &[], async || {
                    Ok(response.api().get_metadata_opt(&response.name).await?.is_none())
                })
                .await?;
        }
        for pod in 0..PODS.len() {
            self.answers(pod, Timestamp::now()).await?;
        }
        Ok(responses.into_iter().map(|response| response.uid).collect())
    }

    async fn answers(&self, pod: usize, from: Timestamp) -> Result<()> {
        try_join_all(self.talks[pod].iter().map(|talk| talk.answered(from, LET_GO))).await.map(drop)
    }

    /// Everything, and who holds what responses change.
    async fn look(&self) -> Result<(Snapshot, Value)> {
        let (s, client) = (self.s, self.s.env.client.clone());
        let snapshot = Snapshot::of_namespace(&s.env, &s.namespace).await?;
        let mut holders = serde_json::Map::new();
        for name in PODS {
            holders.insert(name.to_owned(), held(&s.api::<Pod>().get(name).await?.metadata));
        }
        let namespace = Api::<Namespace>::all(client.clone()).get(&s.namespace).await?;
        holders.insert("namespace".to_owned(), held(&namespace.metadata));
        let node = Api::<Node>::all(client).get(&self.node.name).await?;
        holders.insert("node".to_owned(), held(&node.metadata));
        Ok((snapshot, Value::Object(holders)))
    }
}

/// Who holds which labels and `spec.unschedulable`. When he wrote them is not kept by anybody.
fn held(metadata: &ObjectMeta) -> Value {
    let entries = metadata.managed_fields.iter().flatten().filter_map(|entry| {
        let fields = &entry.fields_v1.as_ref()?.0;
        let labels = fields.pointer("/f:metadata/f:labels");
        let unschedulable = fields.pointer("/f:spec/f:unschedulable");
        (labels.is_some() || unschedulable.is_some()).then(|| {
            json!({
                "manager": entry.manager, "operation": entry.operation, "labels": labels, "unschedulable": unschedulable,
            })
        })
    });
    let mut entries: Vec<Value> = entries.collect();
    entries.sort_by_key(ToString::to_string);
    Value::Array(entries)
}

/// The operator that is killed again and again, and always started again.
struct Running<'a> {
    stage: &'a Stage<'a>,
    operator: Option<Operator>,
    rng: fastrand::Rng,
    kills: u32,
}

impl Running<'_> {
    /// One runs, until it dies at a write of its own.
    async fn tend(&mut self) -> Result<()> {
        if self.operator.as_ref().is_some_and(Operator::crashed) {
            self.kill().await?;
        }
        if self.operator.is_none() {
            let side = if self.rng.bool() { Side::Before } else { Side::After };
            // All writes are about our responses: no other operator works, and no other test runs.
            let crash = CrashAt { write: self.rng.u32(1..12), side, paths: vec!["/".to_owned()] };
            let crash = (self.kills < KILLS).then_some(crash);
            self.operator = Some(Operator::start(self.stage.s, self.stage.seat, crash).await?);
        }
        Ok(())
    }

    async fn kill(&mut self) -> Result<()> {
        if let Some(operator) = self.operator.take() {
            operator.kill().await?;
            self.kills += 1;
        }
        Ok(())
    }

    async fn end(mut self) -> Result<u32> {
        let kills = self.kills;
        self.kill().await.map(|()| kills)
    }

    /// Waits, with an operator, and with an eye on what is claimed meanwhile.
    async fn until(
        &mut self,
        what: &str,
        books: &mut Books,
        responses: &[Option<TestResponse>],
        mut ask: impl AsyncFnMut() -> Result<bool>,
    ) -> Result<()> {
        until(what, LET_GO, async || {
            self.tend().await?;
            books.look(responses).await?;
            Ok(ask().await?.then_some(()))
        })
        .await
    }
}

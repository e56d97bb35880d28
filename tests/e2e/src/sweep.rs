//! Law 7: killed between any two API calls, the operator converges to the same end state once it runs again.
//!
//! One response and one fresh target for each write and each side of it: the operator dies there while it applies, and again
//! at the write of the same number while it undoes. Between the two it has run undisturbed, and all responses say the same.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use kube::api::Api;
use serde_json::{Value, json};
use tourniquet_api::names;

use crate::crash::{CrashAt, Exclusive, Operator, Side};
use crate::snapshot::traces;
use crate::{PaperNode, Scenario, Spec, TestPod, TestResponse, until};

/// No response needs more writes than this to be applied or undone; the sweep ends by itself before.
const MOST: u32 = 20;
/// A label that each target has, written by a plain write.
const OWNED: &str = "owner";
/// How long one operator may take to come to its write.
const SOON: Duration = Duration::from_secs(60);

/// What the operator is killed over.
pub struct Sweep {
    /// A node without a kubelet is what it is about, and not a pod.
    pub on_node: bool,
    /// `spec.actions`.
    pub actions: Value,
    /// The reason of `Ready` in the end.
    pub reason: &'static str,
    /// How long it may take until it is there.
    pub settled: Duration,
}

impl Sweep {
    /// The isolation of a pod and nothing else.
    pub fn isolation(reason: &'static str, settled: Duration) -> Self {
        Self { on_node: false, actions: json!([{ "isolate": {} }]), reason, settled }
    }

    /// A label that is free, and one that somebody has and that is replaced.
    pub fn label() -> Self {
        let labels = json!({ "incident": "4711", OWNED: "soc" });
        let actions = json!([{ "label": { "set": labels, "overwrite": true } }]);
        Self { on_node: false, actions, reason: "Labelled", settled: SOON }
    }

    /// Two actions on one node.
    pub fn cordon() -> Self {
        let actions = json!([{ "label": { "set": { OWNED: "soc" }, "overwrite": true } }, { "cordon": {} }]);
        Self { on_node: true, actions, reason: "Cordoned", settled: SOON }
    }

    /// Two actions on one pod.
    pub fn isolation_and_label(reason: &'static str, settled: Duration) -> Self {
        let labels = json!({ "incident": "4711", OWNED: "soc" });
        let actions = json!([{ "label": { "set": labels, "overwrite": true } }, { "isolate": {} }]);
        Self { on_node: false, actions, reason, settled }
    }
}

enum Target {
    Pod { name: String, uid: String },
    Node(Box<PaperNode>),
}

struct Schedule {
    write: u32,
    side: Side,
    target: Target,
    /// What responses change of the target, before anything was done to it.
    before: Value,
    response: TestResponse,
}

impl Schedule {
    fn name(&self) -> String {
        format!("killed at write {} ({:?})", self.write, self.side)
    }

    fn crash(&self) -> CrashAt {
        let paths = vec![format!("/{}", self.response.name), format!("/{}", names::policy(&self.response.uid))];
        let target = match &self.target {
            Target::Pod { name, uid } => vec![format!("/{name}"), format!("/{uid}")],
            Target::Node(node) => vec![format!("/{}", node.name)],
        };
        CrashAt { write: self.write, side: self.side, paths: [paths, target].concat() }
    }
}

/// The whole sweep.
pub async fn run(s: &Scenario, sweep: &Sweep) -> Result<()> {
    // Two operators would carry out each other's responses.
    static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let alone = ALONE.lock().await;
    let mut schedules = Vec::new();
    let exclusive = Exclusive::begin(s).await?;
    let swept = all_writes(s, sweep, &mut schedules).await;
    // Also when the sweep failed: other tests need the cluster's operator, and so does the cleaning up.
    exclusive.end().await?;
    drop(alone);
    // Nodes are in no namespace that would take them along.
    for schedule in schedules {
        if let Target::Node(node) = schedule.target {
            node.delete().await?;
        }
    }
    swept
}

async fn all_writes(s: &Scenario, sweep: &Sweep, schedules: &mut Vec<Schedule>) -> Result<()> {
    let seat = s.pod("operator-seat").await?;
    let mut applied_at = BTreeSet::new();
    for write in 1..=MOST {
        let mut died = false;
        for side in [Side::Before, Side::After] {
            let schedule = begin(s, sweep, write, side).await?;
            if apply(s, &seat, &schedule).await? {
                applied_at.insert(write);
                died = true;
            }
            schedules.push(schedule);
        }
        if !died {
            break;
        }
    }
    // Accepted, finalizer, policy, labels at least: fewer would mean that the proxy did not see the writes.
    ensure!(applied_at.len() >= 4, "only died at writes {applied_at:?}");
    ensure!(applied_at.len() < MOST as usize, "more writes than {MOST}");

    let operator = Operator::start(s, &seat, None).await?;
    for schedule in &*schedules {
        let ready = schedule.response.becomes_because("Ready", sweep.reason, sweep.settled).await;
        ready.map_err(|error| error.context(schedule.name()))?;
    }
    let ends = futures::future::try_join_all(schedules.iter().map(|schedule| end_state(s, schedule))).await?;
    for (schedule, end) in schedules.iter().zip(&ends) {
        ensure!(Some(end) == ends.last(), "{}: {end}\nundisturbed: {}", schedule.name(), ends.last().unwrap());
    }
    operator.stop().await?;

    let mut undone_at = BTreeSet::new();
    for (index, schedule) in schedules.iter().enumerate() {
        // Every other one is deleted while no operator runs.
        let operator = if index % 2 == 0 {
            let operator = Operator::start(s, &seat, Some(schedule.crash())).await?;
            schedule.response.delete().await?;
            operator
        } else {
            schedule.response.delete().await?;
            Operator::start(s, &seat, Some(schedule.crash())).await?
        };
        until(&format!("{}: undone or dead", schedule.name()), SOON, async || {
            let gone = schedule.response.api().get_metadata_opt(&schedule.response.name).await?.is_none();
            Ok((gone || operator.crashed()).then_some(()))
        })
        .await?;
        if operator.crashed() {
            undone_at.insert(schedule.write);
        }
        operator.kill().await?;
    }
    ensure!(undone_at.len() >= 3, "only died at writes {undone_at:?} of undo");

    let operator = Operator::start(s, &seat, None).await?;
    for schedule in &*schedules {
        schedule.response.gone(SOON).await.map_err(|error| error.context(schedule.name()))?;
        let left = traces(&s.env, &schedule.response.uid).await?;
        ensure!(left.is_empty(), "{}: left {left:?}", schedule.name());
        let after = shown(s, &schedule.target).await?;
        ensure!(after == schedule.before, "{}: it is {after}\nit was {}", schedule.name(), schedule.before);
    }
    operator.stop().await?;
    println!("died at writes {applied_at:?} while applying and {undone_at:?} while undoing, on both sides of each");
    Ok(())
}

async fn begin(s: &Scenario, sweep: &Sweep, write: u32, side: Side) -> Result<Schedule> {
    let name = format!("target-{write}-{side:?}").to_lowercase();
    let labels = json!({ OWNED: "shop" });
    let (asked, target) = if sweep.on_node {
        let node = s.paper_node_with(&name, labels).await?;
        (json!({ "node": { "name": node.name } }), Target::Node(Box::new(node)))
    } else {
        let uid = s.create_pod(&name, json!({ "metadata": { "labels": labels } })).await?.uid();
        // To be labelled it need not run.
        if sweep.actions.to_string().contains("isolate") {
            s.running(&name).await?;
        }
        let uid = uid.context("a pod without a UID")?;
        (json!({ "pod": { "namespace": s.namespace, "name": name } }), Target::Pod { name: name.clone(), uid })
    };
    let before = shown(s, &target).await?;
    let response = s.respond(&name, Spec(json!({ "target": asked, "actions": sweep.actions }))).await?;
    Ok(Schedule { write, side, target, before, response })
}

/// What responses change of a target, and who of us holds anything there.
async fn shown(s: &Scenario, target: &Target) -> Result<Value> {
    let (metadata, unschedulable) = match target {
        Target::Pod { name, .. } => (s.api::<Pod>().get(name).await?.metadata, None),
        Target::Node(node) => {
            let node = Api::<Node>::all(s.env.client.clone()).get(&node.name).await?;
            (node.metadata, node.spec.and_then(|spec| spec.unschedulable))
        }
    };
    let managers = metadata.managed_fields.iter().flatten().filter_map(|entry| entry.manager.as_deref());
    let ours: Vec<&str> = managers.filter(|manager| manager.starts_with(names::OPERATOR_MANAGER)).collect();
    // A node's annotations are its controllers'.
    let annotations = matches!(target, Target::Pod { .. }).then_some(&metadata.annotations);
    Ok(json!({
        "labels": metadata.labels, "annotations": annotations, "unschedulable": unschedulable, "managers of ours": ours,
    }))
}

/// Runs an operator until it dies, or has done all that it had to; true when it died.
async fn apply(s: &Scenario, seat: &TestPod, schedule: &Schedule) -> Result<bool> {
    let operator = Operator::start(s, seat, Some(schedule.crash())).await?;
    until(&format!("{}: applied or dead", schedule.name()), SOON, async || {
        let reason = schedule.response.condition("Ready").await?.map(|ready| ready.reason);
        let at_work = matches!(reason.as_deref(), None | Some("Applying" | "Pending" | "Accepted"));
        Ok((!at_work || operator.crashed()).then_some(()))
    })
    .await?;
    let died = operator.crashed();
    operator.kill().await?;
    Ok(died)
}

/// What all schedules have to agree on, without names and times.
async fn end_state(s: &Scenario, schedule: &Schedule) -> Result<String> {
    let response = schedule.response.get().await?;
    let status = response.status.clone().unwrap_or_default();
    let mut conditions: Vec<String> = status
        .conditions
        .iter()
        .map(|condition| format!("{}={} {}", condition.type_, condition.status, condition.reason))
        .collect();
    conditions.sort();
    let actions: Vec<String> = status
        .actions
        .iter()
        .map(|action| format!("{} {:?} {:?}", action.name, action.outcome, action.reason))
        .collect();
    let left = traces(&s.env, &schedule.response.uid).await?.len();
    let finalizers = response.metadata.finalizers;
    let shown = shown(s, &schedule.target).await?;
    let owner = &shown["labels"][OWNED];
    let unschedulable = &shown["unschedulable"];
    Ok(format!(
        "{conditions:?} {actions:?} {left} objects, finalizers {finalizers:?}, owner {owner}, unschedulable {unschedulable}"
    ))
}

//! Several pods, and a whole namespace, on any policy engine and on none.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::{Value, json};
use tourniquet_api::Outcome;

use crate::scenario::TRAFFIC;
use crate::snapshot::{Snapshot, traces};
use crate::{Attempts, PORT, Scenario, Spec, TestPod, until};

const SECOND: Duration = Duration::from_secs(1);
/// What has no agent waits for Cilium's identities where labels select, and for the verdict elsewhere.
const AGENT: Duration = Duration::from_secs(20);

/// Isolate the pods of a set.
pub fn isolate_pods(s: &Scenario, set: Value) -> Spec {
    let mut pods = json!({ "namespace": s.namespace });
    if let (Some(pods), Some(set)) = (pods.as_object_mut(), set.as_object()) {
        pods.extend(set.clone());
    }
    Spec(json!({ "target": { "pods": pods }, "actions": [{ "isolate": {} }] }))
}

/// Isolate the namespace.
pub fn isolate_namespace(s: &Scenario) -> Spec {
    Spec(json!({ "target": { "namespace": { "name": s.namespace } }, "actions": [{ "isolate": {} }] }))
}

/// A second namespace, from which the first one is tried; removed whatever happens.
pub async fn with_outside<F>(body: impl FnOnce(Scenario) -> F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let outside = Scenario::begin("outside").await?;
    let ended = body(outside.clone()).await;
    let removed = outside.end().await;
    ended.and(removed)
}

impl Scenario {
    /// A Deployment of pods that serve, once all of them run.
    pub async fn deployment(&self, name: &str, replicas: usize) -> Result<Vec<TestPod>> {
        let labels = json!({ "app": name });
        self.apply(json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name },
            "spec": {
                "replicas": replicas,
                "selector": { "matchLabels": labels },
                "template": {
                    "metadata": { "labels": labels },
                    "spec": {
                        "terminationGracePeriodSeconds": 0,
                        "automountServiceAccountToken": false,
                        "containers": [{
                            "name": "main", "image": self.env.image, "imagePullPolicy": "IfNotPresent",
                            "command": ["/traffic/traffic", "serve", PORT.to_string()],
                            "ports": [{ "containerPort": PORT }],
                            "volumeMounts": [{ "name": "traffic", "mountPath": "/traffic" }],
                        }],
                        "volumes": [{ "name": "traffic", "configMap": { "name": TRAFFIC, "defaultMode": 0o755 } }],
                    },
                },
            },
        }))
        .await?;
        let api = self.api::<Pod>();
        let selected = ListParams::default().labels(&format!("app={name}"));
        let names = until("the Deployment has its pods", Duration::from_secs(60), async || {
            let names: Vec<String> =
                api.list_metadata(&selected).await?.items.iter().map(ResourceExt::name_any).collect();
            Ok((names.len() == replicas).then_some(names))
        })
        .await?;
        futures::future::try_join_all(names.iter().map(|name| self.running(name))).await
    }
}

async fn tried(from: &Scenario, peer: &TestPod, pods: &[TestPod]) -> Result<Vec<Attempts>> {
    let mut all = Vec::new();
    for pod in pods {
        let attempts = from.attempts(peer, pod).await?;
        attempts.answered(Timestamp::UNIX_EPOCH, AGENT).await?;
        all.push(attempts);
    }
    Ok(all)
}

/// The pods of a Deployment are isolated together and let go together; another one beside them is not touched.
pub async fn isolates_the_pods_of_a_deployment(s: &Scenario) -> Result<()> {
    let (web, peer, other) = tokio::try_join!(s.deployment("web", 3), s.pod("peer"), s.pod("other"))?;
    let before = Snapshot::of_namespace(&s.env, &s.namespace).await?;
    let talks = tried(s, &peer, &web).await?;
    let control = s.attempts(&peer, &other).await?;
    let owner = json!({ "owner": { "kind": "Deployment", "name": "web" }, "limit": 3 });
    let response = s.respond("set", isolate_pods(s, owner)).await?;
    let contained = response.becomes("Contained", "True", AGENT).await?;
    ensure!(contained.reason == "Cut", "{contained:?}");
    let since = Timestamp::now();
    for talk in &talks {
        talk.stays_silent(since, SECOND * 2).await?;
    }
    control.all_answered(since, Timestamp::now())?;
    let status = response.get().await?.status.unwrap_or_default();
    ensure!(
        status.target.as_deref() == Some(&format!("pods of Deployment {}/web", s.namespace)),
        "{:?}",
        status.target
    );
    let mut pinned: Vec<&str> = status.targets.iter().map(|target| target.uid.as_str()).collect();
    let mut wanted: Vec<&str> = web.iter().map(|pod| pod.uid.as_str()).collect();
    pinned.sort_unstable();
    wanted.sort_unstable();
    ensure!(pinned == wanted, "pinned {pinned:?}, and there are {wanted:?}");
    let action = response.action("isolate").await?;
    let message = action.message.clone().unwrap_or_default();
    ensure!(action.outcome == Outcome::Done && message.starts_with("done on all 3"), "{action:?}");
    ensure!(action.results.len() == 3, "{action:?}");

    let deleted = response.delete().await?;
    for talk in &talks {
        talk.answered(deleted, AGENT).await?;
    }
    response.gone(AGENT).await?;
    s.is_what_it_was(&before).await?;
    ensure!(traces(&s.env, &response.uid).await?.is_empty());
    Ok(())
}

/// Of a selector that finds too many nothing is touched; of one that finds a pod out of reach, the others are isolated.
pub async fn says_what_each_of_several_came_to(s: &Scenario) -> Result<()> {
    let labels = json!({ "metadata": { "labels": { "tier": "front" } } });
    let mut on_host = labels.clone();
    on_host["spec"] =
        json!({ "hostNetwork": true, "containers": [{ "command": ["/traffic/traffic", "serve", "18080"] }] });
    let (web, _host, peer) =
        tokio::try_join!(s.pod_with("web", labels.clone()), s.pod_with("host", on_host), s.pod("peer"))?;
    let before = Snapshot::of_namespace(&s.env, &s.namespace).await?;
    let selector =
        json!({ "selector": { "matchExpressions": [{ "key": "tier", "operator": "In", "values": ["front"] }] } });

    let mut few = selector.clone();
    few["limit"] = json!(1);
    let refused = s.respond("few", isolate_pods(s, few)).await?.refused().await?;
    ensure!(refused.reason == "TooManyTargets" && refused.message.contains("there are 2 pods"), "{refused:?}");

    let talk = s.attempts(&peer, &web).await?;
    talk.answered(Timestamp::UNIX_EPOCH, AGENT).await?;
    let response = s.respond("set", isolate_pods(s, selector)).await?;
    let ready = response.becomes_because("Ready", "HostNetwork", AGENT).await?;
    ensure!(ready.status == "False" && ready.message.contains("done on 1 of 2"), "{ready:?}");
    talk.stays_silent(Timestamp::now(), SECOND).await?;
    let contained = response.condition("Contained").await?.context("no Contained")?;
    ensure!(contained.status == "False" && contained.reason == "HostNetwork", "{contained:?}");
    let action = response.action("isolate").await?;
    let outcomes: Vec<Outcome> = action.results.iter().map(|result| result.outcome).collect();
    ensure!(outcomes == [Outcome::Failed, Outcome::Done], "in the order of their names: {action:?}");
    response.delete().await?;
    response.gone(AGENT).await?;
    s.is_what_it_was(&before).await
}

/// A namespace is isolated with what starts in it later, and let go. `from_the_first_packet`: an engine enforces the policies.
pub async fn isolates_a_namespace(s: &Scenario, outside: &Scenario, from_the_first_packet: bool) -> Result<()> {
    let (web, db, peer) = tokio::try_join!(s.pod("web"), s.pod("db"), outside.pod("peer"))?;
    let before = Snapshot::of_namespace(&s.env, &s.namespace).await?;
    let inbound = tried(outside, &peer, &[web.clone(), db.clone()]).await?;
    let between = s.attempts(&web, &db).await?;
    let outbound = s.attempts(&web, &peer).await?;
    between.answered(Timestamp::UNIX_EPOCH, AGENT).await?;
    outbound.answered(Timestamp::UNIX_EPOCH, AGENT).await?;

    let response = s.respond("namespace", isolate_namespace(s)).await?;
    response.becomes("Contained", "True", AGENT).await?;
    let since = Timestamp::now();
    for talk in inbound.iter().chain([&between, &outbound]) {
        talk.stays_silent(since, SECOND * 2).await?;
    }
    let ready = response.becomes("Ready", "True", AGENT).await?;
    ensure!(ready.message.contains("done on all 2 pods"), "{ready:?}");
    let target = response.get().await?.status.unwrap_or_default().targets.first().cloned().context("no target")?;
    let counts = target.pods.context("no counts")?;
    ensure!(target.kind == "Namespace" && (counts.running, counts.contained) == (2, 2), "{target:?}");

    // What starts now.
    let late = s.pod("late").await?;
    let began = Timestamp::now();
    let to_late = outside.attempts(&peer, &late).await?;
    if from_the_first_packet {
        to_late.stays_silent(began, SECOND * 2).await?;
    } else {
        to_late.silent(began, SECOND, AGENT).await?;
    }
    until("the pod that started later is counted and held", AGENT, async || {
        let targets = response.get().await?.status.unwrap_or_default().targets;
        let counts = targets.first().and_then(|target| target.pods);
        Ok(counts.filter(|counts| (counts.running, counts.contained) == (3, 3)))
    })
    .await?;
    s.delete_pod("late").await?;
    let lost = response.becomes("EvidenceIntact", "False", AGENT).await?;
    ensure!(lost.message.contains("late is gone"), "{lost:?}");
    let contained = response.condition("Contained").await?.context("no Contained")?;
    ensure!(contained.status == "True", "{contained:?}");

    let deleted = response.delete().await?;
    for talk in inbound.iter().chain([&between, &outbound]) {
        talk.answered(deleted, AGENT).await?;
    }
    response.gone(AGENT).await?;
    s.is_what_it_was(&before).await?;
    ensure!(traces(&s.env, &response.uid).await?.is_empty());
    Ok(())
}

/// A pod that is isolated by itself and with its namespace stays so without a gap, whichever of the two is let go first.
pub async fn hands_over_between_a_pod_and_its_namespace(s: &Scenario, outside: &Scenario) -> Result<()> {
    let (web, other, peer) = tokio::try_join!(s.pod("web"), s.pod("other"), outside.pod("peer"))?;
    let before = Snapshot::of_namespace(&s.env, &s.namespace).await?;
    let to_web = outside.attempts(&peer, &web).await?;
    let to_other = outside.attempts(&peer, &other).await?;
    to_web.answered(Timestamp::UNIX_EPOCH, AGENT).await?;
    to_other.answered(Timestamp::UNIX_EPOCH, AGENT).await?;
    let pod = s.respond("pod", Spec::isolate(&web)).await?;
    pod.becomes("Contained", "True", AGENT).await?;
    let since = Timestamp::now();

    let namespace = s.respond("namespace", isolate_namespace(s)).await?;
    pod.delete().await?;
    pod.gone(AGENT).await?;
    namespace.becomes("Contained", "True", AGENT).await?;
    let of_other = Timestamp::now();
    let again = s.respond("again", Spec::isolate(&web)).await?;
    let deleted = namespace.delete().await?;
    namespace.gone(AGENT).await?;
    to_other.answered(deleted, AGENT).await?;
    again.becomes("Contained", "True", AGENT).await?;
    let so_far = Timestamp::now().duration_since(since).unsigned_abs();
    to_web.stays_silent(since, so_far + SECOND * 2).await?;
    ensure!(of_other > since);

    let deleted = again.delete().await?;
    again.gone(AGENT).await?;
    to_web.answered(deleted, AGENT).await?;
    s.is_what_it_was(&before).await
}

/// The examples, as they are, but for their names.
pub async fn carries_the_examples_out(s: &Scenario) -> Result<()> {
    let examples = [
        ("sentinel-4714", include_str!("../../../examples/isolate-workload.yaml")),
        ("sentinel-4715", include_str!("../../../examples/isolate-namespace.yaml")),
    ];
    s.deployment("web", 1).await?;
    let before = Snapshot::of_namespace(&s.env, &s.namespace).await?;
    for (name, example) in examples {
        ensure!(example.contains(&format!("name: {name}")) && example.contains(": shop\n"));
        let own = format!("{}-{name}", s.namespace);
        let manifest = example.replace(&format!("name: {name}"), &format!("name: {own}"));
        s.apply_text(&manifest.replace(": shop\n", &format!(": {}\n", s.namespace))).await?;
        let response = s.known(crate::RESPONSE_NAMESPACE, &own).await?;
        response.becomes("Contained", "True", AGENT).await?;
        response.becomes("Ready", "True", AGENT).await?;
        response.delete().await?;
        response.gone(AGENT).await?;
        s.is_what_it_was(&before).await?;
    }
    Ok(())
}

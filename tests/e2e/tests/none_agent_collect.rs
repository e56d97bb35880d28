//! Evidence of a real pod, read by the agent on its node, in Azurite's container.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams};
use serde_json::{Value, json};
use tourniquet_api::{ActionStatus, EvidenceResult, Outcome};
use tourniquet_e2e::evidence::Bag;
use tourniquet_e2e::{OPERATOR_NAMESPACE, Spec, TestResponse, TestStore, azurite, scenario, until};

const SOON: Duration = Duration::from_secs(60);
/// A pod with a secret in its file system, its memory and its environment.
const SECRET: &str = "the-password-is-swordfish";

async fn collected(response: &TestResponse, outcome: Outcome, reason: &str) -> Result<EvidenceResult> {
    let mut last = None;
    let found = until(&format!("collecting is {outcome:?} {reason}"), SOON, async || {
        last = response.first_action().await?;
        let is_it = |action: &ActionStatus| action.outcome == outcome && action.reason.as_deref() == Some(reason);
        Ok(last.clone().filter(is_it))
    })
    .await;
    let action = found.with_context(|| format!("the last was {last:?}"))?;
    let evidence = action.results.into_iter().next().and_then(|result| result.evidence);
    evidence.context("nothing is said of the evidence")
}

/// Once it is under way.
async fn collects(response: &TestResponse) -> Result<()> {
    until("it collects", SOON, async || {
        Ok(response.first_action().await?.filter(|action| action.outcome == Outcome::Running).map(drop))
    })
    .await
}

/// What was collected, once all of it was, downloaded and verified.
async fn verified(response: &TestResponse, store: &TestStore) -> Result<(EvidenceResult, Bag)> {
    let evidence = collected(response, Outcome::Done, "Collected").await?;
    let bag = Bag::verified(azurite().await?, store, &evidence).await?;
    Ok((evidence, bag))
}

#[test]
fn what_an_agent_reads_of_a_pod_is_stored_whole_and_verifies_with_plain_tools() {
    scenario("collect", |s| async move {
        let store = s.store("soc").await?;
        let pod = s.pod("web").await?;
        s.exec(
            &pod,
            &[
                "/bin/sh",
                "-c",
                &format!(
                    "mkdir /tmp/folder; echo {SECRET} | tee /tmp/folder/a > /tmp/file; ln -s /etc /tmp/folder/out"
                ),
            ],
        )
        .await?;
        let files = json!([{ "path": "/tmp/file" }, { "path": "/tmp/folder" }]);
        let response =
            s.respond("r", Spec::collect(&pod, &store, json!({ "files": files, "memory": ["traffic"] }))).await?;
        let (evidence, bag) = verified(&response, &store).await?;

        for name in [
            "processes.jsonl",
            "connections.jsonl",
            "environment.jsonl",
            "memory/traffic.core",
            "files/main/tmp/file",
            "files/main/tmp/folder.tar",
        ] {
            bag.is_whole(name, "NodeAgent")?;
        }
        bag.is_whole("logs/main.log", "Kubelet")?;
        bag.is_whole("manifest.json", "ApiServer")?;
        bag.is_whole("events.json", "ApiServer")?;
        ensure!(bag.text("files/main/tmp/file")? == format!("{SECRET}\n"));
        ensure!(bag.text("processes.jsonl")?.contains("/traffic/traffic"));
        ensure!(bag.bytes("memory/traffic.core")?.starts_with(b"\x7fELF"));
        ensure!(bag.text("files/main/tmp/folder.tar")?.contains(SECRET));
        let manifest: Value = serde_json::from_slice(&bag.bytes("manifest.json")?)?;
        ensure!(manifest["pod"]["metadata"]["uid"] == pod.uid.as_str(), "{manifest}");
        ensure!(bag.record["target"]["uid"] == pod.uid.as_str(), "{}", bag.record["target"]);
        ensure!(bag.record["complete"] == true, "{}", bag.record);
        ensure!(evidence.artifacts_done == evidence.artifacts_total, "{evidence:?}");

        // Nothing of what was collected, nor of what opened the store, is told elsewhere.
        let said = serde_json::to_string(&response.get().await?)?;
        ensure!(!said.contains(SECRET) && !said.contains("sig="), "{said}");
        let log = s
            .env
            .kubectl_output(&["--namespace", OPERATOR_NAMESPACE, "logs", "deployment/tourniquet-operator"])
            .await?;
        ensure!(!log.contains(SECRET) && !log.contains("sig="), "the operator's log tells a secret");
        Ok(())
    });
}

#[test]
fn a_store_that_is_down_delays_the_isolation_by_no_more_than_the_head_start() {
    scenario("collect-down", |s| async move {
        let (store, mut gate) = s.store_behind_a_gate("soc").await?;
        let pod = s.pod("web").await?;
        let mut spec = Spec::collect(&pod, &store, json!({ "headStart": "2s" }));
        spec.0["actions"] = json!([spec.0["actions"][0], { "isolate": {} }]);
        let response = s.respond("r", spec).await?;
        response.becomes("Contained", "True", SOON).await?;
        let still = response.first_action().await?.context("no action")?;
        ensure!(still.outcome == Outcome::Running, "{still:?}");
        gate.open().await?;
        verified(&response, &store).await?;
        Ok(())
    });
}

#[test]
fn a_release_does_not_wait_for_the_store_and_the_evidence_comes_all_the_same() {
    scenario("collect-release", |s| async move {
        let (store, mut gate) = s.store_behind_a_gate("soc").await?;
        let pod = s.pod("web").await?;
        let response = s.respond("r", Spec::collect(&pod, &store, json!({}))).await?;
        collects(&response).await?;
        response.change(json!({ "release": true })).await?;
        response.becomes("Reverted", "True", SOON).await?;
        gate.open().await?;
        verified(&response, &store).await?;
        Ok(())
    });
}

#[test]
fn a_deletion_is_not_held_up_by_a_store_that_is_down() {
    scenario("collect-delete", |s| async move {
        let (store, _gate) = s.store_behind_a_gate("soc").await?;
        let pod = s.pod("web").await?;
        let response = s.respond("r", Spec::collect(&pod, &store, json!({}))).await?;
        collects(&response).await?;
        response.delete().await?;
        response.gone(SOON).await?;
        Ok(())
    });
}

#[test]
fn an_operator_that_is_replaced_goes_on_with_what_was_begun() {
    scenario("collect-restart", |s| async move {
        let (store, mut gate) = s.store_behind_a_gate("soc").await?;
        let pod = s.pod("web").await?;
        let response = s.respond("r", Spec::collect(&pod, &store, json!({}))).await?;
        let released = s.respond("released", Spec::collect(&pod, &store, json!({}))).await?;
        collects(&response).await?;
        collects(&released).await?;
        let operators: Api<Pod> = Api::namespaced(s.env.client.clone(), OPERATOR_NAMESPACE);
        for operator in operators.list_metadata(&ListParams::default()).await?.items {
            operators.delete(&operator.name_any(), &DeleteParams::default().grace_period(0)).await?;
        }
        // While nobody is there: its release and what goes on beside that are begun by the next one.
        released.change(json!({ "release": true })).await?;
        released.becomes("Reverted", "True", SOON).await?;
        gate.open().await?;
        verified(&response, &store).await?;
        verified(&released, &store).await?;
        Ok(())
    });
}

#[test]
fn a_store_that_does_not_exist_is_waited_for_and_named() {
    scenario("collect-nostore", |s| async move {
        let pod = s.pod("web").await?;
        let collect = json!({ "storeRef": { "name": format!("{}-none", s.namespace) }, "timeout": "5s" });
        let spec = json!({
            "target": { "pod": { "namespace": pod.namespace, "name": pod.name } }, "actions": [{ "collect": collect }],
        });
        let response = s.respond("r", Spec(spec)).await?;
        collected(&response, Outcome::Failed, "NotSealed").await?;
        let message = response.first_action().await?.and_then(|action| action.message).context("no message")?;
        ensure!(message.contains("there is no EvidenceStore"), "{message}");
        Ok(())
    });
}

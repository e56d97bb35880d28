//! A probe that itself needs the network fails when its pod is cut off: said before, and seen after.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::process::Command;
use tourniquet_api::Residual;
use tourniquet_e2e::events::says;
use tourniquet_e2e::snapshot::{Snapshot, traces};
use tourniquet_e2e::{Spec, TestResponse, scenario, until};

const SECOND: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(30);

/// What is said of probes that may fail, once the response was decided.
async fn said_before(response: &TestResponse) -> Result<Residual> {
    let status = until("it is accepted", SOON, async || {
        let status = response.get().await?.status.unwrap_or_default();
        Ok((!status.targets.is_empty()).then_some(status))
    });
    let residual = status.await?.residual;
    residual.into_iter().find(|residual| residual.code == "ProbeMayFail").context("nothing is said of probes")
}

#[test]
fn a_liveness_probe_that_needs_the_network_is_said_to_fail_and_its_restart_is_seen() {
    scenario("probe", |s| async move {
        let peer = s.pod("peer").await?;
        let command = ["/traffic/traffic".to_owned(), "once".to_owned(), peer.address().to_string()];
        let probe =
            json!({ "exec": { "command": command }, "periodSeconds": 1, "failureThreshold": 3, "timeoutSeconds": 3 });
        let web = s.pod_with("web", json!({ "spec": { "containers": [{ "livenessProbe": probe }] } })).await?;
        let before = Snapshot::of_namespace(&s.env, &s.namespace).await?;

        let plan = s.respond("plan", Spec::isolate(&web).with("dryRun", json!(true))).await?;
        let said = said_before(&plan).await?;
        ensure!(
            said.severity == "Medium" && said.message.contains("liveness probe (exec) of container main"),
            "{said:?}"
        );
        // What is to be pasted can be.
        let remedy = said.remedy.context("no remedy")?;
        let line = remedy.split_once("kubectl ").and_then(|(_, rest)| rest.split_once(';')).context("no command")?.0;
        let pasted = format!("kubectl --context {} {line}", s.env.context);
        let shown = Command::new("sh").args(["-c", &pasted]).output().await?;
        let shown = format!("{}{}", String::from_utf8_lossy(&shown.stdout), String::from_utf8_lossy(&shown.stderr));
        ensure!(shown.contains(r#""/traffic/traffic","once""#), "{shown}");
        ensure!(s.restarts("web").await? == 0);

        let response = s.respond("cut", Spec::isolate(&web)).await?;
        ensure!(said_before(&response).await?.severity == "Medium");
        response.becomes("Contained", "True", SOON).await?;
        until("the kubelet restarts it", SOON, async || Ok((s.restarts("web").await? > 0).then_some(()))).await?;
        let lost = response.becomes("EvidenceIntact", "False", SOON).await?;
        ensure!(lost.message.contains(&format!("container main of pod {}/web was restarted", s.namespace)), "{lost:?}");
        // The count of the restarts can be there before what is told of the container that ended.
        let ended = until("the kubelet says when it ended", SOON, async || {
            let pod = s.get_pod("web").await?.status.unwrap_or_default();
            let mut containers = pod.container_statuses.unwrap_or_default().into_iter();
            Ok(containers.find_map(|it| it.last_state?.terminated?.finished_at))
        })
        .await?
        .0;
        println!("restarted -> said {} s", lost.last_transition_time.0.duration_since(ended).as_secs());
        let contained = response.condition("Contained").await?.context("no Contained")?;
        ensure!(contained.status == "True", "it stays cut off: {contained:?}");
        let told = ["Normal Accepted", "Normal Contained", "Warning EvidenceLost"];
        says(&s.response_events(&response, &told).await?, "EvidenceLost", &["container main"])?;

        let deleted = response.delete().await?;
        response.gone(SOON).await?;
        // The kubelet waits longer before each restart, up to a minute by now.
        s.running("web").await?;
        let outbound = s.attempts(&web, &peer).await?;
        outbound.answered(deleted, SECOND * 60).await?;
        plan.delete().await?;
        s.is_what_it_was(&before).await?;
        ensure!(traces(&s.env, &response.uid).await?.is_empty());
        Ok(())
    });
}

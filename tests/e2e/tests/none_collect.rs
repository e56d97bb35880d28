//! Evidence of a real pod where no agent runs: by programs of the container, which is said.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;
use tourniquet_api::Outcome;
use tourniquet_e2e::evidence::Bag;
use tourniquet_e2e::{Spec, azurite, scenario, until};

const SOON: Duration = Duration::from_secs(60);

#[test]
fn without_an_agent_the_containers_own_programs_are_used_and_what_they_cannot_is_said() {
    scenario("collect-tools", |s| async move {
        let store = s.store("soc").await?;
        let pod = s.pod("web").await?;
        s.exec(&pod, &["/bin/sh", "-c", "echo kept > /tmp/file"]).await?;
        let collect = json!({
            "storeRef": { "name": store.name }, "timeout": "2m", "memory": ["traffic"],
            "files": [{ "path": "/tmp/file" }, { "path": "/no/such/file" }],
        });
        let target = json!({ "pod": { "namespace": pod.namespace, "name": pod.name } });
        let response = s.respond("r", Spec(json!({ "target": target, "actions": [{ "collect": collect }] }))).await?;
        let action = until("it is collected in part", SOON, async || {
            let status = response.get().await?.status.unwrap_or_default();
            Ok(status.actions.into_iter().find(|action| !matches!(action.outcome, Outcome::Pending | Outcome::Running)))
        })
        .await?;
        ensure!(
            action.outcome == Outcome::Partial && action.reason.as_deref() == Some("CollectedInPart"),
            "{action:?}"
        );
        let message = action.message.clone().context("no message")?;
        ensure!(message.contains("memory/traffic.core") && message.contains("/no/such/file"), "{message}");
        let evidence = action.results.first().and_then(|result| result.evidence.clone()).context("no evidence")?;
        let bag = Bag::verified(azurite().await?, &store, &evidence).await?;
        bag.is_whole("processes/main.txt", "ContainerTools")?;
        bag.is_whole("connections/main.txt", "ContainerTools")?;
        bag.is_whole("files/main/tmp/file.tar", "ContainerTools")?;
        ensure!(bag.text("processes/main.txt")?.contains("/traffic/traffic"));
        ensure!(bag.text("files/main/tmp/file.tar")?.contains("kept"));
        ensure!(bag.artifact("memory/traffic.core")?["outcome"]["result"] == "Failed");
        ensure!(bag.record["complete"] == false, "{}", bag.record);
        Ok(())
    });
}

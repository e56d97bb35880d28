//! Somebody in the pod has CAP_NET_ADMIN and removes the cut: it is put back, and said.

use std::time::Duration;

use anyhow::{Result, ensure};
use jiff::Timestamp;
use serde_json::json;
use tourniquet_api::ContainmentState;
use tourniquet_e2e::events::{self, Shown};
use tourniquet_e2e::{Scenario, Spec, TestPod, TestResponse, scenario, until};

const SECOND: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(15);

#[test]
fn a_cut_that_is_removed_from_inside_is_put_back_each_time_and_said() {
    scenario("cut-tamper", |s| async move {
        let capable = json!({ "securityContext": { "capabilities": { "add": ["NET_ADMIN"] } } });
        let (web, peer) =
            tokio::try_join!(s.pod_with("web", json!({ "spec": { "containers": [capable] } })), s.pod("peer"))?;
        let inbound = s.attempts(&peer, &web).await?;
        let outbound = s.attempts(&web, &peer).await?;
        let response = s.respond("cut", Spec::isolate(&web)).await?;
        response.becomes("Contained", "True", SOON).await?;
        s.containment_becomes(&web.uid, ContainmentState::Cut, SOON).await?;
        ensure!(tampering(&response).await?.is_none(), "nobody has touched it yet");

        for times in 1..=3 {
            remove(&s, &web, 1).await?;
            let counted = s
                .containment_that(&web.uid, "counts the removal", SOON, |status| {
                    status.state == ContainmentState::Cut && status.restored >= times
                })
                .await?;
            ensure!(counted.restored == times, "{counted:?}");
            holds(&s, &web, &response, &format!("{times} times")).await?;
            until("an event of the pod says so", SOON, async || {
                let events = events::of(&s.env, &web.namespace, &web.uid).await?;
                let said =
                    |event: &Shown| event.reason == "CutTamperedWith" && event.note.contains(&format!("{times} times"));
                Ok(events.iter().any(said).then_some(()))
            })
            .await?;
        }

        // As fast as it is put back: each finds a table to remove, so the agent put it back after each but the last. It reads back
        // what it has put, finds it gone and tries again before it counts, so how many of these it counts is not said.
        remove(&s, &web, 20).await?;
        let removed = Timestamp::now();
        inbound.silent(removed, SECOND * 3, SOON).await?;
        outbound.silent(removed, SECOND * 3, SOON).await?;
        let still = s.containment_becomes(&web.uid, ContainmentState::Cut, SOON).await?;
        println!("20 removals in a row: {} counted", still.restored - 3);
        ensure!((3..=23).contains(&still.restored), "{still:?}");
        holds(&s, &web, &response, &format!("{} times", still.restored)).await?;

        let deleted = response.delete().await?;
        response.gone(SOON).await?;
        inbound.answered(deleted, SOON).await?;
        outbound.answered(deleted, SOON).await?;
        s.no_containment(&web.uid).await
    });
}

async fn remove(s: &Scenario, web: &TestPod, times: u32) -> Result<()> {
    let said = s.exec(web, &["/traffic/traffic", "uncut", &times.to_string()]).await?;
    ensure!(said.trim() == format!("removed {times}"), "{said}");
    Ok(())
}

async fn holds(s: &Scenario, web: &TestPod, response: &TestResponse, times: &str) -> Result<()> {
    until("the response says so", SOON, async || {
        Ok(tampering(response).await?.filter(|message| message.contains(times)))
    })
    .await?;
    let contained = response.becomes("Contained", "True", SOON).await?;
    ensure!(contained.reason == "Cut", "{contained:?}");
    s.containment_becomes(&web.uid, ContainmentState::Cut, SOON).await?;
    Ok(())
}

async fn tampering(response: &TestResponse) -> Result<Option<String>> {
    let residual = response.get().await?.status.unwrap_or_default().residual;
    Ok(residual.into_iter().find(|open| open.code == "CutTamperedWith").map(|open| open.message))
}

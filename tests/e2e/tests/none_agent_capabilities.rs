//! The agent has the capabilities that it needs, and no more: without any one of them it says which one is missing, and
//! nobody takes the pod for cut off. A program of its own: it changes the agent.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tourniquet_api::{ContainmentState, Outcome};
use tourniquet_e2e::{Scenario, Spec, TestResponse, scenario, until};

const CAPABILITIES: [&str; 4] = ["SYS_ADMIN", "NET_ADMIN", "NET_RAW", "SYS_PTRACE"];
const SOON: Duration = Duration::from_secs(30);

#[test]
fn without_any_of_its_capabilities_it_says_which_and_claims_nothing() {
    scenario("cut-capabilities", |s| async move {
        for missing in CAPABILITIES {
            let others: Vec<&str> = CAPABILITIES.into_iter().filter(|one| *one != missing).collect();
            let capabilities = json!({ "add": others });
            let container = json!({ "name": "agent", "securityContext": { "capabilities": capabilities } });
            let agents = s.agents();
            let claims =
                agents.changed(json!({ "containers": [container] }), async || claims_nothing(&s, missing).await);
            let response = claims.await.with_context(|| format!("without {missing}"))?;
            // What it could not do, it could not undo; with all four it can.
            response.gone(SOON).await?;
        }
        // All four back.
        let web = s.pod("web").await?;
        let response = s.respond("whole", Spec::isolate(&web)).await?;
        let contained = response.becomes("Contained", "True", SOON).await?;
        ensure!(contained.reason == "Cut", "{contained:?}");
        Ok(())
    });
}

async fn claims_nothing(s: &Scenario, missing: &str) -> Result<TestResponse> {
    let lower = missing.to_lowercase().replace('_', "-");
    let web = s.pod(&lower).await?;
    let response = s.respond(&lower, Spec::isolate(&web)).await?;
    let named = format!("CAP_{missing}");
    if missing == "SYS_PTRACE" {
        // It cannot tell the node's own network from a pod's, so it does not start; its log says why.
        until("the agent's log names what is missing", SOON, async || {
            Ok(s.agents().log().await?.contains(&named).then_some(()))
        })
        .await?;
    } else {
        let status = s.containment_becomes(&web.uid, ContainmentState::Failed, SOON).await?;
        let message = status.message.unwrap_or_default();
        ensure!(message.contains(&named), "{message}");
    }
    response.becomes("Stalled", "True", SOON).await?;
    let action = response.action("isolate").await?;
    ensure!(action.outcome == Outcome::Partial, "{action:?}");
    let contained = response.condition("Contained").await?.context("no Contained")?;
    ensure!(contained.status != "True", "{contained:?}");
    if missing != "SYS_PTRACE" {
        ensure!(action.message.as_deref().is_some_and(|message| message.contains(&named)), "{action:?}");
    }
    response.delete().await?;
    Ok(response)
}

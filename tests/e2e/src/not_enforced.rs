//! Where nothing enforces a policy.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use tourniquet_api::{Answer as Probed, Assurance, Outcome};

use crate::snapshot::{Snapshot, traces};
use crate::{Scenario, Spec};

const SECOND: Duration = Duration::from_secs(1);

/// What has to be said where a policy object exists and enforces nothing.
pub async fn is_said(s: &Scenario) -> Result<()> {
    let (web, peer) = tokio::try_join!(s.pod("web"), s.pod("peer"))?;
    let before = Snapshot::of_namespace(&s.env, &s.namespace).await?;
    let inbound = s.attempts(&peer, &web).await?;
    let response = s.respond("cut", Spec::isolate(&web)).await?;

    let ready = response.becomes_because("Ready", "NotEnforced", SECOND * 60).await?;
    ensure!(ready.status == "False" && ready.message.contains("nothing enforces the policy"), "{ready:?}");
    for (type_, status) in [("Contained", "False"), ("Stalled", "True"), ("Accepted", "True")] {
        let condition = response.condition(type_).await?.with_context(|| format!("no {type_}"))?;
        ensure!(condition.status == status, "{condition:?}");
    }
    let status = response.get().await?.status.unwrap_or_default();
    let action = status.actions.first().context("no action")?;
    ensure!(action.outcome == Outcome::Partial, "{action:?}");
    let result = action.results.first().context("no result")?;
    ensure!(result.assurance == Some(Assurance::Accepted), "{result:?}");
    ensure!(result.probes.first().is_some_and(|probe| probe.after == Some(Probed::Answered)), "{result:?}");
    let residual = status.residual.first().context("no residual")?;
    ensure!(residual.code == "NotContained" && residual.severity == "High", "{residual:?}");
    // It is the truth: the pods go on talking.
    inbound.answered(Timestamp::now(), SECOND * 5).await?;

    response.delete().await?;
    response.gone(SECOND * 30).await?;
    s.is_what_it_was(&before).await?;
    ensure!(traces(&s.env, &response.uid).await?.is_empty());
    Ok(())
}

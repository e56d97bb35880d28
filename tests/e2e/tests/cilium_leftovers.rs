//! What a response leaves that vanishes while its policies are in force on Cilium: real traffic is back without anybody's doing. A program
//! of its own: it puts the operator aside.

use std::time::Duration;

use anyhow::{Result, ensure};
use jiff::Timestamp;
use tourniquet_e2e::crash::Exclusive;
use tourniquet_e2e::events::says;
use tourniquet_e2e::snapshot::{Snapshot, traces};
use tourniquet_e2e::{Spec, scenario, until};

/// Cilium gives a pod its new identity within 35 s, and lets go of it as late; the operator gives up on it after 120 s.
const SETTLED: Duration = Duration::from_secs(150);
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_deny_policy_and_a_label_of_a_vanished_response_are_undone_and_the_pod_talks_again() {
    scenario("leftovers", |s| async move {
        let (web, peer) = tokio::try_join!(s.pod("web"), s.pod("peer"))?;
        let before = Snapshot::of_namespace(&s.env, &s.namespace).await?;
        let inbound = s.attempts(&peer, &web).await?;
        let outbound = s.attempts(&web, &peer).await?;
        let response = s.respond("vanishes", Spec::isolate(&web)).await?;
        response.becomes("Contained", "True", SETTLED).await?;
        // An operator that is put aside loses the events that it has not sent yet.
        s.pod_events(&web, &["Warning Isolated"]).await?;

        let away = Exclusive::begin(&s).await?;
        let vanished = async {
            response.vanish().await?;
            let left = traces(&s.env, &response.uid).await?;
            ensure!(left.len() == 3, "a deny policy, a network policy and a labelled pod: {left:?}");
            let since = Timestamp::now();
            inbound.stays_silent(since, SECOND * 5).await?;
            outbound.stays_silent(since, SECOND * 5).await
        };
        let vanished: Result<()> = vanished.await;
        away.end().await?;
        let back = Timestamp::now();
        vanished?;

        until("nothing of it is left", SETTLED, async || {
            Ok(traces(&s.env, &response.uid).await?.is_empty().then_some(()))
        })
        .await?;
        inbound.answered(back, SETTLED).await?;
        outbound.answered(back, SETTLED).await?;
        s.is_what_it_was(&before).await?;
        let told = s.pod_events(&web, &["Warning Isolated", "Warning LeftoverUndone"]).await?;
        says(&told, "LeftoverUndone", &[&response.uid, "does not exist any more"])
    });
}

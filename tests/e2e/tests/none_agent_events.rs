//! Events where there are agents: who isolated a pod, and who holds it on.

use std::time::Duration;

use tourniquet_e2e::events::says;
use tourniquet_e2e::{Spec, scenario};

const SOON: Duration = Duration::from_secs(30);

#[test]
fn a_cut_and_its_release_are_told_on_the_response_and_on_the_pod() {
    scenario("cut-events", |s| async move {
        let web = s.pod("web").await?;
        let response = s.respond("cut", Spec::isolate(&web)).await?;
        response.becomes("Contained", "True", SOON).await?;

        let told = s.response_events(&response, &["Normal Accepted", "Normal Contained"]).await?;
        says(&told, "Contained", &["the agent on node", "cut pod"])?;
        let told = s.pod_events(&web, &["Warning Isolated"]).await?;
        let by = format!("Isolated by IncidentResponse {}/{}: the agent on node", response.namespace, response.name);
        says(&told, "Isolated", &[&by])?;

        response.delete().await?;
        response.gone(SOON).await?;
        // Not that it was blocked, while the agent did its part.
        s.response_events(&response, &["Normal Accepted", "Normal Contained", "Normal Released"]).await?;
        s.pod_events(&web, &["Warning Isolated", "Normal Released"]).await.map(drop)
    });
}

#[test]
fn a_release_says_who_holds_the_pod_on() {
    scenario("cut-events-held", |s| async move {
        let web = s.pod("web").await?;
        let first = s.respond("first", Spec::isolate(&web)).await?;
        first.becomes("Contained", "True", SOON).await?;
        let second = s.respond("second", Spec::isolate(&web)).await?;
        second.becomes("Contained", "True", SOON).await?;

        first.delete().await?;
        first.gone(SOON).await?;

        let holder = format!("response {}/{} goes on holding the target", second.namespace, second.name);
        let told = s.response_events(&first, &["Normal Accepted", "Normal Contained", "Normal Released"]).await?;
        says(&told, "Released", &[&holder])?;
        let told = s.pod_events(&web, &["Warning Isolated", "Warning Isolated", "Normal Released"]).await?;
        says(&told, "Released", &[&holder])
    });
}

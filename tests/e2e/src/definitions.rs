//! Kinds that the cluster serves for a while: definitions of a network that does not run here.

use anyhow::Result;

use crate::Scenario;
use crate::crash::Exclusive;

/// Does something while these CustomResourceDefinitions are there. Nothing else may run on the cluster meanwhile.
pub async fn applied(s: &Scenario, definitions: &str, work: impl Future<Output = Result<()>>) -> Result<()> {
    let ended = async {
        s.feed(&["apply", "--server-side", "--filename", "-"], definitions).await?;
        s.feed(&["wait", "--for=condition=Established", "--timeout=30s", "--filename", "-"], definitions).await?;
        operator_anew(s).await?;
        work.await
    }
    .await;
    let removed = s.feed(&["delete", "--ignore-not-found", "--filename", "-"], definitions).await;
    let anew = operator_anew(s).await;
    ended.and(removed).and(anew)
}

/// The operator remembers for a minute which kinds are served: one that starts anew looks.
async fn operator_anew(s: &Scenario) -> Result<()> {
    Exclusive::begin(s).await?.end().await
}

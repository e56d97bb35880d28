//! Pods by the thousand: objects on a node without a kubelet, which run nowhere.

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, PostParams};
use serde_json::json;

use crate::{PaperNode, Scenario};

/// Requests of the measurement that are under way at the same time: the API server is to be busy, not overrun.
pub const BESIDE: usize = 16;

/// Pods of one namespace that only the API server knows.
pub struct PaperPods<'a> {
    scenario: &'a Scenario,
    node: &'a PaperNode,
    names: Vec<String>,
}

impl<'a> PaperPods<'a> {
    /// None yet.
    pub const fn on(scenario: &'a Scenario, node: &'a PaperNode) -> Self {
        Self { scenario, node, names: Vec::new() }
    }

    /// Adds what is missing to so many.
    pub async fn grow_to(&mut self, count: usize) -> Result<()> {
        let missing = self.names.len()..count.max(self.names.len());
        let (scenario, node) = (self.scenario, &self.node.name);
        let made: Vec<String> = stream::iter(missing)
            .map(|index| async move {
                let name = format!("paper-{index}");
                let pod: Pod = serde_json::from_value(json!({
                    "metadata": { "name": name, "labels": { "app": "paper" } },
                    "spec": {
                        "nodeName": node,
                        "terminationGracePeriodSeconds": 0,
                        "automountServiceAccountToken": false,
                        // What its node's taints would have it evicted for: it has no kubelet that says it lives.
                        "tolerations": [
                            { "key": "node.kubernetes.io/not-ready", "operator": "Exists" },
                            { "key": "node.kubernetes.io/unreachable", "operator": "Exists" },
                        ],
                        "containers": [{ "name": "main", "image": "paper.invalid/paper" }],
                    },
                }))?;
                let pod = scenario.api::<Pod>().create(&PostParams::default(), &pod).await;
                anyhow::Ok(pod.with_context(|| format!("cannot create {name}"))?.name_any())
            })
            .buffered(BESIDE)
            .try_collect()
            .await?;
        self.names.extend(made);
        Ok(())
    }

    /// One of them, in turn.
    pub fn name(&self, turn: usize) -> Result<&str> {
        self.names.get(turn % self.names.len().max(1)).map(String::as_str).context("there are no pods")
    }

    /// Removes them all.
    pub async fn remove(&self) -> Result<()> {
        let mine = ListParams::default().labels("app=paper");
        self.scenario.api::<Pod>().delete_collection(&DeleteParams::default().grace_period(0), &mine).await?;
        Ok(())
    }
}

//! The agents under test: changed, taken away, given back; and nodes that have none.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::FutureExt;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tourniquet_api::{Containment, ContainmentState, ContainmentStatus};

use crate::{AGENT_NAMESPACE, Scenario, TestPod, until};

const DAEMON_SET: &str = "tourniquet-agent";
/// An agent that is replaced: the old one ends within its grace period of 5 s, the new one is there a moment later.
const REPLACED: Duration = Duration::from_secs(60);

/// The agents of the cluster. Whoever changes them has a test program of its own: everybody else's tests need them.
#[derive(Clone)]
pub struct Agents {
    client: Client,
    api: Api<DaemonSet>,
}

impl Scenario {
    pub fn agents(&self) -> Agents {
        let client = self.env.client.clone();
        Agents { api: Api::namespaced(client.clone(), AGENT_NAMESPACE), client }
    }

    /// What the agent says of a pod, once it says this. Its Containment may not be there yet.
    pub async fn containment_becomes(
        &self,
        pod_uid: &str,
        state: ContainmentState,
        limit: Duration,
    ) -> Result<ContainmentStatus> {
        self.containment_that(pod_uid, &format!("is {state:?}"), limit, |status| status.state == state).await
    }

    /// The same, once this is true of it.
    pub async fn containment_that(
        &self,
        pod_uid: &str,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&ContainmentStatus) -> bool,
    ) -> Result<ContainmentStatus> {
        let api: Api<Containment> = Api::namespaced(self.env.client.clone(), AGENT_NAMESPACE);
        let mut last = None;
        let found = until(&format!("the Containment of pod {pod_uid} {what}"), limit, async || {
            last = api.get_opt(pod_uid).await?.and_then(|containment| containment.status);
            Ok(last.clone().filter(&wanted))
        })
        .await;
        found.with_context(|| format!("the last was {last:?}"))
    }

    /// Fails when something of the cut of this pod is left in the API.
    pub async fn no_containment(&self, pod_uid: &str) -> Result<()> {
        let api: Api<Containment> = Api::namespaced(self.env.client.clone(), AGENT_NAMESPACE);
        ensure!(api.get_opt(pod_uid).await?.is_none(), "the Containment of pod {pod_uid} is left");
        Ok(())
    }

    /// A node without a kubelet: an object in the API, and nothing else. Without labels, so no DaemonSet wants a pod on it.
    pub async fn paper_node(&self) -> Result<PaperNode> {
        self.paper_node_with("node", json!({})).await
    }

    /// The same, one of several, with labels.
    pub async fn paper_node_with(&self, name: &str, labels: Value) -> Result<PaperNode> {
        let api: Api<Node> = Api::all(self.env.client.clone());
        let name = format!("paper-{}-{name}", self.namespace);
        let node: Node = serde_json::from_value(json!({ "metadata": { "name": name, "labels": labels } }))?;
        let node = api.create(&PostParams::default(), &node).await?;
        Ok(PaperNode { api, name: node.name_any(), uid: node.uid().unwrap_or_default() })
    }
}

/// See [`Scenario::paper_node`].
pub struct PaperNode {
    api: Api<Node>,
    pub name: String,
    pub uid: String,
}

impl PaperNode {
    /// Gone for good.
    pub async fn delete(&self) -> Result<()> {
        self.api.delete(&self.name, &DeleteParams::default()).await?;
        Ok(())
    }
}

impl Agents {
    /// Does something while the DaemonSet is changed (a strategic merge patch of its pods' spec), and puts it back, whatever
    /// becomes of that.
    pub async fn changed<T>(&self, pods: Value, work: impl AsyncFnOnce() -> Result<T>) -> Result<T> {
        let before = self.api.get(DAEMON_SET).await?.spec.context("a DaemonSet without a spec")?.template;
        let change = json!({ "spec": { "template": { "spec": pods } } });
        self.api.patch(DAEMON_SET, &PatchParams::default(), &Patch::Strategic(&change)).await?;
        let work = async {
            self.settled().await?;
            work().await
        };
        let ended = AssertUnwindSafe(work).catch_unwind().await;
        let back = json!([{ "op": "replace", "path": "/spec/template", "value": before }]);
        let back = serde_json::from_value(back)?;
        self.api.patch(DAEMON_SET, &PatchParams::default(), &Patch::Json::<()>(back)).await?;
        let settled = self.settled().await;
        match ended {
            Err(panic) => resume_unwind(panic),
            Ok(Err(error)) => Err(error),
            Ok(Ok(done)) => settled.map(|()| done),
        }
    }

    /// No agent anywhere, meanwhile.
    pub async fn away<T>(&self, work: impl AsyncFnOnce() -> Result<T>) -> Result<T> {
        self.changed(json!({ "nodeSelector": { "e2e.tourniquet.dev/nowhere": "true" } }), work).await
    }

    /// The pods of the agents, in whatever state.
    pub async fn pods(&self) -> Result<Vec<Pod>> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), AGENT_NAMESPACE);
        let ours = ListParams::default().labels("app.kubernetes.io/component=agent");
        Ok(api.list(&ours).await?.items)
    }

    /// What the agents have logged last, those that ended before them included.
    pub async fn log(&self) -> Result<String> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), AGENT_NAMESPACE);
        let mut text = String::new();
        for pod in self.pods().await? {
            for previous in [true, false] {
                // The API has none of a container that has not started, or has not ended before.
                text += &api
                    .logs(&pod.name_any(), &LogParams { previous, ..LogParams::default() })
                    .await
                    .unwrap_or_default();
            }
        }
        Ok(text)
    }

    /// Once every agent is one of the DaemonSet as it is now, and has been started. Whether it runs is not asked.
    async fn settled(&self) -> Result<()> {
        let mut last = None;
        let settled = until("the agents are those that were asked for", REPLACED, async || {
            let wanted = self.api.get(DAEMON_SET).await?;
            let status = wanted.status.unwrap_or_default();
            let pods = self.pods().await?;
            let started = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none() && started(pod)).count();
            let done = status.observed_generation == wanted.metadata.generation
                && status.updated_number_scheduled.unwrap_or_default() == status.desired_number_scheduled
                && started == pods.len()
                && i32::try_from(pods.len()).is_ok_and(|count| count == status.desired_number_scheduled);
            last = Some(status);
            Ok(done.then_some(()))
        });
        settled.await.with_context(|| format!("the DaemonSet's status is {last:?}"))
    }
}

fn started(pod: &Pod) -> bool {
    let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    containers.filter_map(|container| container.started.or(Some(container.restart_count > 0))).any(|started| started)
}

/// The pod's process that speaks for it on this node: its sandbox's.
pub fn sandbox(pod: &TestPod) -> Result<u32> {
    use tourniquet_agent::pods::{cgroup::Hierarchy, find, node_network};
    let proc = std::path::Path::new("/proc");
    let host = node_network(proc)?;
    Ok(find(proc, &pod.uid, &Hierarchy::default(), host.id())?.pid)
}

//! A pod from a file on the node, which the node knows by another name than its UID.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde_json::json;
use tourniquet_api::ContainmentState;
use tourniquet_e2e::pods::PORT;
use tourniquet_e2e::{Scenario, Spec, TestPod, scenario};

const SECOND: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(15);

#[test]
fn a_pod_from_a_file_on_the_node_is_cut_and_let_go() {
    scenario("cut-static", |s| async move {
        let folder =
            s.env.static_pods.clone().context("TOURNIQUET_STATIC_PODS is not set; run this through cargo xtask")?;
        let peer = s.pod("peer").await?;
        let manifest = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": "file", "namespace": s.namespace },
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [{
                    "name": "main", "image": s.env.image, "imagePullPolicy": "IfNotPresent",
                    "command": ["/traffic", "serve", PORT.to_string()],
                    "ports": [{ "containerPort": PORT }],
                    "volumeMounts": [{ "name": "traffic", "mountPath": "/traffic" }],
                }],
                // A pod from a file may use nothing of the API, so no ConfigMap.
                "volumes": [{ "name": "traffic", "hostPath": { "path": s.env.traffic, "type": "File" } }],
            }
        });
        let file = File(folder.join(format!("{}.json", s.namespace)));
        fs::write(&file.0, manifest.to_string())?;
        let node = s.get_pod("peer").await?.spec.and_then(|spec| spec.node_name).context("the peer has no node")?;
        let web = s.appears(&format!("file-{node}")).await?;
        is_cut_and_let_go(&s, &web, &peer).await
    });
}

async fn is_cut_and_let_go(s: &Scenario, web: &TestPod, peer: &TestPod) -> Result<()> {
    let inbound = s.attempts(peer, web).await?;
    inbound.answered(Timestamp::UNIX_EPOCH, SOON).await?;
    let response = s.respond("cut", Spec::isolate(web)).await?;
    let contained = response.becomes("Contained", "True", SOON).await?;
    ensure!(contained.reason == "Cut", "{contained:?}");
    s.containment_becomes(&web.uid, ContainmentState::Cut, SOON).await?;
    inbound.stays_silent(Timestamp::now(), SECOND * 3).await?;
    let deleted = response.delete().await?;
    response.gone(SOON).await?;
    inbound.answered(deleted, SOON).await?;
    s.no_containment(&web.uid).await
}

/// A manifest in the kubelet's folder; the pod goes with it.
struct File(std::path::PathBuf);

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

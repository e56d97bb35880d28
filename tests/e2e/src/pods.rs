//! Pods that serve, and from which connections are made.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};

use crate::scenario::TRAFFIC;
use crate::{Scenario, until};

/// Where every test pod serves, over TCP and UDP.
pub const PORT: u16 = 8080;

/// A pod that runs.
#[derive(Clone, Debug)]
pub struct TestPod {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub ip: IpAddr,
}

impl TestPod {
    /// Where it serves.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.ip, PORT)
    }
}

impl Scenario {
    /// A pod that serves, once it runs.
    pub async fn pod(&self, name: &str) -> Result<TestPod> {
        self.pod_with(name, json!({})).await
    }

    /// The same with more in its manifest. Objects are merged; the one container is `spec.containers[0]`.
    pub async fn pod_with(&self, name: &str, more: Value) -> Result<TestPod> {
        self.create_pod(name, more).await?;
        self.running(name).await
    }

    /// One whose container is killed by the first failure of this liveness probe, once it has passed it for the first time: on a busy machine the kubelet
    /// asks before the program listens.
    pub async fn pod_probed(&self, name: &str, mut probe: Value) -> Result<TestPod> {
        for (field, value) in [("periodSeconds", 1), ("failureThreshold", 1), ("timeoutSeconds", 5)] {
            probe[field] = json!(value);
        }
        let mut startup = probe.clone();
        startup["failureThreshold"] = json!(60);
        let probes = json!({ "livenessProbe": probe, "startupProbe": startup });
        self.pod_with(name, json!({ "spec": { "containers": [probes] } })).await
    }

    /// The same, without waiting for it.
    pub async fn create_pod(&self, name: &str, more: Value) -> Result<Pod> {
        let mut manifest = json!({
            "metadata": { "name": name, "labels": { "app": name } },
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "automountServiceAccountToken": false,
                "containers": [{
                    "name": "main",
                    "image": self.env.image,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["/traffic/traffic", "serve", PORT.to_string()],
                    "ports": [{ "containerPort": PORT }],
                    "volumeMounts": [{ "name": "traffic", "mountPath": "/traffic" }],
                }],
                "volumes": [{ "name": "traffic", "configMap": { "name": TRAFFIC, "defaultMode": 0o755 } }],
            }
        });
        merge(&mut manifest, more);
        let pod: Pod = serde_json::from_value(manifest)?;
        self.api::<Pod>()
            .create(&PostParams::default(), &pod)
            .await
            .with_context(|| format!("cannot create pod {name}"))
    }

    /// The pod of this name that somebody else makes, once it runs.
    pub async fn appears(&self, name: &str) -> Result<TestPod> {
        until(&format!("pod {name} is there"), Duration::from_secs(60), async || {
            Ok(self.api::<Pod>().get_opt(name).await?.map(drop))
        })
        .await?;
        self.running(name).await
    }

    /// The pod of this name, once it runs and answers where it serves.
    pub async fn running(&self, name: &str) -> Result<TestPod> {
        until(&format!("pod {name} runs"), Duration::from_secs(120), async || {
            let pod = self.api::<Pod>().get(name).await?;
            let status = pod.status.as_ref();
            if let Some("Failed") = status.and_then(|status| status.phase.as_deref()) {
                bail!("pod {name} failed: {status:?}");
            }
            let started = status
                .and_then(|status| status.container_statuses.as_ref())
                .is_some_and(|all| all.iter().all(|container| container.started == Some(true)));
            let ip = status.and_then(|status| status.pod_ip.as_deref()).and_then(|ip| ip.parse().ok());
            let uid = pod.uid().unwrap_or_default();
            Ok(ip.filter(|_| started).map(|ip| TestPod {
                namespace: self.namespace.clone(),
                name: name.to_owned(),
                uid,
                ip,
            }))
        })
        .await
    }

    /// The pod as it is now.
    pub async fn get_pod(&self, name: &str) -> Result<Pod> {
        Ok(self.api::<Pod>().get(name).await?)
    }

    /// Deletes a pod and waits until it is gone.
    pub async fn delete_pod(&self, name: &str) -> Result<()> {
        let api = self.api::<Pod>();
        api.delete(name, &DeleteParams::default().grace_period(0)).await?;
        until(&format!("pod {name} is gone"), Duration::from_secs(60), async || {
            Ok(api.get_opt(name).await?.is_none().then_some(()))
        })
        .await
    }

    /// How often the pod's containers were restarted.
    pub async fn restarts(&self, name: &str) -> Result<i32> {
        let status = self.get_pod(name).await?.status.unwrap_or_default();
        Ok(status.container_statuses.unwrap_or_default().iter().map(|container| container.restart_count).sum())
    }
}

/// Objects into objects, lists by position; what is left out stays.
fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(from)) => {
            for (index, value) in from.into_iter().enumerate() {
                match into.get_mut(index) {
                    Some(existing) => merge(existing, value),
                    None => into.push(value),
                }
            }
        }
        (into, from) => *into = from,
    }
}

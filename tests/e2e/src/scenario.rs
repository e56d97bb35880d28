//! One test: a namespace of its own, and whatever happens, nothing of it left.

use std::future::Future;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::FutureExt;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;
use tourniquet_api::IncidentResponse;

use crate::{Environment, RESPONSE_NAMESPACE, until};

/// Marks responses with the test that made them.
pub(crate) const TEST_LABEL: &str = "e2e.tourniquet.dev/test";
/// The ConfigMap that carries the program of the test pods.
pub(crate) const TRAFFIC: &str = "traffic";

/// A test in progress.
#[derive(Clone)]
pub struct Scenario {
    pub env: Arc<Environment>,
    /// The namespace of this test alone.
    pub namespace: String,
}

/// Runs a test in a namespace of its own, shows what is there when it fails, and removes it.
pub fn scenario<F>(name: &str, body: impl FnOnce(Scenario) -> F)
where
    F: Future<Output = Result<()>>,
{
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let scenario = Scenario::begin(name).await.unwrap_or_else(|error| panic!("{name}: cannot begin: {error:#}"));
        let ended = AssertUnwindSafe(body(scenario.clone())).catch_unwind().await;
        let failed = !matches!(ended, Ok(Ok(())));
        if failed {
            scenario.explain().await;
        }
        let removed = scenario.end().await;
        match ended {
            Err(panic) => resume_unwind(panic),
            Ok(Err(error)) => panic!("{name}: {error:#}"),
            Ok(Ok(())) => removed.unwrap_or_else(|error| panic!("{name}: cannot clean up: {error:#}")),
        }
    });
}

impl Scenario {
    /// A namespace, and the program for its pods.
    pub async fn begin(name: &str) -> Result<Self> {
        let env = Arc::new(Environment::read().await?);
        let namespaces: Api<Namespace> = Api::all(env.client.clone());
        let namespace: Namespace = serde_json::from_value(json!({
            "metadata": { "generateName": format!("e2e-{name}-"), "labels": { TEST_LABEL: name } }
        }))?;
        let namespace = namespaces.create(&PostParams::default(), &namespace).await?.name_any();
        let scenario = Self { env, namespace };
        scenario.bring_traffic().await?;
        Ok(scenario)
    }

    async fn bring_traffic(&self) -> Result<()> {
        let path = &self.env.traffic;
        let program = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let map = ConfigMap {
            metadata: kube::core::ObjectMeta { name: Some(TRAFFIC.into()), ..Default::default() },
            binary_data: Some([(TRAFFIC.to_owned(), k8s_openapi::ByteString(program))].into()),
            ..ConfigMap::default()
        };
        self.api::<ConfigMap>().create(&PostParams::default(), &map).await?;
        // Pods need it, and it is made by a controller a moment after the namespace.
        until("the namespace's default service account", Duration::from_secs(30), async || {
            Ok(self.api::<k8s_openapi::api::core::v1::ServiceAccount>().get_opt("default").await?)
        })
        .await?;
        Ok(())
    }

    /// Objects of the test's namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.env.client.clone(), &self.namespace)
    }

    /// Responses of the response namespace.
    pub fn responses(&self) -> Api<IncidentResponse> {
        Api::namespaced(self.env.client.clone(), RESPONSE_NAMESPACE)
    }

    /// Creates or replaces an object from a manifest, as a user would.
    pub async fn apply(&self, manifest: serde_json::Value) -> Result<()> {
        self.apply_in(&self.namespace, manifest).await
    }

    /// The same in another namespace.
    pub async fn apply_in(&self, namespace: &str, manifest: serde_json::Value) -> Result<()> {
        self.feed(&["--namespace", namespace, "apply", "--filename", "-"], &manifest.to_string()).await
    }

    /// Expects that the API server would create an object of this manifest, of which it knows every field.
    pub async fn taken_strictly(&self, manifest: &serde_json::Value) -> Result<()> {
        let strictly = ["create", "--dry-run=server", "--validate=strict", "--filename", "-"];
        self.feed(&strictly, &manifest.to_string()).await
    }

    /// Applies manifests that name their own namespaces.
    pub async fn apply_text(&self, manifests: &str) -> Result<()> {
        self.feed(&["apply", "--filename", "-"], manifests).await
    }

    /// Creates what these manifests say, each in the namespace that it names.
    pub async fn create_text(&self, manifests: &str) -> Result<()> {
        self.feed(&["create", "--filename", "-"], manifests).await
    }

    /// Deletes what these manifests name, and waits until it is gone.
    pub async fn delete_text(&self, manifests: &str) -> Result<()> {
        self.feed(&["delete", "--wait", "--ignore-not-found", "--filename", "-"], manifests).await
    }

    /// `kubectl` with these arguments, which reads this from its standard input.
    pub(crate) async fn feed(&self, args: &[&str], input: &str) -> Result<()> {
        use tokio::io::AsyncWriteExt;
        let mut child = self
            .env
            .kubectl()
            .args(args)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()?;
        child.stdin.take().context("no stdin")?.write_all(input.as_bytes()).await?;
        let output = child.wait_with_output().await?;
        anyhow::ensure!(
            output.status.success(),
            "kubectl {}: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// What whoever reads the failure wants to see.
    async fn explain(&self) {
        let namespace = self.namespace.as_str();
        let label = format!("{TEST_LABEL}={namespace}");
        let looks: [&[&str]; 5] = [
            &["get", "evidencestores", "--selector", &label, "--output", "yaml"],
            &["--namespace", RESPONSE_NAMESPACE, "get", "incidentresponses", "--selector", &label, "--output", "yaml"],
            &["--namespace", namespace, "get", "pods,networkpolicies", "--output=wide", "--show-labels"],
            &["--namespace", namespace, "get", "ciliumendpoints", "--output", "yaml"],
            &["--namespace", namespace, "get", "events"],
        ];
        for look in looks {
            let shown = self.env.kubectl_output(look).await.unwrap_or_else(|error| error.to_string());
            eprintln!("--- {namespace}: kubectl {}\n{shown}", look.join(" "));
        }
    }

    /// Removes everything. A response that does not go away is a failure, and is then forced to.
    pub async fn end(&self) -> Result<()> {
        let mine = ListParams::default().labels(&format!("{TEST_LABEL}={}", self.namespace));
        let mut apis = vec![self.responses()];
        apis.push(self.api());
        let mut stuck = Vec::new();
        for api in &apis {
            // Names only: a test may have stored what cannot be read.
            for response in api.list_metadata(&mine).await?.items {
                let name = response.name_any();
                api.delete(&name, &DeleteParams::default()).await.map(drop).or_else(ignore_missing)?;
                let gone = until("the response is gone", Duration::from_secs(90), async || {
                    Ok(api.get_metadata_opt(&name).await?.is_none().then_some(()))
                });
                if let Err(error) = gone.await {
                    stuck.push(format!("{name}: {error}"));
                    let bare = json!({ "metadata": { "finalizers": null } });
                    let patched = api.patch_metadata(&name, &PatchParams::default(), &Patch::Merge(&bare)).await;
                    patched.map(drop).or_else(ignore_missing)?;
                }
            }
        }
        // After the responses: they may store something to their end.
        self.remove_stores().await?;
        self.remove_rights().await?;
        let namespaces: Api<Namespace> = Api::all(self.env.client.clone());
        namespaces.delete(&self.namespace, &DeleteParams::background()).await.map(drop).or_else(ignore_missing)?;
        anyhow::ensure!(stuck.is_empty(), "deleted, and not undone: {}", stuck.join("; "));
        Ok(())
    }
}

pub(crate) fn ignore_missing(error: kube::Error) -> kube::Result<()> {
    match error {
        kube::Error::Api(status) if status.code == 404 => Ok(()),
        other => Err(other),
    }
}

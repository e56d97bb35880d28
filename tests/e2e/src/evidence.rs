//! Evidence, as an auditor downloads and verifies it: with plain tools, past everything that wrote it.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use tourniquet_api::{ActionStatus, EvidenceResult, Outcome};
use tourniquet_azurite::Azurite;

use crate::{Spec, TestPod, TestResponse, TestStore, until};

impl Spec {
    /// Collect from a pod into a store, with more fields of `collect`.
    pub fn collect(pod: &TestPod, store: &TestStore, more: Value) -> Self {
        let mut collect = json!({ "storeRef": { "name": store.name }, "timeout": "5m" });
        for (field, value) in more.as_object().into_iter().flatten() {
            collect[field] = value.clone();
        }
        Self(json!({
            "target": { "pod": { "namespace": pod.namespace, "name": pod.name } },
            "actions": [{ "collect": collect }],
        }))
    }
}

impl TestResponse {
    /// How the first action stands; none before anything is said of it.
    pub async fn first_action(&self) -> Result<Option<ActionStatus>> {
        Ok(self.get().await?.status.and_then(|status| status.actions.into_iter().next()))
    }

    /// What became of the first action, which collects, and of its evidence, once it has ended.
    pub async fn collected(&self, limit: Duration) -> Result<(ActionStatus, EvidenceResult)> {
        let action = until(&format!("{} has collected", self.name), limit, async || {
            let is_over = |action: &ActionStatus| !matches!(action.outcome, Outcome::Pending | Outcome::Running);
            Ok(self.first_action().await?.filter(is_over))
        })
        .await?;
        let evidence = action.results.first().and_then(|result| result.evidence.clone());
        let evidence = evidence.with_context(|| format!("nothing is said of the evidence: {action:?}"))?;
        Ok((action, evidence))
    }
}

/// A folder that was downloaded.
pub struct Bag {
    dir: TempDir,
    /// `data/record.json`.
    pub record: Value,
}

impl Bag {
    /// Downloads a folder by what the status says of it, and verifies each file of it by its manifests.
    pub async fn verified(azurite: &Azurite, store: &TestStore, evidence: &EvidenceResult) -> Result<Self> {
        let folder = folder(&store.container, evidence)?;
        let dir = TempDir::new()?;
        let fetch = async |name: &str| {
            let blob = azurite.blob(&store.container, &format!("{folder}/{name}")).await;
            let bytes = blob.with_context(|| format!("{name} is not there"))?;
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().context("no folder")?)?;
            std::fs::write(path, &bytes)?;
            Ok::<_, anyhow::Error>(bytes)
        };
        for manifest in ["tagmanifest-sha256.txt", "manifest-sha256.txt"] {
            let listed = String::from_utf8(fetch(manifest).await?)?;
            for line in listed.lines() {
                let (_, name) = line.split_once("  ").with_context(|| format!("{line:?} of {manifest}"))?;
                fetch(name).await?;
            }
            // The tag manifest names the manifest, and the manifest everything else.
            sha256sum(dir.path(), manifest).await?;
        }
        let record = std::fs::read(dir.path().join("data/record.json"))?;
        let record: Value = serde_json::from_slice(&record)?;
        let digest = evidence.record_digest.as_deref().context("the status has no digest")?;
        let told = format!("{digest}  data/record.json\n");
        std::fs::write(dir.path().join("told.txt"), told)?;
        sha256sum(dir.path(), "told.txt").await.context("the status tells another digest of the record")?;
        Ok(Self { dir, record })
    }

    /// What the record says of an artifact.
    pub fn artifact(&self, name: &str) -> Result<&Value> {
        let mut all = self.record["artifacts"].as_array().context("no artifacts")?.iter();
        all.find(|artifact| artifact["name"] == name)
            .with_context(|| format!("no artifact {name}: {}", self.record["artifacts"]))
    }

    /// The bytes of an artifact.
    pub fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.artifact(name)?["blob"]["path"].as_str().with_context(|| format!("{name} has no blob"))?;
        Ok(std::fs::read(self.dir.path().join(path))?)
    }

    /// The same as text.
    pub fn text(&self, name: &str) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.bytes(name)?).into_owned())
    }

    /// The files that its manifests name.
    pub fn listed(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for manifest in ["tagmanifest-sha256.txt", "manifest-sha256.txt"] {
            let lines = std::fs::read_to_string(self.dir.path().join(manifest))?;
            names.extend(lines.lines().filter_map(|line| Some(line.split_once("  ")?.1.to_owned())));
        }
        Ok(names)
    }

    /// Expects that an artifact came as a whole, by this way.
    pub fn is_whole(&self, name: &str, source: &str) -> Result<()> {
        let artifact = self.artifact(name)?;
        ensure!(artifact["outcome"]["result"] == "Done", "{artifact}");
        ensure!(artifact["source"] == source, "{artifact}");
        Ok(())
    }
}

/// The name of a folder in its container, which Azurite has below an account.
pub fn folder<'a>(container: &str, evidence: &'a EvidenceResult) -> Result<&'a str> {
    let url = evidence.url.as_deref().context("the status names no folder")?;
    // https:, nothing, the host, the account, the container, the folder.
    let parts: Vec<&str> = url.splitn(6, '/').collect();
    match parts.as_slice() {
        [_, _, _, _, found, folder] if *found == container => Ok(folder),
        _ => bail!("the folder is not in container {container}: {url}"),
    }
}

/// Downloads all that is in a folder, as `az storage blob download-batch` does.
pub async fn download(azurite: &Azurite, container: &str, folder: &str, into: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for blob in azurite.list(container, &format!("{folder}/")).await {
        let name = blob.strip_prefix(folder).unwrap_or(&blob).trim_start_matches('/').to_owned();
        let path = into.join(&name);
        std::fs::create_dir_all(path.parent().context("no folder")?)?;
        let bytes = azurite.blob(container, &blob).await.with_context(|| format!("{blob} is not there"))?;
        std::fs::write(path, bytes)?;
        names.push(name);
    }
    Ok(names)
}

async fn sha256sum(dir: &Path, list: &str) -> Result<()> {
    let mut command = tokio::process::Command::new("sha256sum");
    let output = command.args(["--strict", "--check", list]).current_dir(dir).stdin(Stdio::null()).output().await?;
    ensure!(output.status.success(), "{list}: {}", String::from_utf8_lossy(&output.stdout));
    Ok(())
}

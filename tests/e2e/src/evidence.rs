//! Evidence, as an auditor downloads and verifies it: with plain tools, past everything that wrote it.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tourniquet_api::EvidenceResult;
use tourniquet_azurite::Azurite;

use crate::TestStore;

/// A folder that was downloaded.
pub struct Bag {
    dir: TempDir,
    /// `data/record.json`.
    pub record: Value,
}

impl Bag {
    /// Downloads a folder by what the status says of it, and verifies each file of it by its manifests.
    pub async fn verified(azurite: &Azurite, store: &TestStore, evidence: &EvidenceResult) -> Result<Self> {
        let url = evidence.url.as_deref().context("the status names no folder")?;
        let (_, folder) =
            url.split_once(&format!("/{}/", store.container)).context("the folder is in another container")?;
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

    /// Expects that an artifact came as a whole, by this way.
    pub fn is_whole(&self, name: &str, source: &str) -> Result<()> {
        let artifact = self.artifact(name)?;
        ensure!(artifact["outcome"]["result"] == "Done", "{artifact}");
        ensure!(artifact["source"] == source, "{artifact}");
        Ok(())
    }
}

async fn sha256sum(dir: &Path, list: &str) -> Result<()> {
    let mut command = tokio::process::Command::new("sha256sum");
    let output = command.args(["--strict", "--check", list]).current_dir(dir).stdin(Stdio::null()).output().await?;
    ensure!(output.status.success(), "{list}: {}", String::from_utf8_lossy(&output.stdout));
    Ok(())
}

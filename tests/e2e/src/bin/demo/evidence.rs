//! What is in the pod: collected into a store, downloaded, and verified with plain tools; and a command in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde_json::Value;
use tourniquet_api::{ActionStatus, EvidenceResult, IncidentResponse, Outcome};
use tourniquet_e2e::{Scenario, TestPod, TestStore, azurite, evidence, until};

use super::{read, span, title};

/// What has to happen takes a second or two.
const SOON: Duration = Duration::from_secs(60);
/// Of the processes so many are shown.
const SHOWN: usize = 2;
/// What is collected is in the store by this action of `examples/collect-evidence.yaml`, and the command is run by this one of `examples/run-command.yaml`.
const FIRST: usize = 0;

/// A folder in the store.
pub(crate) struct Collected {
    store: TestStore,
    /// In the container.
    folder: String,
    /// What it took.
    pub(crate) measured: String,
}

/// Collects what can be read of the pod, and verifies what an analyst downloads into this folder of the machine.
pub(crate) async fn collect(shop: &Scenario, examples: &Path, into: &Path) -> Result<Collected> {
    let env = &shop.env;
    title("What is in web? Evidence, from outside the pod");
    println!("$ kubectl apply -f examples/evidence-store.yaml");
    println!(
        "  (there is no Azure here: with Azurite, Microsoft's emulator of it, and a signature instead of an identity)"
    );
    let manifest = std::fs::read_to_string(examples.join("evidence-store.yaml"))?;
    let store = shop.store_like(&manifest).await?;
    store.is_ready(SOON).await?;
    println!("$ kubectl get evs");
    print!("{}", env.kubectl_output(&["get", "evs", &store.name]).await?);

    println!("\n$ kubectl apply -f examples/collect-evidence.yaml");
    let manifest = examples.join("collect-evidence.yaml");
    let created = Timestamp::now();
    print!("{}", env.kubectl_output(&["apply", "--filename", &manifest.display().to_string()]).await?);
    let response: IncidentResponse = read(&manifest)?;
    let action = ended(shop, &response).await?;
    let sealed = Timestamp::now();
    ensure!(action.outcome == Outcome::Done, "not all was collected: {action:?}");
    shown(shop, &response, &action).await?;
    let result = action.results.into_iter().next().and_then(|result| result.evidence).context("no evidence")?;
    println!("  folder  {}", result.url.as_deref().unwrap_or_default());
    println!("  record  SHA-256 {}", result.record_digest.as_deref().unwrap_or_default());

    let folder = evidence::folder(&store.container, &result)?.to_owned();
    verify(&store, &folder, &result, into).await?;
    let span = span(created, sealed);
    let measured = format!("{span}, {} artifacts of {} KiB", result.artifacts_done, result.bytes / 1024);
    Ok(Collected { store, folder, measured })
}

async fn verify(store: &TestStore, folder: &str, result: &EvidenceResult, into: &Path) -> Result<()> {
    title("Is it whole? The folder, downloaded, and verified with nothing of ours");
    // Of an earlier demo.
    if into.exists() {
        std::fs::remove_dir_all(into).with_context(|| format!("cannot remove {}", into.display()))?;
    }
    println!("$ az storage blob download-batch --source {} --pattern '{folder}/*' …", store.container);
    let names = evidence::download(azurite().await?, &store.container, folder, into).await?;
    println!("  (this demo gets each of its {} files by a plain GET)", names.len());
    for manifest in ["tagmanifest-sha256.txt", "manifest-sha256.txt"] {
        println!("$ sha256sum --check --strict {manifest}");
        print!("{}", sha256sum(into, &["--check", "--strict", manifest]).await?);
    }
    println!("$ sha256sum data/record.json");
    let record = sha256sum(into, &["data/record.json"]).await?;
    print!("{record}");
    let digest = record.split_whitespace().next();
    ensure!(digest.is_some() && digest == result.record_digest.as_deref(), "the status says another digest of it");
    println!("  the same as in the status of the response, which is not in the store");

    let record: Value = serde_json::from_slice(&std::fs::read(into.join("data/record.json"))?)?;
    ensure!(record["complete"] == true, "the record says that something is missing: {record}");
    println!("\nWhere it comes from, by that record:");
    for (source, artifacts) in by_source(&record)? {
        println!("  {source:<10} {artifacts}");
    }
    processes(into)?;
    println!("It stays here, to be looked at: {}", into.display());
    Ok(())
}

/// The artifacts and their bytes by where they come from.
fn by_source(record: &Value) -> Result<BTreeMap<String, String>> {
    let mut sources: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for artifact in record["artifacts"].as_array().context("the record has no artifacts")? {
        let (source, name) = (artifact["source"].as_str(), artifact["name"].as_str());
        let length = artifact["blob"]["length"].as_u64().with_context(|| format!("{name:?} is not stored"))?;
        let told = format!("{} ({length} B)", name.context("an artifact without a name")?);
        sources.entry(source.context("an artifact of nowhere")?.to_owned()).or_default().push(told);
    }
    Ok(sources.into_iter().map(|(source, artifacts)| (source, artifacts.join(", "))).collect())
}

/// The oldest processes of the pod.
fn processes(folder: &Path) -> Result<()> {
    let text = std::fs::read_to_string(folder.join("data/processes.jsonl"))?;
    println!(
        "\nProcesses in web: {} (most of them this demo's own tries); the oldest, numbered as the node does:",
        text.lines().count()
    );
    for line in text.lines().take(SHOWN) {
        let process: Value = serde_json::from_str(line)?;
        let words = process["cmdline"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let command: String = words.collect::<Vec<_>>().join(" ").chars().take(60).collect();
        let (path, digest) = (process["exe"]["path"].as_str(), process["exe"]["sha256"].as_str());
        println!(
            "  {:>5}  {command}\n         {}, SHA-256 {}",
            process["nodePid"],
            path.context("a process without an executable")?,
            digest.context("an executable without a digest")?
        );
    }
    Ok(())
}

/// Runs the command in the pod.
pub(crate) async fn run(shop: &Scenario, examples: &Path, web: &TestPod) -> Result<()> {
    title("A command in web, once");
    println!("$ kubectl apply -f examples/run-command.yaml");
    let manifest = examples.join("run-command.yaml");
    print!("{}", shop.env.kubectl_output(&["apply", "--filename", &manifest.display().to_string()]).await?);
    let response: IncidentResponse = read(&manifest)?;
    let action = ended(shop, &response).await?;
    ensure!(action.outcome == Outcome::Done, "the command did not succeed: {action:?}");
    shown(shop, &response, &action).await?;
    ensure!(marked(shop, web).await?, "the command succeeded, and its file is not there");
    println!("Its file is there: /tmp/stopped-by-soc");
    Ok(())
}

/// Whether the command's file is there.
pub(crate) async fn marked(shop: &Scenario, web: &TestPod) -> Result<bool> {
    Ok(shop.exec(web, &["/bin/ls", "/tmp"]).await?.lines().any(|name| name == "stopped-by-soc"))
}

impl Collected {
    /// Fails when the store does not have the folder any more.
    pub(crate) async fn stays(&self) -> Result<()> {
        let there = azurite().await?.list(&self.store.container, &format!("{}/tagmanifest", self.folder)).await;
        ensure!(there.len() == 1, "the folder is not in the store any more");
        Ok(())
    }
}

async fn ended(shop: &Scenario, response: &IncidentResponse) -> Result<ActionStatus> {
    until("the response's first action has ended", SOON, async || {
        let now = super::env_response(&shop.env.client, response).await?;
        let action = now.status.and_then(|status| status.actions.into_iter().nth(FIRST));
        Ok(action.filter(|action| !matches!(action.outcome, Outcome::Pending | Outcome::Running)))
    })
    .await
}

async fn shown(shop: &Scenario, response: &IncidentResponse, action: &ActionStatus) -> Result<()> {
    let (namespace, name) = (response.metadata.namespace.as_deref(), response.metadata.name.as_deref());
    let (namespace, name) = (namespace.unwrap_or_default(), name.unwrap_or_default());
    println!("$ kubectl -n {namespace} get ir {name}");
    print!("{}", shop.env.kubectl_output(&["--namespace", namespace, "get", "ir", name]).await?);
    println!("{}: {}", action.name, action.message.as_deref().unwrap_or_default());
    Ok(())
}

async fn sha256sum(folder: &Path, args: &[&str]) -> Result<String> {
    let mut command = tokio::process::Command::new("sha256sum");
    let output = command.args(args).current_dir(folder).stdin(Stdio::null()).output().await?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "sha256sum {}: {text}", args.join(" "));
    Ok(text)
}

/// Where the folder is downloaded to.
pub(crate) fn place(argument: Option<std::ffi::OsString>) -> PathBuf {
    argument.map_or_else(|| std::env::temp_dir().join("tourniquet-demo-evidence"), PathBuf::from)
}

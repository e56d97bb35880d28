//! The intake: messages of playbooks in an Azure Storage queue become responses. Wiring only.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use jiff::SignedDuration;
use secrecy::SecretString;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tourniquet_evidence::Auth;
use tourniquet_intake::cluster::Responses;
use tourniquet_intake::mapping::ClusterId;
use tourniquet_intake::message::Ages;
use tourniquet_intake::queue::{self, Queue};
use tourniquet_intake::respond::Policy;
use tourniquet_intake::work::{Times, Work};
use tracing::{error, info};
use tracing_subscriber::EnvFilter;

/// What the API server is told about who asks.
const PROGRAM: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));

/// The verbs that can be allowed.
const VERBS: [&str; 5] = ["isolate", "cordon", "collect", "run", "release"];

/// Turns messages of playbooks into IncidentResponse resources.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// The account's queue endpoint, such as https://ACCOUNT.queue.core.windows.net
    #[arg(long, env = "TOURNIQUET_INTAKE_QUEUE_ENDPOINT")]
    queue_endpoint: String,
    /// The queue of this cluster; what cannot be acted on goes into the one of this name with -poison behind it
    #[arg(long, env = "TOURNIQUET_INTAKE_QUEUE")]
    queue: String,
    /// The account's blob endpoint, such as https://ACCOUNT.blob.core.windows.net
    #[arg(long, env = "TOURNIQUET_INTAKE_BLOB_ENDPOINT")]
    blob_endpoint: String,
    /// The container that outcomes are written into
    #[arg(long, env = "TOURNIQUET_INTAKE_OUTCOMES", default_value = "outcomes")]
    outcomes: String,
    /// The Azure resource ID of this cluster: what an alert says of another one is refused
    #[arg(long, env = "TOURNIQUET_INTAKE_CLUSTER")]
    cluster: ClusterId,
    /// Where responses are created
    #[arg(long, env = "TOURNIQUET_RESPONSE_NAMESPACE", default_value = "incident-response")]
    response_namespace: String,
    /// What playbooks may ask for: isolate, cordon, collect, run, release
    #[arg(
        long,
        env = "TOURNIQUET_INTAKE_VERBS",
        value_delimiter = ',',
        default_value = "isolate,cordon,collect,release"
    )]
    verbs: Vec<String>,
    /// The commands that may be run, as a JSON object of programs and their arguments by name
    #[arg(long, env = "TOURNIQUET_INTAKE_COMMANDS", default_value = "{}")]
    commands: String,
    /// The EvidenceStore that is collected into; empty: nothing is collected
    #[arg(long, env = "TOURNIQUET_INTAKE_EVIDENCE_STORE", default_value = "")]
    evidence_store: String,
    /// The most targets of one message
    #[arg(long, env = "TOURNIQUET_INTAKE_TARGETS", default_value_t = 10)]
    targets: usize,
    /// How long a message may have been on its way from the playbook into the queue
    #[arg(long, env = "TOURNIQUET_INTAKE_ON_THE_WAY", default_value = "15m")]
    on_the_way: tourniquet_api::Duration,
    /// How long a message may have waited in the queue
    #[arg(long, env = "TOURNIQUET_INTAKE_WAITING", default_value = "24h")]
    waiting: tourniquet_api::Duration,
    /// How often a message is taken up before it is set aside
    #[arg(long, env = "TOURNIQUET_INTAKE_MOST_RECEIVED", default_value_t = 20)]
    most_received: i64,
    /// A file of certificate authorities to trust besides the system's
    #[arg(long, env = "TOURNIQUET_INTAKE_CA_FILE")]
    ca_file: Option<PathBuf>,
    /// A file with a shared access signature of the queue, where there is no workload identity
    #[arg(long, env = "TOURNIQUET_INTAKE_QUEUE_SAS_FILE", requires = "outcomes_sas_file")]
    queue_sas_file: Option<PathBuf>,
    /// And one with that of the container of outcomes
    #[arg(long, env = "TOURNIQUET_INTAKE_OUTCOMES_SAS_FILE", requires = "queue_sas_file")]
    outcomes_sas_file: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().json().flatten_event(true).with_span_list(false).with_env_filter(filter).init();
    match run(Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(error = format!("{error:#}"), "stopped by an error");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Result<()> {
    let policy = options.policy()?;
    let queue = Queue::open(&options.queue()?)?;
    let client = tourniquet_cluster::brief_client(PROGRAM).await?;
    let work = Work {
        queue,
        responses: Responses::new(client, &policy.namespace),
        ages: Ages { on_the_way: signed(options.on_the_way)?, waiting: signed(options.waiting)? },
        most_received: options.most_received,
        times: Times::default(),
        policy,
    };
    let mut ended = signal(SignalKind::terminate()).context("cannot listen for the end")?;
    let stop = CancellationToken::new();
    info!(version = env!("CARGO_PKG_VERSION"), queue = options.queue, cluster = %work.policy.cluster, verbs = ?work.policy.verbs, "starting");
    let mut working = tokio::spawn(work.run(stop.clone()));
    tokio::select! {
        _ = ended.recv() => {
            stop.cancel();
            working.await.context("the work did not end by itself")?;
        }
        // By a panic, and then whoever runs it starts it again.
        work = &mut working => work.context("the work ended by itself")?,
    }
    info!("stopped");
    Ok(())
}

impl Options {
    fn policy(&self) -> Result<Policy> {
        let verbs: Vec<&str> = self.verbs.iter().map(String::as_str).filter(|verb| !verb.is_empty()).collect();
        for verb in &verbs {
            ensure!(VERBS.contains(verb), "{verb:?} is no verb of an intake: they are {}", VERBS.join(", "));
        }
        let commands: BTreeMap<String, Vec<String>> = serde_json::from_str(&self.commands).context(
            "the commands are no JSON object of lists, such as {\"kill-miner\": [\"/bin/pkill\", \"xmrig\"]}",
        )?;
        Ok(Policy {
            cluster: self.cluster.clone(),
            namespace: self.response_namespace.clone(),
            verbs: verbs.into_iter().map(str::to_owned).collect(),
            commands,
            store: Some(self.evidence_store.clone()).filter(|name| !name.is_empty()),
            targets: self.targets.clamp(1, 50),
        })
    }

    fn queue(&self) -> Result<queue::Config> {
        let read =
            |file: &PathBuf| std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()));
        let auth = |file: &Option<PathBuf>| match file {
            // Whoever makes the Secret from a file has a line feed at its end.
            Some(file) => read(file).map(|sas| Auth::Sas(SecretString::from(sas.trim()))),
            None => {
                Ok(Auth::WorkloadIdentity { client_id: None, tenant_id: None, authority_host: None, token_file: None })
            }
        };
        Ok(queue::Config {
            queues: self.queue_endpoint.clone(),
            queue: self.queue.clone(),
            blobs: self.blob_endpoint.clone(),
            outcomes: self.outcomes.clone(),
            auth: auth(&self.queue_sas_file)?,
            outcomes_auth: auth(&self.outcomes_sas_file)?,
            ca_bundle: self.ca_file.as_ref().map(read).transpose()?,
        })
    }
}

fn signed(duration: tourniquet_api::Duration) -> Result<SignedDuration> {
    SignedDuration::try_from(duration.get()).context("a duration is too long")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests: a failed expectation ends the test")]

    use super::*;

    fn options(more: &[&str]) -> Result<Options, clap::Error> {
        let least = [
            "tourniquet-intake",
            "--queue-endpoint=https://account.queue.core.windows.net",
            "--queue=aks",
            "--blob-endpoint=https://account.blob.core.windows.net",
            "--cluster=/subscriptions/1/resourceGroups/rg/providers/Microsoft.ContainerService/managedClusters/aks",
        ];
        Options::try_parse_from(least.iter().chain(more))
    }

    #[test]
    fn run_is_off_and_release_on_unless_it_is_said() {
        let policy = options(&[]).unwrap().policy().unwrap();

        assert!(policy.verbs.contains("release") && !policy.verbs.contains("run"));
        assert_eq!(policy.store, None);
        let none = options(&["--verbs="]).unwrap().policy().unwrap();
        assert!(none.verbs.is_empty());
    }

    #[test]
    fn what_is_wrong_with_the_configuration_is_said() {
        let why = |more: &[&str]| options(more).unwrap().policy().unwrap_err().to_string();
        assert!(why(&["--verbs=delete"]).contains("\"delete\" is no verb of an intake"));
        assert!(why(&["--commands=[]"]).contains("the commands are no JSON object of lists"));
        assert!(options(&["--cluster=aks"]).is_err());
        assert!(options(&["--queue-sas-file=/sas"]).is_err(), "a signature for one of two services");
        let missing = options(&["--ca-file=/no/such/file"]).unwrap().queue().unwrap_err();
        assert!(format!("{missing:#}").contains("cannot read /no/such/file"));
    }

    #[test]
    fn approved_commands_are_by_name() {
        let commands = r#"--commands={"kill-miner":["/bin/pkill","xmrig"]}"#;

        assert_eq!(options(&[commands]).unwrap().policy().unwrap().commands["kill-miner"], ["/bin/pkill", "xmrig"]);
    }
}

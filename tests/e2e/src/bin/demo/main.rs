//! `cargo xtask demo`: the main job, visibly. Ends with success only if everything that it says was observed.

#![allow(clippy::print_stdout, reason = "what it shows is its result")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "as in the tests: a failed expectation ends it")]

mod evidence;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use tourniquet_api::{IncidentResponse, Probe, names};
use tourniquet_e2e::environment::Environment;
use tourniquet_e2e::snapshot::{FIELDS_LEFT_OUT, LEFT_OUT, Snapshot, traces};
use tourniquet_e2e::{Hops, Scenario, responses, until};

const SHOP: &str = "shop";
const EXAMPLE_IMAGE: &str = "docker.io/library/busybox:1.37";
/// The responses, in the order of their creation.
const ISOLATION: &str = "isolate-pod.yaml";
const COLLECTION: &str = "collect-evidence.yaml";
const COMMAND: &str = "run-command.yaml";
const SECOND: Duration = Duration::from_secs(1);
/// Cilium gives a pod its new identity within 35 s, and a policy that it skipped meanwhile within two minutes.
const SETTLED: Duration = Duration::from_secs(180);

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let examples = arguments.next().map(PathBuf::from).unwrap_or_else(|| "examples".into());
    let evidence = evidence::place(arguments.next());
    match demo(&examples, &evidence).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nThe demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn demo(examples: &Path, evidence: &Path) -> Result<()> {
    let env = Environment::read().await?;
    let namespaces: Api<Namespace> = Api::all(env.client.clone());
    if namespaces.get_opt(SHOP).await?.is_some() {
        bail!(
            "there is a namespace {SHOP} already; the demo makes its own and removes it: delete or rename yours first"
        );
    }
    let shop = Scenario { env: std::sync::Arc::new(env.clone()), namespace: SHOP.to_owned() };
    let shown = show(&shop, examples, evidence).await;
    // Also when it failed, and whatever it had come to.
    for response in [COMMAND, COLLECTION, ISOLATION] {
        let manifest = examples.join(response).display().to_string();
        let _ = env.kubectl_output(&["delete", "--ignore-not-found", "--timeout=90s", "--filename", &manifest]).await;
    }
    let _ = shop.remove_stores().await;
    let _ = namespaces.delete(SHOP, &DeleteParams::background()).await;
    shown
}

async fn show(shop: &Scenario, examples: &Path, folder: &Path) -> Result<()> {
    let env = &shop.env;
    title("A shop of two pods, web and db, and nothing else");
    let text = std::fs::read_to_string(examples.join("shop.yaml")).context("cannot read examples/shop.yaml")?;
    println!("$ kubectl apply -f examples/shop.yaml");
    if env.image != EXAMPLE_IMAGE {
        println!("  (this cluster has no registry: with image {} instead of {EXAMPLE_IMAGE})", env.image);
    }
    shop.apply_text(&text.replace(EXAMPLE_IMAGE, &env.image)).await?;
    let (web, db) = tokio::try_join!(shop.running("web"), shop.running("db"))?;
    let before = Snapshot::take(&env.client, |_| true).await?;

    let inbound = shop.shell_attempts(&db, &web).await?;
    let outbound = shop.shell_attempts(&web, &db).await?;
    inbound.answered(Timestamp::UNIX_EPOCH, SECOND * 20).await?;
    outbound.answered(Timestamp::UNIX_EPOCH, SECOND * 20).await?;
    println!("They talk: db reaches web, and web reaches db. {} objects of the cluster are remembered.", before.len());

    title("An alert: web is to be cut off");
    // With agents they follow after a minute.
    let policies = (!env.agents).then(|| watch_policies(&env.client));
    let hops = env.agents.then(|| Hops::watch(&env.client));
    let manifest = examples.join(ISOLATION);
    println!("$ kubectl apply -f examples/{ISOLATION}");
    let created = Timestamp::now();
    print!("{}", env.kubectl_output(&["apply", "--filename", &manifest.display().to_string()]).await?);
    let answered = Timestamp::now();
    let response = env_response(&env.client, &read(&manifest)?).await?;
    let uid = response.uid().context("no UID")?;

    let contained = until("Contained is True", SETTLED, async || {
        let now = env_response(&env.client, &response).await?;
        let ready = responses::condition(&now, "Ready");
        if ready.as_ref().is_some_and(|ready| ready.reason == "NotEnforced") {
            bail!(
                "nothing enforces policies on this cluster: {}",
                ready.map(|ready| ready.message).unwrap_or_default()
            );
        }
        Ok(responses::condition(&now, "Contained")
            .filter(|condition| condition.status == "True")
            .map(|_| Timestamp::now()))
    });
    let contained = contained.await?;
    let accepted = match policies {
        Some(policies) => Some(policies.await.context("the watch of the policies ended")??),
        None => None,
    };
    let refused_in = inbound.silent(created, SECOND * 3, SETTLED).await?.start;
    let refused_out = outbound.silent(created, SECOND * 3, SETTLED).await?.start;
    let moments = match &hops {
        Some(hops) => Some(hops.of(&uid, &web.uid).await?),
        None => None,
    };
    inbound.none_answered(contained, Timestamp::now())?;
    outbound.none_answered(contained, Timestamp::now())?;

    title("Traffic has stopped, in both directions");
    until(
        "Ready is True, both directions are proven where there are agents, and the receipt is made",
        SECOND * 20,
        async || {
            let now = env_response(&env.client, &response).await?;
            let status = now.status.clone().unwrap_or_default();
            let results = status.actions.iter().flat_map(|action| &action.results);
            let proven = |probe: &Probe| probe.before.reached() && probe.after.is_some_and(|after| !after.reached());
            let probes: usize = results.map(|result| result.probes.iter().filter(|probe| proven(probe)).count()).sum();
            let told = status.receipt_at.is_some() && (!env.agents || probes == 2);
            Ok(responses::condition(&now, "Ready").filter(|condition| condition.status == "True" && told))
        },
    )
    .await?;
    print_response(env, &response).await?;

    let collected = if env.azurite { Some(evidence::collect(shop, examples, folder).await?) } else { None };
    if collected.is_none() {
        title("Evidence is left out: there is no Azure Blob storage here that the demo may use");
        println!(
            "With a store of yours: kubectl apply -f examples/evidence-store.yaml, then -f examples/{COLLECTION}."
        );
    }
    evidence::run(shop, examples, &web).await?;

    title("The alert was handled: the resources are deleted, the isolation last");
    let mut uids = Vec::new();
    for file in [COMMAND, COLLECTION].into_iter().filter(|file| *file == COMMAND || collected.is_some()) {
        let manifest = examples.join(file);
        uids.push(env_response(&env.client, &read(&manifest)?).await?.uid().context("no UID")?);
        delete(env, &manifest).await?;
    }
    inbound.none_answered(contained, Timestamp::now())?;
    outbound.none_answered(contained, Timestamp::now())?;
    ensure!(!evidence::marked(shop, &web).await?, "the command was not undone");
    println!("The command was undone by its own undo, and web is still cut off: {ISOLATION} holds it.");
    let deleted = Timestamp::now();
    delete(env, &manifest).await?;
    let answered_in = inbound.answered(deleted, SETTLED).await?.end;
    let answered_out = outbound.answered(deleted, SETTLED).await?.end;
    println!("Traffic is back, in both directions.");

    title("What is left of it");
    uids.push(uid);
    for uid in &uids {
        let left = traces(env, uid).await?;
        ensure!(left.is_empty(), "left behind: {}", left.join(", "));
    }
    let after = Snapshot::take(&env.client, |_| true).await?;
    let difference = before.diff(&after);
    ensure!(difference.is_empty(), "the cluster is not what it was:\n{difference}");
    println!("In the cluster nothing: {} objects before, {} after, no difference.", before.len(), after.len());
    if let Some(collected) = &collected {
        collected.stays().await?;
        println!("In the store the evidence: that stays.");
    }
    println!("Left out of the comparison:");
    println!("  {FIELDS_LEFT_OUT};");
    println!("  the namespaces of operator and agents, the responses themselves and the evidence store;");
    for (kind, why) in LEFT_OUT {
        println!("  {kind}: {why}");
    }

    title("Measured");
    if let Some(accepted) = accepted {
        println!("  created -> policies accepted by the API server   {}", span(created, accepted));
    }
    println!("  created -> first refused connection, to web      {}", span(created, refused_in));
    println!("  created -> first refused connection, from web    {}", span(created, refused_out));
    println!("  created -> reported as contained                 {}", span(created, contained));
    println!("  deleted -> first accepted connection, to web     {}", span(deleted, answered_in));
    println!("  deleted -> first accepted connection, from web   {}", span(deleted, answered_out));
    if let Some(collected) = &collected {
        println!("  created -> evidence collected and sealed         {}", collected.measured);
    }
    if let Some(moments) = moments {
        println!("Of created -> first refused connection, to web:");
        for (hop, milliseconds) in moments.hops(created, answered, refused_in) {
            println!("  {milliseconds:>6.1} ms  {hop}");
        }
    }
    println!(
        "Times count from the start of kubectl, which takes some 100 ms itself; connections are tried every 50 ms."
    );
    if !env.agents {
        println!(
            "On Cilium the half minute is its own: a changed label takes a random 0 to 30 s, and 5 s more, to reach the"
        );
        println!("data path (docs/benchmarks.md). The agent needs none of it.");
    }
    Ok(())
}

fn title(text: &str) {
    println!("\n== {text}");
}

fn span(from: Timestamp, to: Timestamp) -> String {
    let milliseconds = to.duration_since(from).as_millis();
    if milliseconds >= 10_000 { format!("{:.1} s", milliseconds as f64 / 1000.0) } else { format!("{milliseconds} ms") }
}

async fn print_response(env: &Environment, response: &IncidentResponse) -> Result<()> {
    let namespace = response.namespace().unwrap_or_default();
    println!("$ kubectl -n {namespace} get ir");
    print!("{}", env.kubectl_output(&["--namespace", &namespace, "get", "ir", &response.name_any()]).await?);
    let now = env_response(&env.client, response).await?;
    println!("\nConditions:");
    for condition in now.status.iter().flat_map(|status| &status.conditions) {
        println!("  {:<15}{:<8}{:<11}{}", condition.type_, condition.status, condition.reason, condition.message);
    }
    println!("Still open (status.residual):");
    for residual in now.status.iter().flat_map(|status| &status.residual) {
        println!("  {:<8}{}: {}", residual.severity, residual.code, residual.message);
    }
    let connections = now.status.iter().flat_map(|status| &status.actions).flat_map(|action| &action.results);
    for open in connections.filter_map(|result| result.connections.as_ref()) {
        println!("Connected at the moment of the cut: {}", open.count);
        for line in &open.first {
            println!("  {line}");
        }
    }
    Ok(())
}

async fn delete(env: &Environment, manifest: &Path) -> Result<()> {
    let name = manifest.file_name().unwrap_or_default().display();
    println!("$ kubectl delete -f examples/{name}");
    let path = manifest.display().to_string();
    print!("{}", env.kubectl_output(&["delete", "--timeout=90s", "--filename", &path]).await?);
    Ok(())
}

fn read(manifest: &Path) -> Result<IncidentResponse> {
    let text = std::fs::read_to_string(manifest)?;
    serde_saphyr::from_str(&text).with_context(|| format!("{} is no response", manifest.display()))
}

async fn env_response(client: &Client, response: &IncidentResponse) -> Result<IncidentResponse> {
    let api: Api<IncidentResponse> = Api::namespaced(client.clone(), &response.namespace().unwrap_or_default());
    Ok(api.get(&response.name_any()).await?)
}

/// Resolves when the API server has taken every kind of policy that this cluster calls for.
fn watch_policies(client: &Client) -> tokio::task::JoinHandle<Result<Timestamp>> {
    let client = client.clone();
    tokio::spawn(async move {
        let gvk = GroupVersionKind::gvk("cilium.io", "v2", "CiliumClusterwideNetworkPolicy");
        let resource = ApiResource::from_gvk_with_plural(&gvk, "ciliumclusterwidenetworkpolicies");
        let cilium: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        let plain: Api<NetworkPolicy> = Api::all(client);
        let ours = || watcher::Config::default().labels(names::RESPONSE_LABEL);
        let mut plain = watcher(plain, ours()).applied_objects().boxed();
        let mut seen = None;
        if cilium.list(&kube::api::ListParams::default().limit(1)).await.is_ok() {
            let mut cilium = watcher(cilium, ours()).applied_objects().boxed();
            cilium.next().await.context("the watch ended")??;
            seen = Some(Timestamp::now());
        }
        plain.next().await.context("the watch ended")??;
        Ok(seen.max(Some(Timestamp::now())).unwrap())
    })
}

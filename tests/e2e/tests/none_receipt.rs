//! The receipt on a real cluster: what the API server says is what is told, and what is told to be done can be done.

#![allow(clippy::print_stdout, reason = "what the commands said is worth reading")]

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::{Value, json};
use tourniquet_api::{IncidentResponseStatus, Residual};
use tourniquet_e2e::{Scenario, Spec, TestPod, TestResponse, scenario, until};

const SOON: Duration = Duration::from_secs(60);
/// What is told of the pod of [`open_pod`].
const TOLD: [&str; 8] = [
    "AddedCapabilities",
    "HostPath",
    "SameImageElsewhere",
    "SameServiceAccountElsewhere",
    "SecretsMounted",
    "SharedVolumes",
    "StillRouted",
    "TokenUsable",
];

/// A pod that reads secrets by its token and shares a path of its node with a second one; a Service routes to it.
async fn open_pod(s: &Scenario) -> Result<TestPod> {
    for manifest in [
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "web" } }),
        json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "key" }, "stringData": { "key": SECRET } }),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": "front" },
            "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80, "targetPort": 8080 }] },
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": { "name": "reader" },
            "rules": [{ "apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list"] }],
        }),
        binding("reader", json!([account(s)])),
        // For somebody else as well, and by a name that a shell would take apart.
        binding("reader; of $(id)", json!([{ "kind": "User", "name": "ann", "apiGroup": RBAC }, account(s)])),
    ] {
        s.apply(manifest).await?;
    }
    let shared = format!("/tmp/{}", s.namespace);
    let more = |container: Value| {
        json!({ "spec": {
            "serviceAccountName": "web",
            "automountServiceAccountToken": true,
            "containers": [container],
            "volumes": [{}, { "name": "shared", "hostPath": { "path": shared, "type": "DirectoryOrCreate" } }],
        } })
    };
    let mount = json!({ "volumeMounts": [{}, { "name": "shared", "mountPath": "/shared" }] });
    s.pod_with("twin", more(mount.clone())).await?;
    let mut container = mount;
    container["securityContext"] = json!({ "capabilities": { "add": ["NET_ADMIN"] } });
    container["env"] = json!([{ "name": "KEY", "valueFrom": { "secretKeyRef": { "name": "key", "key": "key" } } }]);
    s.pod_with("web", more(container)).await
}

const RBAC: &str = "rbac.authorization.k8s.io";
/// Nobody is to read this in a status.
const SECRET: &str = "c0ffee-0ddba11";

fn account(s: &Scenario) -> Value {
    json!({ "kind": "ServiceAccount", "name": "web", "namespace": s.namespace })
}

fn binding(name: &str, subjects: Value) -> Value {
    json!({
        "apiVersion": format!("{RBAC}/v1"), "kind": "RoleBinding", "metadata": { "name": name }, "subjects": subjects,
        "roleRef": { "apiGroup": RBAC, "kind": "Role", "name": "reader" },
    })
}

/// The status, once its receipt is there.
async fn with_receipt(response: &TestResponse) -> Result<IncidentResponseStatus> {
    until("the receipt is made", SOON, async || {
        Ok(response.get().await?.status.filter(|status| status.receipt_at.is_some()))
    })
    .await
}

/// What the receipt says, by code.
fn told(status: &IncidentResponseStatus) -> Result<Vec<&Residual>> {
    let mut told: Vec<&Residual> =
        status.residual.iter().filter(|residual| TOLD.contains(&residual.code.as_str())).collect();
    told.sort_by_key(|residual| &residual.code);
    let codes: Vec<&str> = told.iter().map(|residual| residual.code.as_str()).collect();
    ensure!(codes == TOLD, "{:?}", status.residual);
    Ok(told)
}

fn says(told: &[&Residual], code: &str, severity: &str, words: &[&str]) -> Result<()> {
    let residual = told.iter().find(|residual| residual.code == code).with_context(|| format!("no {code}"))?;
    ensure!(residual.severity == severity, "{residual:?}");
    for word in words {
        ensure!(residual.message.contains(word), "{word} is not in {residual:?}");
    }
    Ok(())
}

/// The whole receipt of the pod of [`open_pod`].
async fn is_whole(s: &Scenario, status: &IncidentResponseStatus) -> Result<()> {
    let told = told(status)?;
    let namespace = s.namespace.as_str();
    let reads = format!("read secrets in namespace {namespace} (RoleBinding reader)");
    says(&told, "TokenUsable", "High", &[&reads, "RoleBinding reader; of $(id)"])?;
    says(&told, "AddedCapabilities", "High", &["NET_ADMIN"])?;
    says(&told, "HostPath", "High", &[&format!("/tmp/{namespace} (writable)")])?;
    says(&told, "SecretsMounted", "Medium", &[&format!("Secrets of namespace {namespace}: key")])?;
    says(&told, "StillRouted", "Medium", &[&format!("Service front of namespace {namespace}")])?;
    says(&told, "SharedVolumes", "Medium", &[&format!("1 other pod: {namespace}/twin")])?;
    says(&told, "SameServiceAccountElsewhere", "Low", &[&format!("1 other pod: {namespace}/twin")])?;
    // The image is that of every test's pods, and the first of them are named.
    says(&told, "SameImageElsewhere", "Medium", &["other pod"])?;
    let incomplete = status.residual.iter().find(|residual| residual.code == "ReceiptIncomplete");
    ensure!(incomplete.is_none(), "{incomplete:?}");
    ensure!(!json!(status).to_string().contains(SECRET), "the secret is in the status: {status:?}");
    for residual in told {
        accepted_by_a_shell(s, residual).await?;
    }
    Ok(())
}

/// Runs the commands of a remedy as they would be pasted, but so that the API server changes nothing.
async fn accepted_by_a_shell(s: &Scenario, residual: &Residual) -> Result<()> {
    let remedy = residual.remedy.as_deref().with_context(|| format!("no remedy: {residual:?}"))?;
    let start = remedy.find("kubectl ").with_context(|| format!("no command: {residual:?}"))?;
    // Namespaces of other tests may have gone since.
    let is_anothers = |command: &&str| {
        let of = command.split("--namespace ").nth(1).and_then(|rest| rest.split(' ').next());
        of.is_some_and(|of| of.starts_with("e2e-") && of != s.namespace)
    };
    let commands = remedy.get(start..).unwrap_or_default().split(" && ").filter(|command| !is_anothers(command));
    let commands = commands.collect::<Vec<_>>().join(" && ");
    if commands.is_empty() {
        return Ok(());
    }
    // Only commands that change something know `--dry-run`.
    let prelude = "kubectl() { case \" $* \" in *\" get \"*) command kubectl --context \"$CONTEXT\" \"$@\" ;; \
                   *) command kubectl --context \"$CONTEXT\" \"$@\" --dry-run=server ;; esac; }";
    let output = tokio::process::Command::new("sh")
        .args(["-e", "-c", &format!("{prelude}\n{commands}")])
        .env("CONTEXT", &s.env.context)
        .stdin(Stdio::null())
        .output()
        .await?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{commands}\n{error}");
    Ok(())
}

#[test]
fn a_dry_run_tells_what_an_isolation_would_leave_open() {
    scenario("receipt-plan", |s| async move {
        let web = open_pod(&s).await?;
        let response = s.respond("plan", Spec::isolate(&web).with("dryRun", json!(true))).await?;
        response.becomes_because("Ready", "Planned", SOON).await?;
        let status = with_receipt(&response).await?;
        is_whole(&s, &status).await
    });
}

#[test]
fn an_isolation_tells_what_it_leaves_open_and_that_goes_with_the_release() {
    scenario("receipt", |s| async move {
        let web = open_pod(&s).await?;
        let response = s.respond("cut", Spec::isolate(&web)).await?;
        let status = with_receipt(&response).await?;
        is_whole(&s, &status).await?;

        // What the analyst is told to do is done: the binding for the account alone is gone, the other one is left to the others.
        let token = status.residual.iter().find(|residual| residual.code == "TokenUsable").context("no TokenUsable")?;
        let remedy = token.remedy.clone().context("no remedy")?;
        let run = format!("kubectl() {{ command kubectl --context \"$CONTEXT\" \"$@\"; }}\n{remedy}");
        let shell = tokio::process::Command::new("sh").args(["-e", "-c", &run]).env("CONTEXT", &s.env.context).output();
        let output = shell.await?;
        ensure!(output.status.success(), "{remedy}\n{}", String::from_utf8_lossy(&output.stderr));
        let can = ["--namespace", &s.namespace, "get", "rolebindings", "--output", "jsonpath={..subjects[*].name}"];
        ensure!(s.env.kubectl_output(&can).await? == "ann", "{remedy}");

        response.change(json!({ "release": true })).await?;
        response.becomes("Reverted", "True", SOON).await?;
        let left = response.get().await?.status.unwrap_or_default().residual;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    });
}

/// More pods than all pages together; on paper, nobody schedules them.
#[test]
#[ignore = "2,500 pods are a minute's work for the API server, from which every other test would suffer"]
fn in_a_large_cluster_it_says_at_least_and_looks_at_the_own_namespace_all_the_same() {
    scenario("receipt-large", |s| async move {
        let web = open_pod(&s).await?;
        // Pods are listed by namespace, so these come first.
        let crowd = format!("a-crowd-{}", s.namespace);
        let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(s.env.client.clone());
        namespaces
            .create(&PostParams::default(), &serde_json::from_value(json!({ "metadata": { "name": crowd } }))?)
            .await?;
        let made = crowded(&s, &crowd, &web).await;
        namespaces.delete(&crowd, &DeleteParams::default()).await?;
        made
    });
}

async fn crowded(s: &Scenario, crowd: &str, web: &TestPod) -> Result<()> {
    until("the crowd's service account", SOON, async || {
        let api: Api<k8s_openapi::api::core::v1::ServiceAccount> = Api::namespaced(s.env.client.clone(), crowd);
        Ok(api.get_opt("default").await?)
    })
    .await?;
    let pods: Api<Pod> = Api::namespaced(s.env.client.clone(), crowd);
    let paper = |number: usize| {
        let pods = pods.clone();
        async move {
            let pod: Pod = serde_json::from_value(json!({
                "metadata": { "name": format!("paper-{number}") },
                "spec": {
                    "schedulerName": "nobody", "automountServiceAccountToken": false,
                    "containers": [{ "name": "main", "image": "paper" }],
                },
            }))?;
            pods.create(&PostParams::default(), &pod).await?;
            Ok::<_, anyhow::Error>(())
        }
    };
    for first in (0..2500).step_by(50) {
        futures::future::try_join_all((first..first + 50).map(paper)).await?;
    }
    let response = s.respond("cut", Spec::isolate(web)).await?;
    let status = with_receipt(&response).await?;
    let told = told(&status)?;
    says(&told, "SharedVolumes", "Medium", &[&format!("at least 1 other pod: {}/twin", s.namespace)])?;
    says(&told, "SameImageElsewhere", "Medium", &["runs in at least "])
}

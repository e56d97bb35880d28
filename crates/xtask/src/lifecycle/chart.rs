//! The chart on a real cluster: installed, upgraded, rolled back and uninstalled while responses are in force.

use std::{
    fs,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{Check, NAME, runbook, snapshot::Snapshot};
use crate::{
    chart::{self, switches::CASES},
    cluster::{self, Handle, WORKLOAD, base, workspace},
    install::{self, NAMESPACE},
    kustomize,
};

/// In this order; each goes on where the one before ended.
pub(super) const CHECKS: [Check; 6] = [
    ("the API server takes what the chart renders with each switch, and the plain manifests", api_server_takes_it),
    ("an upgrade from the previous chart, and a rollback, lose nothing that is in force", upgrade_and_rollback),
    ("a wrong isolation is released as the runbook says", wrong_isolation),
    ("what is removed from git is undone (kubectl apply --prune)", removed_from_git),
    ("uninstalled with a response in force, its pod is let go by hand as the runbook says", let_go_by_hand),
    ("installed again, the operator goes on where it was, and is uninstalled as the runbook says", uninstall),
];

/// A field of the status that the previous chart's definition does not know.
const NEWER: &str = "receiptAt";
/// What is taken for soon, on a machine that does other things as well.
const SOON: Duration = Duration::from_secs(60);

fn api_server_takes_it() -> Result<()> {
    let cluster = cluster::get(NAME)?;
    install::install_ours(&cluster, true, &[])?;
    for case in CASES.iter().filter(|case| !case.set.iter().any(|set| set.contains("serviceMonitor.always"))) {
        let text = case.rendered()?;
        // A dry run creates no namespace for what is in it: objects of others than are there cannot be asked for.
        let objects = chart::objects(&text)?;
        let there = objects.values().filter(|object| {
            let namespace = object["metadata"]["namespace"].as_str().unwrap_or(NAMESPACE);
            [NAMESPACE, "tourniquet-agent", "incident-response"].contains(&namespace)
        });
        let list = json!({"apiVersion": "v1", "kind": "List", "items": there.collect::<Vec<_>>()});
        dry_run(&cluster, &["--filename=-"], &list.to_string()).with_context(|| case.name)?;
    }
    let folder = workspace().join(kustomize::FOLDER).display().to_string();
    dry_run(&cluster, &["--kustomize", &folder], "").context(folder.clone())
}

fn dry_run(cluster: &Handle, what: &[&str], input: &str) -> Result<()> {
    let apply =
        ["kubectl", "apply", "--server-side", "--force-conflicts", "--dry-run=server", "--field-manager=dry-run"];
    feed(cluster, &[&apply[..], what].concat(), input).map(drop)
}

fn upgrade_and_rollback() -> Result<()> {
    let cluster = cluster::get(NAME)?;
    // As a cluster is that has had the previous chart from the beginning.
    let images = install::install_ours(&cluster, true, &[])?;
    cluster.output(&["helm", "uninstall", "tourniquet", "--namespace", NAMESPACE, "--wait"])?;
    cluster.output(&["kubectl", "delete", "crd", "--selector=app.kubernetes.io/name=tourniquet"])?;
    let previous = previous_chart()?;
    let mut values = Vec::new();
    for (name, image) in [("image", &images.operator), ("agent.image", &images.agent)] {
        let (repository, tag) = image.reference.rsplit_once(':').context("an image without a tag")?;
        values.push(format!("--set-string={name}.repository={repository},{name}.tag={tag}"));
    }
    let chart = previous.display().to_string();
    let mut helm = vec!["helm", "install", "tourniquet", &chart, "--namespace", NAMESPACE, "--wait", "--timeout=3m"];
    helm.extend(values.iter().map(String::as_str));
    cluster.output(&helm)?;
    ensure!(!knows_newer(&cluster)?, "the previous chart knows {NEWER}: it is this one");

    make_pods(&cluster)?;
    let before = Snapshot::take(&cluster)?;
    let uid = isolate(&cluster)?;

    install::install_ours(&cluster, true, &[])?;
    ensure!(knows_newer(&cluster)?, "the upgrade left the old definition");
    in_force(&cluster, &uid).context("after the upgrade")?;

    cluster.output(&["helm", "rollback", "tourniquet", "1", "--namespace", NAMESPACE, "--wait", "--timeout=3m"])?;
    ensure!(!knows_newer(&cluster)?, "the rollback left the new definition");
    in_force(&cluster, &uid).context("after the rollback")?;

    cluster.output(&["kubectl", "--namespace=incident-response", "delete", "ir", RESPONSE, "--timeout=60s"])?;
    before.is_now(&cluster)?;
    reaches(&cluster)?;
    install::install_ours(&cluster, true, &[]).map(drop)
}

fn wrong_isolation() -> Result<()> {
    let cluster = cluster::get(NAME)?;
    let before = Snapshot::take(&cluster)?;
    isolate(&cluster)?;
    let seen = runbook::run(&cluster, "", &runbook::blocks("A response that does not go")?)?;
    ensure!(seen.contains("Contained=True"), "the runbook's commands do not show what holds: {seen}");
    runbook::run(&cluster, "", &runbook::blocks("A wrong isolation")?)?;
    before.is_now(&cluster)?;
    reaches(&cluster)?;
    cluster.output(&["kubectl", "--namespace=incident-response", "delete", "ir", RESPONSE, "--timeout=60s"]).map(drop)
}

fn removed_from_git() -> Result<()> {
    let cluster = cluster::get(NAME)?;
    let before = Snapshot::take(&cluster)?;
    let folder = base().join("git");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    let kept = response("kept", &json!([{"label": {"set": {"soc.example.com/seen": "yes"}}}]), "db");
    fs::write(folder.join("kept.json"), kept.to_string())?;
    let removed = folder.join("removed.json");
    fs::write(&removed, response(RESPONSE, &json!([{"isolate": {}}]), "web").to_string())?;

    apply_git(&cluster, &folder)?;
    contained(&cluster)?;
    blocked(&cluster)?;
    fs::remove_file(&removed)?;
    apply_git(&cluster, &folder)?;
    // kubectl asks for the deletion, and does not wait until the finalizer is gone.
    let gone = ["wait", "--for=delete", "--timeout=60s"];
    cluster.output(&[&["kubectl", "--namespace=incident-response"], &gone[..], &["ir", RESPONSE]].concat())?;
    let left = cluster.output(&["kubectl", "--namespace=incident-response", "get", "ir", "--output=name"])?;
    ensure!(left.trim() == "incidentresponse.tourniquet.dev/kept", "what was not removed is gone: {left}");
    reaches(&cluster)?;
    cluster.output(&["kubectl", "--namespace=incident-response", "delete", "ir", "kept", "--timeout=60s"])?;
    fs::remove_dir_all(&folder)?;
    before.is_now(&cluster)
}

/// As a GitOps controller does: what was applied before and is not there any more is deleted.
fn apply_git(cluster: &Handle, folder: &Path) -> Result<()> {
    let folder = format!("--filename={}", folder.display());
    cluster
        .output(&[
            "env",
            "KUBECTL_APPLYSET=true",
            "kubectl",
            "apply",
            "--namespace=incident-response",
            "--prune",
            "--applyset=configmaps/responses",
            "--server-side",
            &folder,
        ])
        .map(drop)
}

fn let_go_by_hand() -> Result<()> {
    let cluster = cluster::get(NAME)?;
    let before = Snapshot::take(&cluster)?;
    let uid = isolate(&cluster)?;
    let pod =
        cluster.output(&["kubectl", "--namespace=shop", "get", "pod", "web", "--output=jsonpath={.metadata.uid}"])?;
    runbook::run(&cluster, "", &runbook::blocks("The operator is gone")?)?;
    let blocks = runbook::blocks("Uninstall")?;
    let uninstall = blocks.get(1).context("the runbook does not uninstall")?;
    runbook::run(&cluster, "", std::slice::from_ref(uninstall))?;
    in_force(&cluster, &uid).context("uninstalled")?;

    let blocks = runbook::blocks("Let go by hand")?;
    // No agent runs: the one block that is for where they do is run all the same, and takes the holder away.
    runbook::run(&cluster, &format!("POD={pod}"), &blocks)?;
    cluster.output(&["kubectl", "--namespace=tourniquet-agent", "delete", "containment", &pod, "--timeout=60s"])?;
    before.is_now(&cluster)?;
    reaches(&cluster)
}

fn uninstall() -> Result<()> {
    let cluster = cluster::get(NAME)?;
    install::install_ours(&cluster, true, &[])?;
    let before = Snapshot::take(&cluster)?;
    let uid = isolate(&cluster)?;
    cluster.output(&["helm", "uninstall", "tourniquet", "--namespace", NAMESPACE, "--wait"])?;
    in_force(&cluster, &uid).context("uninstalled")?;
    install::install_ours(&cluster, true, &[])?;
    in_force(&cluster, &uid).context("installed again")?;
    let blocks = runbook::blocks("Uninstall")?;
    let (undo, rest) = blocks.split_first().context("the runbook does not say how to undo")?;
    runbook::run(&cluster, "", std::slice::from_ref(undo))?;
    before.is_now(&cluster)?;
    reaches(&cluster)?;
    runbook::run(&cluster, "", rest)?;
    let left = cluster.output(&["kubectl", "get", "crd,clusterroles,validatingadmissionpolicies", "--output=name"])?;
    ensure!(!left.contains("tourniquet"), "the runbook leaves {left}");
    Ok(())
}

/// The name that the runbook's commands are about.
const RESPONSE: &str = "sentinel-4711";

/// A chart of an earlier version, whose definition lacks a field.
fn previous_chart() -> Result<std::path::PathBuf> {
    let folder = base().join("previous-chart");
    let _ = fs::remove_dir_all(&folder);
    cluster::copy_tree(&chart::path(), &folder)?;
    let edit = |name: &str, edit: &dyn Fn(String) -> String| -> Result<()> {
        let path = folder.join(name);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let edited = edit(text.clone());
        ensure!(edited != text, "{name} has changed so that it cannot be made older");
        fs::write(&path, edited)?;
        Ok(())
    };
    edit("Chart.yaml", &|text| text.replace("\nversion: ", "\nversion: 0.0.1-before."))?;
    edit("generated/crds/incidentresponses.yaml", &|text| text.replace(&format!("{NEWER}:"), "receiptBefore:"))?;
    Ok(folder)
}

fn knows_newer(cluster: &Handle) -> Result<bool> {
    let path = format!(
        "--output=jsonpath={{.spec.versions[0].schema.openAPIV3Schema.properties.status.properties.{NEWER}.type}}"
    );
    Ok(!cluster.output(&["kubectl", "get", "crd", "incidentresponses.tourniquet.dev", &path])?.is_empty())
}

fn make_pods(cluster: &Handle) -> Result<()> {
    let pod = |name: &str| {
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "automountServiceAccountToken": false,
                "containers": [{"name": name, "image": WORKLOAD, "imagePullPolicy": "Never"}],
            },
        })
    };
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [namespace, pod("web"), pod("db")]});
    feed(cluster, &["kubectl", "apply", "--filename=-"], &list.to_string())?;
    cluster.output(&[
        "kubectl",
        "--namespace=shop",
        "wait",
        "pod",
        "--all",
        "--for=condition=Ready",
        "--timeout=60s",
    ])?;
    reaches(cluster)
}

fn response(name: &str, actions: &Value, pod: &str) -> Value {
    json!({
        "apiVersion": "tourniquet.dev/v1alpha1",
        "kind": "IncidentResponse",
        "metadata": {"name": name, "namespace": "incident-response"},
        "spec": {"target": {"pod": {"namespace": "shop", "name": pod}}, "actions": actions},
    })
}

/// Isolates and labels a pod, sees that it holds, and returns the response's UID.
fn isolate(cluster: &Handle) -> Result<String> {
    let actions = json!([{"isolate": {}}, {"label": {"set": {"soc.example.com/incident": "4711"}}}]);
    feed(cluster, &["kubectl", "create", "--filename=-"], &response(RESPONSE, &actions, "web").to_string())?;
    contained(cluster)?;
    let uid = uid(cluster)?;
    in_force(cluster, &uid)?;
    Ok(uid)
}

fn contained(cluster: &Handle) -> Result<()> {
    let wait = ["kubectl", "--namespace=incident-response", "wait", "ir", RESPONSE, "--timeout=60s"];
    cluster.output(&[&wait[..], &["--for=condition=Ready"]].concat())?;
    cluster.output(&[&wait[..], &["--for=condition=Contained"]].concat()).map(drop)
}

fn uid(cluster: &Handle) -> Result<String> {
    let path = "--output=jsonpath={.metadata.uid}";
    cluster.output(&["kubectl", "--namespace=incident-response", "get", "ir", RESPONSE, path])
}

/// It is the same response, and the pod is still cut off.
fn in_force(cluster: &Handle, of: &str) -> Result<()> {
    ensure!(uid(cluster)? == of, "the response is another one");
    let labelled = ["kubectl", "--namespace=shop", "get", "pod", "--selector=soc.example.com/incident=4711"];
    ensure!(cluster.output(&labelled)?.contains("web"), "the label is gone");
    contained(cluster)?;
    blocked(cluster)
}

fn blocked(cluster: &Handle) -> Result<()> {
    ensure!(!answers(cluster)?, "the pod answers");
    Ok(())
}

fn reaches(cluster: &Handle) -> Result<()> {
    let deadline = Instant::now() + SOON;
    while !answers(cluster)? {
        if Instant::now() > deadline {
            bail!("the pod does not answer");
        }
    }
    Ok(())
}

/// Whether web answers db, by a new connection, within two seconds.
fn answers(cluster: &Handle) -> Result<bool> {
    let address =
        cluster.output(&["kubectl", "--namespace=shop", "get", "pod", "web", "--output=jsonpath={.status.podIP}"])?;
    // Not wget: the static one of Debian ends with a segmentation fault when it looks for a host's address.
    let ask = format!(r"printf 'GET / HTTP/1.0\r\n\r\n' | /bin/busybox nc -w 2 {address} 8080 || echo silent");
    let answer = cluster.output(&["kubectl", "--namespace=shop", "exec", "db", "--", "/bin/sh", "-c", &ask])?;
    ensure!(answer.contains("200 OK") != answer.contains("silent"), "db got neither an answer nor none: {answer}");
    Ok(answer.contains("200 OK"))
}

fn feed(cluster: &Handle, line: &[&str], input: &str) -> Result<String> {
    use std::io::Write;
    let mut child =
        cluster.command(line).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{} failed: {}", line.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

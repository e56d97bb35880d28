//! A dry run touches nothing, and what it plans is what is done: by the API server's audit log.
//!
//! Every write of the operator and of the agents counts, whatever it is about, so these tests need the cluster for themselves: a program of
//! their own, and one at a time in it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tourniquet_api::PlannedEffect;

use crate::audit::{AGENT, Audit, OPERATOR, Request};
use crate::snapshot::{Snapshot, traces};
use crate::{PaperNode, Scenario, Spec, TestResponse, until};

/// How long anything but what follows a cut may take.
const SOON: Duration = Duration::from_secs(60);
/// What follows a cut does so after a minute.
const FOLLOWS: Duration = Duration::from_secs(90);

/// One response of each kind.
struct Case {
    name: &'static str,
    /// The reason that its `Ready` has in the end.
    ends: &'static str,
    spec: Value,
    /// It may target nothing but its own namespace elsewhere.
    in_its_namespace: bool,
}

/// Does something with a pod that has labels of somebody's, a policy that allows everything, and a node of its own; afterwards
/// everything is what it was.
async fn on_stage(s: &Scenario, work: impl AsyncFnOnce(&PaperNode) -> Result<()>) -> Result<()> {
    s.pod("web").await?;
    let line = ["--namespace", &s.namespace, "label", "pod", "web", "team=red", "shift=night"];
    s.env.kubectl_output(&line).await?;
    s.apply(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": { "name": "allow-all" },
        "spec": { "podSelector": {}, "ingress": [{}], "policyTypes": ["Ingress"] },
    }))
    .await?;
    let before = Snapshot::of_namespace(&s.env, &s.namespace).await?;
    let node = s.paper_node().await?;
    let node_before = Snapshot::of_node(&s.env, &node.name).await?;
    let worked = work(&node).await;
    let difference = node_before.diff(&Snapshot::of_node(&s.env, &node.name).await?);
    // Whatever became of it: nobody else takes the node away.
    node.delete().await?;
    worked?;
    ensure!(difference.is_empty(), "{difference}");
    s.is_what_it_was(&before).await
}

fn cases(s: &Scenario, node: &PaperNode) -> Vec<Case> {
    // Of several, the least favourable is what is said, or the last.
    let (isolated, all) = if s.env.agents { ("Cut", "Labelled") } else { ("AllowedByPolicy", "AllowedByPolicy") };
    let pod = json!({ "pod": { "namespace": s.namespace, "name": "web" } });
    let on_pod = |actions: Value| json!({ "target": pod, "actions": actions });
    let on_node = |actions: Value| json!({ "target": { "node": { "name": node.name } }, "actions": actions });
    let label = |key: &str, value: &str| json!({ "label": { "set": { key: value } } });
    let overwrite = json!({ "name": "team", "label": { "set": { "team": "blue" }, "overwrite": true } });
    let case = |name, ends, spec| Case { name, ends, spec, in_its_namespace: false };
    vec![
        case("isolate", isolated, on_pod(json!([{ "isolate": {} }]))),
        case("label", "Labelled", on_pod(json!([label("incident", "4711")]))),
        case("joins", "Labelled", on_pod(json!([label("shift", "night")]))),
        case("overwrite", "Labelled", on_pod(json!([overwrite]))),
        case("cordon", "Cordoned", on_node(json!([{ "cordon": {} }]))),
        case("node", "Cordoned", on_node(json!([label("incident", "4711"), { "cordon": {} }]))),
        case("all", all, on_pod(json!([label("incident", "4711"), { "isolate": {} }, overwrite]))),
        Case {
            in_its_namespace: true,
            ..case(
                "namespace",
                "Labelled",
                json!({ "target": { "namespace": { "name": s.namespace } }, "actions": [label("incident", "4711")] }),
            )
        },
    ]
}

async fn create(s: &Scenario, case: &Case, dry: bool) -> Result<TestResponse> {
    let name = if dry { format!("{}-dry", case.name) } else { case.name.to_owned() };
    let spec = Spec(case.spec.clone()).with("dryRun", json!(dry));
    let namespace = if case.in_its_namespace { s.namespace.as_str() } else { crate::RESPONSE_NAMESPACE };
    s.respond_in(namespace, &name, spec).await
}

async fn planned(response: &TestResponse) -> Result<Vec<PlannedEffect>> {
    let ready = response.becomes("Ready", "True", SOON).await?;
    ensure!(ready.reason == "Planned", "{ready:?}");
    Ok(response.get().await?.status.unwrap_or_default().plan)
}

/// Dry runs of every kind, created, planned and deleted again: the operator writes their status and events, and the agents nothing.
pub async fn touches_nothing(s: &Scenario) -> Result<()> {
    on_stage(s, async |node| planned_only(s, node).await).await
}

async fn planned_only(s: &Scenario, node: &PaperNode) -> Result<()> {
    let audit = Audit::begin(&s.env)?;
    let mut responses = Vec::new();
    for case in cases(s, node) {
        responses.push(create(s, &case, true).await?);
    }
    for response in &responses {
        let plan = planned(response).await?;
        ensure!(!plan.is_empty(), "{} plans nothing", response.name);
        ensure!(response.get().await?.metadata.finalizers.is_none(), "{} has a finalizer", response.name);
        // Events come last of all.
        s.response_events(response, &["Normal Planned"]).await?;
        audit.shows(&format!("the plan of {}", response.name), |request| is_status_of(request, response)).await?;
    }
    for response in &responses {
        response.delete().await?;
        // Nothing keeps it.
        response.gone(SOON).await?;
    }

    let written = audit.writes_of(OPERATOR)?;
    let others: Vec<String> = written
        .iter()
        .filter(|request| !responses.iter().any(|response| is_status_of(request, response)))
        .map(ToString::to_string)
        .collect();
    ensure!(others.is_empty(), "the operator also wrote:\n{}", others.join("\n"));
    ensure!(written.len() >= responses.len(), "the log has {} status writes only", written.len());
    let by_agents: Vec<String> = audit.writes_of(AGENT)?.iter().map(ToString::to_string).collect();
    ensure!(by_agents.is_empty(), "the agents wrote:\n{}", by_agents.join("\n"));
    for response in &responses {
        ensure!(traces(&s.env, &response.uid).await?.is_empty(), "{} left traces", response.name);
    }
    Ok(())
}

/// What dry runs of every kind plan is what the operator writes when the same is carried out: each of it, once, and nothing else but the
/// response's own status and finalizer, and events.
pub async fn is_what_is_done(s: &Scenario) -> Result<()> {
    on_stage(s, async |node| carried_out(s, node).await).await
}

async fn carried_out(s: &Scenario, node: &PaperNode) -> Result<()> {
    for case in cases(s, node) {
        let dry = create(s, &case, true).await?;
        let plan = planned(&dry).await?;
        dry.delete().await?;
        dry.gone(SOON).await?;

        let audit = Audit::begin(&s.env)?;
        let real = create(s, &case, false).await?;
        real.becomes_because("Ready", case.ends, SOON).await.with_context(|| case.name.to_owned())?;
        // What preserves the target follows as soon as an action has come to something.
        let at_once = plan.iter().filter(|effect| effect.when.is_none() || effect.action == "preserve");
        same(&case, at_once, &audit, (&dry, &real)).await?;
        // A minute for each would be long; this one has everything that follows a cut.
        let follows = |effect: &PlannedEffect| effect.when.is_some() && effect.action != "preserve";
        if case.name == "all" && plan.iter().any(follows) {
            until("what follows the cut is there", FOLLOWS, async || {
                Ok((traces(&s.env, &real.uid).await?.len() >= 3).then_some(()))
            })
            .await?;
            same(&case, plan.iter(), &audit, (&dry, &real)).await?;
        }
        real.delete().await?;
        real.gone(SOON).await?;
    }
    Ok(())
}

async fn same(
    case: &Case,
    plan: impl Iterator<Item = &PlannedEffect>,
    audit: &Audit,
    (dry, real): (&TestResponse, &TestResponse),
) -> Result<()> {
    // A policy is named by its response's UID.
    let mut planned: Vec<String> = plan.map(|effect| effect.object.replace(&dry.uid, &real.uid)).collect();
    planned.sort();
    let mut done = Vec::new();
    // The last line may be a moment late.
    let equal = until("what was written is what was planned", Duration::from_secs(5), async || {
        let written = audit.writes_of(OPERATOR)?;
        let (own, others): (Vec<&Request>, Vec<&Request>) =
            written.iter().partition(|request| request.object_ref.resource == "incidentresponses");
        let unexpected: Vec<&&Request> = own
            .iter()
            .filter(|request| {
                let is_finalizer = request.verb == "patch" && request.object_ref.subresource.is_empty();
                !(is_status_of(request, real) || is_finalizer && request.object_ref.name == real.name)
            })
            .collect();
        ensure!(unexpected.is_empty(), "{}: {unexpected:?}", case.name);
        // Whatever is planned for an object that is new, or of somebody else, is a patch in the end.
        done = others.iter().map(|request| object(request)).collect::<Result<_>>()?;
        done.sort();
        Ok((done == planned).then_some(()))
    });
    equal.await.with_context(|| format!("{}: planned {planned:#?}\ndone {done:#?}", case.name))
}

fn is_status_of(request: &Request, response: &TestResponse) -> bool {
    request.resource() == "incidentresponses/status" && request.object_ref.name == response.name
}

/// The object of a write, as plans name it.
fn object(request: &Request) -> Result<String> {
    ensure!(request.verb == "patch", "not planned: {request}");
    let about = &request.object_ref;
    let kind = match about.resource.as_str() {
        "pods" => "Pod",
        "namespaces" => "Namespace",
        "nodes" => "Node",
        "networkpolicies" => "NetworkPolicy",
        "containments" => "Containment",
        _ => anyhow::bail!("no plan names {request}"),
    };
    // The API server counts a namespace to itself.
    let is_in_none = about.namespace.is_empty() || kind == "Namespace";
    Ok(if is_in_none { format!("{kind} {}", about.name) } else { format!("{kind} {}/{}", about.namespace, about.name) })
}

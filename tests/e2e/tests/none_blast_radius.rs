//! What whoever installs tourniquet sets so that it cannot do more harm than the incident: mode, acceptNew, budget and powers, each by an operator of the test's
//! own that is installed with it. None of them gates a release.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::ListParams;
use serde_json::{Value, json};
use tourniquet_e2e::audit::{Audit, OPERATOR};
use tourniquet_e2e::crash::{Exclusive, Operator};
use tourniquet_e2e::{Scenario, Spec, TestPod, TestResponse, azurite, scenario};

const SOON: Duration = Duration::from_secs(60);

/// Every operator acts on the responses of all tests: they go one after the other.
static ONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// With this operator, and no other one.
async fn installed_with(
    s: &Scenario,
    seat: &TestPod,
    variables: &[(&str, &str)],
    test: impl Future<Output = Result<()>>,
) -> Result<()> {
    let operator = Operator::start_with(s, seat, variables).await?;
    let ended = test.await;
    operator.kill().await?;
    ended
}

async fn alone(s: &Scenario, test: impl Future<Output = Result<()>>) -> Result<()> {
    Exclusive::during(s, async {
        let _one = ONE.lock().await;
        test.await
    })
    .await
}

fn to(s: &Scenario, pod: &str, action: Value) -> Spec {
    Spec(json!({ "target": { "pod": { "namespace": s.namespace, "name": pod } }, "actions": [action] }))
}

fn isolate(s: &Scenario, pod: &str) -> Spec {
    to(s, pod, json!({ "isolate": {} }))
}

fn label(s: &Scenario, pod: &str) -> Spec {
    to(s, pod, json!({ "label": { "set": { "incident": "4711" } } }))
}

/// Expects a refusal for this reason, with these words.
async fn refused(response: &TestResponse, reason: &str, words: &[&str]) -> Result<()> {
    let Condition { reason: why, message, .. } = response.refused().await?;
    ensure!(why == reason && words.iter().all(|word| message.contains(word)), "{why}: {message}");
    Ok(())
}

/// Policies of ours in the test's namespace.
async fn policies(s: &Scenario) -> Result<usize> {
    Ok(s.api::<NetworkPolicy>().list_metadata(&ListParams::default()).await?.items.len())
}

#[test]
fn in_mode_plan_only_responses_are_planned_and_nothing_is_written() {
    scenario("plan-only", |s: Scenario| async move { alone(&s, Box::pin(plans(&s))).await });
}

async fn plans(s: &Scenario) -> Result<()> {
    let (seat, _) = tokio::try_join!(s.pod("seat"), s.pod("web"))?;
    let audit = Audit::begin(&s.env)?;
    installed_with(s, &seat, &[("TOURNIQUET_MODE", "PlanOnly")], async {
        let response = s.respond("r", isolate(s, "web")).await?;
        let accepted = response.becomes_because("Accepted", "PlanOnly", SOON).await?;
        ensure!(accepted.message.contains("the operator runs in mode PlanOnly"), "{accepted:?}");
        response.becomes("Ready", "True", SOON).await?;
        let planned = response.get().await?;
        ensure!(!planned.status.unwrap_or_default().plan.is_empty(), "the plan says nothing");
        ensure!(planned.metadata.finalizers.is_none(), "{:?}", planned.metadata.finalizers);
        let writes = audit.writes_of(OPERATOR)?;
        let only_status =
            |resource: &str| resource == "incidentresponses/status" || resource == "evidencestores/status";
        let other: Vec<String> =
            writes.iter().filter(|write| !only_status(&write.resource())).map(ToString::to_string).collect();
        ensure!(
            !writes.is_empty() && other.is_empty(),
            "{} writes, of which these are no status: {other:?}",
            writes.len()
        );
        response.delete().await?;
        response.gone(SOON).await
    })
    .await
}

#[test]
fn an_operator_that_accepts_no_new_ones_refuses_them_plans_and_lets_go() {
    scenario("accept-new", |s: Scenario| async move { alone(&s, Box::pin(closes(&s))).await });
}

async fn closes(s: &Scenario) -> Result<()> {
    let (seat, _, _) = tokio::try_join!(s.pod("seat"), s.pod("web"), s.pod("db"))?;
    let mut held = Vec::new();
    installed_with(s, &seat, &[], async {
        for (name, pod) in [("old", "web"), ("older", "db")] {
            let response = s.respond(name, isolate(s, pod)).await?;
            response.becomes("Accepted", "True", SOON).await?;
            held.push(response);
        }
        tourniquet_e2e::until("both are isolated", SOON, async || Ok((policies(s).await? == 2).then_some(()))).await
    })
    .await?;
    installed_with(s, &seat, &[("TOURNIQUET_ACCEPT_NEW", "false")], async {
        let new = s.respond("new", label(s, "web")).await?;
        refused(&new, "NotAccepting", &["acceptNew in the chart's values"]).await?;
        let dry = s.respond("dry", label(s, "web").with("dryRun", json!(true))).await?;
        dry.becomes_because("Accepted", "PlanOnly", SOON).await?;
        ensure!(policies(s).await? == 2, "what was in force is no longer");
        held[0].change(json!({ "release": true })).await?;
        held[0].becomes("Reverted", "True", SOON).await?;
        held[1].delete().await?;
        held[1].gone(SOON).await?;
        ensure!(policies(s).await? == 0, "something is left");
        Ok(())
    })
    .await
}

#[test]
fn what_exceeds_the_budget_is_refused_with_the_numbers() {
    scenario("budget", |s: Scenario| async move { alone(&s, Box::pin(bounds(&s))).await });
}

async fn bounds(s: &Scenario) -> Result<()> {
    let (seat, shop, _, _) = tokio::try_join!(s.pod("seat"), s.deployment("shop", 2), s.pod("web"), s.pod("db"))?;
    let of_pods = [("TOURNIQUET_BUDGET_CONTAINED_PODS", "2"), ("TOURNIQUET_BUDGET_WORKLOAD_SHARE", "50")];
    installed_with(s, &seat, &of_pods, async {
        let one = s.respond("one", isolate(s, &shop[0].name)).await?;
        one.becomes("Accepted", "True", SOON).await?;
        let share = s.respond("share", isolate(s, &shop[1].name)).await?;
        refused(&share, "BudgetExceeded", &["has 2 pods, of which 1 are isolated", "budget.workloadShare"]).await?;
        let two = s.respond("two", isolate(s, "web")).await?;
        two.becomes("Accepted", "True", SOON).await?;
        let three = s.respond("three", isolate(s, "db")).await?;
        refused(&three, "BudgetExceeded", &["2 pods are isolated, 1 more would be", "budget.containedPods"]).await?;
        // Who let go of something has room again.
        two.delete().await?;
        two.gone(SOON).await?;
        let four = s.respond("four", isolate(s, "db")).await?;
        four.becomes("Accepted", "True", SOON).await?;
        for response in [one, four] {
            response.delete().await?;
            response.gone(SOON).await?;
        }
        Ok(())
    })
    .await?;
    installed_with(s, &seat, &[("TOURNIQUET_BUDGET_RESPONSES_PER_MINUTE", "2")], async {
        // Created and deleted in a loop: those that are gone count.
        for name in ["first", "second"] {
            let response = s.respond(name, label(s, "web")).await?;
            response.becomes("Accepted", "True", SOON).await?;
            response.delete().await?;
            response.gone(SOON).await?;
        }
        let third = s.respond("third", label(s, "web")).await?;
        let words = ["2 responses were created within a minute before", "budget.responsesPerMinute"];
        refused(&third, "BudgetExceeded", &words).await?;
        let over = s.respond("over", label(s, "web").with("overrideProtection", json!(true))).await?;
        over.becomes("Accepted", "True", SOON).await?;
        over.delete().await?;
        over.gone(SOON).await
    })
    .await
}

#[test]
fn what_takes_a_power_that_is_off_is_refused_and_nobody_tries_it() {
    scenario("powers", |s: Scenario| async move { alone(&s, Box::pin(does_without(&s))).await });
}

async fn does_without(s: &Scenario) -> Result<()> {
    let (seat, _) = tokio::try_join!(s.pod("seat"), s.pod("web"))?;
    let store = s.store_at("soc", &azurite().await?.endpoint(), azurite().await?).await?;
    let audit = Audit::begin(&s.env)?;
    installed_with(s, &seat, &[("TOURNIQUET_POWERS_OFF", "exec,secrets,policies")], async {
        for (name, action, power) in [
            ("run", json!({ "run": { "command": ["/traffic/traffic"] } }), "exec"),
            ("isolate", json!({ "isolate": {} }), "policies"),
            ("collect", json!({ "collect": { "storeRef": { "name": store.name } } }), "exec"),
        ] {
            let response = s.respond(name, to(s, "web", action)).await?;
            let words = [&format!("action {name} ({name})"), &format!("the power {power}"), &format!("powers.{power}")];
            refused(&response, "PowerOff", &words.map(String::as_str)).await?;
        }
        let ready = store.becomes("False", "PowerOff", SOON).await?;
        ensure!(ready.message.contains("powers.secrets") && ready.message.contains(&store.name), "{ready:?}");
        // What takes none of them is done as ever.
        let labelled = s.respond("label", label(s, "web")).await?;
        labelled.becomes("Ready", "True", SOON).await?;
        let requests = audit.requests()?;
        let tried = requests.iter().filter(|request| request.is_by(OPERATOR)).filter(|request| {
            let resource = request.resource();
            resource == "pods/exec" || resource == "secrets" || resource == "networkpolicies" && request.writes()
        });
        let tried: Vec<String> = tried.map(ToString::to_string).collect();
        ensure!(tried.is_empty(), "it tried {tried:?}");
        labelled.delete().await?;
        labelled.gone(SOON).await
    })
    .await
}

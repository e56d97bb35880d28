//! Where Calico's kinds are served and no Calico runs: what is written is what its published definitions take, nothing is claimed, and
//! everything is undone.
//!
//! One test: while the definitions are there, every isolation of the cluster would have a tier.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tourniquet_api::{Assurance, Outcome, names};
use tourniquet_e2e::bypass::Holding;
use tourniquet_e2e::people::{Place, right};
use tourniquet_e2e::sets::isolate_namespace;
use tourniquet_e2e::snapshot::{Snapshot, traces};
use tourniquet_e2e::{Scenario, Spec, TestResponse, definitions, scenario, until};

const SOON: Duration = Duration::from_secs(60);
/// A look that nothing gave cause to comes after 300 s.
const NOTICED: Duration = Duration::from_secs(8);
const DEFINITIONS: [&str; 2] =
    [include_str!("../calico/tiers.yaml"), include_str!("../calico/globalnetworkpolicies.yaml")];
const TIERS: &str = "tiers.projectcalico.org";
const POLICIES: &str = "globalnetworkpolicies.projectcalico.org";

async fn stored(s: &Scenario, resource: &str, name: &str) -> Result<Value> {
    let text = s.env.kubectl_output(&["get", resource, name, "--output=json"]).await?;
    serde_json::from_str(&text).with_context(|| format!("{resource} {name} is no JSON"))
}

/// The response's policy, after the API server has taken it and its tier once more under strict validation, in which it refuses what
/// the definitions do not have.
async fn accepted_policy(s: &Scenario, response: &TestResponse) -> Result<Value> {
    let (tier_name, policy_name) = (names::policy(&response.uid), names::calico_policy(&response.uid));
    let tier = stored(s, TIERS, &tier_name).await?;
    let policy = stored(s, POLICIES, &policy_name).await?;
    ensure!(tier["spec"] == json!({ "order": -1_000_000, "defaultAction": "Pass" }), "{tier}");
    ensure!(policy["spec"]["tier"] == json!(tier_name), "{policy}");
    for object in [&tier, &policy] {
        ensure!(object["metadata"]["labels"][names::RESPONSE_LABEL] == json!(response.uid), "{object}");
        let again = json!({
            "apiVersion": object["apiVersion"], "kind": object["kind"],
            "metadata": { "name": format!("{}-again", s.namespace) }, "spec": object["spec"],
        });
        s.taken_strictly(&again).await?;
    }
    let deny = json!([{ "action": "Deny" }]);
    ensure!(policy["spec"]["ingress"] == deny && policy["spec"]["egress"] == deny, "{policy}");
    ensure!(
        policy["spec"]["namespaceSelector"] == json!(format!("projectcalico.org/name == '{}'", s.namespace)),
        "{policy}"
    );
    Ok(policy)
}

/// Nothing enforces anything here, and the pod goes on answering.
async fn nothing_is_claimed(response: &TestResponse) -> Result<()> {
    let ready = response.becomes_because("Ready", "NotEnforced", SOON).await?;
    ensure!(ready.status == "False" && ready.message.contains("Calico"), "{ready:?}");
    let contained = response.condition("Contained").await?.context("no Contained")?;
    ensure!(contained.status == "False", "{contained:?}");
    let action = response.action("isolate").await?;
    ensure!(action.outcome == Outcome::Partial, "{action:?}");
    ensure!(action.results.iter().all(|result| result.assurance <= Some(Assurance::Accepted)), "{action:?}");
    Ok(())
}

async fn undone(s: &Scenario, response: &TestResponse, before: &Snapshot) -> Result<()> {
    response.delete().await?;
    response.gone(SOON).await?;
    s.is_what_it_was(before).await?;
    let left = traces(&s.env, &response.uid).await?;
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

async fn is_there_again(s: &Scenario, resource: &str, name: &str) -> Result<()> {
    let first = stored(s, resource, name).await?["metadata"]["uid"].clone();
    s.env.kubectl_output(&["delete", resource, name]).await?;
    until("what somebody deleted is back", NOTICED, async || {
        Ok(stored(s, resource, name).await.ok().filter(|found| found["metadata"]["uid"] != first))
    })
    .await?;
    Ok(())
}

/// Where the API server itself serves them, as here.
async fn nobody_else_lets_go(s: &Scenario, response: &TestResponse) -> Result<()> {
    let everything = "create,patch,update,delete,deletecollection";
    let spec = |kind: &str, spec: Value| json!({ "apiVersion": "projectcalico.org/v3", "kind": kind, "spec": spec });
    let (tier, policy) = (names::policy(&response.uid), names::calico_policy(&response.uid));
    let tier = Holding {
        path: "/apis/projectcalico.org/v3/tiers",
        name: &tier,
        response_uid: &response.uid,
        right: right(Place::Cluster, everything, TIERS),
        opened: json!({ "spec": { "order": 1e9 } }),
        another: spec("Tier", json!({ "order": 1, "defaultAction": "Pass" })),
    };
    let policy = Holding {
        path: "/apis/projectcalico.org/v3/globalnetworkpolicies",
        name: &policy,
        response_uid: &response.uid,
        right: right(Place::Cluster, everything, POLICIES),
        opened: json!({ "spec": { "ingress": [{ "action": "Allow" }] } }),
        another: spec("GlobalNetworkPolicy", json!({ "tier": "default", "ingress": [{ "action": "Allow" }] })),
    };
    s.try_to_bypass([tier.attempts(), policy.attempts()].concat()).await
}

async fn a_pod(s: &Scenario) -> Result<()> {
    let web = s.pod("web").await?;
    let before = Snapshot::of_namespace(&s.env, &s.namespace).await?;
    let response = s.respond("cut", Spec::isolate(&web)).await?;
    nothing_is_claimed(&response).await?;
    let policy = accepted_policy(s, &response).await?;
    let selector = format!("{} == 'true'", names::isolation_label(&response.uid));
    ensure!(policy["spec"]["selector"] == json!(selector), "{policy}");

    nobody_else_lets_go(s, &response).await?;
    is_there_again(s, POLICIES, &names::calico_policy(&response.uid)).await?;
    is_there_again(s, TIERS, &names::policy(&response.uid)).await?;
    let emptied = json!({ "spec": { "ingress": [{ "action": "Allow" }] } }).to_string();
    let name = names::calico_policy(&response.uid);
    s.env.kubectl_output(&["patch", POLICIES, &name, "--type=merge", "--patch", &emptied]).await?;
    until("what somebody changed is put back", NOTICED, async || {
        Ok((stored(s, POLICIES, &name).await?["spec"]["ingress"] == json!([{ "action": "Deny" }])).then_some(()))
    })
    .await?;

    let (later, name) = (json!({ "spec": { "order": 1 } }).to_string(), names::policy(&response.uid));
    s.env.kubectl_output(&["patch", TIERS, &name, "--type=merge", "--patch", &later]).await?;
    until("the tier comes first again", NOTICED, async || {
        Ok((stored(s, TIERS, &name).await?["spec"]["order"] == json!(-1_000_000)).then_some(()))
    })
    .await?;

    // A tier of somebody else's that comes first can allow what ours denies.
    let first = json!({
        "apiVersion": "projectcalico.org/v3", "kind": "Tier", "metadata": { "name": s.namespace },
        "spec": { "order": -1e9, "defaultAction": "Pass" },
    });
    s.apply_text(&first.to_string()).await?;
    until("the earlier tier is told", NOTICED, async || {
        let residual = response.get().await?.status.unwrap_or_default().residual;
        Ok(residual
            .iter()
            .any(|found| found.code == "EarlierTier" && found.message.contains(&s.namespace))
            .then_some(()))
    })
    .await?;
    s.env.kubectl_output(&["delete", TIERS, &s.namespace]).await?;
    undone(s, &response, &before).await
}

async fn a_namespace(s: &Scenario) -> Result<()> {
    s.pod("web").await?;
    let before = Snapshot::of_namespace(&s.env, &s.namespace).await?;
    let response = s.respond("all", isolate_namespace(s)).await?;
    nothing_is_claimed(&response).await?;
    let policy = accepted_policy(s, &response).await?;
    ensure!(policy["spec"]["selector"] == json!("all()"), "{policy}");
    undone(s, &response, &before).await
}

#[test]
fn what_is_asked_of_calico_is_accepted_claims_nothing_and_is_undone() {
    scenario("calico", |s| async move {
        definitions::applied(&s, &DEFINITIONS.join("\n---\n"), async {
            a_pod(&s).await?;
            s.delete_pod("web").await?;
            a_namespace(&s).await
        })
        .await
    });
}

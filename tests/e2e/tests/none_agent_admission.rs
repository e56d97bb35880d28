//! Nobody gets into an agent, and nobody lets go of what an agent has cut: whatever rights on pods and Containments they have.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use serde_json::json;
use tourniquet_api::ContainmentState;
use tourniquet_e2e::bypass::{Attempt, Control};
use tourniquet_e2e::people::{Ask, Person, Place, right};
use tourniquet_e2e::{AGENT_NAMESPACE, Scenario, Spec, scenario};

const SOON: Duration = Duration::from_secs(15);
const OPERATOR: &str = "system:serviceaccount:tourniquet-system:tourniquet-operator";
/// The one command that the operator starts in an agent.
const CAPTURE: &str =
    "container=agent&command=/tourniquet-agent&command=capture&command=%7B%7D&stdout=true&stderr=true";

async fn agent_pod(s: &Scenario) -> Result<String> {
    let pods: Api<Pod> = Api::namespaced(s.env.client.clone(), AGENT_NAMESPACE);
    let agents = pods.list(&ListParams::default().labels("app.kubernetes.io/component=agent")).await?.items;
    let agent = agents.first().map(|pod| format!("/api/v1/namespaces/{AGENT_NAMESPACE}/pods/{}", pod.name_any()));
    agent.context("no agent")
}

#[test]
fn nobody_gets_into_an_agent() {
    scenario("admission-agents", |s| async move {
        let agent = agent_pod(&s).await?;
        let rights = [
            right(Place::Cluster, "get,create", "pods/exec"),
            right(Place::Cluster, "get,create", "pods/attach"),
            right(Place::Cluster, "get,create", "pods/portforward"),
            right(Place::Cluster, "get", "pods/proxy"),
            right(Place::Cluster, "patch", "pods/ephemeralcontainers"),
        ];
        let person = s.person("intruder", &rights).await?;
        let debugger = json!({ "spec": { "ephemeralContainers": [{ "name": "debugger", "image": s.env.image }] } });
        let asked = [
            (
                "a shell",
                Ask::create(format!("{agent}/exec?container=agent&command=/bin/sh&stdin=true&tty=true"), json!({})),
            ),
            ("the operator's command", Ask::create(format!("{agent}/exec?{CAPTURE}"), json!({}))),
            ("attach", Ask::create(format!("{agent}/attach?container=agent&stdout=true"), json!({}))),
            ("a port", Ask::create(format!("{agent}/portforward?ports=8080"), json!({}))),
            ("a proxy", Ask::get(format!("{agent}/proxy/"))),
            ("a container to debug it", Ask::merge_patch(format!("{agent}/ephemeralcontainers"), debugger)),
        ];
        for (what, ask) in asked {
            let said = person.asks(&ask).await?;
            let denied = said.code == 403
                && said.message().contains("nobody but the operator starts anything in an agent's pod");
            ensure!(denied, "{what}: {said:?}");
        }
        only_the_one_command(&s.impersonate(OPERATOR).await?, &agent).await
    });
}

/// Without an upgrade to a stream the API server says what is missing, after admission.
async fn only_the_one_command(operator: &Person, agent: &str) -> Result<()> {
    let commands = [
        ("its own", CAPTURE.to_owned(), true),
        ("a shell", "container=agent&command=/bin/sh".to_owned(), false),
        ("with input", format!("{CAPTURE}&stdin=true"), false),
        ("with a terminal", format!("{CAPTURE}&tty=true"), false),
        ("with one argument more", format!("{CAPTURE}&command=more"), false),
        ("in another container", CAPTURE.replace("container=agent", "container=other"), false),
    ];
    for (what, query, allowed) in commands {
        let said = operator.asks(&Ask::create(format!("{agent}/exec?{query}"), json!({}))).await?;
        let expected = if allowed { "Upgrade request required" } else { "the one command that is started in an agent" };
        ensure!(said.message().contains(expected), "{what}: {said:?}");
    }
    Ok(())
}

#[test]
fn nobody_lets_go_of_what_an_agent_has_cut() {
    scenario("admission-cut", |s| async move {
        let web = s.pod("web").await?;
        let response = s.respond("cut", Spec::isolate(&web)).await?;
        response.becomes("Contained", "True", SOON).await?;
        s.containment_becomes(&web.uid, ContainmentState::Cut, SOON).await?;
        let at =
            format!("/apis/internal.tourniquet.dev/v1alpha1/namespaces/{AGENT_NAMESPACE}/containments/{}", web.uid);
        let attempt = |title, ask| Attempt {
            title,
            given: vec![right(Place::Cluster, "patch,delete", "containments.internal.tourniquet.dev")],
            ask,
            denied: "this is what operator and agents tell each other",
            control: Control::With(vec![right(
                Place::Responses,
                "override-protection",
                "incidentresponses.tourniquet.dev",
            )]),
        };
        let holder = json!({ "spec": { "holders": { response.uid.as_str(): null } } });
        let empty = json!({
            "apiVersion": "internal.tourniquet.dev/v1alpha1", "kind": "Containment", "metadata": { "name": web.uid }, "spec": {},
        });
        s.try_to_bypass(vec![
            attempt("its holder taken off", Ask::merge_patch(&at, holder)),
            attempt(
                "withdrawn under the response's own field manager",
                Ask::apply(&at, &format!("tourniquet-{}", response.uid), empty),
            ),
            attempt("the Containment deleted", Ask::delete(&at)),
        ])
        .await?;
        s.containment_becomes(&web.uid, ContainmentState::Cut, SOON).await.map(drop)
    });
}

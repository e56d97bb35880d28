//! What an agent may do in the API: read the Containments, write the status of its own node's, and nothing else.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use http::{Method, Request};
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::{Api, DeleteParams, PostParams};
use kube::config::AuthInfo;
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tourniquet_api::{Containment, ContainmentState, ContainmentStatus};
use tourniquet_e2e::environment::config;
use tourniquet_e2e::{AGENT_NAMESPACE, PaperNode, Scenario, Spec, TestPod, scenario};

const SOON: Duration = Duration::from_secs(15);
const ACCOUNT: &str = "tourniquet-agent";
const CONTAINMENTS: &str = "/apis/internal.tourniquet.dev/v1alpha1/namespaces/tourniquet-agent/containments";

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Agent {
    /// Its token is bound to the agent's pod on the node of the Containment.
    ThisNode,
    /// Its token is bound to a pod on another node.
    Another,
    /// Its token is bound to nothing.
    Unbound,
}

const AGENTS: [Agent; 3] = [Agent::ThisNode, Agent::Another, Agent::Unbound];

#[test]
fn an_agent_writes_the_status_of_its_own_nodes_containments_and_nothing_else() {
    scenario("agent-rights", |s| async move {
        let web = s.pod("web").await?;
        let response = s.respond("cut", Spec::isolate(&web)).await?;
        response.becomes("Contained", "True", SOON).await?;
        s.containment_becomes(&web.uid, ContainmentState::Cut, SOON).await?;
        let node = s.paper_node().await?;
        let seat = format!("elsewhere-{}", s.namespace);
        // Node and pod go, whatever becomes of the test: they are outside of its namespace.
        let tried = try_everything(&s, &node, &seat, &web).await;
        let pods: Api<Pod> = Api::namespaced(s.env.client.clone(), AGENT_NAMESPACE);
        let removed = pods.delete(&seat, &DeleteParams::default().grace_period(0)).await;
        node.delete().await?;
        tried?;
        removed?;
        Ok(())
    });
}

async fn try_everything(s: &Scenario, node: &PaperNode, seat: &str, web: &TestPod) -> Result<()> {
    for agent in AGENTS {
        let token = token(s, agent, node, seat, web).await?;
        let mut config = config(&s.env.context).await?;
        config.auth_info = AuthInfo { token: Some(token.into()), ..AuthInfo::default() };
        let client = Client::try_from(config)?;
        let mut requests = requests(&s.namespace, web);
        if agent != Agent::ThisNode {
            let lifted = json!({ "status": { "state": "Lifted" } });
            requests.push((Method::PATCH, format!("{CONTAINMENTS}/{}/status", web.uid), Some(lifted), 403));
        }
        for (method, path, body, expected) in requests {
            let answer = ask(&client, &method, &path, body).await?;
            ensure!(answer == expected, "{agent:?}: {method} {path}: {answer}, not {expected}");
        }
        let written = write_status(&client, web).await;
        match agent {
            Agent::ThisNode => written.with_context(|| format!("{agent:?}"))?,
            Agent::Another | Agent::Unbound => {
                let Err(refused) = written else { bail!("{agent:?} wrote the status") };
                ensure!(refused.to_string().contains("its own node's Containments only"), "{agent:?}: {refused}");
            }
        }
    }
    Ok(())
}

/// Requests of an agent that asks for all sorts of things, with the answers of the API server.
fn requests(namespace: &str, web: &TestPod) -> Vec<(Method, String, Option<Value>, u16)> {
    let own = format!("{CONTAINMENTS}/{}", web.uid);
    let nobody = json!({ "spec": { "holders": null } });
    let another = json!({
        "apiVersion": "internal.tourniquet.dev/v1alpha1", "kind": "Containment",
        "metadata": { "name": "11111111-2222-3333-4444-555555555555" },
        "spec": {
            "pod": { "namespace": namespace, "name": "web", "uid": "11111111-2222-3333-4444-555555555555" },
            "nodeName": "node-0",
        },
    });
    let responses = "/apis/tourniquet.dev/v1alpha1/namespaces/incident-response/incidentresponses";
    let pods = format!("/api/v1/namespaces/{namespace}/pods");
    let agents = format!("/api/v1/namespaces/{AGENT_NAMESPACE}");
    let get = |path: &str, expected| (Method::GET, path.to_owned(), None, expected);
    vec![
        get(CONTAINMENTS, 200),
        get("/apis/internal.tourniquet.dev/v1alpha1/containments", 403),
        (Method::PATCH, own.clone(), Some(nobody), 403),
        (Method::POST, CONTAINMENTS.to_owned(), Some(another), 403),
        (Method::DELETE, own, None, 403),
        (Method::DELETE, CONTAINMENTS.to_owned(), None, 403),
        get("/api/v1/secrets", 403),
        get(&format!("{agents}/secrets"), 403),
        get(&format!("{agents}/configmaps"), 403),
        get(&format!("{agents}/pods"), 403),
        (
            Method::POST,
            format!("{agents}/serviceaccounts/{ACCOUNT}/token"),
            Some(
                json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": { "audiences": [] } }),
            ),
            403,
        ),
        get("/api/v1/pods", 403),
        get(&pods, 403),
        get(&format!("{pods}/web"), 403),
        get(&format!("{pods}/web/log"), 403),
        (Method::DELETE, format!("{pods}/web"), None, 403),
        (Method::PATCH, format!("{pods}/web"), Some(json!({ "metadata": { "labels": { "a": "b" } } })), 403),
        get("/api/v1/nodes", 403),
        get("/api/v1/nodes/node-0", 403),
        get("/api/v1/namespaces", 403),
        get(responses, 403),
        (Method::DELETE, responses.to_owned(), None, 403),
        get("/apis/networking.k8s.io/v1/networkpolicies", 403),
        get("/apis/rbac.authorization.k8s.io/v1/clusterroles", 403),
    ]
}

/// The status code of the answer.
async fn ask(client: &Client, method: &Method, path: &str, body: Option<Value>) -> Result<u16> {
    let content = if *method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
    let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
    let request = Request::builder().method(method).uri(path).header("content-type", content).body(body)?;
    match client.request_text(request).await {
        Ok(_) => Ok(200),
        Err(kube::Error::Api(status)) => Ok(status.code),
        Err(error) => Err(error).with_context(|| format!("{method} {path}: not an answer of the API server")),
    }
}

/// Writes the status as the agent does; unchanged, but that the agent itself hears of it.
async fn write_status(client: &Client, web: &TestPod) -> Result<()> {
    // An agent may not get one, so it takes what the list says.
    let api: Api<Containment> = Api::namespaced(client.clone(), AGENT_NAMESPACE);
    let listed = api.list(&kube::api::ListParams::default()).await?.items;
    let mut own = listed.into_iter().find(|one| one.name_any() == web.uid).context("it is not in the list")?;
    let status = own.status.take().unwrap_or_default();
    own.metadata.managed_fields = None;
    own.status = Some(ContainmentStatus { message: Some("written by a test".to_owned()), ..status });
    api.replace_status(&web.uid, &PostParams::default(), &own).await?;
    Ok(())
}

async fn token(s: &Scenario, agent: Agent, node: &PaperNode, seat: &str, web: &TestPod) -> Result<String> {
    let pods: Api<Pod> = Api::namespaced(s.env.client.clone(), AGENT_NAMESPACE);
    let bound_to = match agent {
        Agent::Unbound => None,
        Agent::ThisNode => {
            let here = s.get_pod(&web.name).await?.spec.and_then(|spec| spec.node_name);
            let mut agents = s.agents().pods().await?.into_iter();
            let found = agents.find(|pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name == here));
            Some(found.context("no agent on the pod's node")?)
        }
        Agent::Another => {
            let pod: Pod = serde_json::from_value(json!({
                "metadata": { "name": seat },
                "spec": {
                    "nodeName": node.name, "serviceAccountName": ACCOUNT,
                    "containers": [{ "name": "main", "image": s.env.image }],
                },
            }))?;
            Some(pods.create(&PostParams::default(), &pod).await?)
        }
    };
    let object =
        bound_to.map(|pod| json!({ "apiVersion": "v1", "kind": "Pod", "name": pod.name_any(), "uid": pod.uid() }));
    let request: TokenRequest =
        serde_json::from_value(json!({ "spec": { "audiences": [], "boundObjectRef": object } }))?;
    let accounts: Api<ServiceAccount> = Api::namespaced(s.env.client.clone(), AGENT_NAMESPACE);
    let made = accounts.create_token_request(ACCOUNT, &PostParams::default(), &request).await?;
    made.status.and_then(|status| status.token).context("no token")
}

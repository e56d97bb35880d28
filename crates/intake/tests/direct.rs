//! The workflows of deploy/azure/direct, against an API server that records what it is asked.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests: a failed expectation ends the test")]

mod fixtures;
mod templates;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use fixtures::{CLUSTER, cluster_entity, pod_alert, sample};
use serde_json::{Value, json};
use templates::deployed;
use tourniquet_workflow::{Answer, Request, Run, Workflow, read};

const API_SERVER: &str = "https://api.example";
const RESPONSES: &str =
    "https://api.example/apis/tourniquet.dev/v1alpha1/namespaces/incident-response/incidentresponses";
const NAME: &str = "defender-alert-1.isolate.pod.shop.web";

/// What is there, and the requests that were made.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<Recorded>>);

#[derive(Default)]
struct Recorded {
    responses: BTreeMap<String, Value>,
    requests: Vec<Request>,
    /// Whoever asks gets no answer.
    away: bool,
    /// What is created is not acted on.
    idle: bool,
}

impl Server {
    fn run(&self, workflow: &str, verbs: &str) -> Workflow {
        let settings = json!({
            "TOURNIQUET_API_SERVER": API_SERVER,
            "TOURNIQUET_IDENTITY": "identity",
            "TOURNIQUET_CLUSTER": CLUSTER,
            "TOURNIQUET_RESPONSE_NAMESPACE": "incident-response",
            "TOURNIQUET_VERBS": verbs,
            "TOURNIQUET_COMMANDS": r#"{"kill-miner": ["/bin/pkill", "xmrig"]}"#,
            "TOURNIQUET_EVIDENCE_STORE": "soc",
        });
        let server = self.0.clone();
        let send = Arc::new(move |request| {
            let answer = server.lock().unwrap().answer(request);
            let answered: futures::future::BoxFuture<'static, _> = Box::pin(std::future::ready(answer));
            answered
        });
        Workflow::of_app(&deployed().join("direct/app"), workflow, &settings, send)
    }

    async fn respond(&self, action: &str, alert: &Value) -> Run {
        let message = json!({"action": action, "defenderAlert": alert});
        self.run("respond", "isolate,cordon,collect,release").with_rounds(2).run("1", &message).await
    }

    async fn release(&self) -> Run {
        let message = json!({"action": "release", "defenderAlert": pod_alert()});
        self.run("release", "isolate,release").with_rounds(2).run("1", &message).await
    }

    fn names(&self) -> Vec<String> {
        self.0.lock().unwrap().responses.keys().cloned().collect()
    }

    fn response(&self, name: &str) -> Value {
        self.0.lock().unwrap().responses[name].clone()
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Value)) {
        change(self.0.lock().unwrap().responses.get_mut(name).unwrap());
    }

    fn asked(&self, method: &str) -> usize {
        self.0.lock().unwrap().requests.iter().filter(|request| request.method == method).count()
    }
}

impl Recorded {
    fn answer(&mut self, request: Request) -> Result<Answer, String> {
        assert_eq!(request.audience, "6dae42f8-4368-4678-94ff-3960e28e3630");
        if self.away {
            return Err("nobody answers".into());
        }
        let below = request.uri.strip_prefix(RESPONSES).expect("it asks for nothing else").to_owned();
        let body = request.body.as_ref().map(|body| serde_json::from_str(body).unwrap());
        let (status, body) = self.carried_out(&request.method, below.trim_start_matches('/'), body);
        self.requests.push(request);
        let headers = [("content-type".to_owned(), "application/json".to_owned())].into();
        Ok(Answer { status, headers, body: body.to_string() })
    }

    fn carried_out(&mut self, method: &str, name: &str, body: Option<Value>) -> (u16, Value) {
        match (method, name) {
            ("POST", "") => {
                let mut response = body.unwrap();
                let name = response["metadata"]["name"].as_str().unwrap().to_owned();
                if self.responses.contains_key(&name) {
                    return (409, json!({"kind": "Status", "status": "Failure", "message": "it is there"}));
                }
                response["metadata"]["uid"] = format!("uid-{name}").into();
                if !self.idle {
                    response["status"] = json!({
                        "conditions": [
                            {"type": "Ready", "status": "True", "reason": "Cut", "message": "cut off <now>"},
                            {"type": "Contained", "status": "True", "reason": "Cut", "message": ""},
                        ],
                        "residual": [{"severity": "High", "code": "TokenUsable", "message": "its token", "remedy": "kubectl"}],
                    });
                }
                self.responses.insert(name, response.clone());
                (201, response)
            }
            ("GET", query) if query.starts_with('?') => {
                let wanted = "?labelSelector=app.kubernetes.io%2Fmanaged-by%3Dtourniquet-direct%2Cdirect.tourniquet.dev%2Fincident%3Dalert-1&limit=500";
                assert_eq!(query, wanted);
                (200, json!({"items": self.responses.values().collect::<Vec<_>>()}))
            }
            ("GET", name) => match self.responses.get(name) {
                Some(response) => (200, response.clone()),
                None => (404, json!({"kind": "Status", "status": "Failure"})),
            },
            ("PATCH", name) => {
                let Some(response) = self.responses.get_mut(name) else {
                    return (404, json!({"kind": "Status", "status": "Failure"}));
                };
                let uid = &response["metadata"]["uid"];
                assert_eq!(body.unwrap(), json!({"metadata": {"uid": uid}, "spec": {"release": true}}));
                response["spec"]["release"] = true.into();
                response["status"]["conditions"] =
                    json!([{"type": "Reverted", "status": "True", "reason": "Released", "message": ""}]);
                (200, response.clone())
            }
            other => panic!("it may not {other:?}"),
        }
    }
}

fn answer(run: &Run) -> &Value {
    &run.response.as_ref().unwrap_or_else(|| panic!("nothing was answered: {run:#?}"))["body"]
}

fn why(run: &Run) -> String {
    answer(run)["refused"].to_string()
}

#[tokio::test]
async fn an_alert_becomes_a_response_and_is_told_how_it_went() {
    let server = Server::default();

    let run = server.respond("isolatePod", &pod_alert()).await;

    assert_eq!(server.names(), [NAME]);
    let response = server.response(NAME);
    let pod = json!({"namespace": "shop", "name": "web", "createdBefore": "2026-11-20T08:33:12Z"});
    assert_eq!(response["spec"]["target"], json!({ "pod": pod }));
    assert_eq!(response["spec"]["actions"], json!([{"isolate": {}}]));
    assert_eq!(response["spec"]["incident"]["source"], "MicrosoftDefenderForCloud");
    assert_eq!(response["spec"]["expireAfter"], Value::Null);
    assert_eq!(answer(&run)["state"], "Settled", "{run:#?}");
    let comment = answer(&run)["comment"].as_str().unwrap();
    assert!(comment.contains("cut off &lt;now&gt;<br>Contained: True<br>Still open: High TokenUsable"), "{comment}");
}

#[tokio::test]
async fn run_twice_it_is_done_once() {
    let server = Server::default();
    server.respond("isolatePod", &pod_alert()).await;

    let again = server.respond("isolatePod", &pod_alert()).await;

    assert_eq!(server.names(), [NAME]);
    assert_eq!((&answer(&again)["state"], why(&again).as_str()), (&json!("Settled"), "[]"));
}

#[tokio::test]
async fn one_that_was_released_is_not_said_to_hold() {
    let server = Server::default();
    server.respond("isolatePod", &pod_alert()).await;
    server.release().await;

    let again = server.respond("isolatePod", &pod_alert()).await;

    assert_eq!(answer(&again)["state"], "Refused");
    assert!(why(&again).contains("that was released, is being deleted, or does something else"), "{again:#?}");
}

#[tokio::test]
async fn one_of_somebody_else_is_not_taken_for_its_own() {
    let server = Server::default();
    server.respond("isolatePod", &pod_alert()).await;
    server.change(NAME, |response| response["metadata"]["labels"] = json!({}));

    let again = server.respond("isolatePod", &pod_alert()).await;

    assert!(why(&again).contains("does something else"), "{again:#?}");
}

#[tokio::test]
async fn each_distinct_pod_of_an_incident_gets_one_that_is_as_old_as_the_last_alert_on_it() {
    let server = Server::default();
    let message = json!({"action": "isolatePod", "sentinelIncident": sample("sentinel-incident")});

    let run = server.run("respond", "isolate").run("1", &message).await;

    let prefix = "sentinel-00000000-bbbb-4711-8888-000000000000.isolate.pod.shop.";
    assert_eq!(server.names(), [format!("{prefix}db-0"), format!("{prefix}web-7d9c-x2x")], "{run:#?}");
    let web = server.response(&format!("{prefix}web-7d9c-x2x"));
    assert_eq!(web["spec"]["target"]["pod"]["createdBefore"], "2026-11-20T09:01:00Z");
    assert_eq!(web["spec"]["incident"]["id"], "4711");
}

#[tokio::test]
async fn an_alert_in_the_form_of_the_published_ones_is_read_with_its_references() {
    for (action, name) in [
        ("isolatePod", "isolate.pod.shop.web-7d9c-x2x"),
        ("isolateNamespace", "isolate.namespace.shop"),
        ("cordonNode", "cordon.node.aks-np1-12345678-vmss000000"),
        ("collect", "collect.pod.shop.web-7d9c-x2x"),
    ] {
        let server = Server::default();

        let run = server.respond(action, &sample("defender-pod")).await;

        let names = server.names();
        assert!(names.len() == 1 && names[0].ends_with(name), "{action}: {names:?} {run:#?}");
    }
}

#[tokio::test]
async fn what_is_of_another_cluster_is_refused() {
    let server = Server::default();
    let mut alert = pod_alert();
    alert["AzureResourceId"] = CLUSTER.replace("shop-aks", "shop-aks-2").into();

    let run = server.respond("isolatePod", &alert).await;

    assert!(server.names().is_empty());
    assert!(why(&run).contains("it is about another cluster"), "{run:#?}");
}

#[tokio::test]
async fn what_a_process_says_of_clusters_keeps_nothing_from_being_done() {
    let server = Server::default();
    let mut alert = pod_alert();
    let process = json!({"Type": "process", "CommandLine": CLUSTER.replace("shop-aks", "another")});
    alert["Entities"].as_array_mut().unwrap().push(process);

    server.respond("isolatePod", &alert).await;

    assert_eq!(server.names(), [NAME]);
}

#[tokio::test]
async fn what_cannot_be_resolved_is_refused_and_the_rest_is_done() {
    let broken = [
        json!({"Type": "K8s-pod", "Name": "other", "Namespace": {"$ref": "nowhere"}}),
        json!({"Type": "K8s-pod", "Namespace": {"$ref": "ns"}}),
        json!({"Type": "K8s-pod", "Name": "other"}),
    ];
    for entity in broken {
        let server = Server::default();
        let mut alert = pod_alert();
        alert["Entities"].as_array_mut().unwrap().push(entity);

        let run = server.respond("isolatePod", &alert).await;

        assert_eq!(server.names(), [NAME]);
        assert!(why(&run).contains("create the response by hand"), "{run:#?}");
    }
}

#[tokio::test]
async fn an_id_that_two_namespaces_have_is_no_reference() {
    let server = Server::default();
    let mut alert = pod_alert();
    let second = json!({"$id": "ns", "Type": "K8s-namespace", "Name": "bank", "Cluster": cluster_entity()});
    alert["Entities"].as_array_mut().unwrap().push(second);

    let run = server.respond("isolatePod", &alert).await;

    assert!(server.names().is_empty() && why(&run).contains("or several"), "{run:#?}");
}

#[tokio::test]
async fn without_a_time_or_with_one_to_come_no_pod_is_acted_on() {
    for time in [Value::Null, json!("2999-01-01T00:00:00Z"), json!("yesterday")] {
        let server = Server::default();
        let mut alert = pod_alert();
        alert["EndTimeUtc"] = time;

        let run = server.respond("isolatePod", &alert).await;

        assert!(server.names().is_empty(), "{run:#?}");
        assert_eq!(answer(&run)["state"], "Refused");
    }
}

#[tokio::test]
async fn words_of_an_alert_are_no_expressions_and_no_addresses() {
    let server = Server::default();
    let mut alert = pod_alert();
    alert["AlertDisplayName"] = "@{parameters('identity')}\"}<script>".into();
    alert["Entities"][0]["Name"] = "../../secrets?x=@{parameters('identity')}".into();

    server.respond("isolatePod", &alert).await;

    // The API server refuses such a name. What is asked of it is of responses and nothing else, as the recorder asserts.
    let response = server.response("defender-alert-1.isolate.pod.shop.../../secrets?x=@{parameters('identity')}");
    assert_eq!(response["spec"]["incident"]["title"], "@{parameters('identity')}\"}<script>");
}

#[tokio::test]
async fn more_than_ten_targets_are_not_acted_on_by_one_run() {
    let server = Server::default();
    let mut alert = pod_alert();
    for number in 0..11 {
        let pod = json!({"Type": "K8s-pod", "Name": format!("web-{number}"), "Namespace": {"$ref": "ns"}});
        alert["Entities"].as_array_mut().unwrap().push(pod);
    }

    let run = server.respond("isolatePod", &alert).await;

    assert_eq!(server.names().len(), 10);
    assert_eq!(answer(&run)["refused"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_verb_that_is_off_and_a_command_that_is_not_approved_are_refused_before_anything_is_asked() {
    let server = Server::default();
    let verbs = "isolate,run,release";
    for (verbs, message) in [
        ("release", json!({"action": "isolatePod", "defenderAlert": pod_alert()})),
        ("", json!({"action": "isolatePod", "defenderAlert": pod_alert()})),
        (verbs, json!({"action": "run", "command": "rm", "defenderAlert": pod_alert()})),
    ] {
        let run = server.run("respond", verbs).run("1", &message).await;
        assert_eq!(run.response.unwrap()["statusCode"], 403);
    }
    let message = json!({"action": "release", "defenderAlert": pod_alert()});
    let run = server.run("release", "isolate").run("1", &message).await;
    assert_eq!(run.response.unwrap()["statusCode"], 403);
    assert_eq!(server.0.lock().unwrap().requests, []);
}

#[tokio::test]
async fn an_approved_command_is_run_and_stores_its_outputs() {
    let server = Server::default();
    let message = json!({"action": "run", "command": "kill-miner", "defenderAlert": pod_alert()});

    server.run("respond", "run").run("1", &message).await;

    let response = server.response("defender-alert-1.run.kill-miner.pod.shop.web");
    let run = json!({"command": ["/bin/pkill", "xmrig"], "storeRef": {"name": "soc"}});
    assert_eq!(response["spec"]["actions"], json!([{ "run": run }]));
}

#[tokio::test]
async fn an_api_server_that_does_not_answer_is_told_as_that() {
    let server = Server::default();
    server.0.lock().unwrap().away = true;

    let respond = server.respond("isolatePod", &pod_alert()).await;
    let release = server.release().await;

    for run in [respond, release] {
        assert!(why(&run).contains("the API server did not answer"), "{run:#?}");
        assert_eq!(answer(&run)["state"], "Refused");
    }
}

#[tokio::test]
async fn what_is_not_done_in_time_is_not_said_to_be() {
    let server = Server::default();
    server.0.lock().unwrap().idle = true;

    let run = server.respond("isolatePod", &pod_alert()).await;

    assert_eq!(answer(&run)["state"], "Working", "{run:#?}");
    assert!(answer(&run)["comment"].as_str().unwrap().contains("not all of it is done yet"));
}

#[tokio::test]
async fn a_release_releases_all_of_the_incident_once_and_is_a_success_ever_after() {
    let server = Server::default();
    server.respond("isolatePod", &pod_alert()).await;
    server.respond("isolateNamespace", &pod_alert()).await;

    for _ in 0..2 {
        let run = server.release().await;
        assert_eq!(answer(&run)["state"], "Settled", "{run:#?}");
        assert_eq!(why(&run), "[]");
    }

    assert_eq!(server.asked("PATCH"), 2);
    server.0.lock().unwrap().responses.clear();
    let gone = server.release().await;
    assert_eq!(answer(&gone)["state"], "Settled");
    assert!(answer(&gone)["comment"].as_str().unwrap().contains("there is nothing to release"), "{gone:#?}");
}

#[test]
fn no_workflow_lets_a_containment_end_by_itself_or_has_a_secret() {
    let app = deployed().join("direct/app");
    for name in ["respond", "release"] {
        let text = read(&app.join(name).join("workflow.json")).to_string();
        for word in ["expireAfter", "listKeys", "sig=", "Basic ", "DELETE"] {
            assert!(!text.contains(word), "{name} has {word}");
        }
    }
}

#[test]
fn the_app_is_closed_to_plain_http_old_tls_and_callers_without_an_identity_and_has_each_setting() {
    let template = templates::template_of("direct/app");
    let resources = template["resources"].as_array().unwrap();
    let of = |kind: &str| resources.iter().find(|resource| resource["type"] == kind).unwrap();

    let site = &of("Microsoft.Web/sites")["properties"];
    assert_eq!((&site["httpsOnly"], &site["siteConfig"]["minTlsVersion"]), (&json!(true), &json!("1.2")));
    let auth = of("Microsoft.Web/sites/config");
    assert_eq!(auth["properties"]["globalValidation"]["requireAuthentication"], true);
    assert_eq!(template["parameters"]["verbs"]["defaultValue"], json!(["isolate", "cordon", "release"]));
    let settings = site["siteConfig"]["appSettings"].as_array().unwrap();
    let set: BTreeSet<&str> = settings.iter().filter_map(|setting| setting["name"].as_str()).collect();
    for parameter in read(&deployed().join("direct/app/parameters.json")).as_object().unwrap().values() {
        let setting = parameter["value"].as_str().unwrap().trim_start_matches("@appsetting('").trim_end_matches("')");
        assert!(set.contains(setting), "{setting}");
    }
}

/// The playbook that an analyst runs, and what it asks the Logic App, which answers with this.
async fn called(template: &str, action: &str, status: u16, trigger: &Value) -> (Run, Vec<Request>) {
    let parameters = json!({
        "$connections": {"azuresentinel": {"connectionId": "sentinel"}, "ascalert": {"connectionId": "defender"}},
        "action": action, "command": "", "host": "app.example", "audience": "api://app", "identity": "identity",
    });
    let requests = Arc::new(Mutex::new(Vec::new()));
    let asked = requests.clone();
    let send = Arc::new(move |request| {
        asked.lock().unwrap().push(request);
        let headers = [("content-type".to_owned(), "application/json".to_owned())].into();
        let answer = Answer { status, headers, body: json!({"comment": "Contained: True"}).to_string() };
        let answered: futures::future::BoxFuture<'static, _> = Box::pin(std::future::ready(Ok(answer)));
        answered
    });
    let workflow = Workflow::of_template(&templates::template_of(&format!("direct/{template}")), parameters, send);
    let run = workflow.run("1", trigger).await;
    let requests = requests.lock().unwrap().clone();
    (run, requests)
}

#[tokio::test]
async fn a_playbook_of_sentinel_asks_the_logic_app_and_comments_what_it_says() {
    let (run, requests) =
        called("playbook-sentinel", "isolatePod", 200, &json!({"object": sample("sentinel-incident")})).await;

    let [request] = requests.as_slice() else { panic!("{requests:?}") };
    assert_eq!(request.uri, "https://app.example/api/respond/triggers/manual/invoke?api-version=2022-05-01");
    assert_eq!(request.audience, "api://app");
    assert_eq!(run.comments[0]["message"], "<p>tourniquet, isolatePod:<br>Contained: True</p>");

    // What it asks is what the Logic App acts on.
    let server = Server::default();
    let message = serde_json::from_str(request.body.as_ref().unwrap()).unwrap();
    server.run("respond", "isolate").run("1", &message).await;
    assert_eq!(server.names().len(), 2);
}

#[tokio::test]
async fn a_playbook_that_is_refused_comments_that_nothing_is_known_to_be_done() {
    let (run, _) = called("playbook-sentinel", "release", 403, &json!({"object": sample("sentinel-incident")})).await;

    let comment = run.comments[0]["message"].as_str().unwrap();
    assert!(comment.contains("nothing is known to be done (status 403)"), "{comment}");
}

#[tokio::test]
async fn a_playbook_of_defender_asks_for_the_same_and_fails_when_it_is_refused() {
    let (run, requests) = called("playbook-defender", "isolatePod", 200, &pod_alert()).await;
    assert_eq!(run.outputs["Comment"], "Contained: True");
    let server = Server::default();
    let message = serde_json::from_str(requests[0].body.as_ref().unwrap()).unwrap();
    server.run("respond", "isolate").run("1", &message).await;
    assert_eq!(server.names(), [NAME]);

    let (refused, requests) = called("playbook-defender", "release", 401, &pod_alert()).await;
    assert!(requests[0].uri.contains("/api/release/"));
    assert_eq!(refused.terminated.unwrap()["runStatus"], "Failed");
}

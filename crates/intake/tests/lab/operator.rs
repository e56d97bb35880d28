//! An API server that knows responses and nothing else, with an operator in it that settles them at once.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::{Arc, Mutex};

use http::{Request, Response};
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::{Value, json};

#[derive(Clone, Default)]
pub(crate) struct Operator {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    responses: BTreeMap<String, Value>,
    settles: bool,
    /// For so many requests.
    away: usize,
    /// Of so many requests that are carried out.
    loses: usize,
    refuses: Option<String>,
}

impl Operator {
    pub(crate) fn settles(&self) {
        self.state.lock().unwrap().settles = true;
    }

    pub(crate) fn away(&self, requests: usize) {
        self.state.lock().unwrap().away = requests;
    }

    pub(crate) fn loses_answers(&self, requests: usize) {
        self.state.lock().unwrap().loses = requests;
    }

    pub(crate) fn refuses(&self, why: &str) {
        self.state.lock().unwrap().refuses = Some(why.to_owned());
    }

    pub(crate) fn somebody_creates(&self, name: &str) {
        let response = json!({"metadata": {"name": name}, "spec": {}});
        self.state.lock().unwrap().responses.insert(name.to_owned(), response);
    }

    pub(crate) fn everything_is_deleted(&self) {
        self.state.lock().unwrap().responses.clear();
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.state.lock().unwrap().responses.keys().cloned().collect()
    }

    pub(crate) fn titles(&self) -> Vec<String> {
        let state = self.state.lock().unwrap();
        let title = |response: &Value| response["spec"]["incident"]["title"].as_str().unwrap().to_owned();
        state.responses.values().map(title).collect()
    }

    pub(crate) fn released(&self) -> Vec<String> {
        let state = self.state.lock().unwrap();
        let released = state.responses.iter().filter(|(_, response)| response["spec"]["release"] == true);
        released.map(|(name, _)| name.clone()).collect()
    }

    pub(crate) fn service(
        &self,
    ) -> impl tower::Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send + 'static>
    + Clone
    + Send
    + 'static {
        let operator = self.clone();
        tower::service_fn(move |request: Request<Body>| {
            let operator = operator.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                operator.answer(parts.method.as_str(), &parts.uri.to_string(), &body).await
            }
        })
    }

    fn answer(&self, method: &str, uri: &str, body: &[u8]) -> Ready<Result<Response<Body>, Infallible>> {
        let mut state = self.state.lock().unwrap();
        let (status, answer) = state.answer(method, uri, body);
        ready(Ok(Response::builder().status(status).body(Body::from(answer.to_string().into_bytes())).unwrap()))
    }
}

impl State {
    fn answer(&mut self, method: &str, uri: &str, body: &[u8]) -> (u16, Value) {
        if self.away > 0 {
            self.away -= 1;
            return failure(503, "ServiceUnavailable", "away");
        }
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let below = "/apis/tourniquet.dev/v1alpha1/namespaces/incident-response/incidentresponses";
        let name = path.strip_prefix(below).expect("it asks for nothing else").trim_start_matches('/').to_owned();
        let answer = match (method, name.as_str()) {
            ("POST", "") => self.create(serde_json::from_slice(body).unwrap()),
            ("GET", "") => self.list(query),
            ("GET", name) => self.responses.get(name).map_or_else(missing, |response| (200, response.clone())),
            ("PATCH", name) => self.release(name, &serde_json::from_slice(body).unwrap()),
            other => panic!("it may not {other:?}"),
        };
        if self.loses > 0 {
            self.loses -= 1;
            return failure(504, "Timeout", "nobody knows");
        }
        answer
    }

    fn create(&mut self, mut response: Value) -> (u16, Value) {
        if let Some(why) = &self.refuses {
            return failure(403, "Forbidden", why);
        }
        let name = response["metadata"]["name"].as_str().unwrap().to_owned();
        if self.responses.contains_key(&name) {
            return failure(409, "AlreadyExists", "it is there");
        }
        response["metadata"]["uid"] = format!("uid-{name}").into();
        response["metadata"]["generation"] = 1.into();
        self.responses.insert(name, response.clone());
        (201, response)
    }

    fn list(&mut self, query: &str) -> (u16, Value) {
        assert!(query.contains("labelSelector=intake.tourniquet.dev%2Fincident%3D"), "{query}");
        let settles = self.settles;
        let labelled = self.responses.values_mut().filter(|response| {
            let label = response["metadata"]["labels"]["intake.tourniquet.dev/incident"].as_str();
            label.is_some_and(|label| query.contains(label))
        });
        let items: Vec<Value> = labelled
            .map(|response| {
                if settles {
                    settle(response);
                }
                response.clone()
            })
            .collect();
        (
            200,
            json!({"apiVersion": "tourniquet.dev/v1alpha1", "kind": "IncidentResponseList", "metadata": {}, "items": items}),
        )
    }

    fn release(&mut self, name: &str, patch: &Value) -> (u16, Value) {
        let Some(response) = self.responses.get_mut(name) else { return missing() };
        assert_eq!(*patch, json!({"metadata": {"uid": response["metadata"]["uid"]}, "spec": {"release": true}}));
        response["spec"]["release"] = true.into();
        response["metadata"]["generation"] = 2.into();
        (200, response.clone())
    }
}

/// What an operator would write.
fn settle(response: &mut Value) {
    let released = response["spec"]["release"] == true;
    let condition = |kind: &str, status: &str, reason: &str, message: &str| json!({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": "2026-11-20T10:00:00Z"});
    let conditions = if released {
        json!([condition("Ready", "True", "Released", "let go"), condition("Reverted", "True", "Released", "")])
    } else {
        json!([condition("Ready", "True", "Cut", "isolated"), condition("Contained", "True", "Cut", "")])
    };
    response["status"] = json!({"observedGeneration": response["metadata"]["generation"], "conditions": conditions});
}

fn missing() -> (u16, Value) {
    failure(404, "NotFound", "not found")
}

fn failure(code: u16, reason: &str, message: &str) -> (u16, Value) {
    (
        code,
        json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure", "message": message, "reason": reason, "code": code}),
    )
}

//! Runs a workflow definition as Logic Apps would. Whoever runs it says where its requests go.
//!
//! Only the actions and functions that the templates of `deploy/azure` use; another one ends the test. What Logic Apps would let an action fail with, lets it
//! fail here, and the actions after it are chosen by that.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "for tests: a failed expectation ends the test"
)]

mod actions;
mod expression;
mod functions;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::{Map, Value, json};

/// A request of an HTTP action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Its method.
    pub method: String,
    /// Where it goes.
    pub uri: String,
    /// Its headers.
    pub headers: Vec<(String, String)>,
    /// What is sent.
    pub body: Option<String>,
    /// Whom the managed identity's token is for.
    pub audience: String,
}

/// What was answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Headers, by their names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The content. JSON is read where `content-type` says so.
    pub body: String,
}

/// Carries requests out; an error is a connection without an answer.
pub type Send = Arc<dyn Fn(Request) -> BoxFuture<'static, Result<Answer, String>> + core::marker::Send + Sync>;

/// What became of a run.
#[derive(Debug, Default)]
pub struct Run {
    /// The bodies of the requests for a comment.
    pub comments: Vec<Value>,
    /// How each action ended.
    pub statuses: BTreeMap<String, String>,
    /// What each action came to.
    pub outputs: BTreeMap<String, Value>,
    /// With what it was ended, if it was.
    pub terminated: Option<Value>,
    /// What was answered to whoever called it: `statusCode` and `body`.
    pub response: Option<Value>,
    variables: BTreeMap<String, Value>,
    /// Where loops are, by their names.
    items: BTreeMap<String, Value>,
}

/// A definition, ready to be run.
pub struct Workflow {
    definition: Value,
    parameters: Map<String, Value>,
    send: Send,
    most_rounds: usize,
    second: Duration,
}

impl Workflow {
    /// That of an ARM template, with these values of its parameters.
    pub fn of_template(template: &Value, parameters: Value, send: Send) -> Self {
        let resources = template["resources"].as_array().unwrap();
        let workflow = resources.iter().find(|resource| resource["type"] == "Microsoft.Logic/workflows").unwrap();
        let definition = workflow["properties"]["definition"].clone();
        assert!(!definition.to_string().contains(r#"":"["#), "what is put in at deployment stands in the parameters");
        let given = workflow["properties"]["parameters"].as_object().unwrap();
        let wanted = definition["parameters"].as_object().unwrap();
        assert_eq!(given.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
        Self::new(definition, parameters, send)
    }

    /// One of a Standard app: a folder with `workflow.json`, beside the app's `parameters.json`, whose settings are these.
    pub fn of_app(app: &Path, name: &str, settings: &Value, send: Send) -> Self {
        let definition = read(&app.join(name).join("workflow.json"))["definition"].clone();
        let mut parameters = Map::new();
        for (parameter, said) in read(&app.join("parameters.json")).as_object().unwrap() {
            let said = said["value"].as_str().unwrap();
            let setting = said.strip_prefix("@appsetting('").and_then(|rest| rest.strip_suffix("')"));
            let setting = setting.expect("each parameter is a setting of the app");
            let value = settings.get(setting).unwrap_or_else(|| panic!("the app has no setting {setting}"));
            parameters.insert(parameter.clone(), value.clone());
        }
        Self::new(definition, parameters.into(), send)
    }

    fn new(definition: Value, parameters: Value, send: Send) -> Self {
        Self {
            definition,
            parameters: parameters.as_object().unwrap().clone(),
            send,
            most_rounds: 300,
            second: Duration::from_millis(20),
        }
    }

    /// One that waits as long as it says, for those that act on something real. Otherwise a second is 20 ms.
    #[must_use]
    pub fn in_real_time(mut self) -> Self {
        self.second = Duration::from_secs(1);
        self
    }

    /// One whose loops end after this many rounds; those of the templates take minutes.
    #[must_use]
    pub fn with_rounds(mut self, most: usize) -> Self {
        self.most_rounds = most;
        self
    }

    /// Runs it, under a name of the run, with what its trigger hands over.
    pub async fn run(&self, name: &str, trigger: &Value) -> Run {
        let mut run = Run::default();
        self.actions(&self.definition["actions"], &Triggered { name, body: trigger }, &mut run).await;
        run
    }
}

/// What began a run.
#[derive(Clone, Copy)]
struct Triggered<'a> {
    name: &'a str,
    body: &'a Value,
}

/// A file of JSON.
pub fn read(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn output(answer: Answer) -> Value {
    let json = answer.headers.get("content-type").is_some_and(|kind| kind.contains("json"));
    let body = if json { serde_json::from_str(&answer.body).unwrap() } else { Value::from(answer.body) };
    json!({"statusCode": answer.status, "headers": answer.headers, "body": body})
}

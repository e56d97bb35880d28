//! Runs the workflow definition of a playbook's template, as Logic Apps would: its requests go to Azurite, its comments to a recorder.
//!
//! Only the actions and functions that the templates use; another one ends the test.

#![allow(dead_code, reason = "each test program uses some of it")]

mod expression;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use expression::Scope;

/// What became of a run.
#[derive(Debug, Default)]
pub(crate) struct Run {
    /// The bodies of the requests for a comment.
    pub(crate) comments: Vec<Value>,
    /// How each action ended.
    pub(crate) statuses: BTreeMap<String, String>,
    /// What each action came to.
    pub(crate) outputs: BTreeMap<String, Value>,
    /// With what it was ended, if it was.
    pub(crate) terminated: Option<Value>,
}

pub(crate) struct Workflow {
    definition: Value,
    parameters: Map<String, Value>,
    client: reqwest::Client,
    /// What stands for the managed identity, by what a URL begins with: a signature.
    signatures: Vec<(String, String)>,
    /// How often a loop is gone through at most; the template has minutes.
    most_rounds: usize,
}

impl Workflow {
    /// That of a template in `deploy/azure`, with these values of its parameters.
    pub(crate) fn of(template: &str, parameters: Value, client: reqwest::Client) -> Self {
        let template = template_of(template);
        let resources = template["resources"].as_array().unwrap();
        let workflow = resources.iter().find(|resource| resource["type"] == "Microsoft.Logic/workflows").unwrap();
        let definition = workflow["properties"]["definition"].clone();
        assert!(!definition.to_string().contains(r#"":"["#), "what is put in at deployment stands in the parameters");
        let given = workflow["properties"]["parameters"].as_object().unwrap();
        let wanted = definition["parameters"].as_object().unwrap();
        assert_eq!(given.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
        Self {
            definition,
            parameters: parameters.as_object().unwrap().clone(),
            client,
            signatures: Vec::new(),
            most_rounds: 300,
        }
    }

    pub(crate) fn signed(mut self, begins: String, signature: String) -> Self {
        self.signatures.push((begins, signature));
        self
    }

    pub(crate) fn with_rounds(mut self, most: usize) -> Self {
        self.most_rounds = most;
        self
    }

    pub(crate) async fn run(&self, name: &str, trigger: &Value) -> Run {
        let mut run = Run::default();
        self.actions(&self.definition["actions"], name, trigger, &mut run).await;
        run
    }

    /// Each action after those that it names.
    async fn actions(&self, actions: &Value, name: &str, trigger: &Value, run: &mut Run) {
        let mut left: Vec<(&String, &Value)> = actions.as_object().unwrap().iter().collect();
        for (action, _) in &left {
            run.statuses.remove(*action);
        }
        while !left.is_empty() {
            let ready = |(_, action): &(&String, &Value)| {
                action["runAfter"].as_object().unwrap().keys().all(|before| run.statuses.contains_key(before))
            };
            let (action, definition) = left.remove(left.iter().position(ready).expect("actions wait for each other"));
            let wanted = definition["runAfter"].as_object().unwrap();
            let runs = wanted.iter().all(|(before, statuses)| {
                statuses.as_array().unwrap().iter().any(|status| *status == *run.statuses[before])
            });
            let status = if runs && run.terminated.is_none() {
                Box::pin(self.action(action, definition, name, trigger, run)).await
            } else {
                "Skipped"
            };
            run.statuses.insert(action.clone(), status.to_owned());
        }
    }

    async fn action(
        &self,
        action: &str,
        definition: &Value,
        name: &str,
        trigger: &Value,
        run: &mut Run,
    ) -> &'static str {
        let inputs = &definition["inputs"];
        let output = match definition["type"].as_str().unwrap() {
            "Compose" => self.scope(name, trigger, run).value(inputs),
            "Select" => {
                let scope = self.scope(name, trigger, run);
                let from = scope.value(&inputs["from"]);
                let items = from.as_array().expect("what is selected from is a list");
                let selected: Vec<Value> =
                    items.iter().map(|item| scope.with_item(item).value(&inputs["select"])).collect();
                json!({ "body": selected })
            }
            "Http" => {
                let output = self.http(&self.scope(name, trigger, run).value(inputs)).await;
                let failed = output["statusCode"].as_u64().unwrap() >= 400;
                run.outputs.insert(action.to_owned(), output);
                return if failed { "Failed" } else { "Succeeded" };
            }
            "ApiConnection" => {
                let inputs = self.scope(name, trigger, run).value(inputs);
                assert_eq!((&inputs["method"], &inputs["path"]), (&json!("post"), &json!("/Incidents/Comment")));
                run.comments.push(inputs["body"].clone());
                json!({ "body": {} })
            }
            "Wait" => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                Value::Null
            }
            "Until" => return self.until(definition, name, trigger, run).await,
            "If" => {
                let scope = self.scope(name, trigger, run);
                let pair = definition["expression"]["equals"].as_array().expect("the condition is that two are equal");
                let branch = if scope.value(&pair[0]) == scope.value(&pair[1]) {
                    &definition["actions"]
                } else {
                    &definition["else"]["actions"]
                };
                self.actions(branch, name, trigger, run).await;
                Value::Null
            }
            "Terminate" => {
                run.terminated = Some(self.scope(name, trigger, run).value(inputs));
                Value::Null
            }
            other => panic!("no template has had an action {other} so far"),
        };
        run.outputs.insert(action.to_owned(), output);
        "Succeeded"
    }

    async fn until(&self, definition: &Value, name: &str, trigger: &Value, run: &mut Run) -> &'static str {
        let most = definition["limit"]["count"].as_u64().unwrap();
        for _ in 0..usize::try_from(most).unwrap().min(self.most_rounds) {
            self.actions(&definition["actions"], name, trigger, run).await;
            if self.scope(name, trigger, run).value(&definition["expression"]) == true {
                return "Succeeded";
            }
        }
        "TimedOut"
    }

    async fn http(&self, inputs: &Value) -> Value {
        assert_eq!(inputs["authentication"]["type"], "ManagedServiceIdentity");
        assert_eq!(inputs["authentication"]["audience"], "https://storage.azure.com/");
        let uri = inputs["uri"].as_str().unwrap();
        let (_, signature) =
            self.signatures.iter().find(|(begins, _)| uri.starts_with(begins)).expect("it asks nobody else");
        let method = inputs["method"].as_str().unwrap().parse().unwrap();
        let mut request = self.client.request(method, format!("{uri}?{signature}"));
        for (header, value) in inputs["headers"].as_object().unwrap() {
            request = request.header(header, value.as_str().unwrap());
        }
        if let Some(body) = inputs["body"].as_str() {
            request = request.body(body.to_owned());
        }
        let answer = request.send().await.unwrap();
        let headers: Map<String, Value> = answer
            .headers()
            .iter()
            .map(|(header, value)| (header.to_string(), value.to_str().unwrap().into()))
            .collect();
        let json = headers.get("content-type").is_some_and(|kind| kind.as_str().unwrap().contains("json"));
        let status = answer.status().as_u16();
        let text = answer.text().await.unwrap();
        let body = if json { serde_json::from_str(&text).unwrap() } else { Value::from(text) };
        json!({"statusCode": status, "headers": headers, "body": body})
    }

    fn scope<'a>(&'a self, name: &'a str, trigger: &'a Value, run: &'a Run) -> Scope<'a> {
        Scope { name, trigger, parameters: &self.parameters, outputs: &run.outputs, item: None }
    }
}

pub(crate) fn template_of(name: &str) -> Value {
    let path = format!("{}/../../deploy/azure/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

//! What is done, in which order.

use serde_json::{Map, Value, json};

use crate::expression::Scope;
use crate::{Request, Run, Triggered, Workflow, output};

const SUCCEEDED: &str = "Succeeded";
const FAILED: &str = "Failed";

impl Workflow {
    /// Each action after those that it names. How all of them together ended, as Logic Apps has it: by those that nothing comes after, and where such a one was
    /// skipped, by what came before it.
    pub(crate) async fn actions(&self, actions: &Value, by: &Triggered<'_>, run: &mut Run) -> &'static str {
        let all = actions.as_object().unwrap();
        forget(all, run);
        let mut left: Vec<(&String, &Value)> = all.iter().collect();
        while !left.is_empty() {
            let ready =
                |(_, action): &(&String, &Value)| after(action).keys().all(|before| run.statuses.contains_key(before));
            let (action, definition) = left.remove(left.iter().position(ready).expect("actions wait for each other"));
            let runs = after(definition).iter().all(|(before, statuses)| {
                statuses.as_array().unwrap().iter().any(|status| *status == *run.statuses[before])
            });
            let status = if runs && run.terminated.is_none() {
                let done = Box::pin(self.action(action, definition, by, run)).await;
                done.unwrap_or_else(|error| {
                    run.outputs.insert(action.clone(), json!({ "error": error }));
                    FAILED
                })
            } else {
                "Skipped"
            };
            run.statuses.insert(action.clone(), status.to_owned());
        }
        let is_last = |name: &String| !all.values().any(|action| after(action).contains_key(name));
        if all.keys().filter(|name| is_last(name)).any(|last| failed(last, all, run)) { FAILED } else { SUCCEEDED }
    }

    async fn action(
        &self,
        action: &str,
        definition: &Value,
        by: &Triggered<'_>,
        run: &mut Run,
    ) -> Result<&'static str, String> {
        let inputs = &definition["inputs"];
        let output = match definition["type"].as_str().unwrap() {
            "Compose" => self.scope(by, run).value(inputs)?,
            "Select" => {
                let scope = self.scope(by, run);
                let selected: Result<Vec<Value>, String> = list(scope.value(&inputs["from"])?)?
                    .iter()
                    .map(|item| scope.with_item(item).value(&inputs["select"]))
                    .collect();
                json!({ "body": selected? })
            }
            "Query" => {
                let scope = self.scope(by, run);
                let mut kept = Vec::new();
                for item in list(scope.value(&inputs["from"])?)? {
                    if scope.with_item(&item).value(&inputs["where"])?.as_bool().ok_or("a filter is true or false")? {
                        kept.push(item);
                    }
                }
                json!({ "body": kept })
            }
            "InitializeVariable" => {
                for variable in inputs["variables"].as_array().unwrap() {
                    let value = self.scope(by, run).value(&variable["value"])?;
                    let before = run.variables.insert(variable["name"].as_str().unwrap().to_owned(), value);
                    assert_eq!(before, None, "a variable is made once, and not in a loop");
                }
                Value::Null
            }
            "SetVariable" => {
                let value = self.scope(by, run).value(&inputs["value"])?;
                *variable(inputs, run) = value;
                Value::Null
            }
            "AppendToArrayVariable" => {
                let value = self.scope(by, run).value(&inputs["value"])?;
                variable(inputs, run).as_array_mut().expect("it is appended to a list").push(value);
                Value::Null
            }
            "Http" => return self.http(action, inputs, by, run).await,
            "ApiConnection" => {
                let inputs = self.scope(by, run).value(inputs)?;
                assert_eq!((&inputs["method"], &inputs["path"]), (&json!("post"), &json!("/Incidents/Comment")));
                run.comments.push(inputs["body"].clone());
                json!({ "body": {} })
            }
            "Wait" => {
                let interval = &inputs["interval"];
                assert_eq!(interval["unit"], "Second");
                let seconds = interval["count"].as_u64().expect("a number of seconds");
                tokio::time::sleep(self.second * u32::try_from(seconds).expect("a few")).await;
                Value::Null
            }
            "Until" => return self.until(definition, by, run).await,
            "Foreach" => {
                let mut ended = SUCCEEDED;
                for item in list(self.scope(by, run).value(&definition["foreach"])?)? {
                    run.items.insert(action.to_owned(), item);
                    if self.actions(&definition["actions"], by, run).await == FAILED {
                        ended = FAILED;
                    }
                }
                return Ok(ended);
            }
            "Scope" => return Ok(self.actions(&definition["actions"], by, run).await),
            "If" => {
                let scope = self.scope(by, run);
                let pair = definition["expression"]["equals"].as_array().expect("the condition is that two are equal");
                let branch = if scope.value(&pair[0])? == scope.value(&pair[1])? {
                    &definition["actions"]
                } else {
                    &definition["else"]["actions"]
                };
                return Ok(if branch.is_null() { SUCCEEDED } else { self.actions(branch, by, run).await });
            }
            "Response" => {
                let answer = self.scope(by, run).value(inputs)?;
                assert!(run.response.replace(answer).is_none(), "it is answered once");
                Value::Null
            }
            "Terminate" => {
                run.terminated = Some(self.scope(by, run).value(inputs)?);
                Value::Null
            }
            other => panic!("no template has had an action {other} so far"),
        };
        run.outputs.insert(action.to_owned(), output);
        Ok(SUCCEEDED)
    }

    async fn until(&self, definition: &Value, by: &Triggered<'_>, run: &mut Run) -> Result<&'static str, String> {
        let most = definition["limit"]["count"].as_u64().unwrap();
        for _ in 0..usize::try_from(most).unwrap().min(self.most_rounds) {
            self.actions(&definition["actions"], by, run).await;
            if self.scope(by, run).value(&definition["expression"])? == true {
                return Ok(SUCCEEDED);
            }
        }
        Ok("TimedOut")
    }

    async fn http(
        &self,
        action: &str,
        inputs: &Value,
        by: &Triggered<'_>,
        run: &mut Run,
    ) -> Result<&'static str, String> {
        let inputs = self.scope(by, run).value(inputs)?;
        assert_eq!(inputs["authentication"]["type"], "ManagedServiceIdentity");
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let headers = inputs["headers"].as_object();
        let request = Request {
            method: text(&inputs["method"]),
            uri: text(&inputs["uri"]),
            headers: headers.into_iter().flatten().map(|(name, value)| (name.clone(), text(value))).collect(),
            body: match &inputs["body"] {
                Value::Null => None,
                Value::String(body) => Some(body.clone()),
                other => Some(other.to_string()),
            },
            audience: text(&inputs["authentication"]["audience"]),
        };
        let answer = (self.send)(request).await?;
        let failed = answer.status >= 400;
        run.outputs.insert(action.to_owned(), output(answer));
        Ok(if failed { FAILED } else { SUCCEEDED })
    }

    fn scope<'a>(&'a self, by: &Triggered<'a>, run: &'a Run) -> Scope<'a> {
        Scope { by: *by, parameters: &self.parameters, run, item: None }
    }
}

fn after(action: &Value) -> &Map<String, Value> {
    action["runAfter"].as_object().expect("each action says after what it is run")
}

fn failed(name: &str, all: &Map<String, Value>, run: &Run) -> bool {
    match run.statuses[name].as_str() {
        SUCCEEDED => false,
        "Skipped" => after(&all[name]).keys().any(|before| failed(before, all, run)),
        _ => true,
    }
}

/// In each round of a loop, actions begin anew, with those within them.
fn forget(actions: &Map<String, Value>, run: &mut Run) {
    for (name, action) in actions {
        run.statuses.remove(name);
        run.outputs.remove(name);
        for within in [&action["actions"], &action["else"]["actions"]] {
            within.as_object().into_iter().for_each(|within| forget(within, run));
        }
    }
}

fn list(value: Value) -> Result<Vec<Value>, String> {
    match value {
        Value::Array(list) => Ok(list),
        other => Err(format!("it is no list: {other}")),
    }
}

fn variable<'a>(inputs: &Value, run: &'a mut Run) -> &'a mut Value {
    let name = inputs["name"].as_str().unwrap();
    run.variables.get_mut(name).unwrap_or_else(|| panic!("there is no variable {name}"))
}

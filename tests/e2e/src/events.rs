//! Events, as `kubectl get events` shows them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{Environment, Scenario, TestPod, TestResponse, until};

/// One event.
#[derive(Clone, Debug)]
pub struct Shown {
    pub type_: String,
    pub reason: String,
    pub note: String,
}

/// What is shown under one object, in the order in which it happened.
pub async fn of(env: &Environment, namespace: &str, uid: &str) -> Result<Vec<Shown>> {
    let selector = format!("involvedObject.uid={uid},reportingComponent=tourniquet.dev/operator");
    let get = ["--namespace", namespace, "get", "events", "--field-selector", &selector, "--output", "json"];
    let list: Value = serde_json::from_str(&env.kubectl_output(&get).await?)?;
    let mut events: Vec<&Value> = list["items"].as_array().context("no list")?.iter().collect();
    events.sort_by_key(|event| event["eventTime"].as_str().unwrap_or_default());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let shown = |event: &Value| Shown {
        type_: text(&event["type"]),
        reason: text(&event["reason"]),
        note: text(&event["message"]),
    };
    Ok(events.into_iter().map(shown).collect())
}

/// Waits until these are shown under an object, as `Type Reason`, and no others of ours.
async fn told(env: &Environment, namespace: &str, uid: &str, wanted: &[&str]) -> Result<Vec<Shown>> {
    let mut last = Vec::new();
    let found = until(&format!("events {wanted:?}"), Duration::from_secs(30), async || {
        last = of(env, namespace, uid).await?;
        let seen: Vec<String> = last.iter().map(|shown| format!("{} {}", shown.type_, shown.reason)).collect();
        Ok((seen == wanted).then(|| last.clone()))
    })
    .await;
    found.with_context(|| format!("the last were {last:?}"))
}

impl Scenario {
    /// The events of a pod, once they are these.
    pub async fn pod_events(&self, pod: &TestPod, wanted: &[&str]) -> Result<Vec<Shown>> {
        told(&self.env, &pod.namespace, &pod.uid, wanted).await
    }

    /// The events of something in no namespace, once they are these. `kubectl describe` looks for them in `default`.
    pub async fn events_of(&self, uid: &str, wanted: &[&str]) -> Result<Vec<Shown>> {
        told(&self.env, "default", uid, wanted).await
    }

    /// The events of a response, once they are these.
    pub async fn response_events(&self, response: &TestResponse, wanted: &[&str]) -> Result<Vec<Shown>> {
        told(&self.env, &response.namespace, &response.uid, wanted).await
    }
}

/// Expects that the note of the event with this reason holds each of these words.
pub fn says(events: &[Shown], reason: &str, words: &[&str]) -> Result<()> {
    let event = events.iter().find(|event| event.reason == reason).with_context(|| format!("no {reason}"))?;
    for word in words {
        ensure!(event.note.contains(word), "no {word:?} in {event:?}");
    }
    Ok(())
}

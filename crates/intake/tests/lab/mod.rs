//! An intake between Azurite and an API server that is a map.

#![allow(dead_code, reason = "each test program uses some of it")]

mod operator;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::Client;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tourniquet_azurite::{Azurite, Sas, queue_account};
use tourniquet_evidence::Auth;
use tourniquet_intake::cluster::Responses;
use tourniquet_intake::message::Ages;
use tourniquet_intake::queue::{Config, Queue};
use tourniquet_intake::respond::Policy;
use tourniquet_intake::work::{Times, Work};
use tourniquet_workflow::Workflow;

use secrecy::ExposeSecret;

use crate::fixtures::CLUSTER;
use crate::templates::{self, template_of};
pub(crate) use operator::Operator;

pub(crate) struct Lab {
    azurite: &'static Azurite,
    /// The name of the queue, and of the container of outcomes.
    name: String,
    pub(crate) operator: Operator,
    work: Work,
    running: Option<(CancellationToken, JoinHandle<()>)>,
}

impl Lab {
    pub(crate) async fn new(name: &str) -> Self {
        Self::taking_up(name, 20).await
    }

    /// One that sets aside what was received more often than this.
    pub(crate) async fn taking_up(name: &str, most_received: i64) -> Self {
        let azurite = tokio::task::spawn_blocking(|| {
            let azurite = Azurite::running();
            azurite.queues();
            azurite
        })
        .await
        .unwrap();
        azurite.create_queue(name).await;
        azurite.create_queue(&format!("{name}-poison")).await;
        let name = format!("intake-{name}");
        let queue = name.trim_start_matches("intake-").to_owned();
        azurite.create_container(&name).await;
        let operator = Operator::default();
        let config = Config {
            queues: azurite.queue_endpoint(),
            queue,
            blobs: azurite.endpoint(),
            outcomes: name.clone(),
            // No more than it needs: take, keep and delete messages, and add to the queue beside.
            // Azurite asks for the right on the queue as a whole (`c`) when a message is deleted.
            auth: Auth::Sas(queue_account("aup", "co").into()),
            outcomes_auth: Auth::Sas(Sas::new(&name).with("cw").sign()),
            ca_bundle: Some(azurite.pki.ca.clone()),
        };
        let work = Work {
            queue: Queue::open(&config).unwrap(),
            responses: Responses::new(Client::new(operator.service(), "default"), "incident-response"),
            policy: Policy {
                cluster: CLUSTER.parse().unwrap(),
                namespace: "incident-response".into(),
                verbs: ["isolate", "release"].map(String::from).into(),
                commands: std::collections::BTreeMap::new(),
                store: None,
                targets: 10,
            },
            ages: Ages { on_the_way: SignedDuration::from_mins(15), waiting: SignedDuration::from_hours(24) },
            most_received,
            times: Times {
                pause: Duration::from_millis(50),
                hidden: Duration::from_secs(3),
                longest_look: Duration::from_millis(200),
                follow: Duration::from_secs(60),
            },
        };
        let mut lab = Self { azurite, name, operator, work, running: None };
        lab.start();
        lab
    }

    fn start(&mut self) {
        let stop = CancellationToken::new();
        self.running = Some((stop.clone(), tokio::spawn(self.work.clone().run(stop))));
    }

    pub(crate) async fn restart(&mut self) {
        let (stop, running) = self.running.take().unwrap();
        stop.cancel();
        running.await.unwrap();
        self.start();
    }

    /// Without an intake.
    pub(crate) async fn asleep(mut self) -> Self {
        let (stop, running) = self.running.take().unwrap();
        stop.cancel();
        running.await.unwrap();
        self
    }

    /// The playbook of this template, as it is deployed for this action.
    pub(crate) fn playbook(&self, template: &str, action: &str, command: &str) -> Workflow {
        self.deployed(self.queue(), template, action, command)
    }

    pub(crate) fn playbook_of_queue(&self, queue: &str, template: &str, action: &str) -> Workflow {
        self.deployed(queue, template, action, "")
    }

    fn deployed(&self, queue: &str, template: &str, action: &str, command: &str) -> Workflow {
        let parameters = json!({
            "$connections": {"azuresentinel": {"connectionId": "sentinel"}, "ascalert": {"connectionId": "defender"}},
            "action": action,
            "command": command,
            "queueEndpoint": self.azurite.queue_endpoint(),
            "queue": queue,
            "blobEndpoint": self.azurite.endpoint(),
            "outcomes": self.name,
            "identity": "identity",
        });
        let blobs = Sas::new(&self.name).with("r").sign();
        // No more than a playbook's identity may: add messages, and read outcomes.
        let signatures = vec![
            (self.azurite.queue_endpoint(), queue_account("a", "o")),
            (self.azurite.endpoint(), blobs.expose_secret().to_owned()),
        ];
        Workflow::of_template(
            &template_of(template),
            parameters,
            templates::signed(self.azurite.pki.client(), signatures),
        )
    }

    pub(crate) async fn ask(&self, id: &str, action: &str, alert: &Value) {
        self.ask_with(id, action, alert, json!({})).await;
    }

    pub(crate) async fn ask_with(&self, id: &str, action: &str, alert: &Value, more: Value) {
        let mut message =
            json!({"version": 1, "id": id, "sentAt": Timestamp::now(), "action": action, "defenderAlert": alert});
        message.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.put(&message.to_string()).await;
    }

    pub(crate) async fn put(&self, text: &str) {
        self.azurite.put_message(self.queue(), text).await;
    }

    /// What was told in the end.
    pub(crate) async fn settled(&self, id: &str) -> Value {
        self.told(id, |outcome| outcome["state"] != "Working").await
    }

    pub(crate) async fn working(&self, id: &str) -> Value {
        self.told(id, |outcome| outcome["state"] == "Working").await
    }

    async fn told(&self, id: &str, enough: impl Fn(&Value) -> bool) -> Value {
        let blob = format!("{id}.json");
        until(async || {
            let content = self.azurite.blob(&self.name, &blob).await?;
            let outcome: Value = serde_json::from_slice(&content).unwrap();
            enough(&outcome).then_some(outcome)
        })
        .await
    }

    /// Nothing is left in the queue, hidden or not.
    pub(crate) async fn emptied(&self) {
        until(async || (self.azurite.count_messages(self.queue()).await == 0).then_some(())).await;
    }

    pub(crate) async fn aside(&self) -> Vec<Value> {
        let notes = self.azurite.peek_messages(&format!("{}-poison", self.queue())).await;
        notes.iter().map(|note| serde_json::from_str(note).unwrap()).collect()
    }

    fn queue(&self) -> &str {
        self.name.trim_start_matches("intake-")
    }
}

/// Until it is so, and an end for a test that would hang.
async fn until<T>(mut so: impl AsyncFnMut() -> Option<T>) -> T {
    let waiting = async {
        loop {
            if let Some(value) = so().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("it comes to be so within a minute")
}

//! What tasks are tried with: an API server that is played, and a store of Azurite's or one that is down.

use std::sync::{Arc, Mutex};

use http::{Request, Response, StatusCode};
use kube::Client;
use kube::client::Body;
use kube::core::DeserializeGuard;
use kube::runtime::reflector;
use kube::runtime::watcher::Event;
use serde_json::{Value, json};
use tokio::time::Duration;
use tokio_util::sync::CancellationToken;
use tourniquet_api::{AzureBlob, Incident};
use tourniquet_azurite::{Azurite, Sas};
use tourniquet_cluster::{Cluster, ContainerRef};
use tourniquet_response::{Command, Custody, Kind, ObjectRef, Progress, TaskKey};

use super::Report;
use super::case::Case;
use crate::stores::Stores;
use crate::triggers::Stored;

const PREFIX: &str = "prod";
/// Where a folder of these tests is.
pub(super) const FOLDER: &str = "prod/c1/soc/alert-response/web-pod/run";

/// A response that isolates the pod, as it is stored.
fn response(name: &str, uid: &str) -> Value {
    let status = json!({
        "targets": [{ "kind": "Pod", "namespace": "shop", "name": "web", "uid": "pod" }],
        "actions": [
            { "name": "isolate", "outcome": "Done", "results": [{
                "targetUID": "pod", "outcome": "Done", "reason": "CutInForce", "message": "cut off", "appliedAt": "2026-11-23T03:12:00Z",
            }] },
            { "name": "run", "outcome": "Running", "results": [{
                "targetUID": "pod", "outcome": "Running", "reason": "Running", "appliedAt": "2026-11-23T03:12:01Z",
            }] },
        ],
    });
    json!({
        "apiVersion": "tourniquet.dev/v1alpha1", "kind": "IncidentResponse",
        "metadata": { "namespace": "soc", "name": name, "uid": uid },
        "spec": { "target": { "pod": { "namespace": "shop", "name": "web" } }, "actions": [{ "isolate": {} }] },
        "status": status,
    })
}

fn answer(path: &str) -> Option<Value> {
    let owned = |kind: &str, name: &str| json!([{ "apiVersion": "apps/v1", "kind": kind, "name": name, "uid": name, "controller": true }]);
    Some(match path {
        "/api/v1/namespaces/shop/pods/web" => json!({
            "metadata": { "namespace": "shop", "name": "web", "uid": "pod", "ownerReferences": owned("ReplicaSet", "web-1") },
            "spec": { "containers": [{ "name": "web" }], "volumes": [{ "name": "v", "secret": { "secretName": "s" } }] },
            "status": { "containerStatuses": [{
                "name": "web", "containerID": "containerd://one", "image": "web:1", "imageID": "web@sha256:aa", "ready": true,
                "restartCount": 2, "state": { "running": {} },
            }] },
        }),
        "/apis/apps/v1/namespaces/shop/replicasets/web-1" => json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": { "name": "web-1", "uid": "web-1", "ownerReferences": owned("Deployment", "web") },
        }),
        "/apis/apps/v1/namespaces/shop/deployments/web" => {
            json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web", "uid": "web" } })
        }
        "/apis/tourniquet.dev/v1alpha1/namespaces/soc/incidentresponses/alert" => response("alert", "response"),
        "/version" => json!({
            "major": "1", "minor": "36", "gitVersion": "v1.36.3", "gitCommit": "", "gitTreeState": "", "buildDate": "",
            "goVersion": "", "compiler": "", "platform": "",
        }),
        "/api/v1/namespaces/kube-system" => json!({ "metadata": { "name": "kube-system", "uid": "cluster" } }),
        _ => return None,
    })
}

fn cluster() -> Cluster {
    let server = tower::service_fn(|request: Request<Body>| async move {
        let found = answer(request.uri().path());
        let status = if found.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
        let none = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "message": "not found", "code": 404 });
        let body = Body::from(found.unwrap_or(none).to_string().into_bytes());
        // An hour ahead of any clock here.
        let now = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1);
        let date = now.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        Response::builder().status(status).header("date", date).body(body)
    });
    Cluster::new(Client::new(server, "default"))
}

/// Everything that a task of one command needs.
pub(super) struct Lab {
    pub(super) cluster: Cluster,
    pub(super) stores: Stores,
    responses: reflector::Store<Stored>,
    container: Option<String>,
    pub(super) object: ObjectRef,
    pub(super) key: TaskKey,
    pub(super) place: ContainerRef,
    pub(super) command: Command,
    pub(super) end: CancellationToken,
    /// What was told meanwhile.
    pub(super) told: Arc<Mutex<Vec<Progress>>>,
}

impl Lab {
    /// With a container of Azurite's of this name.
    pub(super) async fn new(container: &str) -> Self {
        let azurite = Azurite::running();
        azurite.create_container(container).await;
        let blob = AzureBlob {
            endpoint: azurite.endpoint(),
            container: container.to_owned(),
            prefix: Some(PREFIX.to_owned()),
            ca_bundle: Some(azurite.pki.ca.clone()),
            ..AzureBlob::default()
        };
        Self::of(Stores::ready("soc", &blob, Sas::new(container).sign()), Some(container.to_owned()))
    }

    /// With a store that nobody listens at.
    pub(super) fn down() -> Self {
        let blob = AzureBlob {
            endpoint: "https://127.0.0.1:1".to_owned(),
            container: "evidence".to_owned(),
            ..AzureBlob::default()
        };
        Self::of(Stores::ready("soc", &blob, "sv=1&sig=x".into()), None)
    }

    fn of(stores: Stores, container: Option<String>) -> Self {
        let (responses, mut writer) = reflector::store::<Stored>();
        for (name, uid) in [("alert", "response"), ("other", "another")] {
            let stored: Stored = DeserializeGuard(Ok(serde_json::from_value(response(name, uid)).unwrap()));
            writer.apply_watcher_event(&Event::Apply(stored));
        }
        let (namespace, name, uid) = ("shop".to_owned(), "web".to_owned(), "pod".to_owned());
        Self {
            cluster: cluster(),
            stores,
            responses,
            container,
            object: ObjectRef {
                kind: Kind::Pod,
                namespace: Some(namespace.clone()),
                name: name.clone(),
                uid: Some(uid.clone()),
            },
            key: TaskKey {
                response: "response".to_owned(),
                action: "run".to_owned(),
                target: uid.clone(),
                undo: false,
            },
            place: ContainerRef {
                namespace,
                pod: name,
                pod_uid: uid,
                container: "web".to_owned(),
                container_id: "containerd://one".to_owned(),
            },
            command: Command {
                container: "web".to_owned(),
                container_id: "containerd://one".to_owned(),
                argv: vec!["/bin/tar".to_owned(), "-c".to_owned()],
                timeout: Duration::from_secs(120),
                tail: 4096,
                custody: Some(Box::new(Custody {
                    store: "soc".to_owned(),
                    node: Some("node-0".to_owned()),
                    response: "soc/alert".to_owned(),
                    incident: Incident::default(),
                    requested_by: Some("ana".to_owned()),
                })),
                limit: 16 << 30,
            },
            end: CancellationToken::new(),
            told: Arc::default(),
        }
    }

    pub(super) fn case(&self) -> Case<'_> {
        Case {
            cluster: &self.cluster,
            stores: &self.stores,
            responses: &self.responses,
            cluster_name: "c1",
            object: &self.object,
            key: &self.key,
            custody: self.command.custody.as_deref().unwrap(),
        }
    }

    pub(super) fn report(&self) -> Report {
        let told = Arc::clone(&self.told);
        Arc::new(move |progress| told.lock().unwrap().push(progress))
    }

    /// What is at a path of the folder.
    pub(super) async fn content(&self, name: &str) -> Option<Vec<u8>> {
        Azurite::running().blob(self.container.as_deref()?, &format!("{FOLDER}/{name}")).await
    }

    pub(super) async fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&self.content(name).await.unwrap()).unwrap()
    }
}

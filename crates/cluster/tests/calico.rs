//! Calico's kinds, whoever serves them, and when nobody does.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests: a panic is a failed test")]

use std::sync::{Arc, Mutex};

use http::{Method, Request, Response};
use jiff::Timestamp;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tourniquet_api::names;
use tourniquet_cluster::Cluster;
use tourniquet_response::{Calico, Effect, Engines, Kind, ObjectRef, Observation, Read, World};

const UID: &str = "4711aaaa-0000-4000-8000-000000000001";

type Answer = fn(&Method, &str) -> (u16, Value);

/// A cluster whose API server answers like this, and what it was asked.
fn cluster(answer: Answer) -> (Cluster, Arc<Mutex<Vec<String>>>) {
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = Arc::clone(&asked);
    let server = tower::service_fn(move |request: Request<Body>| {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        log.lock().unwrap().push(format!("{method} {path}"));
        async move {
            let (code, body) = answer(&method, &path);
            let response = Response::builder().status(code).body(Body::from(body.to_string().into_bytes()));
            Ok::<_, tower::BoxError>(response.unwrap())
        }
    });
    (Cluster::new(Client::new(server, "default")), asked)
}

fn failure(code: u16) -> (u16, Value) {
    (code, json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no", "code": code }))
}

fn kinds(plurals: &[&str]) -> (u16, Value) {
    let resource =
        |plural: &&str| json!({ "name": plural, "singularName": "", "namespaced": false, "kind": "X", "verbs": [] });
    let resources: Vec<Value> = plurals.iter().map(resource).collect();
    (200, json!({ "kind": "APIResourceList", "groupVersion": "projectcalico.org/v3", "resources": resources }))
}

async fn look(cluster: &Cluster, read: Read) -> Result<Observation, String> {
    let mut world = World::new(Timestamp::UNIX_EPOCH);
    cluster.observe(read.clone().into(), &mut world).await.map_err(|error| error.to_string())?;
    Ok(world.observed.remove(&read).expect("it was looked at"))
}

async fn serves_calico(answer: Answer) -> bool {
    match look(&cluster(answer).0, Read::Engines).await {
        Ok(Observation::Engines(Engines { calico, cilium: false })) => calico,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn it_is_served_where_tiers_are() {
    assert!(
        serves_calico(|_, path| {
            if path == "/apis/projectcalico.org/v3" { kinds(&["tiers", "globalnetworkpolicies"]) } else { failure(404) }
        })
        .await
    );
    assert!(
        !serves_calico(|_, path| {
            // Before version 3.30.
            if path == "/apis/projectcalico.org/v3" { kinds(&["globalnetworkpolicies"]) } else { failure(404) }
        })
        .await
    );
    assert!(!serves_calico(|_, _| failure(404)).await);
}

#[tokio::test]
async fn an_api_server_of_calicos_that_is_away_keeps_nobody_from_isolating() {
    assert!(!serves_calico(|_, path| failure(if path.contains("calico") { 503 } else { 404 })).await);
}

#[tokio::test]
async fn a_tier_a_policy_and_the_tiers_beside_it_are_seen() {
    let (cluster, _) = cluster(|_, path| match path {
        "/apis/projectcalico.org/v3/tiers" => (
            200,
            json!({
                "apiVersion": "projectcalico.org/v3", "kind": "TierList", "metadata": {}, "items": [
                    { "metadata": { "name": names::policy(UID), "uid": "t" }, "spec": { "order": -1_000_000 } },
                    { "metadata": { "name": "default", "uid": "d" }, "spec": { "order": 1e6 } },
                    { "metadata": { "name": "last", "uid": "l" }, "spec": {} },
                ],
            }),
        ),
        path if path.ends_with(".isolate") => (
            200,
            json!({ "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "metadata": { "name": "p", "uid": "p" } }),
        ),
        _ => failure(404),
    });
    let Ok(Observation::Calico(Calico { tier, policy, others })) =
        look(&cluster, Read::Calico { tier: names::policy(UID) }).await
    else {
        panic!("it is not seen")
    };
    assert_eq!((tier.unwrap().uid, policy.unwrap().uid), ("t".to_owned(), "p".to_owned()));
    let others: Vec<(&str, Option<f64>)> = others.iter().map(|tier| (tier.name.as_str(), tier.order)).collect();
    assert_eq!(others, [("default", Some(1e6)), ("last", None)]);
}

#[tokio::test]
async fn what_is_not_served_is_not_there_and_what_cannot_be_read_is_not_absent() {
    let read = Read::Calico { tier: names::policy(UID) };
    let absent = look(&cluster(|_, _| failure(404)).0, read.clone()).await;
    assert_eq!(absent, Ok(Observation::Calico(Calico::default())));
    assert!(look(&cluster(|_, _| failure(503)).0, read).await.is_err());
}

#[tokio::test]
async fn a_policy_that_cannot_be_applied_into_being_is_created() {
    let (cluster, asked) = cluster(|method, _| match *method {
        Method::PATCH => failure(404),
        _ => (
            201,
            json!({ "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "metadata": { "name": "p" } }),
        ),
    });
    let object =
        ObjectRef { kind: Kind::GlobalNetworkPolicy, namespace: None, name: names::calico_policy(UID), uid: None };
    let manifest = object.manifest();
    cluster.perform(&Effect::Put { object, manager: "m".to_owned(), manifest, replaces: None }).await.unwrap();
    let path = "/apis/projectcalico.org/v3/globalnetworkpolicies";
    assert_eq!(*asked.lock().unwrap(), [format!("PATCH {path}/tourniquet-{UID}.isolate"), format!("POST {path}")]);
}

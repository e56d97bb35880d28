//! What becomes of a look and of an effect when the API server, or the way to it, fails.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests: a panic is a failed test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Request, Response};
use jiff::Timestamp;
use kube::Client;
use kube::client::Body;
use serde_json::json;
use tourniquet_cluster::{Cluster, Error};
use tourniquet_response::{Effect, Kind, ObjectRef, Read, Unread, World};

/// What comes of a request.
#[derive(Clone, Copy)]
enum Comes {
    Status(u16),
    Done,
    Cut,
    Nothing,
}

/// A cluster whose API server answers each request with the next of these, and the last one for ever.
fn cluster(answers: &'static [Comes]) -> Cluster {
    let count = Arc::new(AtomicUsize::new(0));
    let server = tower::service_fn(move |_: Request<Body>| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        let comes = answers.get(number).or(answers.last()).copied().unwrap();
        async move {
            let (code, body) = match comes {
                Comes::Done => (200, json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "web" } })),
                Comes::Status(code) => {
                    (code, json!({ "kind": "Status", "status": "Failure", "message": "no", "code": code }))
                }
                Comes::Cut => return Err(tower::BoxError::from(std::io::Error::other("connection reset by peer"))),
                Comes::Nothing => std::future::pending().await,
            };
            Ok(Response::builder().status(code).body(Body::from(body.to_string().into_bytes()))?)
        }
    });
    Cluster::new(Client::new(server, "default"))
}

fn pod() -> ObjectRef {
    ObjectRef {
        kind: Kind::Pod,
        namespace: Some("shop".to_owned()),
        name: "web".to_owned(),
        uid: Some("8d1f".to_owned()),
    }
}

fn label() -> Effect {
    Effect::Apply {
        object: pod(),
        manager: "tourniquet/1".to_owned(),
        fields: json!({ "metadata": { "labels": { "incident": "4711" } } }),
    }
}

fn two_pods() -> Unread {
    let place = |name: &str| Read::Pod { namespace: "shop".to_owned(), name: name.to_owned() };
    Unread([place("web"), place("db")].into())
}

async fn failed(answers: &'static [Comes]) -> Error {
    cluster(answers).perform(&label()).await.expect_err("it fails")
}

#[tokio::test(start_paused = true)]
async fn faults_of_the_api_server_pass_and_refusals_stay() {
    use Comes::{Cut, Nothing, Status};
    let passing: [&[Comes]; 8] = [
        &[Status(429)],
        &[Status(500)],
        &[Status(503)],
        &[Status(504)],
        &[Status(408)],
        &[Status(410)],
        &[Cut],
        &[Nothing],
    ];
    for answers in passing {
        let error = failed(answers).await;
        assert!(error.passes(), "{error}");
    }
    let staying: [&[Comes]; 3] = [&[Status(400)], &[Status(403)], &[Status(422)]];
    for answers in staying {
        let error = failed(answers).await;
        assert!(!error.passes(), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_does_not_answer_is_given_up_and_the_error_says_so() {
    let error = failed(&[Comes::Nothing]).await.to_string();
    assert_eq!(error, "cannot apply to Pod shop/web: the API server did not answer within 15 s");
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_made_again() {
    let cluster = cluster(&[Comes::Cut, Comes::Done]);
    let lost = cluster.perform(&label()).await.expect_err("nobody knows whether it was done");
    assert!(lost.to_string().contains("connection reset by peer"), "{lost}");
    cluster.perform(&label()).await.expect("an apply can be made twice");
}

#[tokio::test]
async fn a_deletion_whose_answer_was_lost_was_done() {
    let cluster = cluster(&[Comes::Cut, Comes::Status(404)]);
    let delete = Effect::Delete { object: pod(), version: None };
    cluster.perform(&delete).await.expect_err("nobody knows whether it was done");
    cluster.perform(&delete).await.expect("it is gone");
}

#[tokio::test(start_paused = true)]
async fn of_a_look_that_fails_in_part_nothing_is_kept() {
    let faults: [&[Comes]; 3] =
        [&[Comes::Done, Comes::Status(500)], &[Comes::Status(429), Comes::Done], &[Comes::Done, Comes::Nothing]];
    for fault in faults {
        let mut world = World::new(Timestamp::UNIX_EPOCH);
        assert!(cluster(fault).observe(two_pods(), &mut world).await.is_err());
        assert!(world.observed.is_empty(), "unread is not absent");
    }
}

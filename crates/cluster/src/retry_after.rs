//! `Retry-After`: what the API server turned away is not sent again before the time that it asked for.
//!
//! It holds for the request that was turned away (its method and path), and for nothing else: another response's isolation must
//! not wait because this one was told to. Whoever asks too early is answered here, as the API server would answer, rather than
//! kept waiting: a wait would hold up the response's other effects and one of the operator's workers, and would be taken for an API server
//! that does not answer. The pause is in the answer's `Status`, also where the API server has it in the header only, as
//! its priority and fairness does (Kubernetes 1.36, `server/filters/priority-and-fairness.go`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::time::Instant;
use tower::{BoxError, Layer, Service};

/// The API server asks for at most this (`flowcontrol/dropped_requests_tracker.go`). Who asks for more is somebody in between, who
/// must not keep a pod from being isolated for an hour.
const LONGEST: Duration = Duration::from_secs(32);

/// Adds [`RetryAfter`] to a client.
#[derive(Clone, Default)]
pub(crate) struct RetryAfterLayer(NotBefore);

/// An answer whose body came over the wire, or was made here.
type Answer = Response<UnsyncBoxBody<Bytes, BoxError>>;

/// A body as it is handed on.
pub(crate) fn boxed<B>(body: B) -> UnsyncBoxBody<Bytes, BoxError>
where
    B: http_body_util::BodyExt<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    body.map_err(Into::into).boxed_unsync()
}

type NotBefore = Arc<Mutex<HashMap<Key, Instant>>>;

/// What counts as the same request. A list and the watch that follows it have one path.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    method: Method,
    path: String,
    watch: bool,
}

impl Key {
    fn of(request: &Request<Body>) -> Self {
        let query = request.uri().query().unwrap_or_default();
        let watch = query.split('&').any(|parameter| matches!(parameter, "watch=true" | "watch=1"));
        Self { method: request.method().clone(), path: request.uri().path().to_owned(), watch }
    }
}

impl<S> Layer<S> for RetryAfterLayer {
    type Service = RetryAfter<S>;

    fn layer(&self, inner: S) -> RetryAfter<S> {
        RetryAfter { inner, not_before: Arc::clone(&self.0) }
    }
}

/// See the module.
#[derive(Clone)]
pub(crate) struct RetryAfter<S> {
    inner: S,
    not_before: NotBefore,
}

impl<S> Service<Request<Body>> for RetryAfter<S>
where
    S: Service<Request<Body>, Response = Answer, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = Answer;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Answer, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let key = Key::of(&request);
        if let Some(left) = left(&self.not_before, &key) {
            return async move { turned_away(StatusCode::TOO_MANY_REQUESTS, left, "too many requests") }.boxed();
        }
        let (sent, not_before) = (self.inner.call(request), Arc::clone(&self.not_before));
        async move {
            let answer = sent.await?;
            let Some(pause) = pause(answer.status(), answer.headers()) else { return Ok(answer) };
            let now = Instant::now();
            {
                let mut not_before = not_before.lock().unwrap_or_else(PoisonError::into_inner);
                not_before.retain(|_, until| *until > now);
                // Two that were on their way together may be told different times.
                let until = not_before.entry(key).or_insert(now);
                *until = (now + pause).max(*until);
            }
            let status = answer.status();
            let body = answer.into_body().collect().await?.to_bytes();
            turned_away(status, pause, &String::from_utf8_lossy(&body))
        }
        .boxed()
    }
}

/// How long a request still has to wait.
fn left(not_before: &NotBefore, key: &Key) -> Option<Duration> {
    let not_before = not_before.lock().unwrap_or_else(PoisonError::into_inner);
    let left = not_before.get(key)?.saturating_duration_since(Instant::now());
    (!left.is_zero()).then_some(left)
}

/// What an answer asks for. Kubernetes sends seconds, never a date.
fn pause(status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
    if status != StatusCode::TOO_MANY_REQUESTS && !status.is_server_error() {
        return None;
    }
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST)).filter(|pause| !pause.is_zero())
}

fn turned_away(code: StatusCode, pause: Duration, said: &str) -> Result<Answer, BoxError> {
    // Whole seconds are all that a Status has, and too early is what it must not be.
    let seconds = pause.as_secs() + u64::from(pause.subsec_nanos() > 0);
    let status = serde_json::from_str(said).ok().filter(|status: &Value| status["kind"] == "Status");
    let mut status = status.unwrap_or_else(|| {
        let message = said.trim();
        json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code.as_u16() })
    });
    if !status["details"].is_object() {
        status["details"] = json!({});
    }
    status["details"]["retryAfterSeconds"] = json!(seconds);
    let answer = Response::builder().status(code).header(CONTENT_TYPE, "application/json");
    Ok(answer.body(boxed(Full::new(Bytes::from(status.to_string()))))?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests: a panic is a failed test")]

    use std::sync::atomic::{AtomicU32, Ordering};

    use k8s_openapi::api::core::v1::Pod;
    use kube::Client;
    use kube::api::Api;
    use tower::ServiceBuilder;

    use super::*;
    use crate::error::Cause;
    use crate::within;

    /// A client, and how many requests came through to an API server that turns away what is about pod `busy`.
    fn client(pause: &'static str, body: &'static str) -> (Client, Arc<AtomicU32>) {
        let count = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&count);
        let server = tower::service_fn(move |request: Request<Body>| {
            counted.fetch_add(1, Ordering::SeqCst);
            async move {
                let answer = if request.uri().path().ends_with("/busy") {
                    Response::builder().status(429).header(RETRY_AFTER, pause).body(boxed(Full::new(Bytes::from(body))))
                } else {
                    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "idle" } });
                    Response::builder().status(200).body(boxed(Full::new(Bytes::from(pod.to_string()))))
                };
                Ok::<_, BoxError>(answer?)
            }
        });
        let service = ServiceBuilder::new().layer(RetryAfterLayer::default()).service(server);
        (Client::new(service, "default"), count)
    }

    fn asked(cause: &Cause) -> Option<u64> {
        match cause {
            Cause::Status { code: 429, retry_after, .. } => retry_after.map(|pause| pause.as_secs()),
            _ => None,
        }
    }

    #[tokio::test]
    async fn what_was_turned_away_is_not_sent_again_too_early_and_nothing_else_waits() {
        let (client, sent) = client("20", "Too many requests, please try again later.\n");
        let pods: Api<Pod> = Api::default_namespaced(client);
        let first = within(pods.get("busy")).await.unwrap_err();
        assert_eq!(asked(&first), Some(20));
        assert_eq!(first.to_string(), "Too many requests, please try again later. (the API server asks to wait 20 s)");
        let again = within(pods.get("busy")).await.unwrap_err();
        assert!(asked(&again).is_some_and(|left| (1..=20).contains(&left)), "{again:?}");
        assert_eq!(sent.load(Ordering::SeqCst), 1, "the second one was answered here");
        within(pods.get("idle")).await.unwrap();
        assert!(within(pods.delete("busy", &Default::default())).await.is_err());
        assert_eq!(sent.load(Ordering::SeqCst), 3, "another object, and another verb, are other requests");
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_sent_again_when_the_time_has_come() {
        let (client, sent) = client("20", "");
        let pods: Api<Pod> = Api::default_namespaced(client);
        within(pods.get("busy")).await.unwrap_err();
        for (seconds, asked_for, so_far) in [(19, 1, 1), (1, 20, 2)] {
            tokio::time::advance(Duration::from_secs(seconds)).await;
            assert_eq!(asked(&within(pods.get("busy")).await.unwrap_err()), Some(asked_for));
            assert_eq!(sent.load(Ordering::SeqCst), so_far);
        }
    }

    #[tokio::test]
    async fn what_the_api_server_says_beside_it_is_kept() {
        let status = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","message":"etcd is busy","code":429}"#;
        let (client, _) = client("3", status);
        let pods: Api<Pod> = Api::default_namespaced(client);
        let cause = within(pods.get("busy")).await.unwrap_err();
        assert_eq!(asked(&cause), Some(3));
        assert!(cause.to_string().starts_with("etcd is busy"), "{cause}");
    }

    #[tokio::test]
    async fn nobody_makes_it_wait_for_an_hour() {
        for (asks, waits) in [("3600", Some(32)), ("0", None), ("soon", None), ("-1", None)] {
            let (client, _) = client(asks, "");
            let pods: Api<Pod> = Api::default_namespaced(client);
            assert_eq!(asked(&within(pods.get("busy")).await.unwrap_err()), waits, "{asks}");
        }
    }

    #[test]
    fn a_list_and_a_watch_are_two_requests() {
        let key = |uri: &str| Key::of(&Request::get(uri).body(Body::empty()).unwrap());
        assert!(key("/api/v1/pods?watch=true&resourceVersion=1") == key("/api/v1/pods?watch=true&resourceVersion=2"));
        assert!(key("/api/v1/pods?watch=true") != key("/api/v1/pods?limit=500"));
        assert!(key("/api/v1/pods?limit=500") == key("/api/v1/pods?continue=x"));
    }
}

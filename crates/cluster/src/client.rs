//! How the API server is reached.

use std::time::Duration;

use http::HeaderValue;
use http::header::USER_AGENT;
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::Builder;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ConfigExt};
use kube::{Client, Config};
use tower::ServiceBuilder;

use crate::Error;
use crate::retry_after::{self, RetryAfterLayer};

/// How long a connection may take to come about.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// A connection on which nothing comes any more, though a watch is open, is probed after this, and given up 15 s later: a
/// watch that hears nothing looks like one in which nothing happens.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// The API server ends a watch after 290 s; a longer silence is a lost connection.
const READ_LIMIT: Duration = Duration::from_secs(300);

/// How long a request about who leads may take: it is to be made again before the leader has to give up.
const BRIEF: Duration = Duration::from_secs(3);

/// A client from the pod's service account, or from the kubeconfig outside of a cluster.
///
/// Built from kube's parts rather than by its default, for three reasons. The default leaves Nagle's algorithm on, which costs
/// 40 ms with every new connection: the last message of the handshake waits for an acknowledgement that the server delays. It
/// never gives up on a connection that is lost without a word. And it sends a request up to 15 times on 429 and 503, writes
/// included, while the response waits; whoever calls decides afresh instead, and no sooner than the API server asks for ([`crate::retry_after`]).
///
/// The program's name and version go with each request: the API server's audit log has them beside the account, of which somebody else could have a token.
///
/// # Errors
/// When there is neither a service account nor a kubeconfig, or it cannot be used.
pub async fn client(program: &'static str) -> Result<Client, Error> {
    with_limit(program, READ_LIMIT).await
}

/// The same with connections of its own, for requests that bring little and must not hang: who leads waits for the answer. 3 s without a
/// byte, and the connection is given up.
///
/// # Errors
/// As [`client`].
pub async fn brief_client(program: &'static str) -> Result<Client, Error> {
    with_limit(program, BRIEF).await
}

async fn with_limit(program: &'static str, read_limit: Duration) -> Result<Client, Error> {
    let mut config = Config::infer().await.map_err(|error| Error::Configuration(error.to_string()))?;
    config.headers.push((USER_AGENT, HeaderValue::from_static(program)));
    build(&config, read_limit).map_err(|error| Error::Configuration(error.to_string()))
}

fn build(config: &Config, read_limit: Duration) -> kube::Result<Client> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(KEEPALIVE));
    tcp.set_keepalive_interval(Some(Duration::from_secs(5)));
    tcp.set_keepalive_retries(Some(3));
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(tcp)?);
    connector.set_connect_timeout(Some(CONNECT_LIMIT));
    connector.set_read_timeout(Some(read_limit));
    let http: hyper_util::client::legacy::Client<_, Body> = Builder::new(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new()
        .layer(RetryAfterLayer::default())
        .map_response(|answer: http::Response<_>| answer.map(retry_after::boxed))
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(tower::BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace.clone()))
}

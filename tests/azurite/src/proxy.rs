//! A proxy in front of Azurite, with TLS of its own, that does to each request what a rule says.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::{ACCOUNT, Azurite};

/// What becomes of a request.
#[derive(Clone, Debug)]
pub enum Fate {
    Passes,
    /// Part of its body is read, then the connection is gone.
    CutMidway,
    /// It arrives and is carried out; its answer does not come back.
    AnswerLost,
    /// The connection is gone before it arrives.
    Dropped,
    /// Nobody answers.
    Hangs,
    /// It arrives, after this.
    Slow(Duration),
    /// It is answered by the proxy: status, error code (and after a colon, a message), headers.
    Answered(u16, &'static str, Vec<(&'static str, String)>),
}

/// A request, as a rule sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Counts from 0, requests that write only.
    pub write: Option<usize>,
    pub method: String,
    /// The blob below the container.
    pub blob: String,
    /// `block`, `blocklist`, `list` or nothing.
    pub comp: String,
    pub query: String,
}

impl Seen {
    pub fn is_block(&self) -> bool {
        self.comp == "block"
    }

    pub fn is_commit(&self) -> bool {
        self.comp == "blocklist"
    }
}

pub trait Rule: FnMut(&Seen) -> Fate + Send + 'static {}
impl<F: FnMut(&Seen) -> Fate + Send + 'static> Rule for F {}

pub struct Proxy {
    address: SocketAddr,
    accepting: JoinHandle<()>,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: String,
    client: reqwest::Client,
    rule: Mutex<Box<dyn Rule>>,
    /// What was carried out, with the status.
    done: Mutex<Vec<(Seen, u16)>>,
    writes: Mutex<usize>,
}

impl Proxy {
    /// On Azurite's own address, for which its certificate is.
    pub async fn start(azurite: &Azurite, rule: impl Rule) -> Self {
        let listener = TcpListener::bind(SocketAddr::new(azurite.address.ip(), 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = azurite.pki.acceptor();
        let shared = Arc::new(Shared {
            upstream: format!("https://{}", azurite.address),
            client: azurite.pki.client(),
            rule: Mutex::new(Box::new(rule)),
            done: Mutex::default(),
            writes: Mutex::default(),
        });
        let shares = Arc::clone(&shared);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shares));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| Arc::clone(&shared).serve(request));
                    // An error here is what a rule asked for.
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, accepting, shared }
    }

    pub fn endpoint(&self) -> String {
        format!("https://{}/{ACCOUNT}", self.address)
    }

    /// From now on.
    pub fn follow(&self, rule: impl Rule) {
        *self.shared.rule.lock().unwrap() = Box::new(rule);
    }

    /// How often each blob was made, by requests that succeeded.
    pub fn commits(&self) -> Vec<String> {
        let made = self.done().into_iter().filter(|(seen, status)| seen.is_commit() && *status == 201);
        made.map(|(seen, _)| seen.blob).collect()
    }

    /// What was carried out, with the status of the answer.
    pub fn done(&self) -> Vec<(Seen, u16)> {
        self.shared.done.lock().unwrap().clone()
    }

    /// Requests that write, whatever became of them.
    pub fn writes(&self) -> usize {
        *self.shared.writes.lock().unwrap()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Shared {
    async fn serve(self: Arc<Self>, request: Request<Incoming>) -> io::Result<Response<Full<Bytes>>> {
        let seen = self.see(&request);
        let fate = (self.rule.lock().unwrap())(&seen);
        match fate {
            Fate::Passes => self.forward(seen, request).await,
            Fate::CutMidway => {
                let _ = request.into_body().frame().await;
                Err(io::ErrorKind::ConnectionReset.into())
            }
            Fate::AnswerLost => {
                self.forward(seen, request).await?;
                Err(io::ErrorKind::ConnectionReset.into())
            }
            Fate::Dropped => Err(io::ErrorKind::ConnectionReset.into()),
            Fate::Hangs => std::future::pending().await,
            Fate::Slow(pause) => {
                tokio::time::sleep(pause).await;
                self.forward(seen, request).await
            }
            Fate::Answered(status, code, headers) => {
                // The connection can be used again only when the request was read.
                let _ = request.into_body().collect().await;
                let (code, message) = code.split_once(": ").unwrap_or((code, "The proxy said so."));
                let body = format!(
                    "<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
                );
                let mut answer = Response::builder()
                    .status(status)
                    .header("x-ms-error-code", code)
                    .header("content-type", "application/xml");
                for (name, value) in headers {
                    answer = answer.header(name, value);
                }
                Ok(answer.body(Full::from(body)).unwrap())
            }
        }
    }

    fn see(&self, request: &Request<Incoming>) -> Seen {
        let query = request.uri().query().unwrap_or_default().to_owned();
        let comp = url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "comp");
        let path = request.uri().path().replace("%2F", "/");
        let write = (request.method() == "PUT").then(|| {
            let mut writes = self.writes.lock().unwrap();
            *writes += 1;
            *writes - 1
        });
        Seen {
            write,
            method: request.method().to_string(),
            blob: path.splitn(4, '/').nth(3).unwrap_or_default().to_owned(),
            comp: comp.map(|(_, value)| value.into_owned()).unwrap_or_default(),
            query,
        }
    }

    async fn forward(&self, seen: Seen, request: Request<Incoming>) -> io::Result<Response<Full<Bytes>>> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let url = format!("{}{}", self.upstream, parts.uri);
        let mut headers = parts.headers;
        headers.remove("host");
        let answer = self
            .client
            .request(parts.method, url)
            .headers(headers)
            .body(body)
            .send()
            .await
            .map_err(io::Error::other)?;
        self.done.lock().unwrap().push((seen, answer.status().as_u16()));
        let mut response = Response::builder().status(answer.status());
        for (name, value) in
            answer.headers().iter().filter(|(name, _)| *name != "transfer-encoding" && *name != "connection")
        {
            response = response.header(name, value);
        }
        let body = answer.bytes().await.map_err(io::Error::other)?;
        Ok(response.body(Full::from(body)).unwrap())
    }
}

/// Everything passes.
pub fn passes(_: &Seen) -> Fate {
    Fate::Passes
}

/// This, once, to the first request that is one of these; everything else passes.
pub fn once(fate: Fate, which: impl Fn(&Seen) -> bool + Send + 'static) -> impl Rule {
    times(1, fate, which)
}

/// This, to the first so many requests that are of these; everything else passes.
pub fn times(count: usize, fate: Fate, which: impl Fn(&Seen) -> bool + Send + 'static) -> impl Rule {
    let mut left = count;
    move |seen: &Seen| {
        if left > 0 && which(seen) {
            left -= 1;
            fate.clone()
        } else {
            Fate::Passes
        }
    }
}

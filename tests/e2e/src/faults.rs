//! An API server that fails now and then, in every way that a client has to bear.
//!
//! The faults are drawn by the proxy in front of an operator of the test's own (`crash`), from a seed that is printed and can be set
//! (`TOURNIQUET_SEED`): it gives the faults and their order; which request meets which one is up to the order in which they come.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use http::{HeaderMap, Method, StatusCode, Uri};
use serde_json::json;

/// A request in so many fails.
const ONE_IN: usize = 5;
/// The operator gives a request up after 15 s.
const HANGS_FOR: Duration = Duration::from_secs(20);
/// The same request of another response may be on its way while the first one is turned away.
const ON_ITS_WAY: Duration = Duration::from_secs(1);
const SLOW: Duration = Duration::from_millis(700);
/// So long a watch is open before it has expired.
const OPEN_FOR: Duration = Duration::from_secs(2);
/// Of the watches that an operator begins with, the one that expires. It has ten.
const EXPIRES: u32 = 4;

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// 429: not now, but after this many seconds.
    TooMany(u64),
    /// 500, before anything was done.
    Internal,
    /// 503, before anything was done.
    Unavailable,
    /// 410: the list or the watch goes on from where nobody knows any more.
    Expired,
    /// 410 in a watch that is open, as the API server says it when what it has kept for the watch is gone: an event among the others.
    ExpiredLater,
    /// The connection is cut before anything was done.
    CutBefore,
    /// It was done, and the connection is cut before the answer is whole.
    CutAfter,
    /// It was done, and the answer takes its time.
    Slow,
    /// It was done, and the answer comes when nobody waits for it any more. Once: it takes as long as it takes.
    Hangs,
}

impl Fault {
    /// Whether the API server does what was asked.
    pub(crate) const fn is_done(self) -> bool {
        matches!(self, Self::ExpiredLater | Self::CutAfter | Self::Slow | Self::Hangs)
    }
}

/// The faults of one operator's API server.
pub struct Faults {
    state: Mutex<State>,
}

struct State {
    random: fastrand::Rng,
    met: BTreeMap<&'static str, u32>,
    /// When requests were told not to come again, and until when.
    not_before: HashMap<String, (Instant, Instant)>,
    early: Vec<String>,
    watches: u32,
}

impl Faults {
    /// Seeded from the environment, or from the clock.
    pub fn begin() -> Result<Self> {
        let seed = match std::env::var("TOURNIQUET_SEED") {
            Ok(seed) => seed.parse().with_context(|| format!("TOURNIQUET_SEED is no number: {seed}"))?,
            Err(_) => fastrand::u64(..),
        };
        println!("the API server fails as TOURNIQUET_SEED={seed} says");
        let random = fastrand::Rng::with_seed(seed);
        let state = State { random, met: BTreeMap::new(), not_before: HashMap::new(), early: Vec::new(), watches: 0 };
        Ok(Self { state: Mutex::new(state) })
    }

    /// What happens to this request; most go well.
    pub(crate) fn draw(&self, method: &Method, uri: &Uri) -> Option<Fault> {
        let mut state = self.state.lock().unwrap();
        let watches = uri.query().is_some_and(|query| query.contains("watch=true"));
        let request = format!("{method} {}{}", uri.path(), if watches { " (watch)" } else { "" });
        let now = Instant::now();
        let told = state.not_before.get(&request).copied();
        if let Some((at, until)) = told.filter(|(at, until)| at.elapsed() > ON_ITS_WAY && *until > now) {
            let (after, left) = (now - at, until - now);
            state.early.push(format!("{request} came again after {after:?}, {left:?} too early"));
        }
        state.watches += u32::from(watches);
        let expires = watches && state.watches == EXPIRES;
        if !expires && state.random.usize(..ONE_IN) != 0 {
            return None;
        }
        let is_list = method == Method::GET && (watches || uri.query().is_some());
        let fault = match state.random.u8(..16) {
            _ if expires => Fault::ExpiredLater,
            0..4 => Fault::TooMany(state.random.u64(2..=3)),
            4..6 => Fault::Internal,
            6..8 => Fault::Unavailable,
            8..10 if is_list => Fault::Expired,
            8..12 => Fault::CutBefore,
            12..14 => Fault::CutAfter,
            14 if !state.met.contains_key("Hangs") => Fault::Hangs,
            _ => Fault::Slow,
        };
        let name = match fault {
            Fault::TooMany(seconds) => {
                state.not_before.insert(request, (now, now + Duration::from_secs(seconds)));
                "TooMany"
            }
            Fault::Internal => "Internal",
            Fault::Unavailable => "Unavailable",
            Fault::Expired => "Expired",
            Fault::ExpiredLater => "ExpiredLater",
            Fault::CutBefore => "CutBefore",
            Fault::CutAfter => "CutAfter",
            Fault::Slow => "Slow",
            Fault::Hangs => "Hangs",
        };
        *state.met.entry(name).or_default() += 1;
        Some(fault)
    }

    /// How often each fault was met.
    pub fn met(&self) -> BTreeMap<&'static str, u32> {
        self.state.lock().unwrap().met.clone()
    }

    /// Whether every fault was met.
    pub fn were_all_met(&self) -> bool {
        self.met().len() == 9
    }

    /// Fails when a request came again sooner than it was told to.
    pub fn were_heeded(&self) -> Result<()> {
        let state = self.state.lock().unwrap();
        ensure!(state.early.is_empty(), "Retry-After was not heeded: {}", state.early.join("; "));
        Ok(())
    }
}

/// What the client gets, in the place of the answer or with it.
pub(crate) async fn suffer(fault: Fault, answer: Option<Response>) -> Response {
    let status = |code: StatusCode, reason: &str| {
        let message = "a fault of the test";
        let body = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason, "code": code.as_u16() });
        (code, [(http::header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
    };
    let gone = || {
        let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "too old resource version", "reason": "Expired", "code": 410 });
        format!("{}\n", json!({ "type": "ERROR", "object": status }))
    };
    let whole = || answer.unwrap_or_else(|| StatusCode::BAD_GATEWAY.into_response());
    match fault {
        // As priority and fairness writes it: the seconds in the header, and no Status.
        Fault::TooMany(seconds) => {
            let headers: HeaderMap =
                [(http::header::RETRY_AFTER, http::HeaderValue::from(seconds))].into_iter().collect();
            (StatusCode::TOO_MANY_REQUESTS, headers, "Too many requests, please try again later.\n").into_response()
        }
        Fault::Internal => status(StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
        Fault::Unavailable => status(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable"),
        Fault::Expired => status(StatusCode::GONE, "Expired"),
        Fault::ExpiredLater => {
            let (parts, body) = whole().into_parts();
            let open = body.into_data_stream().take_until(tokio::time::sleep(OPEN_FOR));
            let last = futures::stream::once(async move { Ok(Bytes::from(gone())) });
            Response::from_parts(parts, Body::from_stream(open.chain(last)))
        }
        // A body that fails ends the connection before the answer is whole.
        Fault::CutBefore | Fault::CutAfter => {
            let cut = futures::stream::once(async { Err::<&[u8], _>(std::io::Error::other("cut")) });
            Response::new(Body::from_stream(cut))
        }
        Fault::Slow => {
            tokio::time::sleep(SLOW).await;
            whole()
        }
        Fault::Hangs => {
            tokio::time::sleep(HANGS_FOR).await;
            whole()
        }
    }
}

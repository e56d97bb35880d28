//! The operator as a process of the test, killed at a chosen write.
//!
//! Between it and the API server stands a proxy that numbers the writes which concern one response. At the chosen one the
//! operator is killed (SIGKILL), either before the API server sees the write or after it took it and before the operator
//! hears of it. Everything else is forwarded as it is, under the operator's own ServiceAccount.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{Method, StatusCode, header};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::config::AuthInfo;
use kube::{Client, client};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use crate::environment::config;
use crate::faults::{Faults, suffer};
use crate::{AGENT_NAMESPACE, OPERATOR_NAMESPACE, Scenario, TestPod, until};

const DEPLOYMENT: &str = "tourniquet-operator";
/// The node's address in our clusters: pods reach it, also those that run nothing.
pub(crate) const NODE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 99, 0, 1));

/// On which side of the write the operator dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The API server never sees it.
    Before,
    /// The API server took it, and the operator does not hear of it.
    After,
}

/// When the operator dies.
#[derive(Clone, Debug)]
pub struct CrashAt {
    /// The number of the write, from 1.
    pub write: u32,
    pub side: Side,
    /// A write concerns the response when its path contains one of these.
    pub paths: Vec<String>,
}

/// The cluster's own operator put aside, so that the test's is the only one.
pub struct Exclusive {
    api: Api<Deployment>,
}

impl Exclusive {
    /// Carries a test out while the operator is put aside, beside others that do the same.
    pub async fn during(scenario: &Scenario, test: impl Future<Output = Result<()>>) -> Result<()> {
        static TESTS: tokio::sync::Mutex<u32> = tokio::sync::Mutex::const_new(0);
        {
            let mut tests = TESTS.lock().await;
            if *tests == 0 {
                Self::begin(scenario).await?;
            }
            *tests += 1;
        }
        let ended = test.await;
        let mut tests = TESTS.lock().await;
        *tests -= 1;
        if *tests == 0 {
            Self { api: Api::namespaced(scenario.env.client.clone(), OPERATOR_NAMESPACE) }.end().await?;
        }
        ended
    }

    pub async fn begin(scenario: &Scenario) -> Result<Self> {
        let client = scenario.env.client.clone();
        let exclusive = Self { api: Api::namespaced(client.clone(), OPERATOR_NAMESPACE) };
        exclusive.scale(0).await?;
        let pods: Api<Pod> = Api::namespaced(client, OPERATOR_NAMESPACE);
        until("the cluster's operator has stopped", Duration::from_secs(60), async || {
            Ok(pods.list_metadata(&ListParams::default()).await?.items.is_empty().then_some(()))
        })
        .await?;
        Ok(exclusive)
    }

    pub async fn end(&self) -> Result<()> {
        self.scale(1).await?;
        until("the cluster's operator is back", Duration::from_secs(60), async || {
            let status = self.api.get(DEPLOYMENT).await?.status.unwrap_or_default();
            Ok((status.ready_replicas == Some(1)).then_some(()))
        })
        .await
    }

    async fn scale(&self, replicas: u32) -> Result<()> {
        let patch = json!({ "spec": { "replicas": replicas } });
        self.api.patch(DEPLOYMENT, &PatchParams::default(), &Patch::Merge(&patch)).await?;
        Ok(())
    }
}

/// An operator that this test runs.
pub struct Operator {
    child: Child,
    pid: Pid,
    crashed: Arc<AtomicBool>,
    proxy: JoinHandle<()>,
    _kubeconfig: tempfile::NamedTempFile,
    held: Arc<Held>,
}

/// One of several operators of which one leads.
pub struct Candidate<'a> {
    pub name: &'a str,
    pub lease: &'a str,
    /// The first write to a path with this in it is held up, until it is let go.
    pub holds: Option<&'a str>,
}

/// A write that is held up on its way.
#[derive(Default)]
struct Held {
    path: Option<String>,
    is_held: AtomicBool,
    go: tokio::sync::Notify,
}

struct Proxy {
    client: Client,
    held: Arc<Held>,
    crash: Option<CrashAt>,
    faults: Option<Arc<Faults>>,
    count: AtomicU32,
    victim: std::sync::Mutex<Option<Pid>>,
    crashed: Arc<AtomicBool>,
}

impl Operator {
    /// Starts one in the network namespace of a pod: from the node's own, every pod can be reached whatever policies say.
    pub async fn start(scenario: &Scenario, seat: &TestPod, crash: Option<CrashAt>) -> Result<Self> {
        Self::start_behind(scenario, seat, crash, None, None, &[]).await
    }

    /// The same, installed with these environment variables, as the chart sets them by its values.
    pub async fn start_with(scenario: &Scenario, seat: &TestPod, variables: &[(&str, &str)]) -> Result<Self> {
        Self::start_behind(scenario, seat, None, None, None, variables).await
    }

    /// The same, whose API server fails now and then.
    pub async fn start_with_faults(scenario: &Scenario, seat: &TestPod, faults: Arc<Faults>) -> Result<Self> {
        Self::start_behind(scenario, seat, None, Some(faults), None, &[]).await
    }

    /// The same, that leads or stands by.
    pub async fn start_as(scenario: &Scenario, seat: &TestPod, candidate: Candidate<'_>) -> Result<Self> {
        Self::start_behind(scenario, seat, None, None, Some(candidate), &[]).await
    }

    async fn start_behind(
        scenario: &Scenario,
        seat: &TestPod,
        crash: Option<CrashAt>,
        faults: Option<Arc<Faults>>,
        candidate: Option<Candidate<'_>>,
        variables: &[(&str, &str)],
    ) -> Result<Self> {
        // Others of the same test act beside it: each by a lease of its own, unless it is one of several.
        let own = format!("test-{}", fastrand::u64(..));
        let candidate = candidate.unwrap_or(Candidate { name: "outside", lease: &own, holds: None });
        let held = Arc::new(Held { path: candidate.holds.map(str::to_owned), ..Held::default() });
        let program = scenario.env.operator.as_ref().context("TOURNIQUET_OPERATOR is not set")?;
        let crashed = Arc::new(AtomicBool::new(false));
        let mut config = config(&scenario.env.context).await?;
        config.auth_info = AuthInfo::default();
        config.default_retry = false;
        let proxy = Arc::new(Proxy {
            client: Client::try_from(config)?,
            held: Arc::clone(&held),
            crash,
            faults,
            count: AtomicU32::new(0),
            victim: std::sync::Mutex::default(),
            crashed: Arc::clone(&crashed),
        });
        let listener = tokio::net::TcpListener::bind(SocketAddr::new(NODE, 0)).await?;
        let address = listener.local_addr()?;
        let router = axum::Router::new().fallback(forward).with_state(Arc::clone(&proxy));
        let serving = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });

        let token = ["--namespace", OPERATOR_NAMESPACE, "create", "token", DEPLOYMENT];
        let token = scenario.env.kubectl_output(&token).await?;
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "proxy",
            "clusters": [{ "name": "proxy", "cluster": { "server": format!("http://{address}") } }],
            "users": [{ "name": "operator", "user": { "token": token.trim() } }],
            "contexts": [{ "name": "proxy", "context": { "cluster": "proxy", "user": "operator" } }],
        });
        // There is a token in it: it goes with the operator.
        let mut file = tempfile::NamedTempFile::new()?;
        file.write_all(kubeconfig.to_string().as_bytes())?;

        let net = format!("--net=/proc/{}/ns/net", process_of(seat)?);
        // Both run the program in their own place, so the child's number is the operator's.
        let child = Command::new("nsenter")
            .args([&net, "--", "setpriv", "--pdeathsig", "KILL", "--"])
            .arg(program)
            .env("KUBECONFIG", file.path())
            .env("TOURNIQUET_HEALTH_ADDRESS", "127.0.0.1:0")
            .env("TOURNIQUET_POD_NAME", candidate.name)
            .env("TOURNIQUET_LEASE", candidate.lease)
            .env("TOURNIQUET_AGENT_NAMESPACE", if scenario.env.agents { AGENT_NAMESPACE } else { "" })
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start the operator")?;
        let pid = Pid::from_raw(i32::try_from(child.id().context("the operator ended at once")?)?);
        *proxy.victim.lock().unwrap() = Some(pid);
        Ok(Self { child, pid, crashed, proxy: serving, _kubeconfig: file, held })
    }

    /// Whether it died at its write.
    pub fn crashed(&self) -> bool {
        self.crashed.load(Ordering::SeqCst)
    }

    /// Whether the write that is to be held up is.
    pub fn holds(&self) -> bool {
        self.held.is_held.load(Ordering::SeqCst)
    }

    /// Lets it go on its way.
    pub fn let_go(&self) {
        self.held.go.notify_one();
    }

    /// Pauses it, as a machine that is suspended does.
    pub fn pause(&self) -> Result<()> {
        Ok(kill(self.pid, Signal::SIGSTOP)?)
    }

    /// It goes on, and knows nothing of the pause.
    pub fn resume(&self) -> Result<()> {
        Ok(kill(self.pid, Signal::SIGCONT)?)
    }

    /// Takes the network from it: nothing comes or goes, and nobody is told.
    pub async fn cut_off(&self) -> Result<()> {
        let net = format!("--net=/proc/{}/ns/net", self.pid);
        let status = Command::new("nsenter").args([&net, "--", "ip", "link", "set", "eth0", "down"]).status().await?;
        ensure!(status.success(), "its network was not taken: {status}");
        Ok(())
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Kills it, if it did not die by itself.
    pub async fn kill(mut self) -> Result<()> {
        let _ = kill(self.pid, Signal::SIGKILL);
        self.child.wait().await?;
        self.proxy.abort();
        Ok(())
    }

    /// Asks it to stop, and waits until it has.
    pub async fn stop(mut self) -> Result<()> {
        kill(self.pid, Signal::SIGTERM)?;
        let status = tokio::time::timeout(Duration::from_secs(20), self.child.wait())
            .await
            .context("the operator did not stop within 20 s of SIGTERM")??;
        ensure!(status.success(), "the operator stopped with {status}");
        self.proxy.abort();
        Ok(())
    }
}

/// A process of the pod, found by the pod's UID in its cgroup.
fn process_of(pod: &TestPod) -> Result<i32> {
    let systemd = pod.uid.replace('-', "_");
    let of_pod = |pid: i32| {
        let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        cgroup.contains(&pod.uid) || cgroup.contains(&systemd)
    };
    std::fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .find(|pid| of_pod(*pid))
        .with_context(|| format!("no process of pod {}", pod.name))
}

async fn forward(State(proxy): State<Arc<Proxy>>, request: Request) -> Response {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
    // A command is asked for by a GET that is upgraded.
    let upgrades = request.headers().contains_key(header::UPGRADE);
    let leads = path.starts_with("/apis/coordination.k8s.io/");
    // Events are written beside the work, in no order with it, and nothing rests on them; nor on when the lease is renewed.
    let writes = ([Method::POST, Method::PUT, Method::PATCH, Method::DELETE].contains(request.method()) || upgrades)
        && !path.starts_with("/apis/events.k8s.io/")
        && !leads;
    let concerns = |crash: &&CrashAt| crash.paths.iter().any(|part| path.contains(part));
    let dies = proxy.crash.as_ref().filter(|_| writes).filter(concerns).and_then(|crash| {
        let number = proxy.count.fetch_add(1, Ordering::SeqCst) + 1;
        (number == crash.write).then_some(crash.side)
    });
    if dies == Some(Side::Before) {
        return proxy.crash();
    }
    // Who cannot renew the lease starts over, and knows no more what it was asked to wait for: that is another test's matter.
    let fault =
        proxy.faults.as_ref().filter(|_| !leads).and_then(|faults| faults.draw(request.method(), request.uri()));
    if let Some(fault) = fault.filter(|fault| !fault.is_done()) {
        return suffer(fault, None).await;
    }
    if writes && proxy.held.path.as_ref().is_some_and(|part| path.contains(part.as_str())) {
        proxy.held.is_held.store(true, Ordering::SeqCst);
        proxy.held.go.notified().await;
        // The others after it go their way.
        proxy.held.go.notify_one();
    }
    let answer = if upgrades { proxy.tunnel(&path, request).await } else { proxy.send(&path, request).await };
    if dies == Some(Side::After) {
        return proxy.crash();
    }
    if let Some(fault) = fault {
        return suffer(fault, answer.ok()).await;
    }
    answer.unwrap_or_else(|error| (StatusCode::BAD_GATEWAY, format!("{error:#}")).into_response())
}

impl Proxy {
    fn crash(&self) -> Response {
        if let Some(pid) = *self.victim.lock().unwrap() {
            let _ = kill(pid, Signal::SIGKILL);
        }
        self.crashed.store(true, Ordering::SeqCst);
        StatusCode::BAD_GATEWAY.into_response()
    }

    async fn send(&self, path: &str, request: Request) -> Result<Response> {
        let (parts, body) = request.into_parts();
        let mut forwarded = http::Request::builder().method(parts.method).uri(path);
        for (name, value) in &parts.headers {
            if !matches!(name.as_str(), "host" | "content-length" | "connection") {
                forwarded = forwarded.header(name, value);
            }
        }
        let body = axum::body::to_bytes(body, 16 * 1024 * 1024).await?;
        let answer = self.client.send(forwarded.body(client::Body::from(body))?).await?;
        let (parts, body) = answer.into_parts();
        Ok(Response::from_parts(parts, Body::new(body)))
    }

    /// A request whose connection becomes something else: what comes on either side goes to the other.
    async fn tunnel(&self, path: &str, mut request: Request) -> Result<Response> {
        let ours = hyper::upgrade::on(&mut request);
        let (parts, _) = request.into_parts();
        let mut forwarded = http::Request::builder().method(parts.method).uri(path);
        for (name, value) in
            parts.headers.iter().filter(|(name, _)| !matches!(name.as_str(), "host" | "content-length"))
        {
            forwarded = forwarded.header(name, value);
        }
        let mut answer = self.client.send(forwarded.body(client::Body::empty())?).await?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            let (parts, body) = answer.into_parts();
            return Ok(Response::from_parts(parts, Body::new(body)));
        }
        let theirs = hyper::upgrade::on(&mut answer);
        tokio::spawn(async move {
            if let (Ok(ours), Ok(theirs)) = tokio::join!(ours, theirs) {
                // It ends when either side does.
                let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(ours), &mut TokioIo::new(theirs)).await;
            }
        });
        let (parts, _) = answer.into_parts();
        Ok(Response::from_parts(parts, Body::empty()))
    }
}

//! The whole of it, between an API server that is played and Azurite.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::client::Body;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tourniquet_azurite::{Azurite, Sas};
use tourniquet_evidence::store::{PutOptions, Verdict};
use tracing_subscriber::fmt::MakeWriter;

use super::registry::NoStore;
use super::*;

const NAMESPACE: &str = "tourniquet-system";
const STORES: &str = "/apis/tourniquet.dev/v1alpha1/evidencestores";
/// What has to happen happens well before this.
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes what the Secret has when somebody asks.
type Signs = Box<dyn Fn() -> SecretString + Send>;

/// An API server with at most one evidence store.
struct Server {
    store: Mutex<Option<Value>>,
    secret: Mutex<Option<Signs>>,
    /// The status, whenever it is written.
    status: watch::Sender<Value>,
    /// The events, as they are published.
    events: watch::Sender<Vec<Value>>,
    asked: Mutex<Vec<String>>,
}

impl Server {
    async fn answer(&self, request: Request<Body>) -> (StatusCode, Value) {
        let (parts, body) = request.into_parts();
        let (path, query) = (parts.uri.path().to_owned(), parts.uri.query().unwrap_or_default().to_owned());
        let watches = query.contains("watch=true");
        lock(&self.asked).push(format!("{} {path}{}", parts.method, if watches { " watch" } else { "" }));
        let one = format!("{STORES}/soc");
        match path.as_str() {
            STORES if watches => std::future::pending().await,
            STORES => {
                let items: Vec<Value> = lock(&self.store).iter().cloned().collect();
                let list = json!({ "apiVersion": "tourniquet.dev/v1alpha1", "kind": "EvidenceStoreList", "metadata": { "resourceVersion": "1" }, "items": items });
                (StatusCode::OK, list)
            }
            path if path == one => lock(&self.store).clone().map_or_else(not_found, |store| (StatusCode::OK, store)),
            path if path == format!("{one}/status") && parts.method == Method::PUT => {
                let body = body.collect().await.unwrap().to_bytes();
                let written: Value = serde_json::from_slice(&body).unwrap();
                lock(&self.store).as_mut().unwrap()["status"] = written["status"].clone();
                self.status.send_replace(written["status"].clone());
                (StatusCode::OK, written)
            }
            path if path == format!("/api/v1/namespaces/{NAMESPACE}/secrets/evidence") => {
                lock(&self.secret).as_ref().map_or_else(not_found, |sign| {
                    let value = ByteString(sign().expose_secret().as_bytes().to_vec());
                    let secret = Secret { data: Some([("sas".to_owned(), value)].into()), ..Secret::default() };
                    (StatusCode::OK, serde_json::to_value(secret).unwrap())
                })
            }
            "/apis/events.k8s.io/v1/namespaces/default/events" if parts.method == Method::POST => {
                let event: Value = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
                self.events.send_modify(|events| events.push(event.clone()));
                (StatusCode::CREATED, event)
            }
            other => panic!("nobody should ask for {other}"),
        }
    }
}

fn not_found() -> (StatusCode, Value) {
    let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "message": "not found", "code": 404 });
    (StatusCode::NOT_FOUND, status)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An operator, an API server, and a container of one's own.
struct Play {
    api: Arc<Server>,
    stores: Stores,
    again: UnboundedSender<ObjectRef<Stored>>,
    container: String,
    running: JoinHandle<()>,
}

impl Drop for Play {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Play {
    /// One whose API server has no evidence store.
    fn without_a_store() -> Self {
        Self::begin(None, "", None, true)
    }

    /// One with a store of this container, and with this in its Secret, if there is one.
    fn with_a_store(container: &str, sign: Option<Signs>) -> Self {
        Self::begin(Some(Self::store(container)), container, sign, true)
    }

    /// The same, and the operator has no power over Secrets.
    fn without_the_power(container: &str, sign: Option<Signs>) -> Self {
        Self::begin(Some(Self::store(container)), container, sign, false)
    }

    fn store(container: &str) -> Value {
        let azurite = Azurite::running();
        json!({
            "apiVersion": "tourniquet.dev/v1alpha1", "kind": "EvidenceStore",
            "metadata": { "name": "soc", "uid": "8d1f", "generation": 1, "resourceVersion": "1" },
            "spec": { "azureBlob": {
                "endpoint": azurite.endpoint(), "container": container, "caBundle": azurite.pki.ca,
                "auth": { "sas": { "secretRef": { "name": "evidence" } } },
            } },
        })
    }

    fn begin(store: Option<Value>, container: &str, sign: Option<Signs>, may_read_secrets: bool) -> Self {
        let api = Arc::new(Server {
            store: Mutex::new(store),
            secret: Mutex::new(sign),
            status: watch::Sender::new(Value::Null),
            events: watch::Sender::new(Vec::new()),
            asked: Mutex::default(),
        });
        let served = Arc::clone(&api);
        let server = tower::service_fn(move |request: Request<Body>| {
            let api = Arc::clone(&served);
            async move {
                let (status, body) = api.answer(request).await;
                Response::builder().status(status).body(Body::from(body.to_string().into_bytes()))
            }
        });
        let client = Client::new(server, "default");
        let (again, asked) = mpsc::unbounded();
        let stores = Stores::default();
        let context = Context {
            cluster: Cluster::new(client.clone()),
            namespace: NAMESPACE.to_owned(),
            may_read_secrets,
            stores: stores.clone(),
            publisher: Publisher::start(client.clone()),
            pauses: Pauses::default(),
            again: again.clone(),
        };
        let running = tokio::spawn(run(client, asked, Arc::new(context)));
        Self { api, stores, again, container: container.to_owned(), running }
    }

    /// The event of this reason whose note has this in it, once it is published.
    async fn publishes(&self, reason: &str, word: &str) -> Value {
        let mut events = self.api.events.subscribe();
        let is_it = |event: &&Value| {
            event["reason"] == reason && event["note"].as_str().is_some_and(|note| note.contains(word))
        };
        let published = events.wait_for(|events| events.iter().any(|event| is_it(&event)));
        let published = tokio::time::timeout(PATIENCE, published).await.map(|events| events.unwrap().clone());
        let published = published.unwrap_or_else(|_| panic!("no {reason} {word}: {:?}", self.api.events.borrow()));
        published.iter().find(is_it).unwrap().clone()
    }

    /// Puts a signature into the Secret.
    fn signs(&self, sign: impl Fn() -> SecretString + Send + 'static) {
        *lock(&self.api.secret) = Some(Box::new(sign));
    }

    /// Has the store tried now, rather than after its pause.
    fn look(&self) {
        self.again.unbounded_send(ObjectRef::new("soc")).unwrap();
    }

    /// The condition Ready, once it has this status and reason.
    async fn becomes(&self, status: &str, reason: &str) -> Value {
        let mut written = self.api.status.subscribe();
        let wanted = |written: &Value| {
            let ready = &written["conditions"][0];
            ready["type"] == "Ready" && ready["status"] == status && ready["reason"] == reason
        };
        let found = tokio::time::timeout(PATIENCE, written.wait_for(wanted)).await.map(|found| found.unwrap().clone());
        found.unwrap_or_else(|_| panic!("not {status}, {reason}: {}", *self.api.status.borrow()))["conditions"][0]
            .take()
    }
}

/// What is logged, down to the last trace.
#[derive(Clone, Default)]
struct Logged(Arc<Mutex<Vec<u8>>>);

impl Logged {
    fn all() -> &'static Self {
        static LOGGED: OnceLock<Logged> = OnceLock::new();
        LOGGED.get_or_init(|| {
            let logged = Self::default();
            let all = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(logged.clone());
            all.with_ansi(false).init();
            logged
        })
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&lock(&self.0)).into_owned()
    }
}

impl Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        lock(&self.0).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Logged {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// A secret as it is, and of a signature what proves something, as it is written in a URL and as it is meant.
fn spellings(secret: &SecretString) -> Vec<String> {
    let whole = secret.expose_secret();
    let written = whole.split('&').filter_map(|pair| pair.strip_prefix("sig="));
    let meant = url::form_urlencoded::parse(whole.as_bytes()).filter(|(name, _)| name == "sig");
    written.map(str::to_owned).chain(meant.map(|(_, sig)| sig.into_owned())).chain([whole.to_owned()]).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_power_over_secrets_a_store_says_so_and_nobody_asks_for_its_secret() {
    let play = Play::without_the_power("operator-powerless", Some(Box::new(|| Sas::new("operator-powerless").sign())));
    let message = play.becomes("False", "PowerOff").await["message"].to_string();
    for words in ["Secret tourniquet-system/evidence", "powers.secrets", "auth.workloadIdentity"] {
        assert!(message.contains(words), "{message}");
    }
    let asked = lock(&play.api.asked).clone();
    assert!(!asked.iter().any(|request| request.contains("/secrets/")), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_says_what_it_lacks_and_is_ready_when_it_has_it_and_its_secret_is_nowhere() {
    let logged = Logged::all();
    let play = Play::with_a_store("operator-lacks", None);
    let missing = play.becomes("False", "SecretNotFound").await;
    let why = play.stores.tried_by("soc", Instant::now() + PATIENCE).await.unwrap_err();
    assert!(matches!(&why, NoStore::Unusable(..)) && why.to_string().contains("create secret generic"), "{why}");

    let nonsense: SecretString = "AccountKey=an-account-key-and-no-signature".to_owned().into();
    let read_only = Sas::new(&play.container).with("rl").sign();
    let good = Sas::new(&play.container).sign();
    let secrets = [nonsense, read_only, good];
    let mut said = vec![missing.to_string()];
    for (sas, reason) in
        secrets.iter().zip(["BadConfiguration", "AuthorizationPermissionMismatch", "ContainerNotFound"])
    {
        let sas = sas.clone();
        play.signs(move || sas.clone());
        play.look();
        said.push(play.becomes("False", reason).await.to_string());
    }
    assert!(said[2].contains("Secret tourniquet-system/evidence has under sas"), "{}", said[2]);
    // What is not ready is handed out all the same, once it is open.
    assert_eq!(play.stores.get("soc").unwrap().outcome.unwrap_err().code, "ContainerNotFound");

    Azurite::running().create_container(&play.container).await;
    play.look();
    said.push(play.becomes("True", "RoundTripSucceeded").await.to_string());
    play.stores.get("soc").unwrap().outcome.unwrap();
    said.push(play.api.status.borrow().to_string());
    let event = play.publishes("NotReady", "SecretNotFound: ").await;
    assert_eq!((&event["type"], &event["regarding"]["kind"]), (&"Warning".into(), &"EvidenceStore".into()));
    play.publishes("NotReady", "ContainerNotFound: ").await;
    assert_eq!(play.publishes("Ready", "stored, read back and compared").await["type"], "Normal");
    said.push(format!("{:?}", play.api.events.borrow()));

    let (log, said) = (logged.text(), said.join("\n"));
    // It is the right log: the SDK's own lines are in it, and those of the way to the API server.
    assert!(log.contains("==> Request") && log.contains("evidence_store"), "{} characters", log.len());
    for spelling in secrets.iter().flat_map(spellings) {
        assert!(!said.contains(&spelling), "a secret is in a status");
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(&spelling)).collect();
        assert!(lines.is_empty(), "a secret is in the log:\n{}", lines.join("\n"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_whose_signature_is_over_goes_on_with_the_one_that_is_in_the_secret_by_then() {
    Logged::all();
    let container = "operator-over";
    Azurite::running().create_container(container).await;
    // The next one is there before anybody asks for it.
    let first = AtomicBool::new(true);
    let sign = move || {
        let sas = Sas::new(container);
        if first.swap(false, Ordering::Relaxed) { sas.for_seconds(5).sign() } else { sas.sign() }
    };
    let play = Play::with_a_store(container, Some(Box::new(sign)));
    play.becomes("True", "RoundTripSucceeded").await;

    let store = play.stores.get("soc").unwrap().store;
    let mut held_up = store.held_up();
    let refused = Arc::new(AtomicBool::new(false));
    let (over, uploading) = (Arc::clone(&refused), store.clone());
    // The one that meets the end of the signature is in here.
    let uploads = tokio::spawn(async move {
        let mut count = 0;
        while !over.load(Ordering::SeqCst) {
            let options = PutOptions::new(1024, Instant::now() + PATIENCE);
            let name = format!("artifact-{count}");
            let stored =
                uploading.put(&name, b"evidence".as_slice(), |_| std::future::ready(Verdict::default()), options);
            stored.await.unwrap();
            count += 1;
        }
        count
    });
    let trouble = tokio::time::timeout(PATIENCE, held_up.wait_for(Option::is_some)).await.unwrap().unwrap().clone();
    assert_eq!(trouble.map(|trouble| trouble.code).as_deref(), Some("AuthorizationFailure"));
    refused.store(true, Ordering::SeqCst);
    let count = tokio::time::timeout(PATIENCE, uploads).await.unwrap().unwrap();
    assert!(count > 0);
    let last = Azurite::running().blob(&play.container, &format!("artifact-{}", count - 1)).await;
    assert_eq!(last.as_deref(), Some(b"evidence".as_slice()));
}

#[tokio::test]
async fn without_a_store_nothing_is_asked_but_whether_there_is_one() {
    let play = Play::without_a_store();
    let none = play.stores.tried_by("soc", Instant::now() + PATIENCE).await.unwrap_err();
    assert_eq!(none, NoStore::NotFound("soc".to_owned()));
    let asked = lock(&play.api.asked).clone();
    let once = [format!("GET {STORES}"), format!("GET {STORES} watch")];
    assert!(once.starts_with(&asked), "{asked:?}");
}

//! Azurite over TLS with an authority of its own, running for as long as the test program does, and a proxy that breaks things.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this crate is tests; a failed expectation ends one"
)]
#![allow(missing_docs, reason = "names of fixtures are their documentation; what is not obvious is documented")]

mod pki;
pub mod proxy;
mod queues;
mod sas;

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::Duration;

use tempfile::TempDir;

pub use pki::Pki;
pub use sas::{Sas, account, queue_account};

pub const ACCOUNT: &str = "evidence";
/// The account's key; Azurite is told it.
pub const KEY: &str = "dG91cm5pcXVldCB0ZXN0cywgYW5kIG5vdGhpbmcgZWxzZQ==";

pub struct Azurite {
    pub address: SocketAddr,
    pub pki: Pki,
    /// Where its queue service is, once it was needed.
    queues: OnceLock<SocketAddr>,
}

impl Azurite {
    /// On loopback; started the first time.
    pub fn running() -> &'static Self {
        static RUNNING: OnceLock<Azurite> = OnceLock::new();
        RUNNING.get_or_init(|| Self::start(Ipv4Addr::LOCALHOST.into()))
    }

    pub fn endpoint(&self) -> String {
        self.endpoint_at(self.address)
    }

    /// The endpoint where something else leads to it.
    pub fn endpoint_at(&self, address: SocketAddr) -> String {
        format!("https://{address}/{ACCOUNT}")
    }

    /// Starts one at this address.
    pub fn start(address: IpAddr) -> Self {
        let pki = Pki::new(address);
        let port = serve("blob", address, &pki);
        Self { address: SocketAddr::new(address, port), pki, queues: OnceLock::new() }
    }

    fn url(&self, path: &str, query: &str) -> String {
        format!("{}/{path}?{query}&{}", self.endpoint(), sas::account())
    }

    pub async fn create_container(&self, name: &str) {
        // A client of its own: connections do not outlive the runtime of the test that made them.
        let request = self.pki.client().put(self.url(name, "restype=container")).header("x-ms-version", "2022-11-02");
        let answer = request.header("content-length", "0").send().await.unwrap();
        assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
    }

    /// The names of all blobs that begin like this, past everything that is tested. At most 5,000, which are one answer.
    pub async fn list(&self, container: &str, prefix: &str) -> Vec<String> {
        let prefix: String = url::form_urlencoded::byte_serialize(prefix.as_bytes()).collect();
        let url = self.url(container, &format!("restype=container&comp=list&prefix={prefix}"));
        let answer = self.pki.client().get(url).header("x-ms-version", "2022-11-02").send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert_eq!(status, 200, "{text}");
        assert!(!text.contains("<NextMarker>"), "there are more than one answer names");
        // Names of evidence need no escaping, in XML neither.
        let names = text.split("<Name>").skip(1).filter_map(|rest| rest.split_once("</Name>"));
        names.map(|(name, _)| name.to_owned()).collect()
    }

    /// The bytes of a blob, past everything that is tested.
    pub async fn blob(&self, container: &str, name: &str) -> Option<Vec<u8>> {
        let request = self.pki.client().get(self.url(&format!("{container}/{name}"), ""));
        let answer = request.header("x-ms-version", "2022-11-02").send().await.unwrap();
        match answer.status().as_u16() {
            404 => None,
            status => {
                let content = answer.bytes().await.unwrap().to_vec();
                assert_eq!(status, 200, "{}", String::from_utf8_lossy(&content));
                Some(content)
            }
        }
    }
}

/// Starts one of its services, and says on which port.
fn serve(service: &'static str, address: IpAddr, pki: &Pki) -> u16 {
    let program = std::env::var_os("TOURNIQUET_AZURITE").expect(
        "these tests need Azurite; run them by: TOURNIQUET_AZURITE=$(cargo xtask azurite) cargo test --package NAME",
    );
    // The blob service's program is named; each service has one beside it.
    let services = Path::new(&program).parent().and_then(Path::parent).unwrap();
    let program = services.join(service).join("main.js");
    let dir = TempDir::new().unwrap();
    let (certificate, key) = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
    std::fs::write(&certificate, &pki.certificate).unwrap();
    std::fs::write(&key, &pki.key).unwrap();
    let (tell, told) = mpsc::channel();
    // The kernel ends it when the thread that started it ends; this one does with the program, however that ends.
    std::thread::spawn(move || {
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "node"])
            .arg(program)
            .args([format!("--{service}Host"), address.to_string(), format!("--{service}Port"), "0".to_owned()])
            .args(["--inMemoryPersistence", "--disableTelemetry", "--oauth", "basic", "--cert"])
            .arg(&certificate)
            .arg("--key")
            .arg(&key)
            .env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:{KEY}"))
            // It looks at its folder later too, and writes nothing there.
            .current_dir(std::env::temp_dir())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node and setpriv (util-linux) can be run");
        for line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
            if let Some((_, port)) = line.split_once(&format!("listens on https://{address}:")) {
                // It has read its certificate by now, and nothing of it is to stay behind.
                std::fs::remove_dir_all(dir.path()).unwrap();
                tell.send(port.trim().parse().unwrap()).unwrap();
            }
        }
        panic!("Azurite ended: {:?}", child.wait());
    });
    told.recv_timeout(Duration::from_secs(60)).expect("Azurite starts")
}

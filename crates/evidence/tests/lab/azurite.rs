//! Azurite, running for as long as the test program does.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::Duration;

use tempfile::TempDir;

use super::pki::Pki;
use super::{ACCOUNT, sas};

/// The account's key; Azurite is told it.
pub(crate) const KEY: &str = "dG91cm5pcXVldCB0ZXN0cywgYW5kIG5vdGhpbmcgZWxzZQ==";

pub(crate) struct Azurite {
    port: u16,
    pub(crate) pki: Pki,
    pub(crate) client: reqwest::Client,
}

impl Azurite {
    /// Starts it, the first time.
    pub(crate) fn running() -> &'static Self {
        static RUNNING: OnceLock<Azurite> = OnceLock::new();
        RUNNING.get_or_init(Self::start)
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("https://127.0.0.1:{}/{ACCOUNT}", self.port)
    }

    fn start() -> Self {
        let program = std::env::var_os("TOURNIQUET_AZURITE").expect(
            "these tests need Azurite; run them by: TOURNIQUET_AZURITE=$(cargo xtask azurite) cargo test --package tourniquet-evidence",
        );
        let pki = Pki::new();
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
                .args(["--blobHost", "127.0.0.1", "--blobPort", "0", "--inMemoryPersistence", "--disableTelemetry"])
                .args(["--oauth", "basic", "--cert"])
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
                if let Some((_, port)) = line.split_once("listens on https://127.0.0.1:") {
                    // It has read its certificate by now, and nothing of it is to stay behind.
                    std::fs::remove_dir_all(dir.path()).unwrap();
                    tell.send(port.trim().parse().unwrap()).unwrap();
                }
            }
            panic!("Azurite ended: {:?}", child.wait());
        });
        let port = told.recv_timeout(Duration::from_secs(60)).expect("Azurite starts");
        let client = pki.client();
        Self { port, pki, client }
    }

    fn url(&self, path: &str, query: &str) -> String {
        format!("{}/{path}?{query}&{}", self.endpoint(), sas::account())
    }

    pub(crate) async fn create_container(&self, name: &str) {
        // A client of its own: connections do not outlive the runtime of the test that made them.
        let request = self.pki.client().put(self.url(name, "restype=container")).header("x-ms-version", "2022-11-02");
        let answer = request.header("content-length", "0").send().await.unwrap();
        assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
    }

    /// The bytes of a blob, past everything that is tested.
    pub(crate) async fn blob(&self, container: &str, name: &str) -> Option<Vec<u8>> {
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

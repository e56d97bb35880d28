//! The variables that name a proxy. They are read when a client is made, so what they do is tried in a process of its own: this test, run by itself.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests: a panic is a failed test")]

mod lab;

use std::env;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, Mutex};

use lab::Lab;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tourniquet_evidence::{Auth, Store, StoreConfig};

const NAME: &str = "a_store_is_reached_through_the_proxy_that_is_named_and_past_it_where_that_is_said";
/// What the process of its own is told: endpoint, container, signature, authority.
const TOLD: [&str; 4] = ["TEST_ENDPOINT", "TEST_CONTAINER", "TEST_SAS", "TEST_CA"];

/// The first lines of what was asked of the proxy.
type Asked = Arc<Mutex<Vec<String>>>;

/// A proxy that opens tunnels, as far as this test needs one.
async fn proxy(asked: Asked) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(tunnel(client, Arc::clone(&asked)));
        }
    });
    address
}

async fn tunnel(client: TcpStream, asked: Asked) {
    let mut client = BufReader::new(client);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && client.read_until(b'\n', &mut head).await.unwrap() > 0 {}
    let head = String::from_utf8(head).unwrap();
    let line = head.lines().next().unwrap_or_default().to_owned();
    let target = line.split(' ').nth(1).unwrap_or_default().to_owned();
    asked.lock().unwrap().push(line);
    let mut server = TcpStream::connect(target).await.unwrap();
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    // It ends when either side does.
    let _ = copy_bidirectional(&mut client, &mut server).await;
}

/// A round trip of a store, by what the environment says.
async fn round_trip([endpoint, container, sas, ca]: [String; 4]) {
    let mut config = StoreConfig::new(&endpoint, &container, Auth::Sas(sas.into()));
    config.ca_bundle = Some(ca);
    Store::open(&config).unwrap().check().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_is_reached_through_the_proxy_that_is_named_and_past_it_where_that_is_said() {
    if env::var_os(TOLD[0]).is_some() {
        return round_trip(TOLD.map(|name| env::var(name).unwrap())).await;
    }
    let lab = Lab::new().await;
    let (endpoint, sas) = (lab.azurite.endpoint(), lab.sas().sign());
    let told = [&endpoint, &lab.container, secrecy::ExposeSecret::expose_secret(&sas), lab.azurite.pki.ca.as_str()];
    let asked = Asked::default();
    let proxy = proxy(Arc::clone(&asked)).await;
    for (past_it, through) in [("", true), ("127.0.0.1", false)] {
        let mut process = Command::new(env::current_exe().unwrap());
        process.args(["--exact", NAME]).envs(TOLD.into_iter().zip(told));
        process.env("HTTPS_PROXY", format!("http://{proxy}")).env("NO_PROXY", past_it);
        let ended = tokio::task::spawn_blocking(move || process.output()).await.unwrap().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stdout));
        let asked = std::mem::take(&mut *asked.lock().unwrap());
        let host = endpoint.split('/').nth(2).unwrap();
        assert_eq!(!asked.is_empty(), through, "{asked:?}");
        assert!(asked.iter().all(|line| *line == format!("CONNECT {host} HTTP/1.1")), "{asked:?}");
    }
}

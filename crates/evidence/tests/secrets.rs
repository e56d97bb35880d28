//! No signature and no token gets into anything that is printed: logs down to the last trace, errors, Debug. One test: there is one log.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests: a panic is a failed test")]

mod lab;

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lab::entra::{ASSERTION, Entra, access_token, granted};
use lab::folders::{bounds, facts, opening, place, plan, report};
use lab::proxy::{Fate, Seen, times};
use lab::{Lab, put};
use secrecy::ExposeSecret;
use serde_json::json;
use tourniquet_evidence::{Auth, Folder, Store};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt;

#[derive(Clone, Default)]
struct Printed(Arc<Mutex<Vec<u8>>>);

impl Printed {
    fn add(&self, thing: impl std::fmt::Debug) {
        writeln!(self.clone(), "{thing:?}\n{thing:#?}").unwrap();
    }
}

impl Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Printed {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn nothing_that_is_printed_has_a_secret_in_it() {
    let printed = Printed::default();
    tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(printed.clone()).finish().init();
    let lab = Lab::new().await;
    let sas = lab.sas().sign();
    let query = sas.expose_secret().to_owned();
    let written = query.split("sig=").nth(1).unwrap().to_owned();
    let meant = url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "sig").unwrap().1.into_owned();
    let token = access_token();

    // Everything that goes well.
    let config = lab.config_at(&lab.azurite.endpoint(), sas.clone());
    let store = Store::open(&config).unwrap();
    printed.add((&config, &config.auth, &store));
    printed.add(store.check().await);
    printed.add(put(&store, "artifact", b"x").await);
    let folder = Folder::open(&store, &place(), &opening(&[])).await.unwrap();
    printed.add(folder.add(plan("a"), b"x".as_slice(), report(), bounds()).await);
    printed.add(folder.seal(facts()).await);
    printed.add(&folder);

    // Everything that does not: a service that quotes the signature as it is written and as it is meant, lost connections, a certificate, no server, a name.
    for quoted in [&written, &meant] {
        let code: &'static str = Box::leak(format!("Failed: {quoted} is wrong").into_boxed_str());
        let (_, proxy) = lab.behind(times(usize::MAX, Fate::Answered(403, code, vec![]), |_| true)).await;
        let store = Store::open(&lab.config_at(&proxy.endpoint(), sas.clone())).unwrap();
        printed.add(store.check().await.unwrap_err());
    }
    for fate in [Fate::Dropped, Fate::CutMidway, Fate::Answered(503, "ServerBusy", vec![]), Fate::Hangs] {
        let (_, proxy) = lab.behind(times(usize::MAX, fate, |_: &Seen| true)).await;
        let mut config = lab.config_at(&proxy.endpoint(), sas.clone());
        config.times.patience = Duration::from_millis(50);
        config.times.request = Duration::from_millis(500);
        let store = Store::open(&config).unwrap();
        let trouble = store.check().await.unwrap_err();
        printed.add((&trouble, trouble.to_string(), store.held_up().borrow().clone()));
    }
    let mut distrusting = config.clone();
    distrusting.ca_bundle = None;
    let nowhere = lab.config_at("https://127.0.0.1:1/evidence", sas.clone());
    let unnamed = lab.config_at("https://evidence.blob.invalid", sas.clone());
    for config in [distrusting, nowhere, unnamed] {
        let mut config = config;
        config.times.patience = Duration::from_millis(50);
        printed.add(Store::open(&config).unwrap().check().await.unwrap_err());
    }
    printed.add(Store::open(&lab.config_at(&format!("{}?{query}", lab.azurite.endpoint()), sas.clone())).unwrap_err());
    printed.add(Store::open(&lab.config_at(&lab.azurite.endpoint(), format!("{query} {query}").into())).unwrap_err());
    printed.add(store.replace_auth(&Auth::Sas(format!("nonsense {query}").into())).unwrap_err());

    // And an identity.
    for (status, answer) in
        [(200, granted(&token)), (401, json!({ "error": "invalid_client", "error_description": "no" }))]
    {
        let entra = Entra::start(lab.azurite, status, answer).await;
        let mut config = lab.config();
        config.auth = entra.auth();
        let store = Store::open(&config).unwrap();
        printed.add((&config, &store, store.check().await));
    }

    let printed = String::from_utf8_lossy(&printed.0.lock().unwrap()).into_owned();
    // It is the right log: the SDK's own lines are in it.
    assert!(printed.contains("==> Request") && printed.contains("blob.invalid"), "{}", printed.len());
    for (what, secret) in [
        ("signature", &written),
        ("decoded signature", &meant),
        ("token", &token),
        ("service account token", &ASSERTION.to_owned()),
    ] {
        let lines: Vec<&str> = printed.lines().filter(|line| line.contains(secret.as_str())).collect();
        assert!(lines.is_empty(), "the {what} is in:\n{}", lines.join("\n"));
    }
}

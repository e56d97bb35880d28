//! What is said when a store cannot be used: which account and container, what the matter is, what to do next. Never the signature.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests: a panic is a failed test")]

mod lab;

use std::time::Duration;

use lab::proxy::{Fate, Proxy, times};
use lab::{Lab, put};
use secrecy::SecretString;
use tourniquet_evidence::{Auth, Store, StoreConfig, Trouble};

async fn trouble_of(config: &StoreConfig) -> Trouble {
    let trouble = Store::open(config).unwrap().check().await.unwrap_err();
    assert!(trouble.message.contains(&config.container), "{trouble}");
    trouble
}

#[tokio::test]
async fn a_container_that_does_not_exist_is_named() {
    let lab = Lab::new().await;
    let config = lab.config_at(&lab.azurite.endpoint(), lab::Sas::new("nowhere").sign());
    let config = StoreConfig { container: "nowhere".to_owned(), ..config };
    let trouble = trouble_of(&config).await;
    assert_eq!((trouble.code.as_str(), trouble.transient), ("ContainerNotFound", false));
    assert!(trouble.message.contains("Create the container"), "{trouble}");
}

#[tokio::test]
async fn an_account_of_another_name_is_refused() {
    let lab = Lab::new().await;
    let endpoint = lab.azurite.endpoint().replace("evidence", "elsewhere");
    let trouble = trouble_of(&lab.config_at(&endpoint, lab.sas().sign())).await;
    assert!(!trouble.transient, "{trouble:?}");
}

#[tokio::test]
async fn a_name_that_no_server_has_is_told_from_a_server_that_is_down() {
    let lab = Lab::new().await;
    let config = lab.config_at("https://evidence.blob.invalid", lab.sas().sign());
    let trouble = trouble_of(&config).await;
    assert_eq!((trouble.code.as_str(), trouble.transient), ("NameNotResolved", true), "{trouble}");

    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = lab.config_at(&format!("https://127.0.0.1:{port}/evidence"), lab.sas().sign());
    let trouble = trouble_of(&config).await;
    assert_eq!((trouble.code.as_str(), trouble.transient), ("CannotConnect", true), "{trouble}");
}

#[tokio::test]
async fn a_certificate_that_nobody_trusts_is_not_waited_for() {
    let lab = Lab::new().await;
    let mut config = lab.config();
    config.ca_bundle = None;
    let trouble = trouble_of(&config).await;
    assert_eq!((trouble.code.as_str(), trouble.transient), ("TlsFailed", false), "{trouble}");
    assert!(trouble.message.contains("CA bundle"), "{trouble}");
}

#[tokio::test]
async fn a_signature_without_write_is_refused_as_a_matter_of_permission() {
    let lab = Lab::new().await;
    for permissions in ["rl", "rcl"] {
        let trouble = trouble_of(&lab.config_at(&lab.azurite.endpoint(), lab.sas().with(permissions).sign())).await;
        assert_eq!(
            (trouble.code.as_str(), trouble.transient),
            ("AuthorizationPermissionMismatch", false),
            "{permissions}: {trouble}"
        );
        assert!(trouble.message.contains("cwrl"), "{trouble}");
    }
}

#[tokio::test]
async fn signatures_of_another_time_are_refused_as_that() {
    let lab = Lab::new().await;
    for sas in [lab.sas().expired(), lab.sas().of_tomorrow()] {
        let trouble = trouble_of(&lab.config_at(&lab.azurite.endpoint(), sas.sign())).await;
        // Azurite's code; Azure says AuthenticationFailed.
        assert_eq!((trouble.code.as_str(), trouble.transient), ("AuthorizationFailure", false), "{trouble}");
        assert!(trouble.message.contains("says that it is valid from 20"), "{trouble}");
    }
}

#[tokio::test]
async fn a_clock_that_is_wrong_is_mentioned_with_a_refusal() {
    let lab = Lab::new().await;
    let date = "Thu, 01 Jan 2026 00:00:00 GMT".to_owned();
    let refused = Fate::Answered(403, "AuthenticationFailed", vec![("date", date)]);
    let (store, _proxy) = lab.behind(times(usize::MAX, refused, |_| true)).await;
    let trouble = store.check().await.unwrap_err();
    assert!(
        trouble.message.contains("The store's clock is ") && trouble.message.contains(" s behind ours"),
        "{trouble}"
    );
}

#[tokio::test]
async fn a_check_says_that_a_service_is_busy_and_for_how_long() {
    let lab = Lab::new().await;
    let busy = Fate::Answered(503, "ServerBusy", vec![("retry-after", "120".to_owned())]);
    let (store, _proxy) = lab.behind(times(usize::MAX, busy, |_| true)).await;
    let trouble = store.check().await.unwrap_err();
    assert_eq!((trouble.code.as_str(), trouble.transient), ("ServerBusy", true));
    assert_eq!(trouble.retry_after, Some(Duration::from_secs(120)));
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let lab = Lab::new().await;
    let elsewhere = Proxy::start(lab.azurite, |_: &lab::proxy::Seen| Fate::Passes).await;
    let location = format!("{}/{}/prod/x", elsewhere.endpoint(), lab.container);
    let moved = Fate::Answered(307, "Moved", vec![("location", location)]);
    let (store, _proxy) = lab.behind(times(usize::MAX, moved, |_| true)).await;
    assert_eq!(put(&store, "x", b"x").await.unwrap_err().code, "Moved");
    assert_eq!(elsewhere.writes(), 0);
}

#[test]
fn configurations_that_cannot_work_are_refused_at_once() {
    let good = || {
        let sas: SecretString = "sv=2022-11-02&sp=cwrl&sig=abc%3D".to_owned().into();
        StoreConfig::new("https://evidence.blob.core.windows.net", "evidence", Auth::Sas(sas))
    };
    Store::open(&good()).unwrap();
    let with = |change: &dyn Fn(&mut StoreConfig)| {
        let mut config = good();
        change(&mut config);
        let trouble = Store::open(&config).unwrap_err();
        assert_eq!((trouble.code.as_str(), trouble.transient), ("BadConfiguration", false));
        trouble.message
    };
    assert!(with(&|c| c.endpoint = "http://127.0.0.1:10000/evidence".to_owned()).contains("https"));
    assert!(with(&|c| c.endpoint = "evidence".to_owned()).contains("https://ACCOUNT"));
    let message = with(&|c| c.endpoint = "https://evidence.blob.core.windows.net?sig=topsecret".to_owned());
    assert!(message.contains("Secret") && !message.contains("topsecret"), "{message}");
    with(&|c| c.container = "UPPER".to_owned());
    with(&|c| c.container = "../x".to_owned());
    with(&|c| c.prefix = "/a".to_owned());
    with(&|c| c.ca_bundle = Some("no certificate".to_owned()));
    with(&|c| c.auth = Auth::Sas("AccountKey=topsecret".to_owned().into()));
    let identity = with(&|c| {
        c.auth = Auth::WorkloadIdentity { client_id: None, tenant_id: None, authority_host: None, token_file: None };
    });
    assert!(identity.contains("azure.workload.identity/use"), "{identity}");
}

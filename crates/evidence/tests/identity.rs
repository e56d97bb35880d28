//! Storing by an identity of the pod, not by a signature.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests: a panic is a failed test")]

mod lab;

use lab::entra::{ASSERTION, CLIENT, Entra, TENANT, access_token, granted};
use lab::sources::bytes;
use lab::{Lab, assert_stored, put};
use serde_json::json;
use tourniquet_evidence::Store;
use tourniquet_evidence::store::{Ended, Immutability};

fn store(lab: &Lab, entra: &Entra) -> Store {
    let mut config = lab.config();
    config.auth = entra.auth();
    Store::open(&config).unwrap()
}

#[tokio::test]
async fn a_pods_service_account_is_exchanged_for_a_token_once() {
    let lab = Lab::new().await;
    let entra = Entra::start(lab.azurite, 200, granted(&access_token())).await;
    let store = store(&lab, &entra);
    // An identity may ask for the container's properties; Azurite knows of no immutability, and says so.
    assert_eq!(store.check().await.unwrap().immutability, Immutability::Absent);
    let content = bytes(9_000_000);
    let stored = put(&store, "artifact", &content).await.unwrap();
    assert_stored(&lab, &stored, &content, &Ended::Whole).await;
    let asked = entra.asked();
    assert_eq!(asked.len(), 1);
    assert!(asked[0].starts_with(&format!("/{TENANT}/oauth2/v2.0/token ")), "{asked:?}");
    assert!(asked[0].contains(CLIENT) && asked[0].contains(ASSERTION), "{asked:?}");
}

#[tokio::test]
async fn an_identity_that_is_refused_is_told_with_what_to_compare() {
    let lab = Lab::new().await;
    let refusal = json!({ "error": "invalid_client", "error_description": "AADSTS700213: No matching federated identity record found." });
    let entra = Entra::start(lab.azurite, 401, refusal).await;
    let trouble = store(&lab, &entra).check().await.unwrap_err();
    assert_eq!((trouble.code.as_str(), trouble.transient), ("TokenRefused", false), "{trouble}");
    assert!(trouble.message.contains("AADSTS700213") && trouble.message.contains("federated credential"), "{trouble}");
    assert!(!trouble.message.contains(ASSERTION), "{trouble}");
}

#[tokio::test]
async fn a_sign_in_service_that_is_down_is_waited_for() {
    let lab = Lab::new().await;
    let entra = Entra::start(lab.azurite, 503, json!({ "error": "temporarily_unavailable" })).await;
    let trouble = store(&lab, &entra).check().await.unwrap_err();
    assert_eq!((trouble.code.as_str(), trouble.transient), ("TokenRefused", true), "{trouble}");
}

#[tokio::test]
async fn a_token_that_the_store_does_not_take_is_a_matter_of_the_credential() {
    let lab = Lab::new().await;
    let entra = Entra::start(lab.azurite, 200, granted("no-token-at-all")).await;
    let trouble = store(&lab, &entra).check().await.unwrap_err();
    assert!(!trouble.transient && !trouble.message.contains("no-token-at-all"), "{trouble:?}");
}

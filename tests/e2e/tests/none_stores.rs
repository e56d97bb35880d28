//! An evidence store says whether it can be used, why not, and recovers by itself; what it is used with is said to nobody.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tourniquet_azurite::Sas;
use tourniquet_e2e::{Gate, OPERATOR_NAMESPACE, Scenario, azurite, scenario};

/// A try takes milliseconds; one whose faults pass is given up after 5 s.
const SOON: Duration = Duration::from_secs(60);
/// What was mended is tried within a minute.
const MENDED: Duration = Duration::from_secs(120);

#[test]
fn a_store_that_can_be_used_is_ready() {
    scenario("stores-ready", |s| async move {
        let store = s.store("soc").await?;
        let ready = store.is_ready(SOON).await?;
        ensure!(ready.message.contains(&store.container), "{ready:?}");

        let found = store.get().await?;
        let status = found.status.unwrap_or_default();
        ensure!(status.observed_generation == found.metadata.generation, "{status:?}");
        ensure!(status.checked_at.is_some(), "{status:?}");
        // The clock is this machine's own, and the service tells whole seconds.
        ensure!(status.clock_offset_seconds.is_some_and(|offset| offset.abs() <= 2), "{status:?}");
        ensure!(
            azurite().await?.blob(&store.container, "prod/tourniquet-check.txt").await.is_some(),
            "nothing was stored"
        );

        let shown = s.env.kubectl_output(&["get", "evs", &store.name]).await?;
        let (columns, row) = shown.split_once('\n').unwrap_or_default();
        let columns: Vec<&str> = columns.split_whitespace().collect();
        ensure!(columns == ["NAME", "ENDPOINT", "CONTAINER", "READY", "REASON", "IMMUTABILITY", "AGE"], "{shown}");
        ensure!(row.contains("True") && row.contains("RoundTripSucceeded"), "{shown}");
        Ok(())
    });
}

#[test]
fn a_container_that_does_not_exist_is_named_until_it_does() {
    scenario("stores-container", |s| async move {
        let azurite = azurite().await?;
        let store = s.store_at("soc", &azurite.endpoint(), azurite).await?;
        store.sign(Sas::new(&store.container).sign()).await?;
        let ready = store.becomes("False", "ContainerNotFound", SOON).await?;
        ensure!(
            ready.message.contains(&store.container) && ready.message.contains("Create the container"),
            "{ready:?}"
        );
        azurite.create_container(&store.container).await;
        store.is_ready(MENDED).await?;
        Ok(())
    });
}

#[test]
fn a_store_that_cannot_be_reached_is_ready_once_it_can() {
    scenario("stores-reach", |s| async move {
        let azurite = azurite().await?;
        let mut gate = Gate::shut(azurite).await?;
        let store = s.store_at("soc", &azurite.endpoint_at(gate.address), azurite).await?;
        azurite.create_container(&store.container).await;
        store.sign(Sas::new(&store.container).sign()).await?;
        let ready = store.becomes("False", "CannotConnect", SOON).await?;
        ensure!(ready.message.contains("network policies"), "{ready:?}");
        gate.open().await?;
        store.is_ready(MENDED).await?;

        // And the other way round. A change has it tried at once.
        gate.close().await;
        store.change(json!({ "caBundle": format!("{}\n", azurite.pki.ca) })).await?;
        store.becomes("False", "CannotConnect", SOON).await?;
        gate.open().await?;
        store.is_ready(MENDED).await?;
        Ok(())
    });
}

#[test]
fn an_authority_that_is_not_trusted_is_trusted_once_the_store_names_it() {
    scenario("stores-ca", |s| async move {
        let store = s.store("soc").await?;
        store.is_ready(SOON).await?;
        store.change(json!({ "caBundle": null })).await?;
        let ready = store.becomes("False", "TlsFailed", SOON).await?;
        ensure!(ready.message.contains("CA bundle"), "{ready:?}");
        store.change(json!({ "caBundle": azurite().await?.pki.ca })).await?;
        store.is_ready(SOON).await?;
        Ok(())
    });
}

/// As long as a store has a signature, also one that does not fit, nobody reads it anywhere but in the Secret.
#[test]
fn a_secret_that_is_missing_or_does_not_fit_is_said_to_be_and_never_quoted() {
    scenario("stores-secrets", |s| async move {
        let azurite = azurite().await?;
        let store = s.store_at("soc", &azurite.endpoint(), azurite).await?;
        azurite.create_container(&store.container).await;
        let missing = store.becomes("False", "SecretNotFound", SOON).await?;
        ensure!(missing.message.contains(&format!("{OPERATOR_NAMESPACE}/{}", store.name)), "{missing:?}");

        let nonsense: SecretString = "AccountKey=this-is-an-account-key-and-no-signature".to_owned().into();
        let read_only = Sas::new(&store.container).with("rl").sign();
        let expired = Sas::new(&store.container).expired().sign();
        let good = Sas::new(&store.container).sign();
        let secrets = [&nonsense, &read_only, &expired, &good];
        let mut said = Vec::new();

        for (sas, reason, words) in [
            (&nonsense, "BadConfiguration", "shared access signature"),
            (&read_only, "AuthorizationPermissionMismatch", "cwrl"),
            // Azurite's code; Azure says AuthenticationFailed.
            (&expired, "AuthorizationFailure", "says that it is valid"),
        ] {
            store.sign(sas.clone()).await?;
            let ready = store.becomes("False", reason, MENDED).await?;
            ensure!(ready.message.contains(words), "{ready:?}");
            said.push(serde_json::to_string(&store.get().await?)?);
        }
        store.sign(good.clone()).await?;
        store.is_ready(MENDED).await?;
        said.push(serde_json::to_string(&store.get().await?)?);

        for (what, text) in [
            ("a status", said.join("\n")),
            ("an event", s.env.kubectl_output(&["get", "events", "--all-namespaces", "--output", "json"]).await?),
            ("the operator's log", operators_log(&s).await?),
        ] {
            for secret in secrets.into_iter().flat_map(spellings) {
                ensure!(!text.contains(&secret), "{what} has a secret in it");
            }
        }
        ensure!(operators_log(&s).await?.contains(&store.name), "this is not the log of whoever looks at stores");
        Ok(())
    });
}

async fn operators_log(s: &Scenario) -> Result<String> {
    s.env.kubectl_output(&["--namespace", OPERATOR_NAMESPACE, "logs", "deployment/tourniquet-operator"]).await
}

/// A secret as it is, and of a signature the part that proves something, as it is written in a URL and as it is meant.
fn spellings(secret: &SecretString) -> Vec<String> {
    let whole = secret.expose_secret();
    let written = whole.split('&').filter_map(|pair| pair.strip_prefix("sig="));
    let meant = url::form_urlencoded::parse(whole.as_bytes()).filter(|(name, _)| name == "sig");
    written.map(str::to_owned).chain(meant.map(|(_, sig)| sig.into_owned())).chain([whole.to_owned()]).collect()
}

#[test]
fn where_evidence_goes_cannot_change_and_as_whom_can() {
    scenario("stores-immutable", |s| async move {
        let store = s.store("soc").await?;
        let elsewhere = "https://elsewhere.blob.core.windows.net";
        for (change, words) in [
            (json!({ "endpoint": elsewhere }), "endpoint cannot change"),
            (json!({ "container": "elsewhere" }), "container cannot change"),
            (json!({ "prefix": "elsewhere" }), "prefix cannot change"),
            (json!({ "prefix": null }), "prefix cannot change"),
        ] {
            match store.change(change.clone()).await {
                Ok(_) => bail!("{change} was accepted"),
                Err(error) => ensure!(error.to_string().contains(words), "{change}: {error}"),
            }
        }
        store.change(json!({ "auth": { "sas": null, "managedIdentity": {} } })).await?;
        Ok(())
    });
}

/// What is refused, and words of the message.
fn refused() -> Vec<(&'static str, Value, &'static str)> {
    let blob = |field: &str, value: Value| {
        let mut blob = json!({
            "endpoint": "https://evidence4711.blob.core.windows.net", "container": "evidence", "auth": { "workloadIdentity": {} },
        });
        blob[field] = value;
        json!({ "azureBlob": blob })
    };
    let endpoint = |endpoint: &str| blob("endpoint", json!(endpoint));
    let sas = |reference: Value| blob("auth", json!({ "sas": { "secretRef": reference } }));
    vec![
        ("nothing", json!({}), "spec.azureBlob: Required value"),
        ("no container", blob("container", Value::Null), "container"),
        ("plain http", endpoint("http://evidence4711.blob.core.windows.net"), "over https only"),
        (
            "a signature in the endpoint",
            endpoint("https://a.blob.core.windows.net?sv=1&sig=x"),
            "belongs into a Secret",
        ),
        ("a user in the endpoint", endpoint("https://user:word@a.blob.core.windows.net"), "belongs into a Secret"),
        ("an account's name alone", endpoint("evidence4711"), "such as https://ACCOUNT.blob.core.windows.net"),
        ("a scheme alone", endpoint("https://"), "such as https://ACCOUNT.blob.core.windows.net"),
        ("an endpoint with a space", endpoint("https://a b"), "such as https://ACCOUNT.blob.core.windows.net"),
        ("a long endpoint", endpoint(&format!("https://{}", "a".repeat(512))), "may not be more than 512"),
        ("a container in capitals", blob("container", json!("Evidence")), "as Azure has it"),
        ("two hyphens", blob("container", json!("a--b")), "as Azure has it"),
        ("a container of two characters", blob("container", json!("ab")), "container"),
        ("one of Azure's own", blob("container", json!("$web")), "as Azure has it"),
        ("a slash before the prefix", blob("prefix", json!("/prod")), "write the prefix as segments"),
        ("a way out of the prefix", blob("prefix", json!("prod/../other")), "write the prefix as segments"),
        ("a prefix that is empty", blob("prefix", json!("")), "prefix"),
        ("no way to sign in", blob("auth", json!({})), "auth is exactly one of"),
        (
            "two ways to sign in",
            blob("auth", json!({ "workloadIdentity": {}, "managedIdentity": {} })),
            "auth is exactly one of",
        ),
        (
            "a client ID that is none",
            blob("auth", json!({ "workloadIdentity": { "clientID": "operator" } })),
            "write the ID as Azure shows it",
        ),
        ("a signature without its Secret", blob("auth", json!({ "sas": {} })), "secretRef: Required value"),
        ("a Secret's name that is none", sas(json!({ "name": "Evidence" })), "write the object's name"),
        ("a key that is none", sas(json!({ "name": "evidence", "key": "a b" })), "key"),
        ("base64 of certificates", blob("caBundle", json!("LS0tLS1CRUdJTg==")), "not as base64"),
        (
            "a key beside the certificates",
            blob("caBundle", json!("-----BEGIN CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\n")),
            "write certificates only",
        ),
    ]
}

#[test]
fn every_refusal_says_what_to_write_instead() {
    scenario("stores-refusals", |s| async move {
        let mut wrong = Vec::new();
        for (what, spec, words) in refused() {
            match s.try_store(spec).await {
                Ok(()) => wrong.push(format!("{what}: accepted")),
                Err(message) if message.contains(words) => {}
                Err(message) => wrong.push(format!("{what}: {message}")),
            }
        }
        for endpoint in [
            "https://evidence4711.blob.core.windows.net",
            "https://evidence4711.blob.core.windows.net/",
            "https://10.99.0.1:10000/evidence",
            "https://[fd00::1]:10000/evidence",
        ] {
            let blob = json!({ "endpoint": endpoint, "container": "evidence", "auth": { "managedIdentity": {} } });
            if let Err(message) = s.try_store(json!({ "azureBlob": blob })).await {
                wrong.push(format!("{endpoint}: {message}"));
            }
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(())
    });
}

//! From what an EvidenceStore says to a store that is open.

use std::sync::atomic::{AtomicU64, Ordering};

use secrecy::{ExposeSecret, SecretString};
use tourniquet_api::AzureBlob;
use tourniquet_evidence::{Auth, Store, StoreConfig, Trouble};

/// A store that is open, and what it was opened with.
#[derive(Clone)]
pub(super) struct Opened {
    pub(super) store: Store,
    blob: AzureBlob,
    sas: Option<SecretString>,
    opening: u64,
}

impl Opened {
    /// Tells one opening from another: one whose credential was replaced is still the same.
    pub(super) fn opening(&self) -> u64 {
        self.opening
    }
}

/// Opens a store like this, unless it is open already: then only the credential is replaced, if it is another one, and what is being uploaded goes on with it.
///
/// Other certificate authorities make it another store: what is being uploaded goes on with the former ones.
///
/// # Errors
/// `BadConfiguration`: what is wrong with it. What is open stays as it is.
pub(super) fn open(before: Option<Opened>, blob: &AzureBlob, sas: Option<SecretString>) -> Result<Opened, Trouble> {
    static OPENINGS: AtomicU64 = AtomicU64::new(0);
    let auth = auth(blob, sas.clone())?;
    match before {
        Some(opened) if is_same_place(&opened.blob, blob) => {
            if opened.blob.auth != blob.auth || !is_same(opened.sas.as_ref(), sas.as_ref()) {
                opened.store.replace_auth(&auth)?;
            }
            Ok(Opened { blob: blob.clone(), sas, ..opened })
        }
        _ => {
            let mut config = StoreConfig::new(&blob.endpoint, &blob.container, auth);
            config.prefix = blob.prefix.clone().unwrap_or_default();
            config.ca_bundle.clone_from(&blob.ca_bundle);
            let opening = OPENINGS.fetch_add(1, Ordering::Relaxed);
            Ok(Opened { store: Store::open(&config)?, blob: blob.clone(), sas, opening })
        }
    }
}

/// As whom. The API server takes exactly one; what was stored under another schema may have none.
fn auth(blob: &AzureBlob, sas: Option<SecretString>) -> Result<Auth, Trouble> {
    let auth = &blob.auth;
    match (&auth.workload_identity, &auth.managed_identity, sas) {
        (Some(identity), None, None) => Ok(Auth::WorkloadIdentity {
            client_id: identity.client_id.clone(),
            tenant_id: identity.tenant_id.clone(),
            authority_host: None,
            token_file: None,
        }),
        (None, Some(identity), None) => Ok(Auth::ManagedIdentity { client_id: identity.client_id.clone() }),
        (None, None, Some(sas)) => Ok(Auth::Sas(sas)),
        _ => Err(super::report::trouble(
            "BadConfiguration",
            "spec.azureBlob.auth has to be exactly one of workloadIdentity, managedIdentity and sas",
        )),
    }
}

fn is_same_place(one: &AzureBlob, other: &AzureBlob) -> bool {
    let place =
        |blob: &AzureBlob| (blob.endpoint.clone(), blob.container.clone(), blob.prefix.clone(), blob.ca_bundle.clone());
    place(one) == place(other)
}

fn is_same(one: Option<&SecretString>, other: Option<&SecretString>) -> bool {
    one.map(ExposeSecret::expose_secret) == other.map(ExposeSecret::expose_secret)
}

#[cfg(test)]
mod tests {
    use tourniquet_api::{SharedAccessSignature, StoreAuth, WorkloadIdentity};

    use super::*;

    fn blob() -> AzureBlob {
        AzureBlob {
            endpoint: "https://evidence4711.blob.core.windows.net".to_owned(),
            container: "evidence".to_owned(),
            auth: StoreAuth { sas: Some(SharedAccessSignature::default()), ..StoreAuth::default() },
            ..AzureBlob::default()
        }
    }

    fn sas(signature: &str) -> Option<SecretString> {
        Some(format!("sv=2022-11-02&sp=cwrl&sig={signature}").into())
    }

    #[test]
    fn what_is_open_stays_open_with_another_credential() {
        let first = open(None, &blob(), sas("one")).unwrap();
        let again = open(Some(first.clone()), &blob(), sas("one")).unwrap();
        let replaced = open(Some(again.clone()), &blob(), sas("two")).unwrap();
        assert_eq!([again.opening(), replaced.opening()], [first.opening(); 2]);
        assert!(is_same(replaced.sas.as_ref(), sas("two").as_ref()));
    }

    #[test]
    fn another_place_or_other_authorities_are_another_store() {
        let first = open(None, &blob(), sas("one")).unwrap();
        for change in [
            |blob: &mut AzureBlob| blob.container = "elsewhere".to_owned(),
            |blob: &mut AzureBlob| blob.prefix = Some("prod".to_owned()),
            |blob: &mut AzureBlob| blob.endpoint = "https://other.blob.core.windows.net".to_owned(),
        ] {
            let mut other = blob();
            change(&mut other);
            assert_ne!(open(Some(first.clone()), &other, sas("one")).unwrap().opening(), first.opening());
        }
    }

    #[test]
    fn what_cannot_be_a_signature_is_refused_and_the_former_one_is_still_known() {
        let first = open(None, &blob(), sas("one")).unwrap();
        let trouble = open(Some(first), &blob(), Some("AccountKey=topsecret".into())).err().unwrap();
        assert_eq!(trouble.code, "BadConfiguration");
        assert!(!trouble.message.contains("topsecret"), "{trouble}");
    }

    #[test]
    fn no_way_to_sign_in_and_two_are_refused() {
        let mut none = blob();
        none.auth = StoreAuth::default();
        let mut two = blob();
        two.auth.workload_identity = Some(WorkloadIdentity::default());
        for (blob, sas) in [(none, None), (two, sas("one"))] {
            assert_eq!(open(None, &blob, sas).err().unwrap().code, "BadConfiguration");
        }
    }
}

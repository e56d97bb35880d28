//! One container of one storage account.

mod check;
mod config;
mod put;
mod read;
mod trouble;

use tokio::sync::watch;

pub use check::{CHECK_BLOB, Checked, Immutability};
pub use config::{Auth, StoreConfig, Times};
pub use put::{Ended, LARGEST, METADATA, PutOptions, Received, Stored, Verdict};
pub use read::{Listed, MOST_LISTED, Properties, SMALL};
pub use trouble::Trouble;

/// A container to store evidence in. Cheap to clone; clones share connections and the credential.
#[derive(Clone, Debug)]
pub struct Store {}

impl Store {
    /// A store that nothing was asked of yet; [`Store::check`] does.
    ///
    /// # Errors
    /// `BadConfiguration`: what is wrong with it.
    pub fn open(config: &StoreConfig) -> Result<Self, Trouble> {
        let _ = config;
        todo!()
    }

    /// Uses another credential from now on, also for uploads that are under way: those whose credential was refused go on with it.
    ///
    /// # Errors
    /// `BadConfiguration`: what is wrong with it; the former one stays.
    pub fn replace_auth(&self, auth: &Auth) -> Result<(), Trouble> {
        let _ = auth;
        todo!()
    }

    /// What uploads are held up by at the moment: the last fault that is being borne, or that another credential is waited for; none, when the last request was answered.
    #[must_use]
    pub fn held_up(&self) -> watch::Receiver<Option<Trouble>> {
        todo!()
    }
}

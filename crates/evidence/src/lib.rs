//! Evidence in Azure Blob Storage: whole, or marked as what it is.
//!
//! Two layers. A [`Store`] is one container of one account: it takes a stream of unknown length, and what it says of it afterwards (length, SHA-256,
//! whether it is whole) is true of the blob, also when the connection was lost, the answer never came, or the source broke off. A [`Folder`] is
//! what a response collects from one target: a BagIt bag (RFC 8493) in a store, with a [`Record`] of who, what, when and how, that shows by itself whether it was
//! finished, and that a restart can finish.
//!
//! No Kubernetes. What is read from a pod, and how, is not decided here. `docs/evidence.md` is for whoever reads the evidence.

pub mod folder;
pub mod store;

pub use folder::{Folder, Place, Record};
pub use store::{Auth, Store, StoreConfig, Trouble};

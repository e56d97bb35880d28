//! What the project's commands are made of. A library, so that the end-to-end tests start clusters with the same code as `cargo xtask`.

pub mod azurite;
pub mod bagit;
pub mod bench;
pub mod chart;
pub mod cluster;
pub mod demo;
pub mod dependencies;
mod end_to_end;
pub mod generate;
pub mod image;
pub mod install;
mod kustomize;
mod least_privilege;
mod lifecycle;
mod python;
mod reference;
mod templates;
pub mod test;
mod tools;
mod transcript;
pub mod ui;

//! `bagit`, the Library of Congress' own tool, from PyPI: what the tests of `crates/evidence` have their bags verified by, besides themselves.

use std::path::PathBuf;

use crate::python::Package;

/// The environment variable that tells the tests of a Python that has it.
pub const VARIABLE: &str = "TOURNIQUET_BAGIT";

const BAGIT: Package = Package { name: "bagit", pinned: "bagit==1.9.0", module: "bagit" };

/// The Python that has it; none where it cannot be had, which is said. The tests then check by themselves what RFC 8493 asks for.
pub fn ensure() -> Option<PathBuf> {
    BAGIT.ensure().map_err(|error| eprintln!("bags are verified without bagit: {error:#}")).ok()
}

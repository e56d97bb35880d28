//! `cargo xtask bench response`: from the resource to its first effect, side by side with a bare client that makes the same requests.

pub mod at_once;
pub mod disturbed;
pub mod effects;
pub mod figures;
pub mod floor;
pub mod paper;
pub mod points;
pub mod steps;
pub mod usage;
pub mod verbs;

use std::time::Duration;

/// How long anything of it is waited for.
const LIMIT: Duration = Duration::from_secs(30);

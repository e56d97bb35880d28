//! `cargo xtask bench evidence`: from a pod to the store, through the agent and the operator, beside what each half of the way takes by itself.

pub mod cpu;
pub mod floor;
pub mod rounds;

use std::time::Duration;

/// How long anything of it is waited for.
const LIMIT: Duration = Duration::from_secs(300);

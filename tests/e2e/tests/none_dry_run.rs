//! What a dry run writes, and what becomes of its plan. See `tourniquet_e2e::dry_run`.

use std::sync::{Mutex, PoisonError};

use tourniquet_e2e::{dry_run, scenario};

/// Every write on the cluster counts.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn a_dry_run_writes_nothing_but_its_status_and_events() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    scenario("dry-run", |s| async move { dry_run::touches_nothing(&s).await });
}

#[test]
fn what_is_planned_is_what_is_done() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    scenario("dry-exact", |s| async move { dry_run::is_what_is_done(&s).await });
}

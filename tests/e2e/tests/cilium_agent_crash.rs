//! The operator is killed at each of its writes, where there are agents. See `tourniquet_e2e::sweep`.

use std::time::Duration;

use tourniquet_e2e::scenario;
use tourniquet_e2e::sweep::{self, Sweep};

#[test]
fn killed_at_any_write_it_converges_to_the_same_end() {
    scenario("cut-crash", |s| async move { sweep::run(&s, &Sweep::isolation("Cut", Duration::from_secs(30))).await });
}

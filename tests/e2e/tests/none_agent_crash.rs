//! The operator is killed at each of its writes, where there are agents. See `tourniquet_e2e::sweep`.

use std::time::Duration;

use tourniquet_e2e::{scenario, sweep};

#[test]
fn killed_at_any_write_it_converges_to_the_same_end() {
    scenario("cut-crash", |s| async move { sweep::run(&s, "Cut", Duration::from_secs(30)).await });
}

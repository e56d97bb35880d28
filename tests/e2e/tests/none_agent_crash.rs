//! The operator is killed at each of its writes, where there are agents. See `tourniquet_e2e::sweep`.

use std::time::Duration;

use tourniquet_e2e::sweep::{self, Sweep};
use tourniquet_e2e::{Scenario, scenario};

fn sweep(name: &str, sweep: Sweep) {
    scenario(name, |s: Scenario| async move { sweep::run(&s, &sweep).await });
}

#[test]
fn killed_at_any_write_it_converges_to_the_same_end() {
    sweep("cut-crash", Sweep::isolation("Cut", Duration::from_secs(30)));
}

#[test]
fn killed_at_any_write_of_an_isolation_and_a_label_it_converges_to_the_same_end() {
    sweep("cut-crash-several", Sweep::isolation_and_label("Cut", Duration::from_secs(30)));
}

//! The operator is killed at each of its writes, without a policy engine. See `tourniquet_e2e::sweep`.

use std::time::Duration;

use tourniquet_e2e::sweep::{self, Sweep};
use tourniquet_e2e::{Scenario, scenario};

fn sweep(name: &str, sweep: Sweep) {
    scenario(name, |s: Scenario| async move { sweep::run(&s, &sweep).await });
}

#[test]
fn killed_at_any_write_it_converges_to_the_same_end() {
    sweep("crash", Sweep::isolation("NotEnforced", Duration::from_secs(60)));
}

#[test]
fn killed_at_any_write_of_a_label_that_it_replaces_it_converges_to_the_same_end() {
    sweep("crash-label", Sweep::label());
}

#[test]
fn killed_at_any_write_of_a_cordon_and_a_label_it_converges_to_the_same_end() {
    sweep("crash-cordon", Sweep::cordon());
}

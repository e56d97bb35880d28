//! The agent is killed while pods are cut. A program of its own: the others need an agent that stays.

use tourniquet_e2e::{cut, scenario};

#[test]
fn what_is_cut_stays_cut_and_the_next_agent_changes_nothing() {
    scenario("cut-killed", |s| async move { cut::outlives_the_agent(&s).await });
}

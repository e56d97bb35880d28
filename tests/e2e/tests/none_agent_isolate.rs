//! Isolation with agents, without a policy engine. See `tourniquet_e2e::cut`.

use tourniquet_e2e::{cut, scenario};

#[test]
fn a_pod_is_cut_off_within_milliseconds_and_let_go() {
    scenario("cut", |s| async move { cut::isolates_and_lets_go(&s).await });
}

#[test]
fn a_pod_with_a_liveness_probe_every_second_is_not_restarted() {
    scenario("cut-liveness", |s| async move { cut::restarts_nothing(&s).await });
}

#[test]
fn two_responses_hand_over_without_a_gap() {
    scenario("cut-handover", |s| async move { cut::hands_over_without_a_gap(&s).await });
}

//! Several pods and whole namespaces, with agents and without a policy engine. See `tourniquet_e2e::sets`.

use tourniquet_e2e::{scenario, sets};

#[test]
fn the_pods_of_a_deployment_are_isolated_and_let_go_together() {
    scenario("set", |s| async move { sets::isolates_the_pods_of_a_deployment(&s).await });
}

#[test]
fn each_of_several_pods_has_its_own_result() {
    scenario("set-each", |s| async move { sets::says_what_each_of_several_came_to(&s).await });
}

#[test]
fn a_namespace_is_isolated_with_what_starts_in_it_later() {
    scenario("ns", |s| async move {
        sets::with_outside(|outside| async move { sets::isolates_a_namespace(&s, &outside, false).await }).await
    });
}

#[test]
fn a_pod_is_handed_over_to_its_namespace_and_back_without_a_gap() {
    scenario("ns-pod", |s| async move {
        sets::with_outside(
            |outside| async move { sets::hands_over_between_a_pod_and_its_namespace(&s, &outside).await },
        )
        .await
    });
}

#[test]
fn the_examples_are_carried_out_and_undone() {
    scenario("set-examples", |s| async move { sets::carries_the_examples_out(&s).await });
}

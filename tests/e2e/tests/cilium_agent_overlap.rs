//! Random schedules of overlapping responses, with agents and Cilium. See `tourniquet_e2e::overlap`.

use tourniquet_e2e::{overlap, scenario, sets};

#[test]
fn whatever_overlaps_holds_without_a_gap_and_leaves_nothing() {
    scenario("overlap", |s| async move {
        sets::with_outside(|outside| async move { overlap::run(&s, &outside).await }).await
    });
}

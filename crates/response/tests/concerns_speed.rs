//! How long it takes to say whom a change concerns. Measured, not judged:
//! `cargo test --release --package tourniquet-response --test concerns_speed -- --ignored --nocapture`

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement: what it prints is what it is for")]

mod fixtures;

use std::time::Instant;

use fixtures::object;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};
use tourniquet_api::PinnedTarget;
use tourniquet_response::Concerns;

const RESPONSES: usize = 1_000;
const TARGETS: usize = 50;
const CHANGES: u32 = 10_000;

fn pod(response: usize, target: usize) -> ObjectMeta {
    object(
        json!({ "namespace": format!("shop-{}", response % 20), "name": format!("web-6d5f8c7b9d-{response}-{target}") }),
    )
}

#[test]
#[ignore = "a measurement"]
fn of_a_thousand_responses_with_fifty_targets_each_those_that_a_pod_concerns() {
    let mut concerns = Concerns::default();
    let mut all = Vec::new();
    let began = Instant::now();
    for number in 0..RESPONSES {
        let mut response = fixtures::response(&format!("r-{number}"), &format!("{number:036}"));
        let targets: Vec<Value> = (0..TARGETS)
            .map(|target| {
                let pod = pod(number, target);
                json!({ "kind": "Pod", "namespace": pod.namespace, "name": pod.name, "uid": format!("{number:018}{target:018}") })
            })
            .collect();
        response.status = object(json!({ "targets": targets }));
        concerns.know(&response);
        all.extend(response.status.into_iter().flat_map(|status| status.targets));
    }
    println!("taken in: {RESPONSES} responses of {TARGETS} targets in {:?}, fixtures included", began.elapsed());
    let changed: Vec<ObjectMeta> = (0..RESPONSES).map(|number| pod(number, number % TARGETS)).collect();
    let stranger = pod(RESPONSES, TARGETS);
    for (what, objects, found) in [("of a target", &changed, 1), ("of another pod", &vec![stranger], 0)] {
        let began = Instant::now();
        for object in objects.iter().cycle().take(CHANGES as usize) {
            assert_eq!(concerns.of("Pod", object).len(), found);
        }
        println!("a change {what}: {:?}", began.elapsed() / CHANGES);
    }
    let began = Instant::now();
    for object in &changed {
        let is_it =
            |target: &&PinnedTarget| target.namespace == object.namespace && Some(&target.name) == object.name.as_ref();
        assert_eq!(all.iter().filter(is_it).count(), 1);
    }
    println!("the same without an index: {:?}", began.elapsed() / u32::try_from(changed.len()).unwrap());
}

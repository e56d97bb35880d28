//! What may be lost by an isolation is said before it, and what was lost is seen soon after.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests: a panic is a failed test")]

mod fixtures;

use fixtures::scene::{Scene, a_pod_that_answers, a_pod_that_cilium_serves, endpoint};
use fixtures::{RESPONSE_UID, container_status, object, says};
use serde_json::{Value, json};
use tourniquet_api::{Residual, names};

fn with_probe(which: &str, probe: Value) -> Scene {
    a_pod_that_answers().with_pod(|pod| {
        let container = &mut pod.spec.as_mut().unwrap().containers[0];
        let probe = Some(object(probe));
        match which {
            "liveness" => container.liveness_probe = probe,
            "startup" => container.startup_probe = probe,
            _ => container.readiness_probe = probe,
        }
    })
}

fn exec() -> Value {
    json!({ "exec": { "command": ["ping", "db"] }, "periodSeconds": 5, "failureThreshold": 2 })
}

/// What is said of probes in a status.
fn may_fail(residual: &[Residual]) -> Vec<&Residual> {
    residual.iter().filter(|residual| residual.code == "ProbeMayFail").collect()
}

/// How bad it is that this probe may fail; said before the first effect.
fn severity(scene: &Scene) -> String {
    let pass = scene.look();
    assert!(!pass.steps.is_empty(), "nothing was done yet");
    let said = may_fail(&pass.status.residual);
    assert!(said.len() <= 1, "{said:?}");
    said.first().map_or_else(|| "none".to_owned(), |residual| residual.severity.clone())
}

#[test]
fn a_probe_that_runs_a_command_may_fail() {
    let scene = with_probe("liveness", exec());
    assert_eq!(severity(&scene), "Medium");
    let status = scene.look().status;
    let [residual] = may_fail(&status.residual)[..] else { panic!("{:?}", status.residual) };
    let named = "liveness probe (exec) of container web (2 failures, 5 s apart)";
    assert!(residual.message.contains(named) && residual.message.contains("memory"), "{residual:?}");
    let remedy = residual.remedy.as_deref().unwrap();
    assert!(remedy.contains("kubectl --namespace shop get pod web"), "{remedy}");
}

#[test]
fn a_probe_that_connects_passes_and_what_answers_it_may_fail() {
    for probe in [
        json!({ "httpGet": { "port": 8080 } }),
        json!({ "httpGet": { "port": 8080, "host": "" } }),
        json!({ "httpGet": { "port": 8080, "host": "10.1.0.7" } }),
        json!({ "tcpSocket": { "port": 8080 } }),
        json!({ "grpc": { "port": 8080 } }),
    ] {
        assert_eq!(severity(&with_probe("liveness", probe.clone())), "Low", "{probe}");
    }
}

#[test]
fn a_probe_of_another_host_is_not_concerned() {
    for probe in [
        json!({ "httpGet": { "port": 80, "host": "status.example.com" } }),
        json!({ "httpGet": { "port": 80, "host": "127.0.0.1" } }),
        json!({ "tcpSocket": { "port": 80, "host": "10.1.0.8" } }),
    ] {
        assert_eq!(severity(&with_probe("liveness", probe.clone())), "none", "{probe}");
    }
}

#[test]
fn a_readiness_probe_restarts_nothing() {
    assert_eq!(severity(&with_probe("readiness", exec())), "none");
}

#[test]
fn a_startup_probe_counts_until_the_container_has_started() {
    let scene = with_probe("startup", exec());
    assert_eq!(severity(&scene), "Medium");
    let scene = scene.with_pod(|pod| {
        let statuses = pod.status.as_mut().unwrap().container_statuses.as_mut().unwrap();
        statuses.iter_mut().for_each(|status| status.started = Some(true));
    });
    assert_eq!(severity(&scene), "none");
}

#[test]
fn a_sidecar_is_named_as_well_and_of_many_probes_the_first() {
    let scene = with_probe("liveness", exec()).with_pod(|pod| {
        let spec = pod.spec.as_mut().unwrap();
        let sidecar = json!({ "name": "proxy", "restartPolicy": "Always", "livenessProbe": exec() });
        spec.init_containers = Some(vec![object(sidecar)]);
        let more = (0..20).map(|number| object(json!({ "name": format!("c{number}"), "livenessProbe": exec() })));
        spec.containers.extend(more);
    });
    let status = scene.look().status;
    let [residual] = may_fail(&status.residual)[..] else { panic!("{:?}", status.residual) };
    assert!(residual.message.contains("and 14 more"), "{residual:?}");
}

#[test]
fn a_dry_run_says_it_too() {
    let status = with_probe("liveness", exec()).with_spec(|spec| spec.dry_run = true).look().status;
    assert_eq!(says(&status, "Ready"), "True/Planned");
    assert_eq!(may_fail(&status.residual).len(), 1);
}

#[test]
fn it_stays_said_while_the_pod_is_held_beside_what_is_seen_then() {
    let scene = with_probe("liveness", exec()).act();
    let residual = scene.look().status.residual;
    assert_eq!(may_fail(&residual).len(), 1);
    assert!(residual.len() > 1, "{residual:?}");
}

/// A response by policies, with the pod's labels on it.
fn labelled() -> Scene {
    let mut scene = a_pod_that_cilium_serves().act();
    scene.endpoint = Some(endpoint(&[RESPONSE_UID]));
    scene.act()
}

#[test]
fn a_restart_is_noticed_by_watch_also_before_our_label_is_on_the_pod() {
    assert_eq!(labelled().look().again_after, None);
    let unlabelled = labelled().with_pod(|pod| {
        pod.metadata.labels.as_mut().unwrap().remove(names::CONTAINED_LABEL);
    });
    assert_eq!(unlabelled.look().again_after, None, "every pod's changes are watched");
}

#[test]
fn nothing_is_looked_at_again_when_nothing_is_held() {
    let mut refused = a_pod_that_answers();
    refused.pod = None;
    assert_eq!(refused.look().again_after, None);
    assert_eq!(a_pod_that_answers().with_spec(|spec| spec.dry_run = true).look().again_after, None);
    let mut gone = labelled();
    gone.pod = None;
    assert_eq!(gone.look().again_after, None);
}

#[test]
fn a_restart_is_seen_and_names_the_container() {
    let scene = labelled().with_pod(|pod| {
        let statuses = pod.status.as_mut().unwrap().container_statuses.as_mut().unwrap();
        statuses[0] = object(container_status("web", "containerd://new", 1));
    });
    let status = scene.look().status;
    assert_eq!(says(&status, "EvidenceIntact"), "False/Lost");
    let message = fixtures::condition(&status, "EvidenceIntact").unwrap().message.clone();
    assert!(message.contains("container web of pod shop/web was restarted"), "{message}");
}

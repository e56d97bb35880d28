//! What Argo CD makes of a response, by deploy/argocd/argocd-cm.yaml.

#![allow(clippy::unwrap_used, reason = "tests: a panic is a failed test")]

use mlua::{Lua, LuaSerdeExt, Table};
use serde_json::{Value, json};
use tourniquet_xtask::cluster::workspace;

/// What a health check says: status and message.
fn health(kind: &str, object: &Value) -> (String, String) {
    let text = std::fs::read_to_string(workspace().join("deploy/argocd/argocd-cm.yaml")).unwrap();
    let map: Value = serde_saphyr::from_str(&text).unwrap();
    let script = map["data"][format!("resource.customizations.health.tourniquet.dev_{kind}")].as_str().unwrap();
    let lua = Lua::new();
    lua.globals().set("obj", lua.to_value(object).unwrap()).unwrap();
    let health: Table = lua.load(script).eval().unwrap();
    (health.get("status").unwrap(), health.get("message").unwrap())
}

/// Type, status, message.
type Condition = (&'static str, &'static str, &'static str);

/// A response with these conditions.
fn response(conditions: &[Condition]) -> Value {
    let conditions: Vec<Value> = conditions
        .iter()
        .map(|(kind, status, message)| json!({"type": kind, "status": status, "reason": "Reason", "message": message}))
        .collect();
    json!({"metadata": {"name": "sentinel-4711"}, "status": {"conditions": conditions}})
}

#[test]
fn a_response_is_healthy_once_everything_is_in_force_and_degraded_when_it_cannot_go_on() {
    let states: [(&[Condition], &str, &str); 6] = [
        // Working.
        (
            &[("Accepted", "True", ""), ("Ready", "False", "isolate: waiting"), ("Reconciling", "True", "")],
            "Progressing",
            "isolate: waiting",
        ),
        // Refused.
        (
            &[("Accepted", "False", ""), ("Ready", "False", ""), ("Stalled", "True", "no such pod")],
            "Degraded",
            "no such pod",
        ),
        // Everything done.
        (
            &[("Ready", "True", "isolate: cut"), ("Contained", "True", ""), ("Stalled", "False", "")],
            "Healthy",
            "isolate: cut",
        ),
        // Finished with something that is not done.
        (
            &[("Ready", "False", ""), ("Contained", "Unknown", ""), ("Stalled", "True", "not observed")],
            "Degraded",
            "not observed",
        ),
        // A dry run, and what was released: Ready, and not contained.
        (&[("Ready", "True", "planned"), ("Contained", "False", "")], "Healthy", "planned"),
        (&[], "Progressing", "the operator has not seen it yet"),
    ];
    for (conditions, status, message) in states {
        assert_eq!(
            health("IncidentResponse", &response(conditions)),
            (status.into(), message.into()),
            "{conditions:?}"
        );
    }
}

#[test]
fn one_that_nobody_has_seen_or_that_is_being_deleted_is_in_progress() {
    assert_eq!(health("IncidentResponse", &json!({"metadata": {}})).0, "Progressing");
    let mut deleted = response(&[("Ready", "True", "cut")]);
    deleted["metadata"]["deletionTimestamp"] = json!("2026-11-23T03:12:00Z");
    assert_eq!(health("IncidentResponse", &deleted), ("Progressing".into(), "it is being undone".into()));
}

#[test]
fn a_store_is_as_healthy_as_its_last_round_trip() {
    assert_eq!(health("EvidenceStore", &json!({"metadata": {}})).0, "Progressing");
    assert_eq!(
        health("EvidenceStore", &response(&[("Ready", "True", "written")])),
        ("Healthy".into(), "written".into())
    );
    assert_eq!(health("EvidenceStore", &response(&[("Ready", "False", "403")])), ("Degraded".into(), "403".into()));
}

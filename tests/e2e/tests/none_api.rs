//! What the API server itself refuses, with the message that it gives; and what it takes.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use tourniquet_e2e::{RESPONSE_NAMESPACE, scenario};

/// The longest name that Kubernetes allows.
const LONGEST: usize = 253;

fn pod() -> Value {
    json!({ "pod": { "namespace": "shop", "name": "web" } })
}

fn spec(target: Value, actions: Value) -> Value {
    json!({ "target": target, "actions": actions })
}

fn isolate(target: Value) -> Value {
    spec(target, json!([{ "isolate": {} }]))
}

fn with(mut spec: Value, field: &str, value: Value) -> Value {
    spec[field] = value;
    spec
}

/// What is refused, and words of the message.
fn refused() -> Vec<(&'static str, Value, &'static str)> {
    let long = |length: usize| "a".repeat(length);
    let label = |set: Value| spec(pod(), json!([{ "label": { "set": set } }]));
    let collect = |collect: Value| spec(pod(), json!([{ "collect": collect }]));
    let run = |run: Value| spec(pod(), json!([{ "run": run }]));
    let named = |name: &str| isolate(json!({ "pod": { "namespace": "shop", "name": name } }));
    let pods = |pods: Value| isolate(json!({ "pods": pods }));
    let many = |count: usize| {
        json!((0..count).map(|index| json!({ "name": format!("a{index}"), "isolate": {} })).collect::<Vec<_>>())
    };
    let files =
        |count: usize| json!((0..count).map(|index| json!({ "path": format!("/{index}") })).collect::<Vec<_>>());
    vec![
        ("no spec", Value::Null, "spec"),
        ("no target", json!({ "actions": [{ "isolate": {} }] }), "spec.target: Required value"),
        ("an empty target", isolate(json!({})), "a target is exactly one of pod, pods, namespace and node"),
        ("two targets", isolate(json!({ "pod": pod()["pod"], "node": { "name": "n" } })), "a target is exactly one of"),
        ("a null target", isolate(json!({ "pod": null })), "spec.target"),
        ("no actions", json!({ "target": pod() }), "spec.actions: Required value"),
        ("an empty list of actions", spec(pod(), json!([])), "spec.actions"),
        ("17 actions", spec(pod(), many(17)), "must have at most 16 items"),
        ("an action without a verb", spec(pod(), json!([{}])), "an action has exactly one verb"),
        ("an action with a null verb", spec(pod(), json!([{ "isolate": null }])), "isolate"),
        (
            "two verbs in one action",
            spec(pod(), json!([{ "isolate": {}, "run": { "command": ["a"] } }])),
            "an action has exactly one verb",
        ),
        (
            "two actions of one verb",
            spec(pod(), json!([{ "isolate": {} }, { "isolate": {} }])),
            "two actions have the same name",
        ),
        (
            "a name that is another action's verb",
            spec(pod(), json!([{ "isolate": {} }, { "name": "isolate", "run": { "command": ["a"] } }])),
            "two actions have the same name",
        ),
        ("a name that is no label", spec(pod(), json!([{ "name": "A b", "isolate": {} }])), "lower case letters"),
        ("isolate on a node", isolate(json!({ "node": { "name": "n" } })), "for a node, use cordon"),
        ("cordon on a pod", spec(pod(), json!([{ "cordon": {} }])), "cordon acts on a node"),
        (
            "collect on a namespace",
            spec(json!({ "namespace": { "name": "shop" } }), json!([{ "collect": { "storeRef": { "name": "soc" } } }])),
            "collect and run act on pods",
        ),
        (
            "run on a node",
            spec(json!({ "node": { "name": "n" } }), json!([{ "run": { "command": ["a"] } }])),
            "collect and run act on pods",
        ),
        (
            "an unknown onFailure",
            spec(pod(), json!([{ "isolate": {}, "onFailure": "Retry" }])),
            "supported values: \"Continue\", \"Stop\"",
        ),
        ("a pod's name that is none", named("Web"), "write the object's name as Kubernetes has it"),
        ("a pod's name of 254 characters", named(&long(254)), "may not be more than 253"),
        ("an empty pod's name", named(""), "spec.target.pod.name"),
        (
            "a pod without its namespace",
            isolate(json!({ "pod": { "name": "web" } })),
            "spec.target.pod.namespace: Required value",
        ),
        (
            "a namespace of 64 characters",
            isolate(json!({ "namespace": { "name": long(64) } })),
            "may not be more than 63",
        ),
        ("a path in a name", named("../secrets"), "write the object's name as Kubernetes has it"),
        (
            "a UID that is none",
            isolate(json!({ "pod": { "namespace": "shop", "name": "web", "uid": "a b" } })),
            "spec.target.pod.uid",
        ),
        (
            "a time that is none",
            isolate(json!({ "pod": { "namespace": "shop", "name": "web", "createdBefore": "yesterday" } })),
            "createdBefore",
        ),
        (
            "an hour that no clock shows",
            isolate(json!({ "pod": { "namespace": "shop", "name": "web", "createdBefore": "2026-01-01T25:00:00Z" } })),
            "createdBefore",
        ),
        ("pods by nothing", pods(json!({ "namespace": "shop" })), "exactly one of selector and owner"),
        (
            "pods by selector and owner",
            pods(
                json!({ "namespace": "shop", "selector": { "matchLabels": { "a": "b" } }, "owner": { "kind": "Deployment", "name": "web" } }),
            ),
            "exactly one of selector and owner",
        ),
        ("an empty selector", pods(json!({ "namespace": "shop", "selector": {} })), "use target.namespace"),
        (
            "an unknown operator",
            pods(
                json!({ "namespace": "shop", "selector": { "matchExpressions": [{ "key": "a", "operator": "Like" }] } }),
            ),
            "supported values",
        ),
        (
            "In without values",
            pods(
                json!({ "namespace": "shop", "selector": { "matchExpressions": [{ "key": "a", "operator": "In" }] } }),
            ),
            "In and NotIn need values",
        ),
        (
            "Exists with values",
            pods(
                json!({ "namespace": "shop", "selector": { "matchExpressions": [{ "key": "a", "operator": "Exists", "values": ["b"] }] } }),
            ),
            "Exists and DoesNotExist take none",
        ),
        (
            "a selector's key that is none",
            pods(
                json!({ "namespace": "shop", "selector": { "matchExpressions": [{ "key": "a b", "operator": "Exists" }] } }),
            ),
            "a label's key",
        ),
        (
            "an unknown kind of owner",
            pods(json!({ "namespace": "shop", "owner": { "kind": "CronJob", "name": "a" } })),
            "supported values",
        ),
        (
            "a limit of 0",
            pods(json!({ "namespace": "shop", "selector": { "matchLabels": { "a": "b" } }, "limit": 0 })),
            "spec.target.pods.limit",
        ),
        (
            "a limit of 51",
            pods(json!({ "namespace": "shop", "selector": { "matchLabels": { "a": "b" } }, "limit": 51 })),
            "less than or equal to 50",
        ),
        ("labels to set that are none", label(json!({})), "spec.actions[0].label.set"),
        ("a label's key that is none", label(json!({ "a/b/c": "d" })), "a label's key is"),
        ("a label's value that is none", label(json!({ "a": "b c" })), "a label's value has at most 63"),
        (
            "17 labels",
            label((0..17).map(|index| (format!("k{index}"), json!("v"))).collect::<serde_json::Map<_, _>>().into()),
            "Too many: 17: must have at most 16 items",
        ),
        ("collect without a store", collect(json!({})), "storeRef: Required value"),
        (
            "a head start of 61 s",
            collect(json!({ "storeRef": { "name": "soc" }, "headStart": "61s" })),
            "headStart is at most 60s",
        ),
        (
            "an unknown artifact",
            collect(json!({ "storeRef": { "name": "soc" }, "include": ["Everything"] })),
            "supported values",
        ),
        (
            "a relative path",
            collect(json!({ "storeRef": { "name": "soc" }, "files": [{ "path": "etc/passwd" }] })),
            "write an absolute path",
        ),
        (
            "65 files",
            collect(json!({ "storeRef": { "name": "soc" }, "files": files(65) })),
            "must have at most 64 items",
        ),
        (
            "65 files of two actions",
            spec(
                pod(),
                json!([
            { "name": "a", "collect": { "storeRef": { "name": "soc" }, "files": files(64) } },
            { "name": "b", "collect": { "storeRef": { "name": "soc" }, "files": files(1) } }]),
            ),
            "at most 64 files in all",
        ),
        ("run without a command", run(json!({})), "command: Required value"),
        ("an empty command", run(json!({ "command": [] })), "spec.actions[0].run.command"),
        ("33 arguments", run(json!({ "command": vec!["a"; 33] })), "must have at most 32 items"),
        (
            "65 arguments of three commands",
            spec(
                pod(),
                json!([
            { "name": "a", "run": { "command": vec!["a"; 32], "undo": { "command": ["a"] } } },
            { "name": "b", "run": { "command": vec!["a"; 32] } }]),
            ),
            "at most 64 arguments in all",
        ),
        ("an argument of 1025 characters", run(json!({ "command": [long(1025)] })), "may not be more than 1024"),
        (
            "a duration in days",
            with(isolate(pod()), "expireAfter", json!("3d")),
            "write a duration in hours, minutes and seconds",
        ),
        (
            "a duration in words",
            with(isolate(pod()), "expireAfter", json!("2 weeks")),
            "write a duration in hours, minutes and seconds",
        ),
        (
            "an empty duration",
            with(isolate(pod()), "expireAfter", json!("")),
            "write a duration in hours, minutes and seconds",
        ),
        (
            "an expiry at once",
            with(isolate(pod()), "expireAfter", json!("0h0m0s")),
            "expireAfter must be longer than zero",
        ),
        (
            "a title of 1025 characters",
            with(isolate(pod()), "incident", json!({ "title": long(1025) })),
            "may not be more than 1024",
        ),
        ("a release that is no boolean", with(isolate(pod()), "release", json!("yes")), "spec.release"),
        (
            "somebody else's name",
            with(isolate(pod()), "requestedBy", json!("ciso@example.com")),
            "spec.requestedBy is the name of who creates the response",
        ),
    ]
}

#[test]
fn every_refusal_says_what_to_write_instead() {
    scenario("refusals", |s| async move {
        let mut wrong = Vec::new();
        for (what, spec, words) in refused() {
            for strict in [true, false] {
                match s.try_response(spec.clone(), strict).await {
                    Ok(()) => wrong.push(format!("{what} (strict {strict}): accepted")),
                    Err(message) if message.contains(words) => {}
                    Err(message) => wrong.push(format!("{what} (strict {strict}): {message}")),
                }
            }
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(())
    });
}

#[test]
fn an_unknown_field_is_refused_for_strict_clients_and_dropped_for_others() {
    scenario("unknown-field", |s| async move {
        let unknown = with(isolate(pod()), "expiresAfter", json!("1h"));
        let message = s.try_response(unknown.clone(), true).await.expect_err("a strict client is told");
        ensure!(message.contains("unknown field \"spec.expiresAfter\""), "{message}");
        s.try_response(unknown, false).await.map_err(anyhow::Error::msg)?;
        // kubectl is strict by itself, and what it prints is what a responder reads.
        let manifest = json!({
            "apiVersion": "tourniquet.dev/v1alpha1", "kind": "IncidentResponse",
            "metadata": { "name": "typo", "namespace": RESPONSE_NAMESPACE }, "spec": with(isolate(pod()), "dryrun", json!(true)),
        });
        let error = s.apply_in(RESPONSE_NAMESPACE, manifest).await.expect_err("kubectl is strict").to_string();
        ensure!(error.contains("unknown field \"spec.dryrun\""), "{error}");
        Ok(())
    });
}

#[test]
fn a_spec_cannot_change_but_for_expiry_and_release() {
    scenario("immutable", |s| async move {
        let response = s
            .respond(
                "r",
                tourniquet_e2e::Spec(with(
                    isolate(json!({ "pod": { "namespace": "default", "name": "nobody" } })),
                    "incident",
                    json!({ "id": "1" }),
                )),
            )
            .await?;
        let changes = [
            (json!({ "target": { "pod": { "name": "other" } } }), "spec.target cannot change"),
            (json!({ "actions": [{ "name": "again", "isolate": {} }] }), "spec.actions cannot change"),
            (json!({ "incident": { "id": "2" } }), "spec.incident cannot change"),
            (json!({ "incident": null }), "spec.incident cannot change"),
            (json!({ "requestedBy": "me" }), "spec.requestedBy cannot change"),
            (json!({ "overrideProtection": true }), "spec.overrideProtection cannot change"),
            (json!({ "dryRun": true }), "spec.dryRun cannot change"),
        ];
        for (change, words) in changes {
            match response.change(change.clone()).await {
                Ok(_) => bail!("{change} was accepted"),
                Err(error) => ensure!(error.to_string().contains(words), "{change}: {error}"),
            }
        }
        response.change(json!({ "expireAfter": "1h" })).await?;
        response.change(json!({ "expireAfter": "2h" })).await?;
        response.change(json!({ "release": true })).await?;
        let back = response.change(json!({ "release": null })).await.expect_err("a release is one way").to_string();
        ensure!(back.contains("spec.release is one way"), "{back}");
        Ok(())
    });
}

#[test]
fn names_of_the_greatest_legal_length() {
    scenario("long-names", |s| async move {
        // Legal, though no kubelet starts it: the folder of its logs would have too long a name.
        let name = format!("{}.p", "p".repeat(LONGEST - 2));
        let pod = s.create_pod(&name, json!({ "metadata": { "labels": { "app": "web" } } })).await?;
        let target = json!({ "pod": { "namespace": s.namespace, "name": name, "uid": pod.metadata.uid } });
        let response_name = "r".repeat(LONGEST - s.namespace.len() - 1);
        let response = s.respond(&response_name, tourniquet_e2e::Spec(isolate(target))).await?;
        ensure!(response.name.len() == LONGEST);

        // There is nothing to compare with: it has no address.
        response.becomes_because("Ready", "NotObserved", Duration::from_secs(60)).await?;
        ensure!(
            tourniquet_e2e::snapshot::traces(&s.env, &response.uid).await?.len() == 2,
            "a policy, and a label on the pod"
        );
        response.delete().await?;
        response.gone(Duration::from_secs(30)).await?;
        ensure!(tourniquet_e2e::snapshot::traces(&s.env, &response.uid).await?.is_empty());
        Ok(())
    });
}

/// As large as every bound allows, in an alphabet of four bytes a character.
fn greatest() -> Value {
    let wide = |length: usize| "𒀀".repeat(length);
    let path = |index: usize| format!("/{index:02}{}", wide(1021));
    let labels = || {
        (0..16)
            .map(|index| (format!("{}/{index:02}{}", "d".repeat(253), "k".repeat(61)), json!("v".repeat(63))))
            .collect::<serde_json::Map<_, _>>()
    };
    let files: Vec<Value> = (0..64).map(|index| json!({ "container": "c".repeat(63), "path": path(index) })).collect();
    let name = |index: usize| format!("{index:02}{}", "n".repeat(61));
    let collect = |index: usize, files: &[Value]| {
        json!({ "name": name(index), "onFailure": "Continue", "collect": {
        "storeRef": { "name": "s".repeat(253) }, "headStart": "60s", "timeout": "99999h99999m999999s", "files": files,
        "memory": vec![wide(64); 16], "environmentValues": true } })
    };
    let run = |index: usize| {
        json!({ "name": name(index), "onFailure": "Stop", "run": {
        "container": "c".repeat(63), "command": vec![wide(1024); 16], "timeout": "1h", "storeRef": { "name": "s".repeat(253) }, "undo": { "command": vec![wide(1024); 16] } } })
    };
    let mut actions = vec![collect(0, &files), run(1), run(2)];
    actions.extend((3..8).map(|index| collect(index, &[])));
    actions
        .extend((8..16).map(|index| json!({ "name": name(index), "label": { "set": labels(), "overwrite": true } })));
    json!({
        "incident": { "id": wide(256), "title": wide(1024), "severity": wide(256), "source": wide(256), "url": wide(1024) },
        "target": { "pods": { "namespace": "n".repeat(63), "selector": { "matchLabels": labels(), "matchExpressions": (0..16).map(|index| json!({
            "key": format!("{}/{index:02}{}", "d".repeat(253), "k".repeat(61)), "operator": "In", "values": vec!["v".repeat(63); 32] })).collect::<Vec<_>>() }, "limit": 50 } },
        "actions": actions, "expireAfter": "99999h99999m999999s", "overrideProtection": true, "dryRun": false,
    })
}

#[test]
fn the_greatest_legal_spec_is_stored_and_answered() {
    scenario("greatest", |s| async move {
        let response = s.respond("r", tourniquet_e2e::Spec(greatest())).await?;
        let accepted = response.refused().await?;
        ensure!(accepted.reason == "TargetNotFound", "{accepted:?}");
        let status = response.get().await?.status.context("no status")?;
        ensure!(status.actions.len() == 16, "{} actions", status.actions.len());
        Ok(())
    });
}

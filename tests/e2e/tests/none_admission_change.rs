//! No confused deputy: what is in force ends, or goes on longer, only by who may decide that. Real RBAC on the real API server.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::{Value, json};
use tourniquet_e2e::bypass::{Attempt, Control};
use tourniquet_e2e::people::{Ask, Place, Right, right};
use tourniquet_e2e::{OPERATOR_NAMESPACE, RESPONSE_NAMESPACE, Scenario, Spec, TestResponse, scenario, until};

const SOON: Duration = Duration::from_secs(60);
const RESPONSES: &str = "incidentresponses.tourniquet.dev";
const OPERATOR: &str = "system:serviceaccount:tourniquet-system:tourniquet-operator";

/// Rights on responses in the response namespace.
fn may(verbs: &'static str) -> Right {
    right(Place::Responses, verbs, RESPONSES)
}

fn on(subresource: &'static str, verbs: &'static str) -> Right {
    right(Place::Responses, verbs, subresource)
}

fn all_responses() -> String {
    format!("/apis/tourniquet.dev/v1alpha1/namespaces/{RESPONSE_NAMESPACE}/incidentresponses")
}

fn path(response: &TestResponse) -> String {
    format!("{}/{}", all_responses(), response.name)
}

/// Responses in every state.
struct Responses {
    /// In force for two hours.
    held: TestResponse,
    /// In force without an end, and as an exception from the protection.
    overriding: TestResponse,
    released: TestResponse,
    planned: TestResponse,
    refused: TestResponse,
}

async fn responses(s: &Scenario) -> Result<Responses> {
    let web = s.pod("web").await?;
    let two_hours = Spec::isolate(&web).with("expireAfter", json!("2h"));
    let missing = json!({ "pod": { "namespace": s.namespace, "name": "nobody" } });
    let label = json!([{ "label": { "set": { "soc.example.com/incident": "4711" } } }]);
    let released = Spec(json!({ "target": { "namespace": { "name": s.namespace } }, "actions": label }));
    let all = Responses {
        held: s.respond("held", two_hours).await?,
        overriding: s.respond("overriding", Spec::isolate(&web).with("overrideProtection", json!(true))).await?,
        released: s.respond("released", released).await?,
        planned: s.respond("planned", Spec::isolate(&web).with("dryRun", json!(true))).await?,
        refused: s.respond("refused", Spec(json!({ "target": missing, "actions": [{ "isolate": {} }] }))).await?,
    };
    for held in [&all.held, &all.overriding] {
        // Nothing enforces policies here.
        held.becomes_because("Ready", "NotEnforced", SOON).await?;
    }
    all.released.becomes("Ready", "True", SOON).await?;
    all.released.change(json!({ "release": true })).await?;
    all.released.becomes("Reverted", "True", SOON).await?;
    all.planned.becomes_because("Accepted", "PlanOnly", SOON).await?;
    all.refused.refused().await?;
    Ok(all)
}

/// The whole of a response with another spec, and without our finalizer where that is asked for.
async fn rewritten(response: &TestResponse, spec: Value, finalizer: bool) -> Result<Value> {
    let mut whole = serde_json::to_value(response.get().await?)?;
    for (field, value) in spec.as_object().into_iter().flatten() {
        whole["spec"][field] = value.clone();
    }
    if !finalizer {
        whole["metadata"]["finalizers"] = json!([]);
    }
    Ok(whole)
}

async fn to_end_it(r: &Responses) -> Result<Vec<Attempt>> {
    let held = path(&r.held);
    let release = json!({ "spec": { "release": true } });
    let ends = |title, given: Right, ask| Attempt {
        title,
        given: vec![given],
        ask,
        denied: "needs the verb release on incidentresponses.tourniquet.dev in namespace incident-response",
        control: Control::With(vec![may("release")]),
    };
    let alone = format!("?fieldSelector=metadata.name%3D{}", r.held.name);
    let owner = json!({ "metadata": { "ownerReferences": [{
        "apiVersion": "v1", "kind": "ConfigMap", "name": "nobody", "uid": "11111111-2222-3333-4444-555555555555",
    }] } });
    let mut applied = json!({ "apiVersion": "tourniquet.dev/v1alpha1", "kind": "IncidentResponse", "metadata": { "name": r.held.name } });
    applied["spec"] = serde_json::to_value(&r.held.get().await?.spec)?;
    applied["spec"]["release"] = json!(true);
    let shorter = json!({ "spec": { "expireAfter": "1s" } });
    let some = "patch,update,create,label,isolate,cordon,collect,run";
    Ok(vec![
        ends("release by a merge patch", may(some), Ask::merge_patch(&held, release.clone())),
        ends(
            "release by a JSON patch",
            may(some),
            Ask::json_patch(&held, json!([{ "op": "add", "path": "/spec/release", "value": true }])),
        ),
        ends(
            "release by a replace",
            may(some),
            Ask::replace(&held, rewritten(&r.held, release["spec"].clone(), true).await?),
        ),
        ends("release by server-side apply", may(some), Ask::apply(&held, "kubectl", applied)),
        ends("a shorter expireAfter", may(some), Ask::merge_patch(&held, shorter.clone())),
        ends("a first expireAfter", may(some), Ask::merge_patch(path(&r.overriding), shorter)),
        ends("an owner that does not exist", may(some), Ask::merge_patch(&held, owner)),
        ends("deletion", may("delete"), Ask::delete(&held)),
        ends(
            "deletion with options",
            may("delete"),
            Ask::delete(&held).with_body(json!({ "gracePeriodSeconds": 0, "propagationPolicy": "Foreground" })),
        ),
        ends("deletion as one of a collection", may("deletecollection"), Ask::delete(all_responses() + &alone)),
    ])
}

fn to_hold_it_longer(r: &Responses) -> Vec<Attempt> {
    let to = |expire_after: Value| json!({ "spec": { "expireAfter": expire_after } });
    let needs = |title, given, ask, denied, missing| Attempt {
        title,
        given: vec![may(given)],
        ask,
        denied,
        control: Control::With(vec![may(missing)]),
    };
    vec![
        needs(
            "a longer expireAfter",
            "patch,release",
            Ask::merge_patch(path(&r.held), to(json!("3h"))),
            "to hold on longer what has the action isolate needs the verb isolate",
            "isolate",
        ),
        needs(
            "no expireAfter any more",
            "patch,release,label",
            Ask::merge_patch(path(&r.held), to(Value::Null)),
            "to hold on longer what has the action isolate needs the verb isolate",
            "isolate",
        ),
    ]
}

async fn to_take_its_finalizer_off(r: &Responses) -> Result<Vec<Attempt>> {
    let held = path(&r.held);
    let everything = "patch,update,delete,label,isolate,cordon,collect,run,release,override-protection";
    let attempt = |title, ask| Attempt {
        title,
        given: vec![may(everything)],
        ask,
        denied: "takes the verb update on incidentresponses.tourniquet.dev/finalizers in namespace incident-response",
        control: Control::With(vec![on("incidentresponses.tourniquet.dev/finalizers", "update")]),
    };
    Ok(vec![
        attempt(
            "the finalizer taken off by a merge patch",
            Ask::merge_patch(&held, json!({ "metadata": { "finalizers": null } })),
        ),
        attempt(
            "the finalizer taken off by a JSON patch",
            Ask::json_patch(&held, json!([{ "op": "remove", "path": "/metadata/finalizers" }])),
        ),
        attempt(
            "the finalizer replaced by another",
            Ask::merge_patch(&held, json!({ "metadata": { "finalizers": ["example.com/another"] } })),
        ),
        attempt(
            "the finalizer left out of a replace",
            Ask::replace(&held, rewritten(&r.held, json!({}), false).await?),
        ),
    ])
}

async fn to_write_what_the_operator_says(r: &Responses) -> Result<Vec<Attempt>> {
    let status = format!("{}/status", path(&r.held));
    let reverted = json!({ "status": { "conditions": [{
        "type": "Reverted", "status": "True", "reason": "Released", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
    }] } });
    let mut whole = rewritten(&r.held, json!({}), true).await?;
    whole["status"] = reverted["status"].clone();
    let given = || vec![may("patch,update"), on("incidentresponses.tourniquet.dev/status", "patch,update")];
    let attempt = |title, ask| Attempt {
        title,
        given: given(),
        ask,
        denied: "the status is what the operator says, and nobody else writes it",
        control: Control::To(OPERATOR),
    };
    let deputy = json!([{ "op": "replace", "path": "/spec/target/pod/name", "value": "another" }]);
    let mut all_rights = given();
    all_rights.push(may("label,isolate,release,override-protection"));
    Ok(vec![
        attempt("a status replaced, so that it may be deleted", Ask::replace(&status, whole)),
        Attempt {
            title: "another target in what was accepted",
            given: all_rights,
            ask: Ask::json_patch(path(&r.held), deputy),
            denied: "spec.target cannot change",
            control: Control::Instead(Ask::merge_patch(
                path(&r.held),
                json!({ "metadata": { "labels": { "a": "b" } } }),
            )),
        },
        Attempt {
            title: "another's name in what was accepted",
            given: vec![may("patch,isolate,release")],
            ask: Ask::merge_patch(path(&r.held), json!({ "spec": { "requestedBy": "ciso@example.com" } })),
            denied: "spec.requestedBy cannot change",
            control: Control::Instead(Ask::merge_patch(
                path(&r.held),
                json!({ "metadata": { "labels": { "a": "b" } } }),
            )),
        },
    ])
}

fn to_delete_its_namespace() -> Vec<Attempt> {
    let namespace = |name: &str| Ask::delete(format!("/api/v1/namespaces/{name}"));
    let delete = || right(Place::Cluster, "delete", "namespaces");
    vec![
        Attempt {
            title: "the response namespace deleted, by whoever may not delete responses",
            given: vec![delete(), may("release")],
            ask: namespace(RESPONSE_NAMESPACE),
            denied: "it needs the verbs delete and release on incidentresponses.tourniquet.dev there",
            control: Control::With(vec![may("delete")]),
        },
        Attempt {
            title: "the response namespace deleted, by whoever may not release",
            given: vec![delete(), may("delete")],
            ask: namespace(RESPONSE_NAMESPACE),
            denied: "it needs the verbs delete and release on incidentresponses.tourniquet.dev there",
            control: Control::With(vec![may("release")]),
        },
        Attempt {
            title: "the operator's namespace deleted",
            given: vec![delete(), may("delete,release")],
            ask: namespace(OPERATOR_NAMESPACE),
            denied: "nothing that responses hold would be let go",
            control: Control::With(vec![may("override-protection")]),
        },
    ]
}

fn to_give_it_to_oneself(s: &Scenario) -> Vec<Attempt> {
    let roles = |kind: &str| format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{RESPONSE_NAMESPACE}/{kind}");
    let role = json!({
        "metadata": { "name": s.namespace },
        "rules": [{ "apiGroups": ["tourniquet.dev"], "resources": ["incidentresponses"], "verbs": ["release"] }],
    });
    let binding = json!({
        "metadata": { "name": s.namespace },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "tourniquet-responder" },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "somebody" }],
    });
    vec![
        Attempt {
            title: "a role made with a verb that one does not have",
            given: vec![on("roles.rbac.authorization.k8s.io", "create")],
            ask: Ask::create(roles("roles"), role),
            denied: "attempting to grant RBAC permissions not currently held",
            control: Control::With(vec![may("release")]),
        },
        Attempt {
            title: "the responder's role bound by who does not have it",
            given: vec![
                on("rolebindings.rbac.authorization.k8s.io", "create"),
                may("get,list,watch,create,update,patch,delete"),
            ],
            ask: Ask::create(roles("rolebindings"), binding),
            denied: "attempting to grant RBAC permissions not currently held",
            control: Control::With(vec![
                may("label,isolate,cordon,collect,release"),
                on("evidencestores.tourniquet.dev", "use"),
            ]),
        },
    ]
}

#[test]
fn what_is_in_force_ends_or_goes_on_only_by_who_may_decide_that() {
    scenario("admission-change", |s| async move {
        let r = responses(&s).await?;
        let attempts = vec![
            to_end_it(&r).await?,
            to_hold_it_longer(&r),
            to_take_its_finalizer_off(&r).await?,
            to_write_what_the_operator_says(&r).await?,
            to_delete_its_namespace(),
            to_give_it_to_oneself(&s),
        ];
        let before = r.held.get().await?.spec;
        s.try_to_bypass(attempts.into_iter().flatten().collect()).await?;
        let held = r.held.get().await?;
        ensure!(held.spec == before && held.metadata.deletion_timestamp.is_none(), "{held:?}");
        held_still(&r.held).await
    });
}

async fn held_still(response: &TestResponse) -> Result<()> {
    let ready = response.condition("Ready").await?.context("no Ready")?;
    ensure!(ready.reason == "NotEnforced", "{ready:?}");
    Ok(())
}

#[test]
fn what_is_longer_by_an_exception_needs_the_right_to_exceptions() {
    scenario("admission-override", |s| async move {
        let web = s.pod("web").await?;
        let spec = Spec::isolate(&web).with("overrideProtection", json!(true)).with("expireAfter", json!("2h"));
        let response = s.respond("overriding", spec).await?;
        response.becomes("Accepted", "True", SOON).await?;
        let longer = Ask::merge_patch(path(&response), json!({ "spec": { "expireAfter": "3h" } }));
        let attempt = Attempt {
            title: "a longer expireAfter of what overrides the protection",
            given: vec![may("patch,isolate,release")],
            ask: longer,
            denied: "to hold on longer what has overrideProtection needs the verb override-protection",
            control: Control::With(vec![may("override-protection")]),
        };
        s.try_to_bypass(vec![attempt]).await
    });
}

#[test]
fn what_changes_nothing_needs_no_more_than_ordinary_rights() {
    scenario("admission-ordinary", |s| async move {
        let r = responses(&s).await?;
        let person = s.person("ordinary", &[may("get,patch,delete")]).await?;
        let patches = [
            json!({ "metadata": { "labels": { "team": "soc" }, "annotations": { "note": "seen" } } }),
            // The same length of time in other words.
            json!({ "spec": { "expireAfter": "120m" } }),
            json!({ "metadata": { "finalizers": ["example.com/another", "tourniquet.dev/undo"] } }),
        ];
        for patch in patches {
            let asked = Ask::merge_patch(path(&r.held), patch.clone()).dry();
            person.asks(&asked).await?.done().with_context(|| patch.to_string())?;
        }
        // These hold nothing.
        for response in [&r.released, &r.planned, &r.refused] {
            person.asks(&Ask::delete(path(response))).await?.done().with_context(|| response.name.clone())?;
            response.gone(SOON).await?;
        }
        held_still(&r.held).await
    });
}

#[test]
fn a_namespace_that_is_deleted_takes_its_responses_along() {
    scenario("admission-namespace", |s| async move {
        let other = Scenario::begin("admission-doomed").await?;
        let result = async {
            let web = other.pod("web").await?;
            let response = other.respond_in(&other.namespace, "own", Spec::isolate(&web)).await?;
            response.becomes_because("Ready", "NotEnforced", SOON).await?;
            let person = s.person("tenant", &[right(Place::Cluster, "delete", "namespaces")]).await?;
            person.asks(&Ask::delete(format!("/api/v1/namespaces/{}", other.namespace))).await?.done()?;
            let namespaces: Api<Namespace> = Api::all(s.env.client.clone());
            until("the namespace is gone", Duration::from_secs(120), async || {
                Ok(namespaces.get_opt(&other.namespace).await?.is_none().then_some(()))
            })
            .await
        }
        .await;
        other.end().await?;
        result
    });
}

#[test]
fn the_garbage_collector_deletes_a_response_whose_owner_is_gone() {
    scenario("admission-owner", |s| async move {
        let web = s.pod("web").await?;
        let response = s.respond_in(&s.namespace, "owned", Spec::isolate(&web)).await?;
        response.becomes_because("Ready", "NotEnforced", SOON).await?;
        let maps = s.api::<ConfigMap>();
        let owner: ConfigMap = serde_json::from_value(json!({ "metadata": { "name": "owner" } }))?;
        let owner = maps.create(&PostParams::default(), &owner).await?;
        let owned = json!({ "metadata": { "ownerReferences": [{
            "apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner.uid(),
        }] } });
        response.api().patch(&response.name, &Default::default(), &kube::api::Patch::Merge(owned)).await?;
        maps.delete("owner", &DeleteParams::background()).await?;
        response.gone(SOON).await?;
        let labels = s.get_pod("web").await?.metadata.labels.unwrap_or_default();
        ensure!(!labels.keys().any(|key| key.contains("tourniquet.dev/")), "{labels:?}");
        Ok(())
    });
}

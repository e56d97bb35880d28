//! The way out is not a way around: what holds a target is changed by the operator, by who empties a deleted namespace, and by who may break the glass, of
//! whom the audit log knows. Real RBAC on the real API server.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};
use tourniquet_api::{Containment, names};
use tourniquet_e2e::bypass::{Attempt, Holding, break_glass};
use tourniquet_e2e::people::{Ask, Place, Right, right};
use tourniquet_e2e::{Scenario, Spec, TestResponse, scenario};

const SOON: Duration = Duration::from_secs(60);
const POLICIES: &str = "networkpolicies.networking.k8s.io";
const CONTAINMENTS: &str = "containments.internal.tourniquet.dev";
/// Its requests are in the audit log of the test cluster.
const AUDITED: &str = "system:serviceaccount:default:e2e-break-glass";

fn own(verbs: &'static str, resource: &'static str) -> Right {
    right(Place::Own, verbs, resource)
}

fn pod_path(s: &Scenario, name: &str) -> String {
    format!("/api/v1/namespaces/{}/pods/{name}", s.namespace)
}

fn policies_path(s: &Scenario) -> String {
    format!("/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies", s.namespace)
}

fn containments_path(s: &Scenario) -> String {
    format!("/apis/internal.tourniquet.dev/v1alpha1/namespaces/{}/containments", s.namespace)
}

/// A response that holds pod web by a label and a policy.
async fn held(s: &Scenario) -> Result<TestResponse> {
    let web = s.pod("web").await?;
    let response = s.respond("held", Spec::isolate(&web)).await?;
    response.becomes_because("Ready", "NotEnforced", SOON).await?;
    Ok(response)
}

fn isolation(response: &TestResponse) -> String {
    format!("isolate.tourniquet.dev/{}", response.uid)
}

async fn to_take_labels_off(s: &Scenario, response: &TestResponse) -> Result<Vec<Attempt>> {
    let (web, label) = (pod_path(s, "web"), isolation(response));
    let pointer = format!("/metadata/labels/{}", label.replace('/', "~1"));
    let off = json!({ "metadata": { "labels": { label.as_str(): null } } });
    let mut bare = serde_json::to_value(s.get_pod("web").await?)?;
    bare["metadata"]["labels"] = json!({ "app": "web" });
    let empty = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "web" } });
    let attempt = |title, right: Right, ask| Attempt {
        title,
        given: vec![own("create,patch,update", "pods"), right],
        ask,
        denied: "to change it by hand takes the verb override-protection",
        control: break_glass(),
    };
    let nothing = || own("get", "pods");
    let status = || own("patch,update", "pods/status");
    Ok(vec![
        attempt("the label taken off by a merge patch", nothing(), Ask::merge_patch(&web, off.clone())),
        attempt(
            "the label taken off by a JSON patch",
            nothing(),
            Ask::json_patch(&web, json!([{ "op": "remove", "path": pointer }])),
        ),
        attempt("the label left out of a replace", nothing(), Ask::replace(&web, bare)),
        attempt(
            "the label given another value",
            nothing(),
            Ask::merge_patch(&web, json!({ "metadata": { "labels": { label.as_str(): "false" } } })),
        ),
        attempt(
            "the label taken off through the pod's status",
            status(),
            Ask::merge_patch(format!("{web}/status"), off),
        ),
        attempt(
            "the label by which contained pods are listed taken off",
            nothing(),
            Ask::merge_patch(&web, json!({ "metadata": { "labels": { "tourniquet.dev/contained": null } } })),
        ),
        attempt("all labels taken off", nothing(), Ask::merge_patch(&web, json!({ "metadata": { "labels": null } }))),
        attempt(
            "withdrawn under the response's own field manager",
            nothing(),
            Ask::apply(&web, &format!("tourniquet-{}", response.uid), empty),
        ),
        attempt(
            "the response's field manager taken away, so that it cannot withdraw",
            nothing(),
            Ask::merge_patch(&web, json!({ "metadata": { "managedFields": [{}] } })),
        ),
        attempt(
            "another pod made to look contained",
            nothing(),
            Ask::merge_patch(
                pod_path(s, "other"),
                json!({ "metadata": { "labels": { "tourniquet.dev/contained": "true" } } }),
            ),
        ),
        attempt(
            "the label of another response put beside",
            nothing(),
            Ask::merge_patch(
                &web,
                json!({ "metadata": { "labels": { "isolate.tourniquet.dev/11111111-2222-3333-4444-555555555555": "true" } } }),
            ),
        ),
    ])
}

fn to_change_policies(s: &Scenario, response: &TestResponse) -> Vec<Attempt> {
    let (path, name) = (policies_path(s), names::policy(&response.uid));
    let holding = Holding {
        path: &path,
        name: &name,
        response_uid: &response.uid,
        right: own("create,patch,update,delete,deletecollection", POLICIES),
        opened: json!({ "spec": { "ingress": [{}] } }),
        another: json!({ "spec": { "podSelector": {} } }),
    };
    let nobody = json!({ "spec": { "podSelector": { "matchLabels": { "a": "b" } } } });
    let mut attempts = holding.attempts();
    let ask = Ask::merge_patch(format!("{path}/{name}"), nobody);
    attempts.push(holding.attempt("the policy made to select nobody", ask));
    attempts
}

fn containment(s: &Scenario, name: &str) -> Value {
    json!({
        "apiVersion": "internal.tourniquet.dev/v1alpha1", "kind": "Containment",
        "metadata": { "name": name, "namespace": s.namespace },
        "spec": {
            "pod": { "namespace": s.namespace, "name": "web", "uid": name }, "nodeName": "nowhere",
            "holders": { "11111111-2222-3333-4444-555555555555": {} },
        },
    })
}

/// In a namespace that nobody watches: who may write one is asked of all.
fn to_change_containments(s: &Scenario) -> Vec<Attempt> {
    let at = format!("{}/known", containments_path(s));
    let everything = "create,patch,update,delete,deletecollection";
    let attempt = |title, given: Vec<Right>, ask| Attempt {
        title,
        given,
        ask,
        denied: "this is what operator and agents tell each other",
        control: break_glass(),
    };
    let nobody = json!({ "spec": { "holders": null } });
    let agents = format!("/apis/internal.tourniquet.dev/v1alpha1/namespaces/{}/nodeagents", s.namespace);
    let agent = json!({
        "apiVersion": "internal.tourniquet.dev/v1alpha1", "kind": "NodeAgent",
        "metadata": { "name": "nowhere" }, "spec": { "nodeName": "nowhere" },
    });
    vec![
        attempt("a Containment let go", vec![own(everything, CONTAINMENTS)], Ask::merge_patch(&at, nobody)),
        attempt("a Containment deleted", vec![own(everything, CONTAINMENTS)], Ask::delete(&at)),
        attempt("all Containments deleted", vec![own(everything, CONTAINMENTS)], Ask::delete(containments_path(s))),
        attempt(
            "a Containment made",
            vec![own(everything, CONTAINMENTS)],
            Ask::create(containments_path(s), containment(s, "made")),
        ),
        attempt(
            "a Containment said to be lifted",
            vec![own("patch", "containments.internal.tourniquet.dev/status")],
            Ask::merge_patch(format!("{at}/status"), json!({ "status": { "state": "Lifted" } })),
        ),
        attempt(
            "a report in an agent's name",
            vec![own("create", "nodeagents.internal.tourniquet.dev")],
            Ask::create(agents, agent),
        ),
    ]
}

#[test]
fn what_holds_a_target_is_changed_by_the_operator_or_by_who_may_break_the_glass() {
    scenario("admission-traces", |s| async move {
        let response = held(&s).await?;
        s.pod("other").await?;
        let containments = s.api::<Containment>();
        containments.create(&PostParams::default(), &serde_json::from_value(containment(&s, "known"))?).await?;
        let attempts =
            [to_take_labels_off(&s, &response).await?, to_change_policies(&s, &response), to_change_containments(&s)];
        s.try_to_bypass(attempts.into_iter().flatten().collect()).await?;
        let labels = s.get_pod("web").await?.metadata.labels.unwrap_or_default();
        let label = isolation(&response);
        ensure!(labels.get(&label).is_some_and(|value| value == "true"), "{labels:?}");
        ensure!(labels.get("tourniquet.dev/contained").is_some_and(|value| value == "true"), "{labels:?}");
        s.api::<NetworkPolicy>().get(&format!("tourniquet-{}", response.uid)).await?;
        let known = containments.get("known").await?;
        ensure!(known.spec.holders.len() == 1 && known.status.is_none(), "{known:?}");
        containments.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
        // And what is left alone is let go of as always.
        response.delete().await?;
        response.gone(SOON).await?;
        let labels = s.get_pod("web").await?.metadata.labels.unwrap_or_default();
        ensure!(!labels.keys().any(|key| key.contains("tourniquet.dev/")), "{labels:?}");
        Ok(())
    });
}

#[test]
fn whatever_else_of_a_held_pod_and_of_policies_changes_as_ever() {
    scenario("admission-beside", |s| async move {
        let response = held(&s).await?;
        let rights = [
            own("get,patch,update", "pods"),
            own("patch", "pods/ephemeralcontainers"),
            own("patch", "pods/status"),
            own("create,patch,delete", POLICIES),
        ];
        let person = s.person("owner", &rights).await?;
        let web = pod_path(&s, "web");
        let mine = json!({ "metadata": { "name": "mine" }, "spec": { "podSelector": {} } });
        // Adding a container lets nobody out: it is in the same network namespace. It asks for the rights that it always did.
        let debugger = json!({ "spec": { "ephemeralContainers": [{ "name": "debugger", "image": s.env.image, "command": ["/bin/true"] }] } });
        let asked = [
            ("a label", Ask::merge_patch(&web, json!({ "metadata": { "labels": { "team": "shop" } } }))),
            (
                "an autoscaler's annotation",
                Ask::merge_patch(
                    &web,
                    json!({ "metadata": { "annotations": { "cluster-autoscaler.kubernetes.io/safe-to-evict": "true" } } }),
                ),
            ),
            (
                "the same value",
                Ask::merge_patch(&web, json!({ "metadata": { "labels": { isolation(&response): "true" } } })),
            ),
            ("its status", Ask::merge_patch(format!("{web}/status"), json!({ "status": { "message": "seen" } }))),
            ("a container to debug it", Ask::merge_patch(format!("{web}/ephemeralcontainers"), debugger)),
            ("a policy", Ask::create(policies_path(&s), mine)),
        ];
        for (what, ask) in asked {
            person.asks(&ask).await?.done().context(what)?;
        }
        person.asks(&Ask::delete(format!("{}/mine", policies_path(&s)))).await?.done()?;
        Ok(())
    });
}

#[test]
fn who_breaks_the_glass_is_in_the_audit_log() {
    scenario("admission-audit", |s| async move {
        let response = held(&s).await?;
        let audit = tourniquet_e2e::audit::Audit::begin(&s.env)?;
        let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> =
            Api::namespaced(s.env.client.clone(), "default");
        let account = serde_json::from_value(json!({ "metadata": { "name": "e2e-break-glass" } }))?;
        accounts.create(&PostParams::default(), &account).await?;
        let result = break_the_glass(&s, &response, &audit).await;
        accounts.delete("e2e-break-glass", &DeleteParams::default()).await?;
        result
    });
}

async fn break_the_glass(s: &Scenario, response: &TestResponse, audit: &tourniquet_e2e::audit::Audit) -> Result<()> {
    let person = s.signed_in("default", "e2e-break-glass").await?;
    let policy = format!("{}/tourniquet-{}", policies_path(s), response.uid);
    let touched = json!({ "metadata": { "annotations": { "note": "by hand" } } });
    s.grant(&person, &[own("patch", POLICIES)]).await?;
    let said = person.asks(&Ask::merge_patch(&policy, touched.clone())).await?;
    ensure!(said.code == 403, "{said:?}");
    s.grant(&person, &[right(Place::Responses, "override-protection", "incidentresponses.tourniquet.dev")]).await?;
    person.asks(&Ask::merge_patch(&policy, touched)).await?.done()?;
    for done in [false, true] {
        audit
            .shows("who broke the glass", |request| {
                let said = request.annotation("policies.tourniquet.dev/break-glass").unwrap_or_default();
                request.is_by(AUDITED)
                    && request.succeeded() == done
                    && said.starts_with(AUDITED)
                    && said.contains(&response.uid)
            })
            .await?;
    }
    Ok(())
}

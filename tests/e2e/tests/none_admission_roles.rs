//! The roles for people, as the chart makes them: what each is for they can do, and nothing beyond.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tourniquet_e2e::people::{Ask, Person};
use tourniquet_e2e::{RESPONSE_NAMESPACE, Scenario, Spec, TestPod, scenario};

const SOON: Duration = Duration::from_secs(60);

fn path(namespace: &str) -> String {
    format!("/apis/tourniquet.dev/v1alpha1/namespaces/{namespace}/incidentresponses")
}

fn manifest(s: &Scenario, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "tourniquet.dev/v1alpha1", "kind": "IncidentResponse",
        "metadata": { "name": format!("{}-{name}", s.namespace), "labels": { "e2e.tourniquet.dev/test": s.namespace } },
        "spec": spec,
    })
}

async fn holder_of(s: &Scenario, role: &str) -> Result<Person> {
    let person = s.person(role, &[]).await?;
    s.grant_role(&person, role).await?;
    Ok(person)
}

async fn refused(person: &Person, ask: &Ask, words: &str) -> Result<()> {
    let said = person.asks(ask).await?;
    ensure!(said.code == 403 && said.message().contains(words), "{said:?}");
    Ok(())
}

#[test]
fn a_responder_isolates_prolongs_releases_and_deletes() {
    scenario("role-responder", |s| async move {
        let web = s.pod("web").await?;
        let person = holder_of(&s, "tourniquet-responder").await?;
        let create = |name: &str, spec| Ask::create(path(RESPONSE_NAMESPACE), manifest(&s, name, spec));
        let spec = Spec::isolate(&web).with("expireAfter", json!("2h")).0;
        person.asks(&create("r", spec.clone())).await?.done()?;
        let response = s.known(RESPONSE_NAMESPACE, &format!("{}-r", s.namespace)).await?;
        response.becomes_because("Ready", "NotEnforced", SOON).await?;
        let at = format!("{}/{}", path(RESPONSE_NAMESPACE), response.name);
        for change in [json!({ "expireAfter": "3h" }), json!({ "expireAfter": "1h" }), json!({ "release": true })] {
            let asked = Ask::merge_patch(&at, json!({ "spec": change.clone() }));
            person.asks(&asked).await?.done().with_context(|| change.to_string())?;
        }
        response.becomes("Reverted", "True", SOON).await?;
        person.asks(&create("again", spec)).await?.done()?;
        let again = s.known(RESPONSE_NAMESPACE, &format!("{}-again", s.namespace)).await?;
        again.becomes_because("Ready", "NotEnforced", SOON).await?;
        for response in [&response, &again] {
            let at = format!("{}/{}", path(RESPONSE_NAMESPACE), response.name);
            person.asks(&Ask::delete(&at)).await?.done()?;
            response.gone(SOON).await?;
        }
        Ok(())
    });
}

fn with_all_stores(web: &TestPod) -> Value {
    let mut spec = Spec::isolate(web).0;
    spec["actions"] = json!([{ "collect": { "storeRef": { "name": "any" } } }, { "isolate": {} }]);
    spec
}

#[test]
fn a_responder_collects_and_neither_runs_nor_overrides() {
    scenario("role-limits", |s| async move {
        let web = s.pod("web").await?;
        let person = holder_of(&s, "tourniquet-responder").await?;
        let create = |spec| Ask::create(path(RESPONSE_NAMESPACE), manifest(&s, "r", spec)).dry();
        person.asks(&create(with_all_stores(&web))).await?.done().context("collect into a store")?;
        let mut run = Spec::isolate(&web).0;
        run["actions"] = json!([{ "run": { "command": ["/bin/true"] } }]);
        refused(&person, &create(run), "the action run needs the verb run").await?;
        let overriding = Spec::isolate(&web).with("overrideProtection", json!(true)).0;
        refused(&person, &create(overriding), "overrideProtection needs the verb override-protection").await?;
        // Bound in the response namespace, it is a role nowhere else.
        let elsewhere = Ask::create(path(&s.namespace), manifest(&s, "r", Spec::isolate(&web).0));
        refused(&person, &elsewhere, "cannot create resource").await
    });
}

#[test]
fn who_views_a_namespace_views_its_responses_and_does_no_more() {
    scenario("role-viewer", |s| async move {
        let web = s.pod("web").await?;
        let response = s.respond("held", Spec::isolate(&web)).await?;
        let at = format!("{}/{}", path(RESPONSE_NAMESPACE), response.name);
        // Kubernetes' own roles: a controller adds what is to be added to them.
        for role in ["tourniquet-viewer", "view", "edit", "admin"] {
            let person = holder_of(&s, role).await.context(role)?;
            person.asks(&Ask::get(&at)).await?.done().context(role)?;
            person.asks(&Ask::get(path(RESPONSE_NAMESPACE))).await?.done().context(role)?;
            let create = Ask::create(path(RESPONSE_NAMESPACE), manifest(&s, "r", Spec::isolate(&web).0));
            refused(&person, &create, "cannot create resource").await.context(role)?;
            refused(&person, &Ask::delete(&at), "cannot delete resource").await.context(role)?;
        }
        Ok(())
    });
}

#[test]
fn an_auditor_sees_what_was_done_and_who_could_and_changes_nothing() {
    scenario("role-auditor", |s| async move {
        let person = s.person("auditor", &[]).await?;
        s.grant_role_everywhere(&person, "tourniquet-auditor").await?;
        let seen = [
            path(RESPONSE_NAMESPACE),
            "/apis/tourniquet.dev/v1alpha1/evidencestores".to_owned(),
            "/apis/internal.tourniquet.dev/v1alpha1/containments".to_owned(),
            format!("/api/v1/namespaces/{RESPONSE_NAMESPACE}/events"),
            "/apis/events.k8s.io/v1/events".to_owned(),
            "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings".to_owned(),
            "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies".to_owned(),
        ];
        for path in seen {
            person.asks(&Ask::get(&path)).await?.done().with_context(|| path.clone())?;
            refused(&person, &Ask::create(&path, json!({ "metadata": { "name": "r" } })), "cannot create resource")
                .await?;
        }
        refused(&person, &Ask::get("/api/v1/secrets"), "cannot list resource").await
    });
}

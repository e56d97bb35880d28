//! No confused deputy: who creates a response needs the right to each thing that it asks for. Real RBAC on the real API server; every attempt that is
//! denied is allowed to whoever has the one right that was missing.

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tourniquet_e2e::bypass::{Attempt, Control};
use tourniquet_e2e::people::{Ask, Place, Right, right};
use tourniquet_e2e::{RESPONSE_NAMESPACE, Scenario, scenario};

const RESPONSES: &str = "incidentresponses.tourniquet.dev";
const STORES: &str = "evidencestores.tourniquet.dev";

/// Rights on responses in the response namespace.
fn may(verbs: &'static str) -> Right {
    right(Place::Responses, verbs, RESPONSES)
}

fn path(namespace: &str) -> String {
    format!("/apis/tourniquet.dev/v1alpha1/namespaces/{namespace}/incidentresponses")
}

fn pod(namespace: &str) -> Value {
    json!({ "pod": { "namespace": namespace, "name": "nobody" } })
}

fn manifest(s: &Scenario, target: &Value, actions: Value) -> Value {
    json!({
        "apiVersion": "tourniquet.dev/v1alpha1", "kind": "IncidentResponse",
        "metadata": { "name": format!("{}-tried", s.namespace), "labels": { "e2e.tourniquet.dev/test": s.namespace } },
        "spec": { "target": target, "actions": actions },
    })
}

fn with(mut manifest: Value, field: &str, value: Value) -> Value {
    manifest["spec"][field] = value;
    manifest
}

/// Creates in the response namespace.
fn create(manifest: Value) -> Ask {
    Ask::create(path(RESPONSE_NAMESPACE), manifest)
}

/// A collection of one store each.
fn collections(count: usize) -> Value {
    (0..count)
        .map(|index| {
            json!({ "name": format!("c{index}"), "collect": { "storeRef": { "name": format!("store-{index}") } } })
        })
        .collect()
}

fn stores(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|index| format!("store-{index}"))
}

fn without_a_verb(s: &Scenario) -> Vec<Attempt> {
    let on_pod = pod(&s.namespace);
    let label = json!({ "label": { "set": { "soc.example.com/incident": "4711" } } });
    let isolate = || manifest(s, &on_pod, json!([{ "isolate": {} }]));
    let attempt = |title, given: Vec<Right>, ask, denied, missing: Right| Attempt {
        title,
        given,
        ask,
        denied,
        control: Control::With(vec![missing]),
    };
    let mut unnamed = isolate();
    unnamed["metadata"] = json!({ "generateName": format!("{}-", s.namespace) });
    let named = format!("{}/{}-tried", path(RESPONSE_NAMESPACE), s.namespace);
    let fifteen: Vec<Value> = (0..15).map(|index| json!({ "name": format!("i{index}"), "isolate": {} })).collect();
    let sixteen = [fifteen, vec![json!({ "run": { "command": ["/bin/true"] } })]].concat();
    vec![
        attempt("isolate", vec![may("create")], create(isolate()), "needs the verb isolate on", may("isolate")),
        attempt(
            "label",
            vec![may("create,isolate")],
            create(manifest(s, &on_pod, json!([label]))),
            "needs the verb label on",
            may("label"),
        ),
        attempt(
            "cordon",
            vec![may("create,isolate")],
            create(manifest(s, &json!({ "node": { "name": "nowhere" } }), json!([{ "cordon": {} }]))),
            "needs the verb cordon on",
            may("cordon"),
        ),
        attempt(
            "run",
            vec![may("create,isolate,collect")],
            create(manifest(s, &on_pod, json!([{ "run": { "command": ["/bin/true"] } }]))),
            "needs the verb run on",
            may("run"),
        ),
        attempt(
            "collect",
            vec![may("create,run"), right(Place::Responses, "use", STORES)],
            create(manifest(s, &on_pod, collections(1))),
            "needs the verb collect on",
            may("collect"),
        ),
        attempt(
            "the second of two actions",
            vec![may("create,isolate")],
            create(manifest(s, &on_pod, json!([{ "isolate": {} }, label]))),
            "needs the verb label on",
            may("label"),
        ),
        attempt(
            "the last of sixteen actions",
            vec![may("create,isolate,label,collect")],
            create(manifest(s, &on_pod, json!(sixteen))),
            "needs the verb run on",
            may("run"),
        ),
        attempt(
            "a plan only",
            vec![may("create")],
            create(with(isolate(), "dryRun", json!(true))),
            "needs the verb isolate on",
            may("isolate"),
        ),
        attempt(
            "created as a dry run of the API server",
            vec![may("create")],
            create(isolate()).dry(),
            "needs the verb isolate on",
            may("isolate"),
        ),
        attempt(
            "created under a generated name",
            vec![may("create")],
            create(unnamed),
            "needs the verb isolate on",
            may("isolate"),
        ),
        attempt(
            "created by server-side apply",
            vec![may("create,patch")],
            Ask::apply(&named, "kubectl", isolate()),
            "needs the verb isolate on",
            may("isolate"),
        ),
        attempt(
            "released from the beginning",
            vec![may("create")],
            create(with(isolate(), "release", json!(true))),
            "needs the verb isolate on",
            may("isolate"),
        ),
        attempt(
            "the verb in another namespace",
            vec![may("create"), right(Place::Own, "isolate", RESPONSES)],
            create(isolate()),
            "needs the verb isolate on incidentresponses.tourniquet.dev in namespace incident-response",
            may("isolate"),
        ),
        attempt(
            "the verb on another resource",
            vec![may("create"), right(Place::Responses, "isolate", "incidentresponses.tourniquet.dev/status")],
            create(isolate()),
            "needs the verb isolate on",
            may("isolate"),
        ),
        attempt(
            "overrideProtection",
            vec![may("create,isolate")],
            create(with(isolate(), "overrideProtection", json!(true))),
            "needs the verb override-protection on",
            may("override-protection"),
        ),
    ]
}

fn without_a_store(s: &Scenario) -> Vec<Attempt> {
    let on_pod = pod(&s.namespace);
    let use_of = |names: Vec<String>| right(Place::Responses, "use", STORES).on(names);
    let run = json!([{ "run": { "command": ["/bin/true"], "storeRef": { "name": "store-0" } } }]);
    vec![
        Attempt {
            title: "a collection into a store that one may not use",
            given: vec![may("create,collect"), use_of(vec!["another".into()])],
            ask: create(manifest(s, &on_pod, collections(1))),
            denied: "evidence store store-0 needs the verb use",
            control: Control::With(vec![use_of(stores(1).collect())]),
        },
        Attempt {
            title: "the output of a command into a store that one may not use",
            given: vec![may("create,run")],
            ask: create(manifest(s, &on_pod, run)),
            denied: "evidence store store-0 needs the verb use",
            control: Control::With(vec![use_of(stores(1).collect())]),
        },
        Attempt {
            title: "the last of sixteen stores",
            given: vec![may("create,collect"), use_of(stores(15).collect())],
            ask: create(manifest(s, &on_pod, collections(16))),
            denied: "evidence store store-15 needs the verb use",
            control: Control::With(vec![use_of(vec!["store-15".into()])]),
        },
        Attempt {
            title: "a store that one may use in another namespace",
            given: vec![may("create,collect"), right(Place::Own, "use", STORES)],
            ask: create(manifest(s, &on_pod, collections(1))),
            denied: "evidence store store-0 needs the verb use",
            control: Control::With(vec![right(Place::Cluster, "use", STORES)]),
        },
    ]
}

fn somewhere_else(s: &Scenario) -> Vec<Attempt> {
    let isolate = json!([{ "isolate": {} }]);
    let own_rights = || vec![right(Place::Own, "create,isolate,cordon,override-protection", RESPONSES)];
    let all_rights = || vec![may("create,isolate,override-protection")];
    let in_own = |target: &Value, actions: Value| Ask::create(path(&s.namespace), manifest(s, target, actions));
    let own = in_own(&pod(&s.namespace), isolate.clone());
    let overriding = |namespace| with(manifest(s, &pod(namespace), isolate.clone()), "overrideProtection", json!(true));
    vec![
        Attempt {
            title: "a pod of another namespace, from one's own",
            given: own_rights(),
            ask: in_own(&pod("default"), isolate.clone()),
            denied: "acts on its own namespace only; to act on default, create it in incident-response",
            control: Control::Instead(own.clone()),
        },
        Attempt {
            title: "pods of another namespace, from one's own",
            given: own_rights(),
            ask: in_own(
                &json!({ "pods": { "namespace": "default", "selector": { "matchLabels": { "a": "b" } } } }),
                isolate.clone(),
            ),
            denied: "acts on its own namespace only",
            control: Control::Instead(own.clone()),
        },
        Attempt {
            title: "another namespace, from one's own",
            given: own_rights(),
            ask: in_own(&json!({ "namespace": { "name": "default" } }), isolate.clone()),
            denied: "acts on its own namespace only",
            control: Control::Instead(in_own(&json!({ "namespace": { "name": s.namespace } }), isolate.clone())),
        },
        Attempt {
            title: "a node, from one's own namespace",
            given: own_rights(),
            ask: in_own(&json!({ "node": { "name": "node-0" } }), json!([{ "cordon": {} }])),
            denied: "to act on a node, create it in incident-response",
            control: Control::Instead(own),
        },
        Attempt {
            title: "a protected namespace, by whoever could override that and does not say so",
            given: all_rights(),
            ask: create(manifest(s, &pod("kube-system"), isolate.clone())),
            denied: "namespace kube-system is protected",
            control: Control::Instead(create(overriding("kube-system"))),
        },
        Attempt {
            title: "the operator's own namespace",
            given: all_rights(),
            ask: create(overriding("tourniquet-system")),
            denied: "cannot be overridden",
            control: Control::Instead(create(overriding("default"))),
        },
        Attempt {
            title: "the agents' own namespace",
            given: all_rights(),
            ask: create(overriding("tourniquet-agent")),
            denied: "cannot be overridden",
            control: Control::Instead(create(overriding("default"))),
        },
        Attempt {
            title: "in another's name",
            given: all_rights(),
            ask: create(with(manifest(s, &pod("default"), isolate.clone()), "requestedBy", json!("ciso@example.com"))),
            denied: "spec.requestedBy is the name of who creates the response",
            control: Control::Instead(create(manifest(s, &pod("default"), isolate))),
        },
    ]
}

#[test]
fn a_response_is_created_only_by_who_has_each_right_that_it_asks_for() {
    scenario("admission-create", |s| async move {
        let attempts = [without_a_verb(&s), without_a_store(&s), somewhere_else(&s)];
        s.try_to_bypass(attempts.into_iter().flatten().collect()).await?;
        // Nothing was left by those that were denied.
        let label = format!("e2e.tourniquet.dev/test={}", s.namespace);
        let left = s.responses().list_metadata(&kube::api::ListParams::default().labels(&label)).await?.items;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    });
}

#[test]
fn the_largest_response_passes_admission_within_its_budget() {
    scenario("admission-large", |s| async move {
        let person = s
            .person(
                "all",
                &[may("create,label,isolate,collect,run,override-protection"), right(Place::Responses, "use", STORES)],
            )
            .await?;
        let files: Value =
            (0..4).map(|index| json!({ "container": "main", "path": format!("/file-{index}") })).collect();
        let mut actions = collections(16);
        for action in actions.as_array_mut().context("a list")? {
            action["collect"]["files"] = files.clone();
        }
        let sixty_four = with(manifest(&s, &pod(&s.namespace), actions), "overrideProtection", json!(true));
        person.asks(&create(sixty_four).dry()).await?.done().context("16 stores and 64 files")?;
        let mut mixed = collections(13);
        let others = [
            json!({ "isolate": {} }),
            json!({ "label": { "set": { "soc.example.com/incident": "4711" } } }),
            json!({ "run": { "command": ["/bin/true"], "storeRef": { "name": "another" } } }),
        ];
        mixed.as_array_mut().context("a list")?.extend(others);
        let mixed = with(manifest(&s, &pod(&s.namespace), mixed), "overrideProtection", json!(true));
        person.asks(&create(mixed).dry()).await?.done().context("14 stores and 4 verbs")?;
        Ok(())
    });
}

#[test]
fn the_requester_is_recorded_and_stays_so() {
    scenario("admission-requester", |s| async move {
        let person = s.person("creator", &[may("get,create,patch,update,isolate,delete")]).await?;
        let asked = manifest(&s, &pod(&s.namespace), json!([{ "isolate": {} }]));
        let stored = person.asks(&create(asked.clone())).await?.done()?;
        let name = format!("{}-tried", s.namespace);
        let at = format!("{}/{name}", path(RESPONSE_NAMESPACE));
        // There is no such pod. From then on nobody else writes it.
        s.known(RESPONSE_NAMESPACE, &name).await?.refused().await?;
        // Kubernetes before 1.36 has no way to fill it in.
        if s.fills_in_requesters().await? {
            ensure!(stored["spec"]["requestedBy"] == json!(person.name), "{stored}");
            // Whoever writes the manifest again leaves it out again, and it stays.
            let mut again = asked.clone();
            again["metadata"]["resourceVersion"] =
                person.asks(&Ask::get(&at)).await?.done()?["metadata"]["resourceVersion"].clone();
            let replaced = person.asks(&Ask::replace(&at, again)).await?.done()?;
            ensure!(replaced["spec"]["requestedBy"] == json!(person.name), "{replaced}");
            let applied = person.asks(&Ask::apply(&at, "kubectl", asked.clone())).await?.done()?;
            let applied_again = person.asks(&Ask::apply(&at, "kubectl", asked)).await?.done()?;
            for applied in [applied, applied_again] {
                ensure!(applied["spec"]["requestedBy"] == json!(person.name), "{applied}");
            }
        }
        person.asks(&Ask::delete(&at)).await?.done().context("one that was refused holds nothing")?;
        Ok(())
    });
}

#[test]
fn who_applies_what_is_in_git_is_not_who_asked_for_it() {
    scenario("admission-gitops", |s| async move {
        let account = format!("system:serviceaccount:{}:default", s.namespace);
        let controller = s.impersonate(&account).await?;
        s.grant(&controller, &[may("create,isolate")]).await?;
        let asked = manifest(&s, &pod(&s.namespace), json!([{ "isolate": {} }]));
        let stored = controller.asks(&create(asked).dry()).await?.done()?;
        ensure!(stored["spec"].get("requestedBy").is_none(), "{stored}");
        Ok(())
    });
}

/// A status that comes with a new response is not kept: it would say that it was undone.
#[test]
fn a_response_is_created_without_a_status() {
    scenario("admission-status", |s| async move {
        let person = s.person("creator", &[may("create,isolate")]).await?;
        let mut asked = manifest(&s, &pod(&s.namespace), json!([{ "isolate": {} }]));
        asked["status"] = json!({ "conditions": [{
            "type": "Reverted", "status": "True", "reason": "Released", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
        }] });
        let stored = person.asks(&create(asked).dry()).await?.done()?;
        ensure!(stored.get("status").is_none(), "{stored}");
        Ok(())
    });
}

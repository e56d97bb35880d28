//! From an alert to its targets: the forms of real ones, and broken ones.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests: a failed expectation ends the test")]

mod fixtures;

use fixtures::{CLUSTER, cluster_entity, mapped, named, now, pod, pod_alert, reasons, sample};
use serde_json::{Value, json};
use tourniquet_intake::mapping::{ClusterId, Event, Limits, Scope, identify, map};

#[test]
fn an_alert_names_its_pod_its_namespace_and_its_node() {
    let alert = sample("defender-pod");

    assert_eq!(named(&mapped(&alert, Scope::Pod)), ["pod shop/web-7d9c-x2x before 2026-11-20T08:33:12.5Z"]);
    assert_eq!(named(&mapped(&alert, Scope::Namespace)), ["namespace shop"]);
    assert_eq!(named(&mapped(&alert, Scope::Node)), ["node aks-np1-12345678-vmss000000"]);
    for scope in [Scope::Pod, Scope::Namespace, Scope::Node] {
        assert_eq!(mapped(&alert, scope).refused, []);
    }
}

#[test]
fn an_alert_about_the_cluster_says_what_it_names_instead_of_a_pod() {
    let mapped = mapped(&sample("defender-cluster"), Scope::Pod);

    assert_eq!(named(&mapped), [] as [&str; 0]);
    assert_eq!(
        reasons(&mapped),
        [
            r#"no pod: it names no pod (an entity K8s-pod); it has "K8s-cluster". What it is about may stand in its description: create a response by hand then"#
        ]
    );
}

#[test]
fn where_an_id_means_several_what_refers_to_it_is_refused_and_named() {
    let mapped = mapped(&sample("defender-repeated-ids"), Scope::Pod);

    assert_eq!(named(&mapped), [] as [&str; 0]);
    let reasons = reasons(&mapped);
    assert!(
        reasons.contains(
            &r#"k8s-pod "sample-pod": it refers to the entity "7", and several that differ are called so"#.to_owned()
        ),
        "{reasons:#?}"
    );
}

#[test]
fn an_id_that_is_there_twice_in_the_same_words_is_one() {
    let mut alert = pod_alert();
    let twice = alert["Entities"][0].clone();
    alert["Entities"].as_array_mut().unwrap().push(twice);

    let mapped = mapped(&alert, Scope::Pod);

    assert_eq!(named(&mapped).len(), 1);
    assert_eq!(mapped.refused, []);
}

#[test]
fn an_incident_is_all_of_its_alerts_and_a_pod_of_several_is_one_as_of_the_last() {
    let incident = sample("sentinel-incident");
    let cluster: ClusterId = CLUSTER.parse().unwrap();
    let limits = Limits { cluster: &cluster, targets: 10, now: now() };

    let mapped = map(Event::SentinelIncident(&incident), Scope::Pod, &limits).unwrap();
    assert_eq!(
        named(&mapped),
        ["pod shop/web-7d9c-x2x before 2026-11-20T09:01:00Z", "pod shop/db-0 before 2026-11-20T09:01:00Z"]
    );
    assert_eq!(mapped.refused, []);

    let facts = identify(Event::SentinelIncident(&incident)).unwrap().facts;
    assert_eq!(facts.id.as_deref(), Some("4711"));
    assert_eq!(facts.source.as_deref(), Some("MicrosoftSentinel"));
    assert_eq!(facts.title.as_deref(), Some("Crypto miner on shop-aks"));
    assert!(facts.url.unwrap().starts_with("https://portal.azure.com/"));
}

#[test]
fn entities_of_the_whole_incident_count_where_they_say_which_cluster() {
    let incident = json!({"id": "/i/1", "properties": {
        "alerts": [{"properties": {"endTimeUtc": "2026-11-20T09:00:00Z"}}],
        "relatedEntities": [{"kind": "K8s-pod", "properties": {"name": "web", "namespace": {"name": "shop", "cluster": {"cloudResource": {"resourceId": CLUSTER}}}}}],
    }});
    let cluster: ClusterId = CLUSTER.parse().unwrap();
    let limits = Limits { cluster: &cluster, targets: 10, now: now() };

    let mapped = map(Event::SentinelIncident(&incident), Scope::Pod, &limits).unwrap();

    assert_eq!(named(&mapped), ["pod shop/web before 2026-11-20T09:01:00Z"]);
}

#[test]
fn what_cannot_be_resolved_is_refused_by_itself_and_the_rest_is_done() {
    let other = CLUSTER.replace("shop-aks", "other-aks");
    let cases: Vec<(&str, Value, &str)> = vec![
        (
            "another cluster",
            pod("bad", json!({"Name": "shop", "Cluster": {"CloudResource": {"ResourceId": other}}})),
            r#"it is in the cluster "other-aks", and this is "shop-aks": send it to that cluster's queue"#,
        ),
        (
            "no cluster's ID",
            pod("bad", json!({"Name": "shop", "Cluster": {"CloudResource": {"ResourceId": "shop-aks"}}})),
            r#"it is in the cluster "shop-aks", and this is "shop-aks": send it to that cluster's queue"#,
        ),
        (
            "another cluster in one of two places",
            json!({"Type": "K8s-pod", "Name": "bad", "Namespace": {"$ref": "ns"}, "Cluster": {"CloudResource": {"ResourceId": other}}}),
            r#"it is in the cluster "other-aks", and this is "shop-aks": send it to that cluster's queue"#,
        ),
        (
            "a cluster that has no ID",
            pod("bad", json!({"Name": "shop", "Cluster": {"Type": "K8s-cluster"}})),
            "its cluster has no ResourceId",
        ),
        ("no namespace", json!({"Type": "K8s-pod", "Name": "bad"}), "it does not say in which namespace the pod is"),
        ("dangling", pod("bad", json!({"$ref": "99"})), r#"it refers to the entity "99", which is not there"#),
        ("both", pod("bad", json!({"$ref": "ns", "Name": "kube-system"})), "it is a reference and an entity at once"),
        (
            "two spellings",
            json!({"Type": "K8s-pod", "Name": "bad", "name": "web", "Namespace": {"$ref": "ns"}}),
            "it has more than one Name",
        ),
        (
            "a name that is a list",
            json!({"Type": "K8s-pod", "Name": ["bad"], "Namespace": {"$ref": "ns"}}),
            "its Name is no text",
        ),
        (
            "upper case",
            pod("Bad", json!({"$ref": "ns"})),
            r#""Bad" is no name that an object of Kubernetes can have (lower case letters, digits, '-' and '.')"#,
        ),
        (
            "a path",
            pod("../bad", json!({"$ref": "ns"})),
            r#""../bad" is no name that an object of Kubernetes can have (lower case letters, digits, '-' and '.')"#,
        ),
        (
            "a command",
            pod("bad; rm -rf /", json!({"$ref": "ns"})),
            r#""bad; rm -rf /" is no name that an object of Kubernetes can have (lower case letters, digits, '-' and '.')"#,
        ),
        (
            "characters that turn text around",
            pod("bad\u{202e}\u{0}", json!({"$ref": "ns"})),
            r#""bad\u{202e}\0" is no name that an object of Kubernetes can have (lower case letters, digits, '-' and '.')"#,
        ),
        (
            "a namespace that is two",
            pod("bad", json!({"Name": "shop.kube-system"})),
            r#""shop.kube-system" is no name that a namespace can have (lower case letters, digits and '-')"#,
        ),
        (
            "a container without a pod",
            json!({"Type": "container", "Name": "bad"}),
            "it does not say in which pod the container is",
        ),
        (
            "a container in no pod",
            json!({"Type": "container", "Name": "bad", "Pod": {"$ref": "ns"}}),
            "what it says to be its pod is no K8s-pod",
        ),
    ];
    for (name, entity, why) in cases {
        let mut alert = pod_alert();
        alert["Entities"].as_array_mut().unwrap().push(entity);

        let mapped = mapped(&alert, Scope::Pod);

        assert_eq!(named(&mapped), ["pod shop/web before 2026-11-20T08:33:12Z"], "{name}");
        assert_eq!(mapped.refused.len(), 1, "{name}: {:#?}", mapped.refused);
        assert_eq!(mapped.refused[0].why, why, "{name}");
    }
}

#[test]
fn references_that_lead_to_each_other_are_refused() {
    // An ID of a reference defines nothing, so a circle leads nowhere.
    let mut alert = pod_alert();
    let entities = json!([pod("bad", json!({"$ref": "a"})), {"$id": "a", "$ref": "b"}, {"$id": "b", "$ref": "a"}]);
    alert["Entities"].as_array_mut().unwrap().extend(entities.as_array().unwrap().clone());

    let mapped = mapped(&alert, Scope::Pod);

    assert_eq!(named(&mapped).len(), 1);
    assert!(reasons(&mapped).iter().any(|why| why.contains("bad")), "{:#?}", mapped.refused);
}

#[test]
fn a_pod_may_lie_within_itself() {
    let mut alert = pod_alert();
    alert["Entities"] = json!([{"$id": "1", "Type": "K8s-pod", "Name": "web", "Namespace": {"$id": "2", "Name": "shop", "Pods": [{"$ref": "1"}], "Cluster": cluster_entity()}}]);

    assert_eq!(named(&mapped(&alert, Scope::Pod)), ["pod shop/web before 2026-11-20T08:33:12Z"]);
}

#[test]
fn an_alert_without_a_time_isolates_no_pod() {
    let mut alert = pod_alert();
    alert["EndTimeUtc"] = "soon".into();

    let mapped = mapped(&alert, Scope::Pod);

    assert_eq!(named(&mapped), [] as [&str; 0]);
    assert!(mapped.refused[0].why.contains("a pod of the same name that came later"), "{:?}", mapped.refused);
}

#[test]
fn an_alert_of_the_future_isolates_no_pod() {
    let mut alert = pod_alert();
    alert["EndTimeUtc"] = "2099-01-01T00:00:00Z".into();

    assert!(mapped(&alert, Scope::Pod).refused[0].why.contains("still to come"));
}

#[test]
fn where_nothing_says_which_cluster_nothing_is_done() {
    let mut alert = pod_alert();
    alert["Entities"][1].as_object_mut().unwrap().remove("Cluster");
    assert_eq!(named(&mapped(&alert, Scope::Pod)).len(), 1, "the alert as a whole says it");

    alert.as_object_mut().unwrap().remove("AzureResourceId");

    assert_eq!(mapped(&alert, Scope::Pod).refused[0].why, "nothing says in which cluster it is");
}

#[test]
fn a_workload_is_no_pod() {
    let mut alert = pod_alert();
    alert["Entities"] =
        json!([{"Type": "K8s-deployment", "Name": "web", "Namespace": {"Name": "shop", "Cluster": cluster_entity()}}]);

    let mapped = mapped(&alert, Scope::Pod);

    assert_eq!(named(&mapped), [] as [&str; 0]);
    assert!(
        reasons(&mapped)[0].starts_with(r#"k8s-deployment "web": the alert names this workload, and no pod of it"#)
    );
}

#[test]
fn more_targets_than_the_limit_are_counted_and_left_out() {
    let mut alert = pod_alert();
    let entities = alert["Entities"].as_array_mut().unwrap();
    entities.extend((0..20).map(|n| pod(&format!("web-{n}"), json!({"$ref": "ns"}))));

    let mapped = mapped(&alert, Scope::Pod);

    assert_eq!(named(&mapped).len(), 10);
    assert!(reasons(&mapped)[0].starts_with("11 further: more than 10 targets"), "{:#?}", mapped.refused);
}

#[test]
fn an_alert_larger_than_any_is_not_read() {
    let mut alert = pod_alert();
    alert["Entities"].as_array_mut().unwrap().extend(std::iter::repeat_n(json!({}), 5_000));
    assert!(mapped(&alert, Scope::Pod).refused[0].why.contains("more than 4000 values"));

    let deep = (0..100).fold(json!({}), |inner, _| json!({ "Namespace": inner }));
    let mut alert = pod_alert();
    alert["Entities"].as_array_mut().unwrap().push(deep);
    assert!(mapped(&alert, Scope::Pod).refused[0].why.contains("24 deep"));
}

#[test]
fn words_of_an_alert_are_shown_as_words() {
    let mut alert = pod_alert();
    alert["AlertDisplayName"] = format!("<script>\u{202e}\n{}", "x".repeat(5_000)).into();
    alert["AlertUri"] = "javascript:alert(1)".into();
    alert["Severity"] = "High\u{0}\u{200b}".into();

    let facts = identify(Event::DefenderAlert(&alert)).unwrap().facts;

    let title = facts.title.unwrap();
    assert_eq!(title.chars().count(), 1024);
    assert!(title.starts_with("<script>  x"), "{title}");
    assert_eq!(facts.url, None);
    assert_eq!(facts.severity.as_deref(), Some("High"));
}

#[test]
fn an_incident_that_does_not_say_which_it_is_is_refused() {
    for (alert, why) in [
        (json!([]), "the alert is no object of JSON"),
        (json!({}), "the alert has no SystemAlertId"),
        (json!({"SystemAlertId": "a\nb"}), "\"a\\nb\" is no ID of an incident"),
    ] {
        assert_eq!(identify(Event::DefenderAlert(&alert)).unwrap_err(), why);
    }
    assert_eq!(
        identify(Event::SentinelIncident(&json!({"id": "x"}))).unwrap_err(),
        "the incident's properties is no object of JSON"
    );
}

#[test]
fn only_the_id_of_a_cluster_is_one() {
    for id in [
        "",
        "shop-aks",
        "/subscriptions//resourceGroups/rg/providers/Microsoft.ContainerService/managedClusters/x",
        "/subscriptions/1/resourceGroups/rg/providers/Microsoft.Compute/virtualMachines/x",
    ] {
        assert!(id.parse::<ClusterId>().is_err(), "{id}");
    }
    let lower: ClusterId = CLUSTER.to_lowercase().parse().unwrap();
    assert_eq!(CLUSTER.parse::<ClusterId>().unwrap(), lower);
}

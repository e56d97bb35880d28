//! What an isolation does not close is said, with what to do about it; and it keeps nobody from isolating.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests: a panic is a failed test")]

mod fixtures;

use fixtures::residuals::{said, says_nothing_of, says_of};
use fixtures::scene::{Scene, a_pod_that_answers};
use fixtures::{NODE, POD_UID, object, says};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::rbac::v1::{PolicyRule, RoleRef, Subject};
use serde_json::{Value, json};
use tourniquet_response::{Grant, Grants, Neighbour, Neighbours, Read};

/// A pod, with its spec (lists replaced) and a dry run of its isolation.
fn with_spec(spec: Value) -> Scene {
    a_pod_that_answers().with_spec(|spec| spec.dry_run = true).with_pod(|pod| {
        let mut changed = json!(pod);
        changed["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        *pod = object(changed);
    })
}

/// One whose container has this security context.
fn with_security(context: Value) -> Scene {
    with_spec(json!({ "containers": [{ "name": "web", "securityContext": context }] }))
}

/// One with the volume that the API server puts a token into.
fn with_token() -> Scene {
    let token = json!({ "serviceAccountToken": { "expirationSeconds": 3607, "path": "token" } });
    with_spec(json!({
        "serviceAccountName": "web",
        "volumes": [{ "name": "kube-api-access-x", "projected": { "sources": [token] } }],
    }))
}

fn account() -> Value {
    json!({ "kind": "ServiceAccount", "name": "web", "namespace": "shop" })
}

/// A binding to a role with one rule.
fn grant(namespace: Option<&str>, name: &str, subjects: Value, rule: Value) -> Grant {
    let subjects: Vec<Subject> = object(subjects);
    let role: RoleRef =
        object(json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "role" }));
    let grant = Grant::of((namespace, name), &role, &subjects, ("shop", "web"));
    Grant { rules: vec![object::<PolicyRule>(rule)], ..grant.expect("it is about the account") }
}

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> Value {
    json!({ "apiGroups": [group], "resources": resources, "verbs": verbs })
}

fn granted(bindings: Vec<Grant>) -> Scene {
    let mut scene = with_token();
    scene.around.grants = Ok(Grants { bindings, left_out: Vec::new() });
    scene
}

#[test]
fn a_token_that_reads_secrets_is_named_with_its_binding_and_how_to_take_it_away() {
    let reads = rule("", &["secrets"], &["get", "list"]);
    let scene = granted(vec![grant(Some("shop"), "reader", json!([account()]), reads)]);
    let words =
        ["service account shop/web", "read secrets in namespace shop (RoleBinding reader)", "until the pod is deleted"];
    let remedy = says_of(&scene, "TokenUsable", "High", &words);
    assert_eq!(remedy, "kubectl --namespace shop delete rolebinding reader");
}

#[test]
fn a_binding_of_others_as_well_loses_one_subject() {
    let reads = rule("*", &["*"], &["list"]);
    let subjects = json!([{ "kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "ann" }, account()]);
    let scene = granted(vec![grant(None, "readers", subjects, reads)]);
    let remedy = says_of(&scene, "TokenUsable", "High", &["read secrets cluster-wide (ClusterRoleBinding readers)"]);
    assert_eq!(
        remedy,
        r#"kubectl patch clusterrolebinding --type json --patch '[{"op":"test","path":"/subjects/1/name","value":"web"},{"op":"remove","path":"/subjects/1"}]' readers"#
    );
}

#[test]
fn a_binding_with_a_name_for_a_shell_stays_one_word() {
    let reads = rule("", &["secrets"], &["get"]);
    let scene = granted(vec![grant(Some("shop"), "x; id", json!([account()]), reads)]);
    let remedy = says_of(&scene, "TokenUsable", "High", &["RoleBinding x; id"]);
    assert_eq!(remedy, "kubectl --namespace shop delete rolebinding 'x; id'");
}

#[test]
fn what_a_role_amounts_to_is_told_the_worst_first() {
    for (severity, words, rule) in [
        ("High", "do everything", rule("*", &["*"], &["*"])),
        ("High", "run commands in pods", rule("", &["pods/exec"], &["create"])),
        ("High", "run commands in pods", rule("", &["*/exec"], &["*"])),
        ("High", "create pods", rule("", &["pods"], &["create"])),
        ("High", "create pods", rule("apps", &["deployments"], &["patch"])),
        ("High", "get itself other rights", rule("rbac.authorization.k8s.io", &["clusterroles"], &["bind"])),
        ("High", "get itself other rights", rule("", &["serviceaccounts"], &["impersonate"])),
        ("High", "get itself other rights", rule("", &["serviceaccounts/token"], &["create"])),
        ("Medium", "change configmaps", rule("", &["configmaps"], &["get", "update"])),
        ("Medium", "change secrets", rule("", &["secrets"], &["delete"])),
        ("Medium", "read configmaps, pods", rule("", &["pods", "configmaps"], &["get", "list", "watch"])),
        ("Low", "no more", rule("authorization.k8s.io", &["selfsubjectaccessreviews"], &["create"])),
        ("Low", "no more", json!({ "nonResourceURLs": ["/healthz"], "verbs": ["get"] })),
    ] {
        says_of(&granted(vec![grant(None, "b", json!([account()]), rule)]), "TokenUsable", severity, &[words]);
    }
    let named = json!({ "apiGroups": [""], "resources": ["secrets"], "verbs": ["get"], "resourceNames": ["db"] });
    let scene = granted(vec![
        grant(Some("shop"), "a", json!([account()]), rule("", &["pods"], &["get"])),
        grant(Some("shop"), "b", json!([account()]), named),
    ]);
    says_of(&scene, "TokenUsable", "High", &["it can read secrets db in namespace shop (RoleBinding b); read pods"]);
}

#[test]
fn groups_that_the_account_is_in_count_and_others_do_not() {
    for group in ["system:serviceaccounts", "system:serviceaccounts:shop", "system:authenticated"] {
        let group = json!([{ "kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": group }]);
        let scene = granted(vec![grant(None, "all", group, rule("", &["secrets"], &["get"]))]);
        says_of(&scene, "TokenUsable", "High", &["ClusterRoleBinding all by group system:"]);
    }
    let role: RoleRef = object(json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "role" }));
    for other in [
        json!({ "kind": "ServiceAccount", "name": "web", "namespace": "other" }),
        json!({ "kind": "Group", "name": "system:serviceaccounts:other" }),
        json!({ "kind": "Group", "name": "system:unauthenticated" }),
        json!({ "kind": "User", "name": "web" }),
    ] {
        let subjects: Vec<Subject> = vec![object(other)];
        assert_eq!(Grant::of((None, "b"), &role, &subjects, ("shop", "web")), None, "{subjects:?}");
    }
}

#[test]
fn a_pod_without_a_token_has_none_to_lose_and_nobody_asks_what_it_may_do() {
    let scene = with_spec(json!({ "automountServiceAccountToken": false }));
    says_nothing_of(&scene, "TokenUsable");
    assert!(!scene.looked_at().observed.keys().any(|read| matches!(read, Read::Grants { .. })));
    let vault = json!({ "serviceAccountToken": { "audience": "vault", "path": "token" } });
    says_nothing_of(
        &with_spec(json!({ "volumes": [{ "name": "v", "projected": { "sources": [vault] } }] })),
        "TokenUsable",
    );
}

#[test]
fn an_identity_of_azure_outlives_the_pod() {
    let mut scene = with_spec(json!({ "serviceAccountName": "web" })).with_pod(|pod| {
        let labels = pod.metadata.labels.as_mut().unwrap();
        labels.insert("azure.workload.identity/use".into(), "true".into());
    });
    says_of(&scene, "WorkloadIdentity", "Medium", &["shop/web names none"]);
    let client = "11111111-2222-3333-4444-555555555555";
    scene.around.account = Ok(Some(object(json!({
        "metadata": { "namespace": "shop", "name": "web", "annotations": { "azure.workload.identity/client-id": client } }
    }))));
    let remedy = says_of(&scene, "WorkloadIdentity", "High", &[client, "outlive the isolation"]);
    for part in [
        format!(
            "az identity list --output table --query \"[?clientId=='{client}'].{{name:name, group:resourceGroup}}\""
        ),
        "[?subject=='system:serviceaccount:shop:web'].name".to_owned(),
        "az identity federated-credential delete".to_owned(),
    ] {
        assert!(remedy.contains(&part), "{part} is not in {remedy}");
    }
}

#[test]
fn the_secrets_of_the_pod_are_named_wherever_they_come_in() {
    let scene = with_spec(json!({
        "containers": [{
            "name": "web",
            "env": [{ "name": "KEY", "valueFrom": { "secretKeyRef": { "name": "key", "key": "k" } } }, { "name": "A", "value": "open" }],
            "envFrom": [{ "secretRef": { "name": "all" } }],
        }],
        "initContainers": [{ "name": "init", "envFrom": [{ "secretRef": { "name": "first" } }] }],
        "volumes": [
            { "name": "a", "secret": { "secretName": "files" } },
            { "name": "b", "projected": { "sources": [{ "secret": { "name": "part" } }] } },
            { "name": "c", "csi": { "driver": "secrets-store.csi.k8s.io", "volumeAttributes": { "secretProviderClass": "vault" } } },
        ],
    }));
    let words = ["Secrets of namespace shop: all, files, first, key, part", "SecretProviderClass: vault", "assume"];
    let remedy = says_of(&scene, "SecretsMounted", "Medium", &words);
    assert!(
        remedy.ends_with("kubectl --namespace shop get secrets --ignore-not-found all files first key part"),
        "{remedy}"
    );
    says_nothing_of(&with_spec(json!({})), "SecretsMounted");
}

#[test]
fn what_opens_the_node_is_said_with_the_node() {
    let cordon = format!("kubectl cordon {NODE}");
    for (code, severity, scene) in [
        ("Privileged", "High", with_security(json!({ "privileged": true }))),
        ("HostPID", "High", with_spec(json!({ "hostPID": true }))),
        ("HostIPC", "Medium", with_spec(json!({ "hostIPC": true }))),
    ] {
        let remedy = says_of(&scene, code, severity, &["shop/web", NODE]);
        assert!(remedy.ends_with(&cordon), "{remedy}");
    }
    for code in ["Privileged", "HostPID", "HostIPC", "HostPath", "AddedCapabilities"] {
        says_nothing_of(&with_security(json!({ "privileged": false, "capabilities": { "drop": ["ALL"] } })), code);
    }
}

#[test]
fn a_path_of_the_node_is_worse_when_it_can_be_written_to() {
    let mounted = |read_only: bool| {
        with_spec(json!({
            "containers": [{ "name": "web", "volumeMounts": [{ "name": "h", "mountPath": "/h", "readOnly": read_only }] }],
            "volumes": [{ "name": "h", "hostPath": { "path": "/var/log" } }, { "name": "unused", "hostPath": { "path": "/etc" } }],
        }))
    };
    says_of(&mounted(false), "HostPath", "High", &["/var/log (writable)"]);
    says_of(&mounted(true), "HostPath", "Medium", &["/var/log (read-only)"]);
    assert!(!said(&mounted(true).look(), "HostPath").unwrap().message.contains("/etc"), "nobody mounts it");
}

#[test]
fn a_capability_that_defeats_the_cut_is_worse_than_one_that_does_not() {
    let added = |names: Value| with_security(json!({ "capabilities": { "add": names } }));
    let remedy = says_of(
        &added(json!(["NET_ADMIN", "CHOWN"])),
        "AddedCapabilities",
        "High",
        &["NET_ADMIN", "the agent puts that back"],
    );
    assert!(remedy.ends_with("kubectl --namespace shop delete pod web"), "{remedy}");
    let remedy = says_of(&added(json!(["CAP_SYS_PTRACE"])), "AddedCapabilities", "High", &["SYS_PTRACE"]);
    assert!(remedy.contains("kubectl cordon"), "{remedy}");
    says_of(&added(json!(["SYS_NICE"])), "AddedCapabilities", "Low", &["SYS_NICE"]);
    says_nothing_of(&added(json!(["NET_RAW", "CHOWN"])), "AddedCapabilities");
}

/// A pod beside the target.
fn beside(namespace: &str, name: &str, change: impl FnOnce(&mut Neighbour)) -> Neighbour {
    let mut pod = Neighbour {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: format!("uid-of-{namespace}-{name}"),
        account: "other".to_owned(),
        node: NODE.to_owned(),
        ..Neighbour::default()
    };
    change(&mut pod);
    pod
}

fn among(scene: Scene, mut pods: Vec<Neighbour>) -> Scene {
    pods.push(Neighbour::from(scene.pod.as_ref().unwrap()));
    Scene {
        around: fixtures::scene::Around { neighbours: Ok(Neighbours { pods, more: false }), ..scene.around },
        ..scene
    }
}

#[test]
fn pods_with_the_same_volume_are_named() {
    let volumes = json!({ "volumes": [
        { "name": "a", "persistentVolumeClaim": { "claimName": "data" } },
        { "name": "b", "hostPath": { "path": "/var/log" } },
    ] });
    let scene = among(
        with_spec(volumes),
        vec![
            beside("shop", "db", |pod| pod.claims.push("data".into())),
            beside("other", "db", |pod| pod.claims.push("data".into())),
            beside("logs", "shipper", |pod| pod.host_paths.push("/var/log/pods".into())),
            beside("logs", "sibling", |pod| pod.host_paths.push("/var/logs".into())),
            beside("logs", "elsewhere", |pod| {
                pod.host_paths.push("/var/log".into());
                pod.node = "node-2".into();
            }),
        ],
    );
    let words = ["2 other pods: shop/db, logs/shipper", "PersistentVolumeClaim data", "path /var/log/pods"];
    let remedy = says_of(&scene, "SharedVolumes", "Medium", &words);
    let commands =
        "kubectl --namespace logs get pods --output wide shipper && kubectl --namespace shop get pods --output wide db";
    assert!(remedy.ends_with(commands), "{remedy}");
    says_nothing_of(
        &among(with_spec(json!({})), vec![beside("shop", "db", |pod| pod.claims.push("data".into()))]),
        "SharedVolumes",
    );
}

#[test]
fn the_same_image_and_the_same_account_are_looked_for_elsewhere() {
    let pods = (0..8).map(|number| {
        beside("shop", &format!("web-{number}"), |pod| {
            pod.images.push("web".into());
            pod.account = "default".into();
        })
    });
    let mut scene =
        among(with_spec(json!({})), pods.chain([beside("other", "db", |pod| pod.images.push("db".into()))]).collect());
    let five = "8 other pods: shop/web-0, shop/web-1, shop/web-2, shop/web-3, shop/web-4 and 3 more";
    let remedy = says_of(&scene, "SameImageElsewhere", "Medium", &["web runs in", five]);
    assert!(
        remedy.ends_with("kubectl --namespace shop get pods --output wide web-0 web-1 web-2 web-3 web-4"),
        "{remedy}"
    );
    says_of(&scene, "SameServiceAccountElsewhere", "Low", &["shop/default", five]);

    scene.around.neighbours.as_mut().unwrap().more = true;
    says_of(&scene, "SameImageElsewhere", "Medium", &["at least 8 other pods"]);
}

#[test]
fn services_that_route_to_the_pod_are_named_with_the_label_that_ends_it() {
    let service =
        |name: &str, selector: Value| object(json!({ "metadata": { "name": name }, "spec": { "selector": selector } }));
    let mut scene = with_spec(json!({}));
    scene.around.services = Ok(vec![
        service("web", json!({ "app": "web" })),
        service("db", json!({ "app": "db" })),
        service("external", json!({})),
    ]);
    let remedy =
        says_of(&scene, "StillRouted", "Medium", &["Service web of namespace shop sends clients to pod shop/web"]);
    assert!(remedy.ends_with("kubectl --namespace shop label pod web app-"), "{remedy}");
    scene.around.services = Ok(Vec::new());
    says_nothing_of(&scene, "StillRouted");
}

#[test]
fn what_cannot_be_looked_at_is_said_and_the_rest_all_the_same() {
    let mut scene = with_token();
    let forbidden = "cannot list RoleBindings: forbidden".to_owned();
    scene.around.grants = Err(forbidden.clone());
    scene.around.neighbours = Err("cannot list pods: forbidden".to_owned());
    scene.around.services = Err("cannot list Services: forbidden".to_owned());
    let words = ["what service account shop/web may do", &forbidden, "other pods", "Services that route"];
    let remedy = says_of(&scene, "ReceiptIncomplete", "Medium", &words);
    assert!(
        remedy.ends_with("kubectl --namespace shop auth can-i --list --as system:serviceaccount:shop:web"),
        "{remedy}"
    );
    says_of(&scene, "TokenUsable", "Medium", &["could not be looked at"]);
    assert_eq!(says(&scene.look().status, "Ready"), "True/Planned");

    scene.around.grants = Ok(Grants { bindings: Vec::new(), left_out: vec!["3 of its 35 bindings".to_owned()] });
    says_of(&scene, "ReceiptIncomplete", "Medium", &["3 of its 35 bindings"]);
}

#[test]
fn however_much_there_is_the_status_stays_small() {
    let long = "x".repeat(250);
    let bindings = (0..32).map(|number| {
        grant(
            Some("shop"),
            &format!("{number}{long}"),
            json!([account(), account()]),
            rule("", &["secrets", &long], &["*"]),
        )
    });
    let mut scene = granted(bindings.collect());
    let spec = json!(scene.pod)["spec"].clone();
    let mut volumes: Vec<Value> =
        (0..500).map(|number| json!({ "name": "v", "secret": { "secretName": format!("{number}{long}") } })).collect();
    volumes.extend(spec["volumes"].as_array().unwrap().clone());
    scene.pod.as_mut().unwrap().spec.as_mut().unwrap().volumes = Some(object(json!(volumes)));
    let scene = among(
        scene,
        (0..2500)
            .map(|number| beside(&long, &format!("{number}{long}"), |pod| pod.images.push("web".into())))
            .collect(),
    );
    let status = scene.look().status;
    assert!(status.residual.len() >= 3, "{:?}", status.residual);
    assert!(json!(status).to_string().len() < 16 * 1024);
}

#[test]
fn a_new_pod_of_the_same_name_is_another_pod() {
    let scene = with_spec(json!({ "hostPID": true }));
    let mut other: Pod = scene.pod.clone().unwrap();
    other.metadata.uid = Some("another".to_owned());
    let scene = among(scene, vec![Neighbour::from(&other)]);
    assert_ne!(other.metadata.uid.as_deref(), Some(POD_UID));
    says_of(&scene, "SameImageElsewhere", "Medium", &["1 other pod: shop/web"]);
}

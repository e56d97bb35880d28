//! What is read of a message, and what is decided about it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests: a failed expectation ends the test")]

mod fixtures;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fixtures::{CLUSTER, now, pod, pod_alert, sample};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use serde_json::{Value, json};
use tourniquet_api::IncidentResponse;
use tourniquet_intake::mapping::Refused;
use tourniquet_intake::message::{Ages, Delivery, Message, Rejected, read};
use tourniquet_intake::outcome::{self, Seen, State};
use tourniquet_intake::respond::{INCIDENT_LABEL, Order, Policy, decide, same};

const AGES: Ages = Ages { on_the_way: SignedDuration::from_mins(15), waiting: SignedDuration::from_hours(24) };

fn asking(action: &str) -> Value {
    json!({"version": 1, "id": "08584-CU00", "sentAt": "2026-11-20T09:59:00Z", "action": action, "defenderAlert": pod_alert()})
}

fn with(mut message: Value, field: &str, value: Value) -> Value {
    message[field] = value;
    message
}

fn without(mut message: Value, field: &str) -> Value {
    message.as_object_mut().unwrap().remove(field);
    message
}

fn deliver(message: &Value, inserted: Timestamp) -> Result<Message, Rejected> {
    let text = STANDARD.encode(message.to_string());
    read(&Delivery { text: &text, inserted }, now(), &AGES)
}

fn taken(message: &Value) -> Message {
    deliver(message, "2026-11-20T09:59:05Z".parse().unwrap()).unwrap()
}

fn policy() -> Policy {
    Policy {
        cluster: CLUSTER.parse().unwrap(),
        namespace: "incident-response".into(),
        verbs: ["isolate", "cordon", "collect", "release"].map(String::from).into(),
        commands: [("kill-miner".to_owned(), vec!["/bin/pkill".to_owned(), "xmrig".to_owned()])].into(),
        store: Some("soc".into()),
        targets: 10,
    }
}

fn created(message: &Value, policy: &Policy) -> (Vec<IncidentResponse>, Vec<Refused>) {
    match decide(&taken(message), policy, now()).unwrap() {
        Order::Create { responses, refused } => (responses, refused),
        other => panic!("{other:?}"),
    }
}

fn one(message: &Value) -> IncidentResponse {
    let (responses, refused) = created(message, &policy());
    assert_eq!(refused, []);
    let [response] = responses.try_into().unwrap();
    response
}

fn seen(responses: &[IncidentResponse]) -> Seen<'_> {
    Seen { asked: responses.len(), responses, refused: &[], namespace: "incident-response", over: false }
}

#[test]
fn a_message_is_exactly_what_it_may_be() {
    let message = asking("isolatePod");
    let cases = [
        (with(message.clone(), "namespace", "kube-system".into()), "unknown field `namespace`"),
        (with(message.clone(), "action", "deleteNode".into()), "unknown variant `deleteNode`"),
        (with(message.clone(), "version", 2.into()), "the message has version 2"),
        (with(message.clone(), "id", "../other".into()), r#""../other" is no id"#),
        (with(message.clone(), "id", "x".repeat(65).into()), "is no id"),
        (with(message.clone(), "sentAt", "now".into()), "not as it has to be"),
        (with(message.clone(), "sentinelIncident", json!({})), "exactly one of"),
        (without(message.clone(), "defenderAlert"), "exactly one of"),
        (without(message.clone(), "sentAt"), "missing field `sentAt`"),
        (with(message, "command", "kill-miner".into()), "name a command for run, and for nothing else"),
        (asking("run"), "name a command for run, and for nothing else"),
        (json!([]), "not as it has to be"),
    ];
    for (wrong, why) in cases {
        let rejected = deliver(&wrong, now()).unwrap_err();
        assert!(rejected.why.contains(why), "{wrong}: {rejected}");
    }
}

#[test]
fn whoever_waits_for_a_message_that_is_wrong_is_told_if_it_says_who() {
    assert_eq!(deliver(&with(asking("x"), "more", 1.into()), now()).unwrap_err().id.as_deref(), Some("08584-CU00"));
    assert_eq!(deliver(&with(asking("x"), "id", "a/b".into()), now()).unwrap_err().id, None);
}

#[test]
fn what_is_no_message_is_rejected() {
    for (text, why) in [("", "not as it has to be"), ("{}", "not base64"), ("\u{0}", "not base64")] {
        let rejected = read(&Delivery { text, inserted: now() }, now(), &AGES).unwrap_err();
        assert!(rejected.why.contains(why), "{text:?}: {rejected}");
    }
    let large = "A".repeat(65 * 1024);
    assert!(
        read(&Delivery { text: &large, inserted: now() }, now(), &AGES).unwrap_err().why.contains("65536 are the most")
    );
}

#[test]
fn an_old_message_is_refused_whether_it_was_kept_before_the_queue_or_in_it() {
    let at = |time: &str| deliver(&asking("isolatePod"), time.parse().unwrap());
    assert!(at("2026-11-20T10:13:00Z").is_ok(), "within a quarter of an hour");
    assert!(at("2026-11-20T10:15:00Z").unwrap_err().why.contains("it was replayed"));
    assert!(at("2026-11-20T09:50:00Z").unwrap_err().why.contains("a clock is wrong"), "sent after it came");

    let old = with(asking("isolatePod"), "sentAt", "2026-11-19T09:00:00Z".into());
    assert!(deliver(&old, "2026-11-19T09:00:05Z".parse().unwrap()).unwrap_err().why.contains("waited since"));
    let late = with(asking("isolatePod"), "sentAt", "2026-11-19T11:00:00Z".into());
    assert!(deliver(&late, "2026-11-19T11:00:05Z".parse().unwrap()).is_ok(), "an outage of hours loses nothing");
}

#[test]
fn each_action_becomes_its_response() {
    for (action, wanted) in [
        ("isolatePod", json!([{"isolate": {}, "onFailure": "Continue"}])),
        ("isolateNamespace", json!([{"isolate": {}, "onFailure": "Continue"}])),
    ] {
        let response = one(&asking(action));
        assert_eq!(serde_json::to_value(&response.spec.actions).unwrap(), wanted);
        assert_eq!(response.spec.expire_after, None, "isolation never ends by itself");
        assert!(!response.spec.override_protection);
    }
    let collect = one(&asking("collect"));
    assert_eq!(collect.spec.actions[0].collect.as_ref().unwrap().store_ref.name, "soc");

    let message = with(asking("cordonNode"), "defenderAlert", sample("defender-pod"));
    let cordon = one(&message);
    assert_eq!(cordon.spec.target.node.unwrap().name, "aks-np1-12345678-vmss000000");
}

#[test]
fn a_response_says_of_which_incident_it_is() {
    let response = one(&asking("isolatePod"));

    let incident = response.spec.incident.unwrap();
    assert_eq!(incident.id.as_deref(), Some("alert-1"));
    assert_eq!(incident.source.as_deref(), Some("MicrosoftDefenderForCloud"));
    let name = response.metadata.name.unwrap();
    assert!(name.starts_with("defender-alert-1-isolate-web-"), "{name}");
}

#[test]
fn twice_is_one_and_another_target_action_or_incident_is_another() {
    let name = |message: &Value| one(message).metadata.name.unwrap();
    let message = asking("isolatePod");
    let again = with(with(message.clone(), "id", "other".into()), "sentAt", "2026-11-20T09:59:04Z".into());
    assert_eq!(name(&message), name(&again));

    let mut other_pod = message.clone();
    other_pod["defenderAlert"]["Entities"][0]["Name"] = "web-".to_owned().replace('-', "2").into();
    let mut other_incident = message.clone();
    other_incident["defenderAlert"]["SystemAlertId"] = "alert-2".into();
    for other in [other_pod, other_incident, asking("isolateNamespace"), asking("collect")] {
        assert_ne!(name(&message), name(&other));
    }
    // Azure writes one ID in several ways.
    let mut upper = message.clone();
    upper["defenderAlert"]["SystemAlertId"] = "ALERT-1".into();
    let label = |message: &Value| one(message).metadata.labels.unwrap()[INCIDENT_LABEL].clone();
    assert_eq!(label(&message), label(&upper));
}

#[test]
fn what_this_intake_does_not_do_is_refused() {
    let run = with(asking("run"), "command", "kill-miner".into());
    let why = |message: &Value, policy: &Policy| decide(&taken(message), policy, now()).unwrap_err().to_string();
    assert_eq!(why(&run, &policy()), "run: the intake of this cluster does not run (chart value intake.verbs)");

    let mut all = policy();
    all.verbs.insert("run".into());
    let (responses, _) = created(&run, &all);
    assert_eq!(responses[0].spec.actions[0].run.as_ref().unwrap().command, ["/bin/pkill", "xmrig"]);

    let other = with(asking("run"), "command", "/bin/sh -c 'id'".into());
    assert!(why(&other, &all).contains("none of the approved commands"));

    all.store = None;
    assert!(why(&asking("collect"), &all).contains("no evidence store"));
    all.verbs.clear();
    assert!(why(&asking("release"), &all).contains("does not release"));
}

#[test]
fn a_release_is_of_the_whole_incident() {
    let Order::Release { incident } = decide(&taken(&asking("release")), &policy(), now()).unwrap() else { panic!() };

    assert_eq!(incident, one(&asking("isolatePod")).metadata.labels.unwrap()[INCIDENT_LABEL]);
}

#[test]
fn a_response_that_is_there_is_the_same_one_or_it_is_said_why_not() {
    let wanted = one(&asking("isolatePod"));
    assert_eq!(same(&wanted, &wanted), Ok(()));

    // People work on an incident, and a later alert names the same pod.
    let mut later = wanted.clone();
    later.spec.incident.as_mut().unwrap().title = Some("Renamed".into());
    later.spec.target.pod.as_mut().unwrap().created_before = None;
    assert_eq!(same(&later, &wanted), Ok(()));

    let mut released = wanted.clone();
    released.spec.release = Some(true);
    assert!(same(&released, &wanted).unwrap_err().contains("was released"));
    let mut not_ours = wanted.clone();
    not_ours.metadata.labels = None;
    assert!(same(&not_ours, &wanted).unwrap_err().contains("no intake created"));
    let mut dry = wanted.clone();
    dry.spec.dry_run = true;
    assert!(same(&dry, &wanted).unwrap_err().contains("something else"));
    let mut other = wanted.clone();
    other.spec.target.pod.as_mut().unwrap().name = "db".into();
    assert!(same(&other, &wanted).unwrap_err().contains("something else"));
}

#[test]
fn an_outcome_shows_what_others_wrote_as_text() {
    let mut response = one(&asking("isolatePod"));
    response.status = serde_json::from_value(json!({
        "observedGeneration": 1,
        "conditions": [
            {"type": "Ready", "status": "True", "reason": "Cut", "message": "isolate: done", "lastTransitionTime": "2026-11-20T10:00:00Z"},
            {"type": "Contained", "status": "True", "reason": "Cut", "message": "", "lastTransitionTime": "2026-11-20T10:00:00Z"},
        ],
        "actions": [{"name": "isolate", "outcome": "Done", "results": [{"targetUID": "1", "outcome": "Done", "assurance": "Probed",
            "evidence": {"artifactsDone": 7, "artifactsTotal": 7, "bytes": 1, "recordDigest": "abc", "url": "https://x/y"}}]}],
        "residual": [{"code": "TokenUsable", "severity": "High", "message": "<img src=x>", "remedy": "kubectl delete rolebinding reader"}],
    }))
    .unwrap();
    let refused = [Refused::new("k8s-pod \"<b>\"", "no")];

    let told = outcome::created("1", &Seen { refused: &refused, ..seen(&[response]) });

    assert_eq!(told.state, State::Settled);
    assert_eq!(
        told.comment.split("<br>").collect::<Vec<_>>(),
        [
            "pod shop/web: Cut: isolate: done",
            "Contained: True (Probed: a connection that was answered before is not any more)",
            "Still open: High TokenUsable: &lt;img src=x&gt;. Remedy: kubectl delete rolebinding reader",
            "Evidence: 7 of 7 artifacts are stored whole: https://x/y (SHA-256 of its record: abc)",
            &format!(
                "Release: the playbook that releases, on this incident; or kubectl --namespace incident-response patch incidentresponse {} --type merge --patch '{{\"spec\":{{\"release\":true}}}}'",
                told.responses[0].name
            ),
            "Not acted on: k8s-pod \"&lt;b&gt;\": no",
        ]
    );
}

#[test]
fn an_outcome_is_under_way_until_it_has_settled_or_nobody_looks_any_more() {
    let response = one(&asking("isolatePod"));
    let one = std::slice::from_ref(&response);
    assert_eq!(outcome::created("1", &seen(one)).state, State::Working);
    assert_eq!(outcome::created("1", &Seen { over: true, ..seen(one) }).state, State::Settled);
    // A status that is about what was asked before says nothing.
    let mut released = response.clone();
    released.metadata.generation = Some(2);
    released.status = serde_json::from_value(json!({"observedGeneration": 1, "conditions": [
        {"type": "Ready", "status": "True", "reason": "Cut", "message": "", "lastTransitionTime": "2026-11-20T10:00:00Z"}]}))
    .unwrap();
    assert_eq!(outcome::released("1", &seen(&[released])).state, State::Working);
    assert_eq!(outcome::released("1", &seen(&[])).state, State::Settled);
    assert_eq!(outcome::refused("1", Refused::new("a", "b")).state, State::Refused);
}

#[test]
fn an_outcome_says_no_more_than_is_known() {
    let refused = [Refused::new("pod shop/web", "no")];
    let unreleased = outcome::released("1", &Seen { refused: &refused, ..seen(&[]) });
    assert_eq!(unreleased.comment, "Nothing was released.<br>Not acted on: pod shop/web: no");

    let gone = outcome::created("1", &Seen { asked: 2, ..seen(&[]) });
    assert_eq!(gone.state, State::Settled);
    assert!(gone.comment.starts_with("2 of 2 responses are there no more"), "{gone:?}");

    let unknown = outcome::unknown("1", Refused::new("the message", "it ends the intake"));
    assert!(unknown.comment.starts_with("What was done of it before is not known"), "{unknown:?}");
}

/// JSON as an attacker may write it, with the words that mean something among others.
fn anything() -> impl Strategy<Value = Value> {
    let words = prop_oneof![
        Just("K8s-pod".to_owned()),
        Just("container".to_owned()),
        Just("ns".to_owned()),
        Just("pod".to_owned()),
        Just(CLUSTER.to_owned()),
        Just("web".to_owned()),
        Just("kube-system".to_owned()),
        ".{0,20}",
    ];
    let keys = prop_oneof![
        Just("$id".to_owned()),
        Just("$ref".to_owned()),
        Just("Type".to_owned()),
        Just("Name".to_owned()),
        Just("Namespace".to_owned()),
        Just("Pod".to_owned()),
        Just("Cluster".to_owned()),
        Just("CloudResource".to_owned()),
        Just("ResourceId".to_owned()),
        Just("name".to_owned()),
    ];
    let leaf = prop_oneof![words.prop_map(Value::from), any::<i32>().prop_map(Value::from), Just(Value::Null)];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(keys.clone(), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn whatever_an_alert_says_what_is_created_is_bounded_valid_and_the_same_each_time(
        entities in prop::collection::vec(anything(), 0..12), action in prop_oneof![Just("isolatePod"), Just("isolateNamespace"), Just("cordonNode")],
    ) {
        let mut message = asking(action);
        message["defenderAlert"]["Entities"].as_array_mut().unwrap().extend(entities);
        let (responses, refused) = created(&message, &policy());
        prop_assert!(responses.len() <= 10);
        prop_assert!(refused.len() <= 22);
        for response in &responses {
            let name = response.metadata.name.as_deref().unwrap();
            prop_assert!(name.len() <= 63 && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'), "{}", name);
            prop_assert!(!name.starts_with('-') && !name.ends_with('-'));
            if let Some(pod) = &response.spec.target.pod {
                prop_assert!(pod.created_before.is_some());
            }
        }
        prop_assert_eq!(created(&message, &policy()), (responses, refused));
    }

    #[test]
    fn whatever_a_title_is_a_name_is_one(title in ".{0,400}", id in "[!-~]{1,200}", pod_name in "[a-z0-9]([-a-z0-9]{0,60}[a-z0-9])?") {
        let mut message = asking("isolatePod");
        message["defenderAlert"]["AlertDisplayName"] = title.into();
        message["defenderAlert"]["SystemAlertId"] = id.into();
        message["defenderAlert"]["Entities"][0] = pod(&pod_name, json!({"$ref": "ns"}));
        let (responses, _) = created(&message, &policy());
        let name = responses[0].metadata.name.as_deref().unwrap();
        prop_assert!(name.len() <= 63 && name.split('-').all(|part| part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())), "{}", name);
    }

    #[test]
    fn no_text_ends_the_intake(text in ".{0,2000}") {
        let _ = read(&Delivery { text: &text, inserted: now() }, now(), &AGES);
    }

    #[test]
    fn no_bytes_do(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
        let text = STANDARD.encode(bytes);
        let delivery = Delivery { text: &text, inserted: now() };
        prop_assert!(read(&delivery, now(), &AGES).is_err());
    }
}

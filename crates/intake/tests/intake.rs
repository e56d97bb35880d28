//! The intake on Azurite's queue, with an API server that is a map: what is created, what is told, and what is lost when things break. Nothing is.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests: a failed expectation ends the test")]

mod fixtures;
mod lab;
mod templates;

use fixtures::{pod, pod_alert};
use lab::Lab;
use serde_json::json;

#[tokio::test]
async fn a_message_becomes_a_response_and_is_told_how_it_went() {
    let lab = Lab::new("one").await;
    lab.operator.settles();
    lab.ask("m1", "isolatePod", &pod_alert()).await;

    let outcome = lab.settled("m1").await;

    assert_eq!(outcome["state"], "Settled");
    assert_eq!(outcome["responses"][0]["contained"], "True");
    assert!(
        outcome["comment"].as_str().unwrap().starts_with("pod shop/web: Cut: isolated<br>Contained: True"),
        "{outcome}"
    );
    assert_eq!(lab.operator.names().len(), 1);
    lab.emptied().await;
    assert_eq!(lab.aside().await, [] as [serde_json::Value; 0]);
}

#[tokio::test]
async fn asked_twice_it_is_one_response_and_both_are_told() {
    let lab = Lab::new("two").await;
    lab.operator.settles();
    lab.ask("m1", "isolatePod", &pod_alert()).await;
    lab.ask("m2", "isolatePod", &pod_alert()).await;

    let (one, two) = (lab.settled("m1").await, lab.settled("m2").await);

    assert_eq!(one["responses"], two["responses"]);
    assert_eq!(lab.operator.names().len(), 1);
}

#[tokio::test]
async fn what_it_created_it_releases_and_what_is_gone_is_released() {
    let lab = Lab::new("release").await;
    lab.operator.settles();
    let mut alert = pod_alert();
    alert["Entities"].as_array_mut().unwrap().push(pod("db", json!({"$ref": "ns"})));
    lab.ask("m1", "isolatePod", &alert).await;
    lab.settled("m1").await;
    lab.operator.somebody_creates("incident-response-of-a-person");

    lab.ask("m2", "release", &alert).await;
    let outcome = lab.settled("m2").await;

    assert_eq!(outcome["responses"].as_array().unwrap().len(), 2);
    assert_eq!(lab.operator.released().len(), 2, "and not that of a person");
    assert!(outcome["comment"].as_str().unwrap().contains("Released: let go"), "{outcome}");

    lab.operator.everything_is_deleted();
    lab.ask("m3", "release", &alert).await;
    let outcome = lab.settled("m3").await;
    assert_eq!(outcome["comment"], "No response of an intake is left for this incident: there is nothing to release.");
}

#[tokio::test]
async fn what_is_no_message_is_set_aside_with_its_reason_and_the_next_one_is_served() {
    let lab = Lab::new("poison").await;
    lab.operator.settles();
    lab.put("{\"id\": \"m0\", \"version\": 1, \"evil\": true}").await;
    lab.put("no JSON").await;
    lab.ask("m1", "isolatePod", &pod_alert()).await;

    lab.settled("m1").await;
    let told = lab.settled("m0").await;
    lab.emptied().await;

    assert_eq!(told["state"], "Refused");
    assert!(told["comment"].as_str().unwrap().contains("unknown field `evil`"), "{told}");
    let aside = lab.aside().await;
    assert_eq!(aside.len(), 2);
    assert!(
        aside
            .iter()
            .all(|note| note["reason"].as_str().unwrap().contains("not as it has to be") && note["whole"] == true)
    );
}

#[tokio::test]
async fn an_api_server_that_is_away_loses_nothing() {
    let lab = Lab::new("away").await;
    lab.operator.settles();
    lab.operator.away(3);
    lab.ask("m1", "isolatePod", &pod_alert()).await;

    assert_eq!(lab.settled("m1").await["state"], "Settled");
    assert_eq!(lab.operator.names().len(), 1);
}

#[tokio::test]
async fn an_answer_that_is_lost_makes_no_second_response() {
    let lab = Lab::new("lost").await;
    lab.operator.settles();
    lab.operator.loses_answers(1);
    lab.ask("m1", "isolatePod", &pod_alert()).await;

    assert_eq!(lab.settled("m1").await["responses"].as_array().unwrap().len(), 1);
    assert_eq!(lab.operator.names().len(), 1);
}

#[tokio::test]
async fn an_intake_that_is_ended_leaves_its_message_to_the_next_one() {
    let mut lab = Lab::new("ended").await;
    lab.ask("m1", "isolatePod", &pod_alert()).await;
    lab.working("m1").await;

    lab.restart().await;
    lab.operator.settles();

    assert_eq!(lab.settled("m1").await["state"], "Settled");
    assert_eq!(lab.operator.names().len(), 1);
    lab.emptied().await;
}

#[tokio::test]
async fn what_the_cluster_refuses_is_told_and_not_tried_for_ever() {
    let lab = Lab::new("refused").await;
    lab.operator.refuses("denied by policy: you may not isolate");
    lab.ask("m1", "isolatePod", &pod_alert()).await;

    let outcome = lab.settled("m1").await;

    assert_eq!(outcome["state"], "Refused");
    assert!(
        outcome["comment"].as_str().unwrap().contains("pod shop/web: the cluster refused it: denied by policy"),
        "{outcome}"
    );
    lab.emptied().await;
}

#[tokio::test]
async fn a_message_that_ends_the_intake_each_time_is_set_aside() {
    let lab = Lab::taking_up("often", 0).await;
    lab.ask("m1", "isolatePod", &pod_alert()).await;

    assert_eq!(lab.settled("m1").await["state"], "Refused");
    lab.emptied().await;
    assert!(lab.aside().await[0]["reason"].as_str().unwrap().contains("taken up"));
    assert_eq!(lab.operator.names(), [] as [String; 0]);
}

#[tokio::test]
async fn what_this_intake_does_not_do_is_told() {
    let lab = Lab::new("verbs").await;
    lab.ask_with("m1", "run", &pod_alert(), json!({"command": "kill-miner"})).await;

    assert!(lab.settled("m1").await["comment"].as_str().unwrap().contains("does not run (chart value intake.verbs)"));
    assert_eq!(lab.operator.names(), [] as [String; 0]);
}

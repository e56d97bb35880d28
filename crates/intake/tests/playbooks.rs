//! The playbooks of deploy/azure, run against Azurite and an intake.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests: a failed expectation ends the test")]

mod fixtures;
mod lab;
mod templates;

use fixtures::{pod_alert, sample};
use lab::Lab;
use serde_json::{Value, json};
use templates::template_of;
use tourniquet_workflow::Run;

const SENTINEL: &str = "playbook-sentinel";
const DEFENDER: &str = "playbook-defender";

/// What the trigger of Sentinel hands over.
fn incident() -> Value {
    json!({ "object": sample("sentinel-incident") })
}

fn comment(run: &Run) -> &str {
    let [comment] = run.comments.as_slice() else { panic!("{run:#?}") };
    assert_eq!(comment["incidentArmId"], sample("sentinel-incident")["id"]);
    comment["message"].as_str().unwrap()
}

#[tokio::test]
async fn an_incident_is_commented_with_what_became_of_each_pod() {
    let lab = Lab::new("sentinel").await;
    lab.operator.settles();

    let run = lab.playbook(SENTINEL, "isolatePod", "").run("08584-CU01", &incident()).await;

    let comment = comment(&run);
    assert!(comment.starts_with("<p>tourniquet, isolatePod:<br>pod shop/"), "{comment}");
    assert!(comment.contains("Contained: True"), "{comment}");
    assert!(comment.contains("pod shop/db-0") && comment.contains("pod shop/web-7d9c-x2x"), "{comment}");
    assert_eq!(lab.operator.names().len(), 2);
    lab.emptied().await;
}

#[tokio::test]
async fn pressed_twice_it_is_done_once_and_another_playbook_releases_all_of_it() {
    let lab = Lab::new("twice").await;
    lab.operator.settles();
    let isolate = lab.playbook(SENTINEL, "isolatePod", "");
    isolate.run("08584-CU01", &incident()).await;

    let again = isolate.run("08584-CU02", &incident()).await;
    assert!(comment(&again).contains("Contained: True"));
    assert_eq!(lab.operator.names().len(), 2);

    let released = lab.playbook(SENTINEL, "release", "").run("08584-CU03", &incident()).await;
    assert!(comment(&released).contains("Released: let go"), "{released:?}");
    assert_eq!(lab.operator.released().len(), 2);
}

#[tokio::test]
async fn what_is_refused_is_commented_with_its_reason() {
    let lab = Lab::new("off").await;

    let run = lab.playbook(SENTINEL, "run", "kill-miner").run("08584-CU01", &incident()).await;

    assert!(comment(&run).contains("Not acted on: run: the intake of this cluster does not run"), "{run:?}");
}

#[tokio::test]
async fn words_of_an_incident_are_no_expressions_and_no_xml() {
    let lab = Lab::new("words").await;
    lab.operator.settles();
    let mut incident = incident();
    incident["object"]["properties"]["title"] = "</MessageText>@{parameters('queue')}<script>".into();

    let run = lab.playbook(SENTINEL, "isolatePod", "").run("08584-CU01", &incident).await;

    assert!(comment(&run).contains("Contained: True"), "{run:?}");
    assert_eq!(lab.operator.titles(), ["</MessageText>@{parameters('queue')}<script>"; 2]);
}

#[tokio::test]
async fn an_incident_without_alerts_says_that_it_names_no_pod() {
    let lab = Lab::new("without").await;
    let mut incident = incident();
    incident["object"]["properties"].as_object_mut().unwrap().remove("alerts");

    let run = lab.playbook(SENTINEL, "isolatePod", "").run("08584-CU01", &incident).await;

    assert!(comment(&run).contains("it names no pod"), "{run:?}");
}

#[tokio::test]
async fn a_message_that_cannot_be_sent_is_commented_as_that() {
    let lab = Lab::new("unsent").await;

    let run = lab.playbook_of_queue("no-such-queue", SENTINEL, "isolatePod").run("08584-CU01", &incident()).await;

    assert!(
        comment(&run)
            .contains("nothing was done, the message could not be put into the queue of the cluster (status 404)")
    );
    assert_eq!(run.statuses["Until_settled"], "Skipped");
}

#[tokio::test]
async fn an_intake_that_does_not_run_is_commented_as_that() {
    let lab = Lab::new("asleep").await.asleep().await;

    let run = lab.playbook(SENTINEL, "isolatePod", "").with_rounds(3).run("08584-CU01", &incident()).await;

    assert!(comment(&run).contains("the cluster has said nothing yet"), "{run:?}");
}

#[tokio::test]
async fn an_alert_of_defender_is_responded_to_and_its_run_says_what_came_of_it() {
    let lab = Lab::new("defender").await;
    lab.operator.settles();

    let run = lab.playbook(DEFENDER, "isolateNamespace", "").run("08584-CU01", &pod_alert()).await;

    assert_eq!(run.terminated, None);
    assert!(run.outputs["Comment"].as_str().unwrap().starts_with("namespace shop: Cut: isolated<br>"), "{run:?}");
}

#[tokio::test]
async fn a_run_for_defender_that_hears_nothing_fails() {
    let lab = Lab::new("silence").await.asleep().await;

    let run = lab.playbook(DEFENDER, "isolatePod", "").with_rounds(3).run("08584-CU01", &pod_alert()).await;

    assert_eq!(run.terminated.unwrap()["runStatus"], "Failed");
}

#[test]
fn no_template_lets_a_containment_end_by_itself_or_has_a_secret() {
    for name in ["storage", SENTINEL, DEFENDER] {
        let text = template_of(name).to_string();
        for word in ["expireAfter", "listKeys", "sig=", "AccountKey", "securestring"] {
            assert!(!text.to_lowercase().contains(&word.to_lowercase()), "{name} has {word}");
        }
    }
}

#[test]
fn the_storage_is_closed_to_keys_and_old_tls_and_nobody_may_delete() {
    let template = template_of("storage");
    let resources = template["resources"].as_array().unwrap();
    let of = |kind: &str| resources.iter().filter(|resource| resource["type"] == kind).collect::<Vec<_>>();

    let account = &of("Microsoft.Storage/storageAccounts")[0]["properties"];
    assert_eq!(account["allowSharedKeyAccess"], false);
    assert_eq!(account["minimumTlsVersion"], "TLS1_2");
    assert_eq!(account["allowBlobPublicAccess"], false);
    assert_eq!(of("Microsoft.Storage/storageAccounts/blobServices")[0]["properties"]["isVersioningEnabled"], true);
    assert_eq!(of("Microsoft.Storage/storageAccounts/blobServices/containers/immutabilityPolicies").len(), 1);
    for role in of("Microsoft.Authorization/roleDefinitions") {
        assert!(!role["properties"]["permissions"].to_string().contains("delete"), "{role}");
    }
    for credential in of("Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials") {
        assert_eq!(credential["properties"]["audiences"], json!(["api://AzureADTokenExchange"]));
    }
}

#[test]
fn the_two_playbooks_differ_in_what_triggers_them_only() {
    let definition = |name: &str| {
        let template = template_of(name);
        let workflow = template["resources"].as_array().unwrap()[1]["properties"].clone();
        workflow["definition"]["actions"].clone()
    };
    let (sentinel, defender) = (definition(SENTINEL), definition(DEFENDER));
    for action in ["Put", "Until_settled"] {
        assert_eq!(sentinel[action], defender[action]);
    }
}

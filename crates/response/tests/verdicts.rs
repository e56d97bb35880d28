//! What may be said of an isolation: never more than was seen.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests: a panic is a failed test")]

mod fixtures;

use fixtures::scene::{Scene, a_pod_that_answers, a_pod_that_cilium_serves, endpoint, result};
use fixtures::{CONTAINER_ID, OTHER_UID, RESPONSE_UID, allow_all, object, policy, says, seconds, stored};
use serde_json::json;
use tourniquet_api::{Answer, names};

/// Outcome, reason, assurance and Contained, in one line.
fn verdict(scene: &Scene) -> String {
    let pass = scene.look();
    assert_eq!(pass.steps, [], "everything is in place");
    let result = result(&pass);
    let contained = says(&pass.status, "Contained");
    let assurance = result.assurance.expect("an isolation has an assurance");
    format!(
        "{} {} {assurance:?}, Contained={}",
        result.outcome.as_str(),
        result.reason.as_deref().unwrap_or_default(),
        contained.split_once('/').map_or("absent", |(status, _)| status)
    )
}

/// The policies and labels are in place; Cilium gave the pod its identity, too.
fn in_force_on_cilium() -> Scene {
    let mut scene = a_pod_that_cilium_serves().act();
    scene.endpoint = Some(endpoint(&[RESPONSE_UID]));
    scene
}

fn answered(mut scene: Scene, after: Answer) -> Scene {
    scene.reach = Some(after);
    scene
}

mod on_cilium {
    use super::*;

    #[test]
    fn in_force_is_what_the_engine_reports_on_this_pod() {
        assert_eq!(verdict(&in_force_on_cilium()), "Done DenyTier EngineReported, Contained=True");
    }

    #[test]
    fn a_policy_that_somebody_emptied_is_not_in_force_whatever_the_engine_says_of_it() {
        let mut scene = in_force_on_cilium();
        scene.response.status = Some(stored(&scene.look().status));
        assert_eq!(says(&scene.look().status, "Contained"), "True/DenyTier");
        let policy = scene.clusterwide.values_mut().next().expect("the policy is there");
        policy.spec = json!({ "endpointSelector": {} });
        let pass = scene.look();
        assert_eq!(pass.steps.len(), 1, "it is put back: {:?}", pass.steps);
        assert_eq!(says(&pass.status, "Contained"), "False/Applying");
    }

    #[test]
    fn and_probed_when_what_answered_is_silent() {
        let scene = answered(in_force_on_cilium(), Answer::TimedOut);
        assert_eq!(verdict(&scene), "Done DenyTier Probed, Contained=True");
    }

    #[test]
    fn silence_proves_nothing_of_a_pod_that_was_silent_before() {
        let mut scene = a_pod_that_cilium_serves();
        scene.control = Answer::TimedOut;
        scene = answered(scene.act(), Answer::TimedOut);
        scene.endpoint = Some(endpoint(&[RESPONSE_UID]));
        assert_eq!(verdict(&scene), "Done DenyTier EngineReported, Contained=True");
        assert!(scene.look().watch.is_empty(), "nor is it tried");
    }

    #[test]
    fn a_policy_that_allows_is_overruled() {
        let mut scene = in_force_on_cilium();
        scene.policies.push(allow_all("allow-all"));
        assert_eq!(verdict(&scene), "Done DenyTier EngineReported, Contained=True");
        assert!(result(&scene.look()).message.as_deref().unwrap().contains("overruled: NetworkPolicy allow-all"));
    }

    #[test]
    fn it_settles_until_the_identity_follows_the_label() {
        let scene = a_pod_that_cilium_serves().act();
        assert_eq!(verdict(&scene), "Running Settling Accepted, Contained=False");
        assert_eq!(scene.look().again_after, Some(seconds(2)), "the receipt is due");
        let scene = scene.later(seconds(2)).act();
        assert_eq!(scene.look().again_after, Some(seconds(118)));
        assert_eq!(scene.look().status.residual[0].code, "NotContained");
    }

    #[test]
    fn and_is_not_in_force_when_it_never_does() {
        let scene = a_pod_that_cilium_serves().act().later(seconds(120));
        assert_eq!(verdict(&scene), "Partial NotInForce Accepted, Contained=False");
    }

    #[test]
    fn an_endpoint_that_is_not_ready_does_not_yet_enforce_what_it_reports() {
        let mut scene = in_force_on_cilium();
        scene.endpoint.as_mut().unwrap().state = "regenerating".to_owned();
        assert_eq!(verdict(&scene), "Running Settling Accepted, Contained=False");
    }

    #[test]
    fn an_endpoint_that_waits_for_its_next_identity_goes_on_enforcing_the_present_one() {
        let mut scene = in_force_on_cilium().act();
        scene.endpoint.as_mut().unwrap().state = "waiting-for-identity".to_owned();
        assert_eq!(verdict(&scene), "Done DenyTier EngineReported, Contained=True");
    }

    #[test]
    fn a_policy_that_cilium_did_not_take_or_that_goes_is_not_in_force() {
        let mut invalid = in_force_on_cilium();
        invalid.clusterwide.get_mut(&names::policy(RESPONSE_UID)).unwrap().valid = false;
        assert_eq!(verdict(&invalid), "Running Settling Accepted, Contained=False");

        let mut going = in_force_on_cilium();
        going.clusterwide.get_mut(&names::policy(RESPONSE_UID)).unwrap().terminating = true;
        assert_eq!(verdict(&going), "Running Settling Accepted, Contained=False");
    }

    #[test]
    fn a_pod_that_still_answers_is_open_whatever_is_reported() {
        for answer in [Answer::Answered, Answer::Refused] {
            let scene = answered(in_force_on_cilium(), answer);
            assert_eq!(verdict(&scene), "Running Settling Accepted, Contained=False");
            assert_eq!(verdict(&scene.later(seconds(120))), "Partial NotInForce Accepted, Contained=False");
        }
    }

    #[test]
    fn what_was_seen_before_a_restart_does_not_stand_for_a_policy_that_is_missing() {
        let mut scene = answered(a_pod_that_answers().act().later(seconds(5)), Answer::TimedOut);
        assert_eq!(verdict(&scene), "Done NetworkPolicy Probed, Contained=True");
        scene.response.status = Some(stored(&scene.look().status));
        scene.reach = None;
        assert_eq!(verdict(&scene), "Done NetworkPolicy Probed, Contained=True", "until the first attempt has ended");
        scene.policies.clear();
        for reach in [None, Some(Answer::TimedOut)] {
            scene.reach = reach;
            let pass = scene.look();
            assert_eq!(pass.steps.len(), 1, "it is put back: {:?}", pass.steps);
            assert_eq!(
                says(&pass.status, "Contained"),
                "False/Applying",
                "{reach:?}: silence is not by what is missing"
            );
        }
    }

    #[test]
    fn the_endpoint_of_a_former_pod_of_the_name_says_nothing() {
        let mut scene = a_pod_that_answers();
        let mut former = endpoint(&[RESPONSE_UID]);
        former.pod_uid = Some("former".to_owned());
        scene.endpoint = Some(former);
        assert_eq!(verdict(&scene.act().later(seconds(5))), "Running Settling Accepted, Contained=Unknown");
    }
}

mod where_nobody_reports {
    use super::*;

    #[test]
    fn it_is_tried_before_anything_is_said() {
        let scene = a_pod_that_answers().act();
        assert_eq!(verdict(&scene), "Running Settling Accepted, Contained=Unknown");
        assert_eq!(scene.look().watch, ["10.1.0.7:8080".parse().unwrap()]);
    }

    #[test]
    fn what_answered_and_is_silent_is_contained() {
        let scene = answered(a_pod_that_answers().act(), Answer::TimedOut);
        assert_eq!(verdict(&scene), "Done NetworkPolicy Probed, Contained=True");
        let pass = scene.look();
        let probe = &result(&pass).probes[0];
        assert_eq!((probe.before, probe.after), (Answer::Answered, Some(Answer::TimedOut)));
    }

    #[test]
    fn what_goes_on_answering_is_not_contained() {
        let scene = answered(a_pod_that_answers().act(), Answer::Answered);
        assert_eq!(verdict(&scene), "Running Settling Accepted, Contained=False");
        assert_eq!(verdict(&scene.later(seconds(5))), "Partial NotEnforced Accepted, Contained=False");
    }

    #[test]
    fn a_policy_that_allows_defeats_it_and_is_named() {
        for reach in [None, Some(Answer::Answered), Some(Answer::TimedOut)] {
            let mut scene = a_pod_that_answers().act().later(seconds(5));
            scene.reach = reach;
            scene.policies.push(allow_all("allow-all"));
            assert_eq!(verdict(&scene), "Partial AllowedByPolicy Accepted, Contained=False");
            assert!(result(&scene.look()).message.as_deref().unwrap().contains("NetworkPolicy allow-all"));
        }
    }

    #[test]
    fn a_policy_that_allows_and_says_that_it_is_ours_is_named_as_well() {
        let mut scene = a_pod_that_answers().act().later(seconds(5));
        let mut theirs = allow_all("theirs");
        theirs.metadata.labels = Some([(names::RESPONSE_LABEL.to_owned(), OTHER_UID.to_owned())].into());
        scene.policies.push(theirs);
        assert_eq!(verdict(&scene), "Partial AllowedByPolicy Accepted, Contained=False");
    }

    #[test]
    fn policies_that_allow_are_named_in_one_order() {
        let message = |policies: [&str; 2]| {
            let mut scene = a_pod_that_answers().act();
            scene.policies.extend(policies.map(allow_all));
            result(&scene.look()).message.clone()
        };
        assert_eq!(message(["one", "other"]), message(["other", "one"]));
    }

    #[test]
    fn a_policy_of_other_pods_or_that_allows_nothing_does_not() {
        let mut scene = answered(a_pod_that_answers().act(), Answer::TimedOut);
        let others = json!({ "podSelector": { "matchLabels": { "app": "db" } }, "ingress": [{}] });
        scene.policies.extend([policy("db", others), policy("deny", json!({ "podSelector": {} }))]);
        assert_eq!(verdict(&scene), "Done NetworkPolicy Probed, Contained=True");
    }

    #[test]
    fn without_an_answer_from_before_there_is_nothing_to_compare() {
        let mut scene = a_pod_that_answers();
        scene.control = Answer::TimedOut;
        assert_eq!(
            verdict(&answered(scene.act(), Answer::TimedOut)),
            "Partial NotObserved Accepted, Contained=Unknown"
        );
    }

    #[test]
    fn no_way_to_the_pod_is_not_silence() {
        let scene = answered(a_pod_that_answers().act(), Answer::Unreachable).later(seconds(5));
        assert_eq!(verdict(&scene), "Partial NotObserved Accepted, Contained=Unknown");
    }

    #[test]
    fn with_two_responses_on_the_pod_nobody_can_tell_which_holds_it() {
        let scene = answered(a_pod_that_answers().held_by_another().act(), Answer::TimedOut);
        assert_eq!(verdict(&scene), "Partial NotObserved Accepted, Contained=Unknown");
    }
}

mod of_the_pod {
    use super::*;

    #[test]
    fn a_pod_that_is_gone_is_not_contained_and_what_was_done_stays_done() {
        let mut scene = in_force_on_cilium().act();
        scene.pod = None;
        assert_eq!(verdict(&scene), "Done TargetGone None, Contained=False");

        let mut scene = a_pod_that_cilium_serves().act();
        scene.pod.as_mut().unwrap().metadata.uid = Some("another".to_owned());
        assert_eq!(verdict(&scene), "Failed TargetGone None, Contained=False");
    }

    #[test]
    fn a_restarted_container_is_lost_evidence_and_stays_so() {
        let mut scene = in_force_on_cilium().act();
        assert_eq!(says(&scene.look().status, "EvidenceIntact"), "True/Running");

        let restarted = |id: &str, count| object(fixtures::container_status("web", id, count));
        let status = |scene: &mut Scene, with| {
            scene.pod.as_mut().unwrap().status.as_mut().unwrap().container_statuses = Some(vec![with]);
        };
        status(&mut scene, restarted("containerd://3", 1));
        scene = scene.act();
        assert_eq!(says(&scene.look().status, "EvidenceIntact"), "False/Lost");

        status(&mut scene, restarted(CONTAINER_ID, 0));
        assert_eq!(says(&scene.look().status, "EvidenceIntact"), "False/Lost");
    }

    #[test]
    fn a_value_that_somebody_gave_our_common_label_does_not_stop_the_isolation() {
        let mut scene = a_pod_that_cilium_serves().with_pod(|pod| {
            pod.metadata.labels.as_mut().unwrap().insert(names::CONTAINED_LABEL.to_owned(), "false".to_owned());
        });
        scene = scene.act();
        scene.endpoint = Some(endpoint(&[RESPONSE_UID, OTHER_UID]));
        assert_eq!(verdict(&scene), "Done DenyTier EngineReported, Contained=True");
        let labels = scene.pod.unwrap().metadata.labels.unwrap();
        assert_eq!(labels.get(names::CONTAINED_LABEL).map(String::as_str), Some("false"));
    }
}

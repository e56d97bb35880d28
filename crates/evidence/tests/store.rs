//! What is stored, and what is said of it, when nothing but the source fails.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests: a panic is a failed test")]

mod lab;

use std::collections::BTreeMap;
use std::time::Duration;

use lab::proxy::{Fate, Seen, times};
use lab::sources::{breaks, bytes, falls_silent, sha256};
use lab::{Lab, assert_stored, options, put, well};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tourniquet_evidence::store::{Ended, Immutability, Listed, Verdict};

const MIB: usize = 1024 * 1024;

#[tokio::test]
async fn a_source_of_any_length_is_stored_as_it_is() {
    let lab = Lab::new().await;
    for length in [0, 1, 4 * MIB - 1, 4 * MIB, 4 * MIB + 1, 21 * MIB + 7] {
        let content = bytes(length);
        let stored = put(&lab.store(), &format!("a/{length}.bin"), &content).await.unwrap();
        assert_stored(&lab, &stored, &content, &Ended::Whole).await;
        assert!(!stored.recognised && !stored.url.contains("sig"), "{stored:?}");
    }
}

#[tokio::test]
async fn what_is_more_than_the_limit_is_left_and_said() {
    let lab = Lab::new().await;
    let content = bytes(5 * MIB);
    for limit in [0, 100, 4 * MIB, 5 * MIB - 1] {
        let mut options = options();
        options.limit = limit as u64;
        let stored = lab.store().put(&format!("limit-{limit}"), content.as_slice(), well, options).await.unwrap();
        assert!(stored.truncated());
        assert_stored(&lab, &stored, &content[..limit], &Ended::Truncated).await;
    }
}

#[tokio::test]
async fn a_source_that_just_fits_is_whole() {
    let lab = Lab::new().await;
    let content = bytes(4 * MIB);
    let mut options = options();
    options.limit = content.len() as u64;
    let stored = lab.store().put("fits", content.as_slice(), well, options).await.unwrap();
    assert_stored(&lab, &stored, &content, &Ended::Whole).await;
}

#[tokio::test]
async fn what_came_before_a_source_broke_is_stored_and_marked() {
    let lab = Lab::new().await;
    for length in [0, 1000, 9 * MIB] {
        let content = bytes(length);
        let source = breaks(content.clone(), "the connection to the pod was lost");
        let stored = lab.store().put(&format!("broken-{length}"), source, well, options()).await.unwrap();
        assert_stored(&lab, &stored, &content, &Ended::Broken("the connection to the pod was lost".to_owned())).await;
    }
}

#[tokio::test]
async fn a_program_that_failed_makes_what_just_ended_broken() {
    let lab = Lab::new().await;
    let verdict = |_| async {
        let metadata = BTreeMap::from([("artifact".to_owned(), "abc".to_owned())]);
        Verdict { broken: Some("exit status 2: é".to_owned()), metadata, ..Verdict::default() }
    };
    let stored = lab.store().put("failed", b"half".as_slice(), verdict, options()).await.unwrap();
    assert_eq!(stored.ended, Ended::Broken("exit status 2: é".to_owned()));
    let found = lab.store().properties("failed").await.unwrap().unwrap();
    assert_eq!(found.metadata.get("artifact").unwrap(), "abc");
    // Headers are ASCII.
    assert_eq!(found.stored("failed").unwrap().ended, Ended::Broken("exit status 2: ?".to_owned()));
}

#[tokio::test]
async fn a_program_that_says_nothing_in_the_end_is_no_success() {
    let lab = Lab::new().await;
    let mut options = options();
    options.grace = Duration::from_millis(300);
    let stored = lab.store().put("mute", b"all?".as_slice(), |_| std::future::pending(), options).await;
    // The grace is over with it; so much time is left as the deadline leaves.
    assert!(matches!(stored.unwrap().ended, Ended::Broken(why) if why.contains("did not say")));
}

#[tokio::test]
async fn a_source_that_falls_silent_is_given_up_and_marked() {
    let lab = Lab::new().await;
    let content = bytes(5 * MIB);
    let mut options = options();
    options.idle = Duration::from_millis(200);
    let stored = lab.store().put("silent", falls_silent(content.clone()), well, options).await.unwrap();
    assert_stored(&lab, &stored, &content, &Ended::TimedOut).await;
}

#[tokio::test]
async fn a_source_is_given_up_at_its_deadline() {
    let lab = Lab::new().await;
    let content = bytes(1000);
    let mut options = options();
    options.deadline = Instant::now() + Duration::from_millis(300);
    let stored = lab.store().put("late", falls_silent(content.clone()), well, options).await.unwrap();
    assert_stored(&lab, &stored, &content, &Ended::TimedOut).await;
}

#[tokio::test]
async fn what_came_before_it_was_cancelled_is_stored_and_marked() {
    let lab = Lab::new().await;
    let content = bytes(4 * MIB + 3);
    let mut options = options();
    options.cancel = CancellationToken::new();
    options.cancel.cancel();
    let stored = lab.store().put("cancelled-first", content.as_slice(), well, options.clone()).await.unwrap();
    assert_stored(&lab, &stored, b"", &Ended::Cancelled).await;

    options.cancel = CancellationToken::new();
    options.nonce = uuid::Uuid::new_v4();
    let (cancel, source, store) = (options.cancel.clone(), falls_silent(content.clone()), lab.store());
    let putting = tokio::spawn(async move { store.put("cancelled", source, well, options).await });
    tokio::task::yield_now().await;
    cancel.cancel();
    let stored = putting.await.unwrap().unwrap();
    // However much had come by then.
    let length = usize::try_from(stored.length).unwrap();
    assert_stored(&lab, &stored, &content[..length], &Ended::Cancelled).await;
}

#[tokio::test]
async fn nothing_is_overwritten() {
    let lab = Lab::new().await;
    put(&lab.store(), "once", b"first").await.unwrap();
    let trouble = put(&lab.store(), "once", b"second").await.unwrap_err();
    assert_eq!((trouble.code.as_str(), trouble.transient), ("BlobAlreadyExists", false), "{trouble}");
    assert_eq!(lab.content("once").await.unwrap(), b"first");
    // The same bytes by somebody else are not ours either.
    assert_eq!(put(&lab.store(), "once", b"first").await.unwrap_err().code, "BlobAlreadyExists");
}

#[tokio::test]
async fn the_same_upload_again_is_recognised() {
    let lab = Lab::new().await;
    let options = options();
    let first = lab.store().put("again", b"same".as_slice(), well, options.clone()).await.unwrap();
    let second = lab.store().put("again", b"same".as_slice(), well, options.clone()).await.unwrap();
    assert!(second.recognised && second.etag == first.etag, "{second:?}");
    let trouble = lab.store().put("again", b"else".as_slice(), well, options).await.unwrap_err();
    assert_eq!(trouble.code, "BlobAlreadyExists");
}

#[tokio::test]
async fn names_that_lead_elsewhere_are_refused() {
    let lab = Lab::new().await;
    for path in ["../other", "a//b", "/a", "", "a/./b", "a b", "a?b", "a%2Fb"] {
        assert_eq!(put(&lab.store(), path, b"x").await.unwrap_err().code, "InvalidName", "{path:?}");
    }
}

#[tokio::test]
async fn what_is_there_can_be_listed_and_read() {
    let lab = Lab::new().await;
    let store = lab.store();
    for (path, content) in [("f/b", "22"), ("f/a", "1"), ("g", "")] {
        put(&store, path, content.as_bytes()).await.unwrap();
    }
    let listed = |path: &str, length| Listed { path: path.to_owned(), length };
    assert_eq!(store.list("f/").await.unwrap(), [listed("f/a", 1), listed("f/b", 2)]);
    assert_eq!(store.list("none/").await.unwrap(), []);
    assert_eq!(store.get_small("f/b").await.unwrap().unwrap(), b"22");
    assert_eq!(store.get_small("g").await.unwrap().unwrap(), b"");
    assert_eq!(store.get_small("none").await.unwrap(), None);
    assert_eq!(store.properties("none").await.unwrap(), None);
    let content = bytes(9 * MIB);
    put(&store, "large", &content).await.unwrap();
    assert_eq!(sha256(&store.get_small("large").await.unwrap().unwrap()), sha256(&content));
}

#[tokio::test]
async fn a_check_is_a_round_trip_and_leaves_one_blob() {
    let lab = Lab::new().await;
    for _ in 0..2 {
        let checked = lab.store().check().await.unwrap();
        // A signature for a container may not ask for its properties.
        assert_eq!(checked.immutability, Immutability::Unknown);
        assert!(checked.clock_offset.abs().as_secs() < 60, "{checked:?}");
    }
    assert_eq!(lab.store().list("").await.unwrap().len(), 1);
}

/// What Azure answers; Azurite has no immutability.
fn of_the_container(headers: &'static [(&'static str, &'static str)]) -> impl lab::proxy::Rule {
    move |seen: &Seen| {
        if seen.query.contains("restype=container") {
            Fate::Answered(200, "None", headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect())
        } else {
            Fate::Passes
        }
    }
}

#[tokio::test]
async fn immutability_is_what_the_service_says_of_the_container() {
    let lab = Lab::new().await;
    let (policy, hold) = ("x-ms-has-immutability-policy", "x-ms-has-legal-hold");
    let (store, proxy) = lab.behind(lab::proxy::passes).await;
    let says = async |headers| {
        proxy.follow(of_the_container(headers));
        store.check().await.unwrap().immutability
    };
    assert_eq!(says(Box::leak(Box::new([(policy, "true"), (hold, "false")]))).await, Immutability::Verified);
    assert_eq!(says(Box::leak(Box::new([(policy, "false"), (hold, "true")]))).await, Immutability::Verified);
    assert_eq!(says(Box::leak(Box::new([(policy, "false"), (hold, "false")]))).await, Immutability::Absent);
    assert_eq!(says(&[]).await, Immutability::Unknown);
}

#[tokio::test]
async fn a_check_of_a_container_that_keeps_the_blob_of_the_last_one_passes() {
    let lab = Lab::new().await;
    lab.store().check().await.unwrap();
    let kept = Fate::Answered(409, "BlobImmutableDueToPolicy", vec![]);
    let (store, _proxy) = lab.behind(times(usize::MAX, kept, |seen| seen.write.is_some())).await;
    store.check().await.unwrap();
}

#[tokio::test]
async fn a_check_notices_what_somebody_else_put_there() {
    let lab = Lab::new().await;
    put(&lab.store(), "tourniquet-check.txt", b"not this").await.unwrap();
    assert_eq!(lab.store().check().await.unwrap_err().code, "ReadBackDiffers");
}

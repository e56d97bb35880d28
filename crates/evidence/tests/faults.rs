//! What becomes of an upload when the service, or the way to it, fails: whole or marked, nothing lost, nothing double.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests: a panic is a failed test")]

mod lab;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lab::proxy::{Fate, Seen, once, passes, times};
use lab::sources::{bytes, falls_silent};
use lab::{Lab, PATIENCE, assert_stored, options, put, well};
use tokio::time::{Instant, timeout};
use tourniquet_evidence::store::Ended;
use tourniquet_evidence::{Auth, Store};

const MIB: usize = 1024 * 1024;

/// Whatever happens to this request, once, the upload is whole in the end, and was committed once.
async fn an_upload_bears(fate: Fate, which: impl Fn(&Seen) -> bool + Send + 'static) {
    let lab = Lab::new().await;
    let content = bytes(13 * MIB);
    let (store, proxy) = lab.behind(once(fate, which)).await;
    let stored = put(&store, "artifact", &content).await.unwrap();
    assert_stored(&lab, &stored, &content, &Ended::Whole).await;
    assert_eq!(proxy.commits(), ["prod/artifact"]);
    assert_eq!(*store.held_up().borrow(), None);
}

fn unavailable(seconds: u32) -> Fate {
    Fate::Answered(503, "ServerBusy", vec![("retry-after", seconds.to_string())])
}

#[tokio::test]
async fn an_upload_bears_a_connection_that_is_cut_in_the_middle_of_a_block() {
    an_upload_bears(Fate::CutMidway, Seen::is_block).await;
}

#[tokio::test]
async fn an_upload_bears_a_block_whose_answer_is_lost() {
    an_upload_bears(Fate::AnswerLost, Seen::is_block).await;
}

#[tokio::test]
async fn an_upload_bears_a_commit_that_does_not_arrive() {
    an_upload_bears(Fate::CutMidway, Seen::is_commit).await;
}

#[tokio::test]
async fn an_upload_bears_a_service_that_is_busy() {
    an_upload_bears(unavailable(1), Seen::is_block).await;
    an_upload_bears(unavailable(1), Seen::is_commit).await;
}

#[tokio::test]
async fn an_upload_bears_slow_answers() {
    an_upload_bears(Fate::Slow(Duration::from_millis(500)), Seen::is_block).await;
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_recognised_as_ones_own() {
    let lab = Lab::new().await;
    let content = bytes(5 * MIB);
    let (store, proxy) = lab.behind(once(Fate::AnswerLost, Seen::is_commit)).await;
    let stored = put(&store, "artifact", &content).await.unwrap();
    assert!(stored.recognised);
    assert_stored(&lab, &stored, &content, &Ended::Whole).await;
    assert_eq!(proxy.commits(), ["prod/artifact"]);
}

#[tokio::test]
async fn somebody_elses_blob_is_not_taken_for_ones_own_after_a_lost_answer() {
    let lab = Lab::new().await;
    put(&lab.store(), "artifact", b"theirs").await.unwrap();
    let (store, _proxy) = lab.behind(once(Fate::Dropped, Seen::is_commit)).await;
    assert_eq!(put(&store, "artifact", b"ours").await.unwrap_err().code, "BlobAlreadyExists");
    assert_eq!(lab.content("artifact").await.unwrap(), b"theirs");
}

#[tokio::test]
async fn a_request_that_nobody_answers_is_made_again() {
    let lab = Lab::new().await;
    let proxy = lab::proxy::Proxy::start(lab.azurite, once(Fate::Hangs, Seen::is_block)).await;
    let mut config = lab.config_at(&proxy.endpoint(), lab.sas().sign());
    config.times.request = Duration::from_secs(2);
    let content = bytes(MIB);
    let stored = put(&Store::open(&config).unwrap(), "artifact", &content).await.unwrap();
    assert_stored(&lab, &stored, &content, &Ended::Whole).await;
}

#[tokio::test]
async fn an_outage_in_the_middle_is_borne_and_said_meanwhile() {
    let lab = Lab::new().await;
    let content = bytes(30 * MIB);
    let out = Arc::new(AtomicBool::new(false));
    let (outage, mut blocks) = (Arc::clone(&out), 0);
    // It begins with the third block, and ends when the test says so.
    let (store, proxy) = lab
        .behind(move |seen: &Seen| {
            blocks += usize::from(seen.is_block());
            if blocks == 3 {
                outage.store(true, Ordering::SeqCst);
                blocks += 1;
            }
            if outage.load(Ordering::SeqCst) { Fate::Dropped } else { Fate::Passes }
        })
        .await;
    let (uploading, mut held_up) = (store.clone(), store.held_up());
    let source = content.clone();
    let upload = tokio::spawn(async move { put(&uploading, "artifact", &source).await });
    let trouble = timeout(PATIENCE, held_up.wait_for(Option::is_some)).await.unwrap().unwrap().clone().unwrap();
    assert!(trouble.transient && trouble.code == "ConnectionLost", "{trouble:?}");
    assert!(!upload.is_finished());
    out.store(false, Ordering::SeqCst);
    let stored = upload.await.unwrap().unwrap();
    assert_stored(&lab, &stored, &content, &Ended::Whole).await;
    assert_eq!(proxy.commits(), ["prod/artifact"]);
    assert_eq!(*store.held_up().borrow(), None);
}

#[tokio::test]
async fn an_outage_without_an_end_is_an_error_and_leaves_nothing() {
    let lab = Lab::new().await;
    let proxy =
        lab::proxy::Proxy::start(lab.azurite, times(usize::MAX, unavailable(0), |seen| seen.write.is_some())).await;
    let mut config = lab.config_at(&proxy.endpoint(), lab.sas().sign());
    config.times.patience = Duration::from_secs(1);
    let trouble = put(&Store::open(&config).unwrap(), "artifact", &bytes(9 * MIB)).await.unwrap_err();
    assert_eq!((trouble.code.as_str(), trouble.transient), ("ServerBusy", true), "{trouble}");
    assert_eq!(lab.content("artifact").await, None);
}

#[tokio::test]
async fn a_service_that_asks_to_wait_longer_than_there_is_time_is_not_waited_for() {
    let lab = Lab::new().await;
    let (store, proxy) = lab.behind(times(usize::MAX, unavailable(3600), |seen| seen.write.is_some())).await;
    let trouble = put(&store, "artifact", b"x").await.unwrap_err();
    assert_eq!(trouble.retry_after, Some(Duration::from_secs(3600)));
    assert_eq!(proxy.writes(), 1);
}

#[tokio::test]
async fn what_was_received_is_stored_when_a_source_is_cancelled_during_an_outage() {
    let lab = Lab::new().await;
    let (store, proxy) = lab.behind(times(usize::MAX, Fate::Dropped, |seen| seen.write.is_some())).await;
    let content = bytes(40 * MIB);
    let options = options();
    let (cancel, mut held_up, source) = (options.cancel.clone(), store.held_up(), content.clone());
    let upload = tokio::spawn(async move { store.put("artifact", source.as_slice(), well, options).await });
    timeout(PATIENCE, held_up.wait_for(Option::is_some)).await.unwrap().unwrap();
    cancel.cancel();
    proxy.follow(passes);
    let stored = upload.await.unwrap().unwrap();
    let length = usize::try_from(stored.length).unwrap();
    assert!(length < content.len());
    assert_stored(&lab, &stored, &content[..length], &Ended::Cancelled).await;
}

#[tokio::test]
async fn a_store_that_is_out_when_time_is_up_says_why() {
    let lab = Lab::new().await;
    let (store, _proxy) = lab.behind(times(usize::MAX, Fate::Dropped, |seen| seen.write.is_some())).await;
    let mut options = options();
    options.deadline = Instant::now() + Duration::from_millis(300);
    options.grace = Duration::from_millis(300);
    let trouble = store.put("artifact", falls_silent(bytes(100)), well, options).await.unwrap_err();
    assert!(trouble.transient && trouble.message.contains("artifact"), "{trouble}");
    assert_eq!(lab.content("artifact").await, None);
}

#[tokio::test]
async fn a_signature_that_expires_in_the_middle_is_replaced_without_beginning_again() {
    let lab = Lab::new().await;
    let content = bytes(30 * MIB);
    let mut blocks = 0;
    let old = secrecy::ExposeSecret::expose_secret(&lab.sas().sign()).to_owned();
    let signature = old.split("sig=").nth(1).unwrap().to_owned();
    let refused = signature.clone();
    // From the third block on the service refuses the old signature, as it does when one has expired.
    let (store, proxy) = {
        let rule = move |seen: &Seen| {
            blocks += usize::from(seen.is_block());
            if blocks > 2 && seen.query.contains(&refused) {
                Fate::Answered(403, "AuthenticationFailed", Vec::new())
            } else {
                Fate::Passes
            }
        };
        let proxy = lab::proxy::Proxy::start(lab.azurite, rule).await;
        (Store::open(&lab.config_at(&proxy.endpoint(), old.into())).unwrap(), proxy)
    };
    let (uploading, source, mut held_up) = (store.clone(), content.clone(), store.held_up());
    let upload = tokio::spawn(async move { put(&uploading, "artifact", &source).await });
    let trouble = timeout(PATIENCE, held_up.wait_for(Option::is_some)).await.unwrap().unwrap().clone().unwrap();
    assert_eq!((trouble.code.as_str(), trouble.transient), ("AuthenticationFailed", false));
    assert!(trouble.message.contains("new shared access signature"), "{trouble}");
    assert!(!upload.is_finished());
    store.replace_auth(&Auth::Sas(lab.sas().with("cwrl").sign())).unwrap();
    let stored = upload.await.unwrap().unwrap();
    assert_stored(&lab, &stored, &content, &Ended::Whole).await;
    assert_eq!(proxy.commits(), ["prod/artifact"]);
    // Eight blocks and the commit, and at most three of them twice.
    assert!((9..=12).contains(&proxy.writes()), "{}", proxy.writes());
}

#[tokio::test]
async fn a_signature_that_nobody_replaces_is_an_error_in_the_end() {
    let lab = Lab::new().await;
    let mut config = lab.config_at(&lab.azurite.endpoint(), lab.sas().expired().sign());
    config.times.credential = Duration::from_millis(300);
    let trouble = put(&Store::open(&config).unwrap(), "artifact", b"x").await.unwrap_err();
    assert_eq!((trouble.code.as_str(), trouble.transient), ("AuthorizationFailure", false), "{trouble}");
}

#[tokio::test]
async fn faults_at_random_lose_nothing_and_double_nothing() {
    let lab = Lab::new().await;
    let mut state = 4711_u64;
    let (store, proxy) = lab
        .behind(move |_: &Seen| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            match (state >> 33) % 6 {
                0 => Fate::CutMidway,
                1 => Fate::AnswerLost,
                2 => unavailable(0),
                3 => Fate::Dropped,
                _ => Fate::Passes,
            }
        })
        .await;
    for number in 0..10 {
        let content = bytes(number * MIB);
        let path = format!("artifact-{number}");
        let stored = put(&store, &path, &content).await.unwrap();
        assert_stored(&lab, &stored, &content, &Ended::Whole).await;
    }
    assert_eq!(proxy.commits().len(), 10);
}

//! Evidence of a real pod while the store, or the way to it, fails: whole or marked, nothing lost, nothing double.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use secrecy::SecretString;
use serde_json::json;
use tourniquet_api::{EvidenceResult, Outcome};
use tourniquet_azurite::Sas;
use tourniquet_azurite::proxy::{Fate, Proxy, Rule, Seen};
use tourniquet_e2e::evidence::{self, Bag};
use tourniquet_e2e::{Scenario, Spec, TestPod, TestResponse, TestStore, azurite, scenario, until};

const SOON: Duration = Duration::from_secs(60);
/// Six blocks, the last of them a short one.
const FILE_MIB: u64 = 22;
const BLOCKS: usize = 6;
/// A signature that is over soon: long enough for a folder to be opened and two blocks to be stored.
const GOOD_FOR: Duration = Duration::from_secs(30);

/// A pod with a file that takes several blocks, and the file's digest as the pod has it.
async fn pod_with_a_file(s: &Scenario) -> Result<(TestPod, String)> {
    let pod = s.pod("web").await?;
    let count = format!("count={FILE_MIB}");
    s.exec(&pod, &["/bin/dd", "if=/dev/urandom", "of=/tmp/file", "bs=1048576", &count]).await?;
    let said = s.exec(&pod, &["/bin/busybox", "sha256sum", "/tmp/file"]).await?;
    Ok((pod, said.split(' ').next().context("no digest")?.to_owned()))
}

fn file() -> serde_json::Value {
    json!({ "files": [{ "path": "/tmp/file" }] })
}

fn is_of_the_file(seen: &Seen) -> bool {
    seen.blob.ends_with("/data/files/main/tmp/file")
}

/// A store behind a proxy that follows a rule, with this signature.
async fn store_behind(s: &Scenario, sas: SecretString, rule: impl Rule) -> Result<(TestStore, Proxy)> {
    let azurite = azurite().await?;
    let proxy = Proxy::start(azurite, rule).await;
    azurite.create_container(&s.container("soc")).await;
    let store = s.store_at("soc", &proxy.endpoint(), azurite).await?;
    store.sign(sas).await?;
    store.is_ready(SOON).await?;
    Ok((store, proxy))
}

/// Once all of it was collected: every file verifies, the large one is the pod's, and nothing is in the folder but what its manifests name.
async fn whole(response: &TestResponse, store: &TestStore, proxy: &Proxy, digest: &str) -> Result<Bag> {
    whole_and(&[], response, store, proxy, digest).await
}

/// The same, with files beside it that came after its manifests.
async fn whole_and(
    later: &[&str],
    response: &TestResponse,
    store: &TestStore,
    proxy: &Proxy,
    digest: &str,
) -> Result<Bag> {
    let (action, result) = response.collected(SOON).await?;
    ensure!(action.outcome == Outcome::Done, "{action:?}");
    let bag = Bag::verified(azurite().await?, store, &result).await?;
    let blob = &bag.artifact("files/main/tmp/file")?["blob"];
    ensure!(blob["sha256"] == digest && blob["length"] == FILE_MIB * 1024 * 1024, "{blob}");
    nothing_double(later, store, proxy, &result, &bag).await?;
    Ok(bag)
}

async fn nothing_double(
    later: &[&str],
    store: &TestStore,
    proxy: &Proxy,
    result: &EvidenceResult,
    bag: &Bag,
) -> Result<()> {
    let folder = evidence::folder(&store.container, result)?;
    let there = azurite().await?.list(&store.container, &format!("{folder}/")).await;
    let there: BTreeSet<&str> = there.iter().filter_map(|name| name.strip_prefix(folder)?.strip_prefix('/')).collect();
    let listed = bag.listed()?;
    let after = later.iter().copied().chain(["tagmanifest-sha256.txt"]);
    let named: BTreeSet<&str> = listed.iter().map(String::as_str).chain(after).collect();
    ensure!(there == named, "in the store: {there:?}\nin the manifests: {named:?}");
    let mut made: Vec<String> = proxy.commits().into_iter().filter(|blob| blob.starts_with(folder)).collect();
    made.sort();
    let once: BTreeSet<&String> = made.iter().collect();
    ensure!(once.len() == made.len(), "made more than once: {made:?}");
    Ok(())
}

/// A fault for the first request that it is meant for.
struct Fault {
    what: &'static str,
    fate: Fate,
    meant_for: fn(&Seen) -> bool,
}

#[test]
fn what_a_store_does_to_requests_loses_nothing_and_doubles_nothing() {
    scenario("collect-faults", |s| async move {
        let of = |what, fate, meant_for| Fault { what, fate, meant_for };
        let busy = || Fate::Answered(503, "ServerBusy", vec![("retry-after", "1".to_owned())]);
        let left = Arc::new(Mutex::new(vec![
            of("opening, the answer lost", Fate::AnswerLost, |seen| {
                seen.is_commit() && seen.blob.ends_with("/opened.json")
            }),
            of("the connection cut in the middle of a block", Fate::CutMidway, |seen| {
                seen.is_block() && is_of_the_file(seen)
            }),
            of("a block, busy", busy(), |seen| seen.is_block() && is_of_the_file(seen)),
            of("a block, the answer lost", Fate::AnswerLost, |seen| seen.is_block() && is_of_the_file(seen)),
            of("the commit, busy", busy(), |seen| seen.is_commit() && is_of_the_file(seen)),
            of("the commit, the answer lost", Fate::AnswerLost, |seen| seen.is_commit() && is_of_the_file(seen)),
            of("the record, the answer lost", Fate::AnswerLost, |seen| {
                seen.is_commit() && seen.blob.ends_with("/data/record.json")
            }),
            of("the seal, the connection cut", Fate::CutMidway, |seen| {
                seen.is_commit() && seen.blob.ends_with("/tagmanifest-sha256.txt")
            }),
        ]));
        let faults = Arc::clone(&left);
        let rule = move |seen: &Seen| {
            let mut faults = faults.lock().unwrap();
            let first = faults.iter().position(|fault| (fault.meant_for)(seen));
            first.map_or(Fate::Passes, |first| faults.remove(first).fate)
        };
        let (pod, digest) = pod_with_a_file(&s).await?;
        let (store, proxy) = store_behind(&s, Sas::new(&s.container("soc")).sign(), rule).await?;
        let response = s.respond("r", Spec::collect(&pod, &store, file())).await?;
        whole(&response, &store, &proxy, &digest).await?;
        let left: Vec<&str> = left.lock().unwrap().iter().map(|fault| fault.what).collect();
        ensure!(left.is_empty(), "never met: {left:?}");
        Ok(())
    });
}

#[test]
fn a_signature_that_is_over_in_the_middle_of_an_upload_is_replaced_and_the_upload_goes_on() {
    scenario("collect-expired", |s| async move {
        let (pod, digest) = pod_with_a_file(&s).await?;
        // The third block and those after it come to the service when the signature is over; it says itself that it is.
        let container = s.container("soc");
        let sas = Sas::new(&container).for_seconds(GOOD_FOR.as_secs().try_into()?).sign();
        let over = Instant::now() + GOOD_FOR + Duration::from_secs(1);
        let mut blocks = 0;
        let rule = move |seen: &Seen| {
            blocks += usize::from(seen.is_block() && is_of_the_file(seen));
            match over.saturating_duration_since(Instant::now()) {
                left if blocks > 2 && !left.is_zero() && is_of_the_file(seen) => Fate::Slow(left),
                _ => Fate::Passes,
            }
        };
        let (store, proxy) = store_behind(&s, sas, rule).await?;
        let response = s.respond("r", Spec::collect(&pod, &store, file())).await?;

        // Azurite's code; Azure says AuthenticationFailed.
        store.becomes("False", "AuthorizationFailure", SOON).await?;
        let stored = || {
            proxy
                .done()
                .iter()
                .filter(|(seen, status)| seen.is_block() && is_of_the_file(seen) && *status == 201)
                .count()
        };
        let before = stored();
        ensure!((1..BLOCKS).contains(&before), "{before} blocks were stored before: that is not the middle");
        let action = response.first_action().await?.context("no action")?;
        ensure!(action.outcome == Outcome::Running, "{action:?}");

        store.sign(Sas::new(&container).sign()).await?;
        whole(&response, &store, &proxy, &digest).await?;
        ensure!(stored() == BLOCKS, "{} blocks were stored: it was begun again", stored());
        Ok(())
    });
}

#[test]
fn a_release_in_the_middle_of_an_outage_does_not_wait_for_its_end() {
    scenario("collect-outage", |s| async move {
        let (pod, digest) = pod_with_a_file(&s).await?;
        let out = Arc::new(AtomicBool::new(false));
        let (outage, mut blocks) = (Arc::clone(&out), 0);
        // It begins with the third block, and ends when the test says so.
        let rule = move |seen: &Seen| {
            blocks += usize::from(seen.is_block() && is_of_the_file(seen));
            if blocks == 3 {
                blocks += 1;
                outage.store(true, Ordering::SeqCst);
            }
            if outage.load(Ordering::SeqCst) { Fate::Dropped } else { Fate::Passes }
        };
        let (store, proxy) = store_behind(&s, Sas::new(&s.container("soc")).sign(), rule).await?;
        let mut spec = Spec::collect(&pod, &store, file());
        spec.0["actions"] = json!([spec.0["actions"][0], { "isolate": {} }]);
        let response = s.respond("r", spec).await?;
        response.becomes("Contained", "True", SOON).await?;
        until("the outage has begun", SOON, async || Ok(out.load(Ordering::SeqCst).then_some(()))).await?;

        response.change(json!({ "release": true })).await?;
        response.becomes("Reverted", "True", SOON).await?;
        let action = response.first_action().await?.context("no action")?;
        ensure!(action.outcome == Outcome::Running, "{action:?}");
        out.store(false, Ordering::SeqCst);
        response.becomes("ReleaseRecorded", "True", SOON).await?;
        whole_and(&["release.json"], &response, &store, &proxy, &digest).await?;
        Ok(())
    });
}

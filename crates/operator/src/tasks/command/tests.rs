//! Commands that are played, and stores that are real or down.

use std::future::{Ready, pending, ready};

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, repeat};
use tokio::time::Instant;

use tourniquet_evidence::folder::Bounds;

use super::super::tests::Lab;
use super::*;

type Played = Box<dyn AsyncRead + Unpin + Send>;

fn played(output: impl AsyncRead + Unpin + Send + 'static) -> Played {
    Box::new(output)
}

/// A command that has begun.
type Begun<E> = Result<(Played, Played, E), Ended>;

/// One that writes this, and ends so.
fn writes(stdout: Played, stderr: Played, ended: Ended) -> Ready<Begun<Ready<Ended>>> {
    ready(Ok((stdout, stderr, ready(ended))))
}

async fn run<E: Future<Output = Ended>>(lab: &Lab, begin: impl Future<Output = Begun<E>>) -> CommandReport {
    let streams = Semaphore::new(2);
    let running = Running {
        cluster: &lab.cluster,
        place: &lab.place,
        command: &lab.command,
        case: Some(lab.case()),
        streams: &streams,
        end: &lab.end,
        report: lab.report(),
    };
    Box::pin(running.run_as(begin)).await
}

/// What was told before the outputs were stored.
fn told(lab: &Lab) -> CommandReport {
    let told = lab.told.lock().unwrap();
    let [Progress { command: Some(report), .. }] = told.as_slice() else { panic!("{told:?}") };
    (**report).clone()
}

fn artifact<'a>(record: &'a Value, name: &str) -> &'a Value {
    record["artifacts"].as_array().unwrap().iter().find(|artifact| artifact["name"] == name).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_outputs_are_stored_apart_with_a_record_of_the_command() {
    let lab = Lab::new("run-apart").await;
    let report = run(&lab, writes(played(&b"out\n"[..]), played(&b"\xff\xfe"[..]), Ended::Exited(3))).await;
    assert_eq!(report.result.outputs, Some(Outputs::Stored), "{report:?}");
    assert_eq!((&report.ended, report.not_stored.as_deref()), (&Ended::Exited(3), None));
    assert_eq!(report.result.stdout_tail.as_deref(), Some("out\n"));
    assert_eq!(told(&lab).result.outputs, Some(Outputs::Storing), "how it ended is told before");
    assert_eq!(lab.content("data/stdout").await.unwrap(), b"out\n");
    assert_eq!(lab.content("data/stderr").await.unwrap(), b"\xff\xfe");
    assert!(lab.content("tagmanifest-sha256.txt").await.is_some(), "it is sealed");

    let record = lab.json("data/record.json").await;
    let command = &record["command"];
    assert_eq!((&command["argv"][0], &command["exitCode"]), (&"/bin/tar".into(), &3.into()), "{command}");
    assert_eq!(command["containerId"], "containerd://one");
    assert!(command["startedAt"].is_string() && command["endedAt"].is_string(), "{command}");
    assert_eq!((&record["complete"], &artifact(&record, "stderr")["exitCode"]), (&true.into(), &3.into()));
    assert_eq!((&record["store"]["name"], &record["store"]["immutability"]), (&"soc".into(), &"Absent".into()));
    assert_eq!((&record["requestedBy"], &record["target"]["node"]), (&"ana".into(), &"node-0".into()));
    let owners: Vec<&Value> =
        record["target"]["owners"].as_array().unwrap().iter().map(|owner| &owner["kind"]).collect();
    assert_eq!(owners, ["ReplicaSet", "Deployment"]);
    assert_eq!(record["target"]["containers"][0]["imageId"], "web@sha256:aa");
    assert_eq!(record["target"]["volumes"][0]["source"], "s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_record_tells_the_clocks_and_what_we_did_to_the_target_by_this_response_and_by_others() {
    let lab = Lab::new("run-deeds").await;
    run(&lab, writes(played(&b""[..]), played(&b""[..]), Ended::Exited(0))).await;
    let record = lab.json("data/record.json").await;
    let clock = |whose: &str| {
        let clocks = record["clocks"].as_array().unwrap();
        clocks.iter().find(|clock| clock["whose"] == whose).unwrap()["offsetMs"].as_i64().unwrap()
    };
    assert_eq!((clock("operator"), clock("store")), (0, 0));
    assert!((clock("apiServer") - 3_600_000).abs() < 10_000, "{}", record["clocks"]);
    let deeds: Vec<&str> =
        record["deeds"].as_array().unwrap().iter().map(|deed| deed["what"].as_str().unwrap()).collect();
    // Of its own command the record itself says it all.
    assert_eq!(
        deeds,
        [
            "IncidentResponse soc/alert: action isolate is Done (CutInForce): cut off",
            "IncidentResponse soc/other: action isolate is Done (CutInForce): cut off",
            "IncidentResponse soc/other: action run is Running (Running): ",
            "action run began to run its command",
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_is_stored_whole_and_is_never_in_memory() {
    let mut lab = Lab::new("run-gibibyte").await;
    // It may be held up for half of it, and Azurite has other things to do.
    lab.command.timeout = Duration::from_secs(1800);
    let before = resident();
    let output = repeat(b'x').take(1 << 30).chain(&b"the end"[..]);
    let report = run(&lab, writes(played(output), played(&b""[..]), Ended::Exited(0))).await;
    assert_eq!(report.result.outputs, Some(Outputs::Stored), "{report:?}");
    assert!(report.result.stdout_tail.unwrap().ends_with("the end"));
    let record = lab.json("data/record.json").await;
    assert_eq!(artifact(&record, "stdout")["blob"]["length"], (1_u64 << 30) + 7);
    let grown = resident().saturating_sub(before);
    assert!(grown < 64, "{grown} MiB more than before");
}

/// The most that this process has had in memory, in MiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_more_than_the_limit_is_cut_off_and_the_command_runs_to_its_end() {
    let mut lab = Lab::new("run-limit").await;
    lab.command.limit = 1_000_000;
    let output = repeat(b'x').take(5_000_000).chain(&b"the end"[..]);
    let report = run(&lab, writes(played(output), played(&b"all"[..]), Ended::Exited(0))).await;
    assert_eq!((&report.ended, report.result.outputs), (&Ended::Exited(0), Some(Outputs::Incomplete)));
    assert_eq!(report.not_stored.as_deref(), Some("stdout (cut off after 1000000 bytes: that is the limit)"));
    assert!(report.result.stdout_tail.unwrap().ends_with("the end"), "the end is in the status all the same");
    let record = lab.json("data/record.json").await;
    assert_eq!(artifact(&record, "stdout")["outcome"]["result"], "Truncated");
    assert_eq!(artifact(&record, "stderr")["outcome"]["result"], "Done");
    assert_eq!(record["complete"], false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_down_holds_up_no_command_and_what_is_not_stored_is_said() {
    let lab = Lab::down();
    let (mut begun, began) = (0, Instant::now());
    let output = repeat(b'x').take(10_000).chain(&b"the end"[..]);
    let begin = async {
        begun += 1;
        Ok((played(output), played(&b""[..]), async { Ended::Exited(0) }))
    };
    let told_within = async {
        while lab.told.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        let within = began.elapsed();
        // A deletion waits for a while.
        lab.end.cancel();
        within
    };
    let (report, within) = tokio::join!(run(&lab, begin), told_within);
    assert!(within < Duration::from_secs(5), "its end was told after {within:?}");
    assert_eq!(told(&lab).ended, Ended::Exited(0));
    assert_eq!((&report.ended, report.result.outputs, begun), (&Ended::Exited(0), Some(Outputs::NotStored), 1));
    assert!(report.not_stored.as_deref().is_some_and(|why| why.contains("127.0.0.1")), "{report:?}");
    assert!(report.result.stdout_tail.unwrap().ends_with("the end"));
    assert!(began.elapsed() < TO_SEAL + Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_one_that_does_not_end_what_it_wrote_is_stored_and_marked() {
    let mut lab = Lab::new("run-hangs").await;
    lab.command.timeout = Duration::from_secs(1);
    let begin = async { Ok((played(&b"so far"[..]), played(&b""[..]), pending())) };
    let report = run(&lab, begin).await;
    assert_eq!((&report.ended, report.result.outputs), (&Ended::TimedOut, Some(Outputs::Incomplete)));
    assert_eq!(lab.content("data/stdout").await.unwrap(), b"so far");
    let record = lab.json("data/record.json").await;
    assert_eq!(record["command"]["ended"], "it did not end in time, and was let go of");
    assert!(record["command"]["exitCode"].is_null());
    assert_eq!(artifact(&record, "stdout")["outcome"]["result"], "Failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_was_never_begun_wrote_nothing_and_its_record_says_so() {
    let lab = Lab::new("run-missing").await;
    let none: Begun<Ready<Ended>> = Err(Ended::NotBegun("no such file".to_owned()));
    let report = run(&lab, ready(none)).await;
    assert_eq!(report.result.outputs, Some(Outputs::Stored), "{report:?}");
    assert_eq!(lab.json("data/record.json").await["command"]["ended"], "it was not begun: no such file");
}

/// What the status says of a command that ended with this exit code, and whose outputs were on their way.
fn known(lab: &Lab, exit_code: Option<i32>) -> Seal {
    let ended = exit_code.map_or_else(|| Ended::Lost("the operator was restarted".to_owned()), Ended::Exited);
    let result = RunResult { exit_code, outputs: Some(Outputs::Storing), ..RunResult::default() };
    let report = CommandReport { at: Timestamp::now(), ended, result, not_stored: None, replaced: None };
    let custody = lab.command.custody.as_deref().unwrap().clone();
    Seal { command: lab.command.clone(), custody, report }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_instance_was_storing_is_sealed_with_what_has_come_whole() {
    let lab = Lab::new("run-taken-over").await;
    let case = lab.case();
    let in_time = Instant::now() + Duration::from_secs(60);
    let opened = case.open(stored::planned(), "began to run its command", in_time, &lab.end).await;
    let plan = stored::plan(&lab.command, "stdout", "the standard output of the command");
    let bounds = Bounds {
        limit: 1000,
        idle: Duration::from_secs(60),
        deadline: in_time,
        grace: Duration::from_secs(1),
        cancel: CancellationToken::new(),
    };
    opened.unwrap().0.add(plan, &b"out\n"[..], async { SourceReport::default() }, bounds).await;

    let report = seal(&case, &known(&lab, Some(0)), &lab.end).await;
    assert_eq!((report.result.exit_code, report.result.outputs), (Some(0), Some(Outputs::Incomplete)));
    let lacks = "stderr (the operator was restarted before it was stored whole)";
    assert_eq!(report.not_stored.as_deref(), Some(lacks));
    let record = lab.json("data/record.json").await;
    assert_eq!((&record["complete"], &record["command"]["exitCode"]), (&false.into(), &0.into()));
    assert_eq!(artifact(&record, "stdout")["outcome"]["result"], "Done");
    assert_eq!(artifact(&record, "stderr")["outcome"]["result"], "Failed");

    let again = seal(&case, &known(&lab, Some(0)), &lab.end).await;
    assert_eq!(again.result.digest, report.result.digest, "it was sealed before, and stays what it is");
    assert_eq!(again.not_stored.as_deref(), Some(lacks));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_one_whose_folder_nobody_had_opened_there_is_a_record_all_the_same() {
    let lab = Lab::new("run-never-opened").await;
    let report = seal(&lab.case(), &known(&lab, None), &lab.end).await;
    assert_eq!(report.result.outputs, Some(Outputs::Incomplete), "{report:?}");
    let record = lab.json("data/record.json").await;
    assert_eq!(record["command"]["ended"], "the connection to it was lost: the operator was restarted");
    assert!(record["command"]["startedAt"].is_null() && record["command"]["exitCode"].is_null());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_waits_no_longer_for_that_than_for_anything_else() {
    let lab = Lab::down();
    let began = Instant::now();
    lab.end.cancel();
    let report = seal(&lab.case(), &known(&lab, Some(0)), &lab.end).await;
    assert_eq!(report.result.outputs, Some(Outputs::NotStored));
    assert!(began.elapsed() < TO_SEAL + Duration::from_secs(5));
}

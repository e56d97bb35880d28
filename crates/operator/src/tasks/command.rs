//! A command in a container: begun once, its outputs read to their end, and what is left of them.
//!
//! Where they are to be stored, that goes on beside the command, which waits for no store ([`sink`]), and for a while after it ([`stored`]).

mod sink;
mod stored;
mod tail;
#[cfg(test)]
mod tests;

use std::time::Duration;

use futures::future::{Either, select};
use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tourniquet_api::{Outputs, RunResult};
use tourniquet_cluster::{Cluster, ContainerRef, Output};
use tourniquet_evidence::folder::{CommandFacts, SourceReport};
use tourniquet_response::{Command, CommandReport, Ended, Progress, Seal};

use self::sink::Sink;
use self::stored::{AFTERWARDS, Stored, Storing, finish};
use self::tail::Tail;
use super::Report;
use super::case::{Case, TO_SEAL};

/// How long is waited for who says that the container is still the one that was meant, before and after.
const CHECK_LIMIT: Duration = Duration::from_secs(5);
/// What is read of an output at a time, in bytes.
const CHUNK: usize = 32 * 1024;

/// What a command needs.
pub(super) struct Running<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) place: &'a ContainerRef,
    pub(super) command: &'a Command,
    /// Where its outputs go, if anywhere.
    pub(super) case: Option<Case<'a>>,
    /// Outputs that are stored at the same time, of all commands.
    pub(super) streams: &'a Semaphore,
    pub(super) end: &'a CancellationToken,
    pub(super) report: Report,
}

/// An output: its end, and its way into the store.
struct Tee {
    tail: Tail,
    sink: Option<Sink>,
}

impl Running<'_> {
    /// Runs it. However it ends, that is what the report says.
    pub(super) async fn run(&self) -> CommandReport {
        Box::pin(self.run_as(self.begin())).await
    }

    /// The same of a command that is begun so.
    async fn run_as<R: AsyncRead + Unpin, E: Future<Output = Ended>>(
        &self,
        begin: impl Future<Output = Result<(R, R, E), Ended>>,
    ) -> CommandReport {
        let Some(case) = &self.case else {
            let mut tees = [None, None].map(|sink| Tee { tail: Tail::new(self.command.tail), sink });
            return self.carry_out(begin, &mut tees).await;
        };
        let (over, started_at) = (CancellationToken::new(), Timestamp::now());
        let [(one, stdout), (other, stderr)] = [(); 2].map(|()| Sink::new(self.command.timeout));
        let (tell, ended) = oneshot::channel();
        let storing = Storing { case, command: self.command, streams: self.streams, over: &over };
        let storing = Box::pin(storing.run([stdout, stderr], ended));
        let carrying = Box::pin(async {
            let mut tees = [one, other].map(|sink| Tee { tail: Tail::new(self.command.tail), sink: Some(sink) });
            let report = self.carry_out(begin, &mut tees).await;
            tees.iter_mut().filter_map(|tee| tee.sink.as_mut()).for_each(|sink| sink.end(said(&report.ended)));
            // It is not stored any more, when nobody hears it.
            let _ = tell.send(facts(self.command, &report, Some((started_at, report.at))));
            report
        });
        let (report, stored) = match select(carrying, storing).await {
            Either::Left((report, storing)) => {
                self.tell(&report);
                (report, patiently(case, storing, self.end, &over).await)
            }
            Either::Right((stored, carrying)) => (carrying.await, stored),
        };
        with(report, stored)
    }

    /// That it has ended, and how, though its outputs are still being stored.
    fn tell(&self, report: &CommandReport) {
        let mut report = report.clone();
        report.result.outputs = Some(Outputs::Storing);
        (self.report)(Progress { command: Some(Box::new(report)), ..Progress::default() });
    }

    async fn carry_out<R: AsyncRead + Unpin, E: Future<Output = Ended>>(
        &self,
        begin: impl Future<Output = Result<(R, R, E), Ended>>,
        tees: &mut [Tee; 2],
    ) -> CommandReport {
        let [stdout, stderr] = tees;
        let attempt = async {
            match begin.await {
                Ok((out, err, ended)) => {
                    // Together: one that is not read blocks the other.
                    tokio::join!(stdout.read(out), stderr.read(err));
                    ended.await
                }
                Err(ended) => ended,
            }
        };
        let ended = tokio::select! {
            ended = attempt => ended,
            () = sleep(self.command.timeout) => Ended::TimedOut,
            () = self.end.cancelled() => Ended::Cancelled,
        };
        let at = Timestamp::now();
        let asked = !matches!(ended, Ended::NotAsked(_) | Ended::NotBegun(_));
        let replaced = match timeout(CHECK_LIMIT, self.cluster.replaced(self.place)).await {
            Ok(Ok(replaced)) => replaced,
            Ok(Err(error)) => Some(format!("whether the container was restarted cannot be seen ({error})")),
            Err(_) => Some("whether the container was restarted cannot be seen in time".to_owned()),
        };
        let result =
            RunResult { stdout_tail: stdout.tail.text(), stderr_tail: stderr.tail.text(), ..RunResult::default() };
        CommandReport { at, ended, result, not_stored: None, replaced: replaced.filter(|_| asked) }
    }

    async fn begin(&self) -> Result<(Output, Output, impl Future<Output = Ended>), Ended> {
        match timeout(CHECK_LIMIT, self.cluster.replaced(self.place)).await {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(why))) => return Err(Ended::NotAsked(why)),
            Ok(Err(error)) => return Err(Ended::NotAsked(error.to_string())),
            Err(_) => return Err(Ended::NotAsked("the API server did not answer in time".to_owned())),
        }
        Ok(self.cluster.exec(self.place, &self.command.argv).await?.split())
    }
}

impl Tee {
    async fn read(&mut self, mut output: impl AsyncRead + Unpin) {
        let mut buffer = vec![0; CHUNK];
        // An output that breaks off has ended; how the command ended is said by its status.
        while let Ok(count @ 1..) = output.read(&mut buffer).await {
            let chunk = buffer.get(..count).unwrap_or_default();
            self.tail.add(chunk);
            if let Some(sink) = &mut self.sink {
                sink.write(chunk).await;
            }
        }
    }
}

/// Seals what another instance of the operator was storing. However that ends, it is what the report says.
pub(super) async fn seal(case: &Case<'_>, seal: &Seal, end: &CancellationToken) -> CommandReport {
    let over = CancellationToken::new();
    let known = facts(&seal.command, &seal.report, None);
    let stored = patiently(case, Box::pin(finish(case, &seal.command, known, &over)), end, &over).await;
    with(seal.report.clone(), stored)
}

/// Waits for what is being stored: an outage is to lose nothing, and a deletion is not to wait for long.
async fn patiently(
    case: &Case<'_>,
    storing: impl Future<Output = Stored> + Unpin,
    end: &CancellationToken,
    over: &CancellationToken,
) -> Stored {
    let patience = async {
        tokio::select! {
            () = sleep(AFTERWARDS) => {}
            () = async { end.cancelled().await; sleep(TO_SEAL / 2).await } => {}
        }
        over.cancel();
        sleep(TO_SEAL / 2).await;
    };
    match select(storing, Box::pin(patience)).await {
        Either::Left((stored, _)) => stored,
        Either::Right(((), _)) => {
            let why = case.trouble().unwrap_or_else(|| "the store did not take them in time".to_owned());
            Stored { missing: vec![why], ..Stored::default() }
        }
    }
}

/// What a record says of a command, with when it began and ended where that was seen.
fn facts(command: &Command, report: &CommandReport, within: Option<(Timestamp, Timestamp)>) -> CommandFacts {
    CommandFacts {
        argv: command.argv.clone(),
        container: command.container.clone(),
        container_id: command.container_id.clone(),
        started_at: within.map(|(from, _)| from),
        ended_at: within.map(|(_, to)| to),
        exit_code: exit_code(&report.ended),
        ended: match &report.replaced {
            Some(why) => {
                format!("{}; but {why} meanwhile: which container it ran in is not known", words(&report.ended))
            }
            None => words(&report.ended),
        },
    }
}

/// The report, with what became of the outputs.
fn with(mut report: CommandReport, stored: Stored) -> CommandReport {
    let Stored { url, digest, missing } = stored;
    report.result.outputs = Some(match (&digest, missing.is_empty()) {
        (Some(_), true) => Outputs::Stored,
        (Some(_), false) => Outputs::Incomplete,
        (None, _) => Outputs::NotStored,
    });
    (report.result.url, report.result.digest) = (url, digest);
    report.not_stored = Some(missing.join("; ")).filter(|missing| !missing.is_empty());
    report
}

/// What the end of a command says of its outputs: those of one that was let go of are what it had written by then.
fn said(ended: &Ended) -> SourceReport {
    let broken = match ended {
        Ended::Exited(_) | Ended::NotAsked(_) | Ended::NotBegun(_) => None,
        let_go @ (Ended::Lost(_) | Ended::TimedOut | Ended::Cancelled) => Some(words(let_go)),
    };
    SourceReport { broken, exit_code: exit_code(ended), ..SourceReport::default() }
}

const fn exit_code(ended: &Ended) -> Option<i32> {
    match ended {
        Ended::Exited(code) => Some(*code),
        _ => None,
    }
}

fn words(ended: &Ended) -> String {
    match ended {
        Ended::NotAsked(why) => format!("it was not asked for: {why}"),
        Ended::NotBegun(why) => format!("it was not begun: {why}"),
        Ended::Exited(code) => format!("it ended with exit code {code}"),
        Ended::Lost(why) => format!("the connection to it was lost: {why}"),
        Ended::TimedOut => "it did not end in time, and was let go of".to_owned(),
        Ended::Cancelled => "it was let go of before its end".to_owned(),
    }
}

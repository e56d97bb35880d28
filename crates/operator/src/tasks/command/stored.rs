//! The outputs of a command on their way into its folder, beside the command.

use std::io::Cursor;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tourniquet_evidence::folder::{
    ArtifactPlan, ArtifactRecord, Bounds, CommandFacts, Facts, Folder, Outcome, Source, SourceReport, State,
};
use tourniquet_response::Command;

use super::sink::Outlet;
use crate::tasks::case::{Case, TO_SEAL};

/// For how long storing goes on after the command has ended, when nothing hurries: an outage of a minute is to lose nothing.
pub(super) const AFTERWARDS: Duration = Duration::from_secs(120);
/// How much of an output comes before it counts as one that is being stored: a command that is silent for an hour must not keep others from storing.
const HEAD: u64 = 64 * 1024;

/// The outputs, in this order.
const NAMES: [(&str, &str); 2] =
    [("stdout", "the standard output of the command"), ("stderr", "the standard error of the command")];

/// What became of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Stored {
    /// The folder, if it was opened.
    pub(super) url: Option<String>,
    /// The digest of the record, if it is sealed.
    pub(super) digest: Option<String>,
    /// What is missing, and why.
    pub(super) missing: Vec<String>,
}

/// The storing of both outputs.
pub(super) struct Storing<'a> {
    pub(super) case: &'a Case<'a>,
    pub(super) command: &'a Command,
    /// Outputs that are stored at the same time, of all commands.
    pub(super) streams: &'a Semaphore,
    /// Ends it, with what was received by then.
    pub(super) over: &'a CancellationToken,
}

impl Storing<'_> {
    /// Stores them. How the command ended is told when it has.
    pub(super) async fn run(self, outlets: [Outlet; 2], ended: oneshot::Receiver<CommandFacts>) -> Stored {
        let deadline = Instant::now() + self.command.timeout + AFTERWARDS;
        let opened = Box::pin(self.case.open(planned(), "began to run its command", deadline, self.over)).await;
        let (folder, facts) = match opened {
            Ok(opened) => opened,
            Err(why) => return Stored { missing: vec![why], ..Stored::default() },
        };
        let [stdout, stderr] = outlets;
        let (stdout, stderr) = tokio::join!(
            Box::pin(self.one(&folder, NAMES[0], stdout, deadline)),
            Box::pin(self.one(&folder, NAMES[1], stderr, deadline))
        );
        let command = ended.await.ok();
        let missing = [stdout, stderr].iter().filter_map(lack).collect();
        sealed(self.case, &folder, Facts { command, ..facts }, missing).await
    }

    async fn one(
        &self,
        folder: &Folder,
        (name, what): (&str, &str),
        outlet: Outlet,
        deadline: Instant,
    ) -> ArtifactRecord {
        let Outlet { mut reader, report } = outlet;
        let mut head = Vec::new();
        // A pipe in memory does not fail.
        let _ = (&mut reader).take(HEAD).read_to_end(&mut head).await;
        // None is closed.
        let _permit = self.streams.acquire().await.ok();
        let plan = plan(self.command, name, what);
        let bounds = Bounds {
            limit: self.command.limit,
            // The command may say nothing for as long as it runs.
            idle: self.command.timeout + AFTERWARDS,
            deadline,
            grace: TO_SEAL / 2,
            cancel: self.over.clone(),
        };
        let report = async {
            report.await.unwrap_or_else(|_| SourceReport {
                broken: Some("nobody said how it ended".to_owned()),
                ..SourceReport::default()
            })
        };
        Box::pin(folder.add(plan, Cursor::new(head).chain(reader), report, bounds)).await
    }
}

/// Finishes what another instance of the operator was storing: what has come whole is in the folder, and of the rest it says why it is not.
pub(super) async fn finish(
    case: &Case<'_>,
    command: &Command,
    known: CommandFacts,
    over: &CancellationToken,
) -> Stored {
    let deadline = Instant::now() + AFTERWARDS;
    let began = "was taken over after a restart of the operator: its outputs are sealed as they are";
    let (folder, facts) = match Box::pin(case.open(planned(), began, deadline, over)).await {
        Ok(opened) => opened,
        Err(why) => return Stored { missing: vec![why], ..Stored::default() },
    };
    let there = folder.artifacts().await;
    let mut missing: Vec<String> = there.iter().filter_map(lack).collect();
    let is_open = folder.state().await == State::Open;
    for (name, what) in NAMES.into_iter().filter(|(name, _)| !there.iter().any(|found| found.plan.name == *name)) {
        let why = "the operator was restarted before it was stored whole".to_owned();
        missing.push(format!("{name} ({why})"));
        // Otherwise the record that is there says what became of it.
        if is_open {
            folder.add_failed(plan(command, name, what), why).await;
        }
    }
    sealed(case, &folder, Facts { command: Some(known), ..facts }, missing).await
}

pub(super) fn planned() -> Vec<String> {
    NAMES.map(|(name, _)| name.to_owned()).to_vec()
}

pub(super) fn plan(command: &Command, name: &str, what: &str) -> ArtifactPlan {
    ArtifactPlan {
        name: name.to_owned(),
        what: what.to_owned(),
        source: Source::ContainerTools,
        container: Some(command.container.clone()),
        argv: command.argv.clone(),
    }
}

async fn sealed(case: &Case<'_>, folder: &Folder, facts: Facts, mut missing: Vec<String>) -> Stored {
    let url = Some(folder.url());
    match case.seal(folder, facts, Instant::now() + AFTERWARDS).await {
        Ok(sealed) => Stored { url, digest: Some(sealed.record_sha256), missing },
        Err(why) => {
            missing.push(format!("their record ({why})"));
            Stored { url, digest: None, missing }
        }
    }
}

fn lack(record: &ArtifactRecord) -> Option<String> {
    let name = &record.plan.name;
    match &record.outcome {
        Outcome::Done => None,
        Outcome::Truncated => {
            let stored = record.blob.as_ref().map_or(0, |blob| blob.length);
            let why = record.report.truncated.as_deref().unwrap_or("that is the limit");
            Some(format!("{name} (cut off after {stored} bytes: {why})"))
        }
        Outcome::Failed { why } => Some(format!("{name} ({why})")),
        Outcome::TimedOut => Some(format!("{name} (not in time)")),
        Outcome::Cancelled => Some(format!("{name} (cancelled)")),
    }
}

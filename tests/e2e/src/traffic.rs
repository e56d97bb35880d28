//! Real connections, made by real pods, continuously.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::AttachParams;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::task::JoinHandle;

use crate::{Scenario, TestPod, until};

/// What an attempt came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Answered,
    Refused,
    TimedOut,
    Unreachable,
}

impl Answer {
    /// Whether the peer was reached: a refusal comes from the peer as well.
    pub fn reached(self) -> bool {
        matches!(self, Self::Answered | Self::Refused)
    }
}

/// One connection attempt.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    pub start: Timestamp,
    pub end: Timestamp,
    pub answer: Answer,
}

/// Connection attempts from one pod to another, one every 50 ms, until this is dropped.
pub struct Attempts {
    what: String,
    seen: Arc<Mutex<Vec<Attempt>>>,
    _task: Abort,
}

/// One flow from one pod to another, with a number every 50 ms; what came back.
pub struct Stream {
    what: String,
    seen: Arc<Mutex<Vec<(Timestamp, Timestamp)>>>,
    _task: Abort,
    /// What sends, where that is another program.
    _sender: Option<Abort>,
}

struct Abort(JoinHandle<()>);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Scenario {
    /// Goes on connecting, every 50 ms; returns once the first attempt has ended.
    pub async fn attempts(&self, from: &TestPod, to: &TestPod) -> Result<Attempts> {
        self.attempts_every(50, from, to).await
    }

    /// The same with another pause, in milliseconds.
    pub async fn attempts_every(&self, pause: u64, from: &TestPod, to: &TestPod) -> Result<Attempts> {
        let what = format!("{} to {}", from.name, to.name);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&seen);
        let task = self
            .lines(from, &["/traffic/traffic", "try", &to.address().to_string(), &pause.to_string()], move |line| {
                lock(&into).extend(attempt(line));
            })
            .await?;
        Attempts { what, seen, _task: task }.begun().await
    }

    /// The same with nothing but the shell of the pod's image, whose clock knows no fractions: times are those of arrival here.
    pub async fn shell_attempts(&self, from: &TestPod, to: &TestPod) -> Result<Attempts> {
        let what = format!("{} to {}", from.name, to.name);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&seen);
        let (ip, port) = (to.address().ip(), to.address().port());
        // Each in the background: one that gets no answer must not keep the next from finding out.
        let script = format!(
            "for i in $(seq 12000); do \
             (if timeout 2 nc -w 1 {ip} {port} </dev/null >/dev/null 2>&1; then echo $i answered; else echo $i timedout; fi) & \
             echo $i begun; usleep 50000; done"
        );
        let mut begun = HashMap::new();
        let task = self
            .lines(from, &["/bin/sh", "-c", &script], move |line| {
                let end = Timestamp::now();
                let Some((number, word)) = line.split_once(' ') else { return };
                if word == "begun" {
                    begun.insert(number.to_owned(), end);
                    return;
                }
                let answer = if word == "answered" { Answer::Answered } else { Answer::TimedOut };
                // A quick answer can be printed before its beginning.
                let start = begun.remove(number).unwrap_or(end);
                lock(&into).push(Attempt { start, end, answer });
            })
            .await?;
        Attempts { what, seen, _task: task }.begun().await
    }

    /// Opens a flow; returns once something came back.
    pub async fn stream(&self, protocol: &str, from: &TestPod, to: &TestPod) -> Result<Stream> {
        let what = format!("{protocol} flow opened by {} to {}", from.name, to.name);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&seen);
        let task = self
            .lines(from, &["/traffic/traffic", "stream", protocol, &to.address().to_string()], move |line| {
                let mut times = line.split(' ').filter_map(time);
                lock(&into).extend(times.next().zip(times.next()));
            })
            .await?;
        let stream = Stream { what, seen, _task: task, _sender: None };
        until(&stream.what, Duration::from_secs(30), async || Ok((!lock(&stream.seen).is_empty()).then_some(())))
            .await?;
        Ok(stream)
    }

    /// UDP datagrams in frames that one pod makes itself, on a packet socket, and another one hears; returns once one arrived.
    pub async fn frames(&self, from: &TestPod, to: &TestPod) -> Result<Stream> {
        const PORT: u16 = 9999;
        let what = format!("frames of {} to {}", from.name, to.name);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&seen);
        let heard = self
            .lines(to, &["/traffic/traffic", "hear", &PORT.to_string()], move |line| {
                let mut times = line.split(' ').filter_map(time);
                lock(&into).extend(times.next().zip(times.next()));
            })
            .await?;
        let address = format!("{}:{PORT}", to.ip);
        let sent = self.lines(from, &["/traffic/traffic", "frames", &address], |_| ()).await?;
        let stream = Stream { what, seen, _task: heard, _sender: Some(sent) };
        until(&stream.what, Duration::from_secs(30), async || Ok((!lock(&stream.seen).is_empty()).then_some(())))
            .await?;
        Ok(stream)
    }

    /// Runs a program in a pod and hands over each line that it prints, until the returned guard is dropped.
    async fn lines(
        &self,
        pod: &TestPod,
        command: &[&str],
        mut line: impl FnMut(&str) + Send + 'static,
    ) -> Result<Abort> {
        let parameters = AttachParams::default().stderr(false).max_stdout_buf_size(64 * 1024);
        let mut process = self
            .api::<Pod>()
            .exec(&pod.name, command.iter().copied(), &parameters)
            .await
            .with_context(|| format!("cannot run {} in pod {}", command.join(" "), pod.name))?;
        let stdout = process.stdout().context("no standard output")?;
        Ok(Abort(tokio::spawn(async move {
            // Owned by this task: dropped, it would end the command.
            let _process = process;
            let mut lines = BufReader::new(stdout).lines();
            while let Ok(Some(text)) = lines.next_line().await {
                line(&text);
            }
        })))
    }

    /// Runs a command in a pod to its end and returns what it printed.
    pub async fn exec(&self, pod: &TestPod, command: &[&str]) -> Result<String> {
        let parameters = AttachParams::default().stderr(false).max_stdout_buf_size(64 * 1024);
        let mut process = self.api::<Pod>().exec(&pod.name, command.iter().copied(), &parameters).await?;
        let mut text = String::new();
        let mut stdout = process.stdout().context("no standard output")?;
        let status = process.take_status().context("no status")?;
        // A connection that breaks never ends the output: the status then comes first.
        let (_, status) = tokio::join!(stdout.read_to_string(&mut text), status);
        match status {
            Some(status) if status.status.as_deref() == Some("Success") => Ok(text),
            other => bail!("{} in pod {}: {other:?}", command.join(" "), pod.name),
        }
    }
}

fn time(text: &str) -> Option<Timestamp> {
    Timestamp::from_nanosecond(text.parse().ok()?).ok()
}

fn attempt(line: &str) -> Option<Attempt> {
    let mut words = line.split(' ');
    let (start, end) = (time(words.next()?)?, time(words.next()?)?);
    let answer = match words.next()? {
        "answered" => Answer::Answered,
        "refused" => Answer::Refused,
        "timedout" => Answer::TimedOut,
        _ => Answer::Unreachable,
    };
    Some(Attempt { start, end, answer })
}

impl Attempts {
    /// Once the first attempt has ended.
    async fn begun(self) -> Result<Self> {
        until(&format!("a first attempt from {}", self.what), Duration::from_secs(30), async || {
            Ok((!lock(&self.seen).is_empty()).then_some(()))
        })
        .await?;
        Ok(self)
    }

    /// All attempts that have ended, in the order of their beginning.
    pub fn all(&self) -> Vec<Attempt> {
        let mut all = lock(&self.seen).clone();
        all.sort_by_key(|attempt| attempt.start);
        all
    }

    /// The first attempt begun at or after `after` that was answered.
    pub async fn answered(&self, after: Timestamp, limit: Duration) -> Result<Attempt> {
        until(&format!("{} is answered", self.what), limit, async || {
            Ok(self.all().into_iter().find(|attempt| attempt.start >= after && attempt.answer == Answer::Answered))
        })
        .await
    }

    /// Whether an attempt begun at or after `after` was answered already.
    pub fn is_answered(&self, after: Timestamp) -> bool {
        self.all().iter().any(|attempt| attempt.start >= after && attempt.answer == Answer::Answered)
    }

    /// The first of the attempts begun at or after `after` from which on none was answered, for at least `for_`.
    pub async fn silent(&self, after: Timestamp, for_: Duration, limit: Duration) -> Result<Attempt> {
        let silent = until(&format!("{} is not answered any more", self.what), limit, async || {
            let all = self.all();
            let since = all.iter().rposition(|attempt| attempt.answer.reached()).map_or(0, |last| last + 1);
            // One that was begun before can have been cut off before it sent anything: on a busy machine a thread waits.
            let first = all.get(since..).unwrap_or_default().iter().find(|first| first.start >= after);
            let last = all.last();
            Ok(first
                .zip(last)
                .filter(|(first, last)| last.start.duration_since(first.start).unsigned_abs() >= for_)
                .map(|(first, _)| *first))
        })
        .await;
        silent.with_context(|| {
            let all = self.all();
            let reached = all.iter().rfind(|attempt| attempt.answer.reached());
            format!("{} attempts, the last of them {:?}, the last that was answered {reached:?}", all.len(), all.last())
        })
    }

    /// Waits for this long after `from`, and fails when an attempt that began in between reached the peer.
    pub async fn stays_silent(&self, from: Timestamp, for_: Duration) -> Result<()> {
        let to = from + for_;
        until(&format!("an attempt of {} from after {to}", self.what), for_ + Duration::from_secs(20), async || {
            Ok(self.all().last().filter(|last| last.start > to).map(drop))
        })
        .await?;
        self.none_answered(from, to)
    }

    /// Fails when an attempt of this time reached the peer in it, or when none was made.
    ///
    /// One that began in it and was answered after it is none: its packet can have waited in its own kernel until the pod was let go, as it does while
    /// nobody answers ARP (asked again every second), or its thread did, on a busy machine.
    pub fn none_answered(&self, from: Timestamp, to: Timestamp) -> Result<()> {
        let within: Vec<Attempt> =
            self.all().into_iter().filter(|attempt| attempt.start >= from && attempt.start <= to).collect();
        ensure!(!within.is_empty(), "{}: no attempt was made between {from} and {to}", self.what);
        if let Some(attempt) = within.iter().find(|attempt| attempt.answer.reached() && attempt.end <= to) {
            bail!(
                "{}: attempt of {} was {:?} at {}, though it was isolated from {from} to {to} ({} attempts)",
                self.what,
                attempt.start,
                attempt.answer,
                attempt.end,
                within.len()
            );
        }
        Ok(())
    }

    /// Fails when an attempt that began in this time was not answered, or when none was made: the positive control.
    pub fn all_answered(&self, from: Timestamp, to: Timestamp) -> Result<()> {
        let within: Vec<Attempt> =
            self.all().into_iter().filter(|attempt| attempt.start >= from && attempt.start <= to).collect();
        ensure!(!within.is_empty(), "{}: no attempt was made between {from} and {to}", self.what);
        let other = within.iter().find(|attempt| attempt.answer != Answer::Answered);
        ensure!(other.is_none(), "{}: the control was not answered: {other:?}", self.what);
        Ok(())
    }
}

impl Stream {
    /// When the latest number came back.
    pub fn last(&self) -> Option<Timestamp> {
        lock(&self.seen).iter().map(|(_, received)| *received).max()
    }

    /// How many numbers that were sent in this time came back in it. One that was sent before it can have waited in the receiver's own kernel, until
    /// its thread's turn came: on a busy machine that takes longer than to be told of a cut.
    pub fn echoes(&self, from: Timestamp, to: Timestamp) -> usize {
        self.within(from, to).len()
    }

    /// Fails when one did, and says when it was sent and received.
    pub fn none_came_back(&self, from: Timestamp, to: Timestamp) -> Result<()> {
        let came = self.within(from, to);
        ensure!(came.is_empty(), "{}: cut off from {from}, and yet numbers came back: {came:?}", self.what);
        Ok(())
    }

    fn within(&self, from: Timestamp, to: Timestamp) -> Vec<(Timestamp, Timestamp)> {
        lock(&self.seen).iter().filter(|(sent, received)| *sent >= from && *received <= to).copied().collect()
    }
}

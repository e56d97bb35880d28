//! What a person sees while something takes long: a spinner on a terminal, plain lines elsewhere.

use std::{
    fmt::Display,
    fs,
    io::IsTerminal,
    path::Path,
    process::{Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use indicatif::{ProgressBar, ProgressStyle};

/// CI systems and impatient readers take a silent minute for a hang.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// Enough to hold the error and what led to it, short enough to stay on one screen.
const LOG_LINES: usize = 15;

/// One piece of long work. Everything goes to standard error: standard output belongs to what a command was asked for.
pub struct Step {
    name: String,
    started: Instant,
    shown: Shown,
    finished: bool,
}

enum Shown {
    Spinner(ProgressBar),
    Lines { stop: Option<Sender<()>>, beat: Option<JoinHandle<()>> },
}

impl Step {
    /// Starts to show `name` and how long it has been going on.
    pub fn start(name: impl Into<String>) -> Self {
        let name = name.into();
        let started = Instant::now();
        let shown = if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} [{elapsed}] {msg}") {
                bar.set_style(style);
            }
            bar.set_prefix(name.clone());
            bar.enable_steady_tick(Duration::from_millis(120));
            Shown::Spinner(bar)
        } else {
            eprintln!("{name} ...");
            let (stop, stopped) = mpsc::channel::<()>();
            let label = name.clone();
            let beat = std::thread::spawn(move || {
                while stopped.recv_timeout(HEARTBEAT) == Err(RecvTimeoutError::Timeout) {
                    eprintln!("{label} ... {}", seconds(started.elapsed()));
                }
            });
            Shown::Lines { stop: Some(stop), beat: Some(beat) }
        };
        Self { name, started, shown, finished: false }
    }

    /// What it is doing right now. Only a terminal shows it: as lines it would be noise.
    pub fn note(&self, text: &str) {
        if let Shown::Spinner(bar) = &self.shown
            && bar.message() != text
        {
            bar.set_message(text.to_owned());
        }
    }

    /// It is done; says how long it took.
    pub fn done(mut self) {
        self.finish("done");
    }

    /// It is done, with something worth saying.
    pub fn done_with(mut self, text: impl Display) {
        self.finish(&text.to_string());
    }

    fn finish(&mut self, text: &str) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        match &mut self.shown {
            Shown::Spinner(bar) => bar.finish_and_clear(),
            Shown::Lines { stop, beat } => {
                drop(stop.take());
                // Joined, so that no late heartbeat follows the closing line.
                if let Some(beat) = beat.take() {
                    let _ = beat.join();
                }
            }
        }
        eprintln!("{}: {text} ({})", self.name, seconds(self.started.elapsed()));
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.finish("failed");
    }
}

/// A duration as people say it.
pub fn seconds(duration: Duration) -> String {
    let secs = duration.as_secs();
    if secs >= 60 { format!("{} min {} s", secs / 60, secs % 60) } else { format!("{:.1} s", duration.as_secs_f64()) }
}

/// The one message of a failure: what failed, where the log is, how it ends, what to do next.
pub fn failure(what: impl Display, log: &Path, next: &str) -> anyhow::Error {
    let tail = tail(log);
    let ending = if tail.is_empty() { "(the log is empty)".to_owned() } else { tail };
    anyhow!("{what}\n  log:  {}\n  next: {next}\n  the log ends with:\n{ending}", log.display())
}

fn tail(log: &Path) -> String {
    // Lossy: a daemon killed in the middle of a character must not hide the rest of its log.
    let bytes = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let start = lines.len().saturating_sub(LOG_LINES);
    lines.get(start..).unwrap_or_default().iter().map(|line| format!("    {line}\n")).collect()
}

/// Runs a command with its output in `log`; a failure carries the end of the log.
pub fn run_logged(command: &mut Command, log: &Path, what: &str, next: &str) -> Result<()> {
    if let Some(dir) = log.parent() {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    let out = fs::File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let err = out.try_clone()?;
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .status()
        .with_context(|| format!("{what}: cannot run {program}"))?;
    if status.success() { Ok(()) } else { Err(failure(format!("{what}: {program} ended with {status}"), log, next)) }
}

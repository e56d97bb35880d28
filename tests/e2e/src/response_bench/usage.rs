//! What the operator's process uses, as the kernel counts it.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;

/// Of `/proc/PID/stat`: the unit of CPU time that Linux shows to programs, on all architectures that matter (`USER_HZ`).
const TICKS: f64 = 100.0;

/// The operator's process.
pub struct Process(u32);

/// What it uses.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Usage {
    /// Resident memory in MiB.
    pub resident: f64,
    /// The most of it since the process began, or was forgotten.
    pub peak: f64,
    /// CPU time since the process began, in milliseconds.
    pub cpu: f64,
}

impl Process {
    /// The operator that runs in the cluster; only where its processes are this machine's.
    pub fn operator() -> Result<Self> {
        let found = fs::read_dir("/proc")?.filter_map(Result::ok).find_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let program = fs::read_to_string(entry.path().join("cmdline")).ok()?;
            program.starts_with("/tourniquet-operator").then_some(Self(pid))
        });
        found.context("the operator does not run on this machine")
    }

    pub fn usage(&self) -> Result<Usage> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0)).context("the operator was restarted")?;
        let mebibytes = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
            line.split_whitespace().next().and_then(|number| number.parse::<f64>().ok()).unwrap_or_default() / 1024.0
        };
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0))?;
        // After the program's name, which may have spaces: state is the first, utime and stime the 12th and 13th.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or_default();
        let cpu = (ticks(11) + ticks(12)) / TICKS * 1000.0;
        Ok(Usage { resident: mebibytes("VmRSS:"), peak: mebibytes("VmHWM:"), cpu })
    }

    /// Kills it; the kubelet starts another one.
    pub fn kill(&self) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.0)?), Signal::SIGKILL)?)
    }

    /// Has the peak counted from now on.
    pub fn forget_peak(&self) -> Result<()> {
        fs::write(format!("/proc/{}/clear_refs", self.0), "5").context("the peak cannot be reset")
    }

    /// Waits until it has nothing to do: what it still does for what was before would be counted to what is next.
    pub async fn rests(&self) -> Result<()> {
        let (mut before, mut still) = (self.usage()?.cpu, 0);
        crate::until("the operator rests", Duration::from_secs(120), async || {
            tokio::time::sleep(Duration::from_millis(450)).await;
            let now = self.usage()?.cpu;
            still = if now - before <= 20.0 { still + 1 } else { 0 };
            before = now;
            Ok((still >= 3).then_some(()))
        })
        .await
    }
}

//! Process 1 of a cluster's PID namespace: prepares the namespaces, starts the daemons in order, restarts what ends, reaps what is orphaned.
//!
//! The kernel ends every process of the namespace when this one ends, and with the last of them go the mounts and interfaces. So there is nothing
//! to clean up here, and no way of dying leaves anything behind.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsStr,
    fs::{self, OpenOptions},
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

use super::{
    Network,
    config::Spec,
    daemons::{self, Daemon},
    layout::INSIDE,
    network,
};

/// A daemon that ends this often without having run for a while will not be cured by another start.
const RESTARTS: u32 = 12;
/// A daemon that ran this long has its restarts forgiven.
const FORGIVEN: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What the supervisor says about the cluster, in `status.json`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Status {
    /// What it is doing while it starts; empty when everything has been started.
    pub(super) starting: String,
    /// Why it gave up.
    pub(super) failed: Option<Failure>,
    pub(super) daemons: BTreeMap<String, DaemonStatus>,
}

/// Which daemon it gave up on, and why.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Failure {
    pub(super) daemon: String,
    pub(super) message: String,
}

/// One daemon.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct DaemonStatus {
    /// In the cluster's PID namespace; none between two starts.
    pub(super) pid: Option<i32>,
    pub(super) restarts: u32,
    /// Its own health endpoint; none for daemons without one.
    pub(super) healthy: Option<bool>,
}

/// Runs the cluster; only returns when it cannot go on.
pub(super) fn main(state: &Path) -> Result<()> {
    if std::process::id() != 1 {
        bail!("this runs as process 1 of a cluster; use `cargo xtask cluster up`");
    }
    let spec: Spec = serde_json::from_slice(&fs::read(state.join("cluster.json"))?)?;
    let supervisor =
        Arc::new(Supervisor { status: Mutex::default(), children: Mutex::default(), ended: Condvar::new() });
    let result = prepare(state, &spec).and_then(|()| {
        let reaper = Arc::clone(&supervisor);
        thread::spawn(move || reaper.reap());
        supervisor.boot(&spec)
    });
    if let Err(error) = result {
        say(&format!("giving up: {error:#}"));
        supervisor.fail("supervisor", &format!("{error:#}"));
        // Left running, it would look like a cluster.
        bail!(error);
    }
    supervisor.watch(&spec)
}

fn prepare(state: &Path, spec: &Spec) -> Result<()> {
    network::mounts(state)?;
    network::settings()?;
    let mut commands = network::interfaces();
    if spec.network == Network::Cilium {
        commands.push(network::node_to_kubernetes());
    }
    commands.iter().try_for_each(|command| network::run(command))
}

struct Supervisor {
    status: Mutex<Status>,
    /// Our own children and how they ended. Held while a process is started, so that the reaper can neither miss it nor take it from under
    /// `Command`, which waits itself when a start fails.
    children: Mutex<HashMap<i32, Option<String>>>,
    ended: Condvar,
}

impl Supervisor {
    /// Starts everything, each when what it needs answers.
    fn boot(self: &Arc<Self>, spec: &Spec) -> Result<()> {
        self.starting("etcd and containerd");
        self.supervise(daemons::containerd());
        let etcd = daemons::etcd();
        let health = etcd.health;
        self.supervise(etcd);
        self.until("etcd", Duration::from_secs(60), || health.is_some_and(|(port, path)| answers(port, path)))?;

        self.starting("kube-apiserver");
        self.supervise(daemons::apiserver());
        let kubectl =
            ["kubectl", "--kubeconfig", &format!("{INSIDE}/kubeconfig"), "get", "--raw", "/readyz"].map(str::to_owned);
        self.until("kube-apiserver", Duration::from_secs(90), || self.succeeds(&kubectl))?;
        self.until("containerd", Duration::from_secs(60), || Path::new("/run/containerd/containerd.sock").exists())?;

        for daemon in daemons::rest(spec) {
            self.supervise(daemon);
        }
        self.starting("");
        say("every daemon has been started");
        Ok(())
    }

    /// Asks the daemons how they are, for ever; ends the cluster when one is beyond help.
    fn watch(&self, spec: &Spec) -> Result<()> {
        let mut all = vec![daemons::etcd(), daemons::containerd(), daemons::apiserver()];
        all.extend(daemons::rest(spec));
        loop {
            for daemon in &all {
                if let Some((port, path)) = daemon.health {
                    let healthy = answers(port, path);
                    self.update(|status| {
                        status.daemons.entry(daemon.name.to_owned()).or_default().healthy = Some(healthy);
                    });
                }
            }
            if let Some(failure) = &lock(&self.status).failed {
                bail!("{}: {}", failure.daemon, failure.message);
            }
            thread::sleep(Duration::from_secs(1));
        }
    }

    /// Keeps a daemon running, in a thread of its own.
    fn supervise(self: &Arc<Self>, daemon: Daemon) {
        let this = Arc::clone(self);
        thread::spawn(move || {
            let mut failures = 0;
            loop {
                let started = Instant::now();
                let end = this.run_once(&daemon).unwrap_or_else(|error| format!("{error:#}"));
                if started.elapsed() > FORGIVEN {
                    failures = 0;
                }
                failures += 1;
                say(&format!("{} ended ({end}) after {:.1} s", daemon.name, started.elapsed().as_secs_f64()));
                if failures > RESTARTS {
                    this.fail(daemon.name, &format!("ended {failures} times in a row, the last time with {end}"));
                    return;
                }
                // Half a second, one, two: quick for one crash, easy on the machine for many.
                let pause = Duration::from_millis(500).saturating_mul(1 << (failures - 1).min(5)).min(LONGEST_PAUSE);
                thread::sleep(pause);
                this.update(|status| {
                    status.daemons.entry(daemon.name.to_owned()).or_default().restarts += 1;
                });
            }
        });
    }

    fn run_once(&self, daemon: &Daemon) -> Result<String> {
        for socket in daemon.sockets {
            let _ = fs::remove_file(socket);
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(format!("{INSIDE}/logs/{}.log", daemon.name))
            .context("cannot open its log")?;
        let mut command = command(daemon.name)?;
        command.args(&daemon.args).envs(daemon.env.iter().map(|(name, value)| (*name, value)));
        command.stdout(log.try_clone()?).stderr(log);
        let pid = self.spawn(&mut command)?;
        say(&format!("{} started as process {pid}", daemon.name));
        self.update(|status| status.daemons.entry(daemon.name.to_owned()).or_default().pid = Some(pid));
        let end = self.wait(pid);
        self.update(|status| status.daemons.entry(daemon.name.to_owned()).or_default().pid = None);
        Ok(end)
    }

    fn succeeds(&self, line: &[String]) -> bool {
        let Some((program, args)) = line.split_first() else { return false };
        let run = || -> Result<bool> {
            let pid = self.spawn(command(program)?.args(args).stdout(Stdio::null()).stderr(Stdio::null()))?;
            Ok(self.wait(pid) == "exit status 0")
        };
        run().unwrap_or(false)
    }

    fn spawn(&self, command: &mut Command) -> Result<i32> {
        let mut children = lock(&self.children);
        let child = command.stdin(Stdio::null()).spawn()?;
        let pid = i32::try_from(child.id())?;
        children.insert(pid, None);
        Ok(pid)
    }

    fn wait(&self, pid: i32) -> String {
        let mut children = lock(&self.children);
        loop {
            if let Some(Some(end)) = children.get(&pid) {
                let end = end.clone();
                children.remove(&pid);
                return end;
            }
            children = self.ended.wait(children).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Every orphan of the namespace becomes a child of process 1: containers' shims, and whatever they leave.
    fn reap(&self) {
        loop {
            // Looks without taking, so that the lock is not held while it sleeps.
            match waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => thread::sleep(Duration::from_millis(100)),
            }
            let mut children = lock(&self.children);
            loop {
                let (pid, end) = match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                    Ok(WaitStatus::Exited(pid, code)) => (pid, format!("exit status {code}")),
                    Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, signal.to_string()),
                    _ => break,
                };
                // Nobody asks how an orphan ended.
                if let Some(child) = children.get_mut(&pid.as_raw()) {
                    *child = Some(end);
                }
            }
            drop(children);
            self.ended.notify_all();
        }
    }

    fn until(&self, daemon: &str, limit: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
        let deadline = Instant::now() + limit;
        while !ready() {
            if let Some(failure) = &lock(&self.status).failed {
                bail!("{}: {}", failure.daemon, failure.message);
            }
            if Instant::now() > deadline {
                self.fail(daemon, &format!("not ready within {} s", limit.as_secs()));
                bail!("{daemon} was not ready within {} s", limit.as_secs());
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn starting(&self, what: &str) {
        self.update(|status| what.clone_into(&mut status.starting));
    }

    fn fail(&self, daemon: &str, message: &str) {
        self.update(|status| {
            // The first failure is the cause of the others.
            status.failed.get_or_insert(Failure { daemon: daemon.to_owned(), message: message.to_owned() });
        });
    }

    fn update(&self, change: impl FnOnce(&mut Status)) {
        let mut status = lock(&self.status);
        let before = serde_json::to_vec(&*status).unwrap_or_default();
        change(&mut status);
        let Ok(after) = serde_json::to_vec_pretty(&*status) else { return };
        if serde_json::to_vec(&*status).unwrap_or_default() == before {
            return;
        }
        let path = PathBuf::from(format!("{INSIDE}/status.json"));
        let partial = path.with_extension("partial");
        if let Err(error) = fs::write(&partial, after).and_then(|()| fs::rename(&partial, &path)) {
            say(&format!("cannot write {}: {error}", path.display()));
        }
    }
}

fn command(program: &str) -> Result<Command> {
    let own = PathBuf::from(format!("{INSIDE}/bin/{program}"));
    if !own.exists() {
        bail!("{} is missing", own.display());
    }
    let mut command = Command::new(&own);
    // By its plain name: one binary is several daemons and looks at this.
    std::os::unix::process::CommandExt::arg0(&mut command, OsStr::new(program));
    Ok(command)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Standard output is the supervisor's log.
fn say(text: &str) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let day = now.as_secs() % 86_400;
    let line = format!("{:02}:{:02}:{:02}Z {text}\n", day / 3600, day / 60 % 60, day % 60);
    let _ = std::io::stdout().write_all(line.as_bytes());
}

/// Whether a health endpoint on the loopback address answers 200.
fn answers(port: u16, path: &str) -> bool {
    let ask = || -> std::io::Result<bool> {
        let limit = Duration::from_secs(2);
        let mut stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), limit)?;
        stream.set_read_timeout(Some(limit))?;
        // `brief`: Cilium's agent then leaves out what is not about itself.
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nbrief: true\r\nConnection: close\r\n\r\n")?;
        let mut line = [0; 12];
        stream.read_exact(&mut line)?;
        Ok(line.ends_with(b" 200"))
    };
    ask().unwrap_or(false)
}

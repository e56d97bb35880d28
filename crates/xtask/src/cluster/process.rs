//! Processes and cgroups of a cluster, seen from outside it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

use super::layout::Layout;

/// A process that is not mistaken for another: numbers are used again, also after a reboot, start times with them are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) pid: i32,
    /// In clock ticks since boot.
    start: u64,
    /// Which boot: ticks start again at zero.
    boot: u64,
}

impl Identity {
    /// The identity of a process that runs now.
    pub(super) fn of(pid: i32) -> Option<Self> {
        Some(Self { pid, start: Stat::read(pid)?.start, boot: boot_time()? })
    }

    /// Whether it still runs. A zombie does not.
    pub(super) fn alive(&self) -> bool {
        boot_time() == Some(self.boot)
            && Stat::read(self.pid).is_some_and(|stat| stat.start == self.start && !matches!(stat.state, 'Z' | 'X'))
    }

    /// Kills it and waits until it is gone; true when it was there.
    pub(super) fn kill(&self) -> Result<bool> {
        if !self.alive() {
            return Ok(false);
        }
        match kill(Pid::from_raw(self.pid), Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => {
                bail!("cannot end the cluster's process {}: {error}\n  next: run the command as root", self.pid)
            }
        }
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.alive() {
            if Instant::now() > deadline {
                bail!("process {} did not end within 20 s of SIGKILL; see /proc/{}/stack", self.pid, self.pid);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(true)
    }
}

struct Stat {
    state: char,
    parent: i32,
    start: u64,
}

impl Stat {
    fn read(pid: i32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Self::parse(&text)
    }

    /// The program's name, in parentheses, may hold spaces and parentheses: fields are counted after the last one.
    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.rsplit_once(") ")?.1.split(' ');
        let state = fields.next()?.chars().next()?;
        let parent = fields.next()?.parse().ok()?;
        let start = fields.nth(17)?.parse().ok()?;
        Some(Self { state, parent, start })
    }
}

fn boot_time() -> Option<u64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// The only child of a process.
pub(super) fn child_of(parent: i32) -> Option<i32> {
    fs::read_dir("/proc")
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .find(|pid| Stat::read(*pid).is_some_and(|stat| stat.parent == parent))
}

/// The supervisor that was started last, whether it runs or not.
pub(super) fn recorded(layout: &Layout) -> Option<Identity> {
    serde_json::from_slice(&fs::read(layout.pid()).ok()?).ok()
}

/// The supervisor, if it runs.
pub(super) fn supervisor(layout: &Layout) -> Option<Identity> {
    recorded(layout).filter(Identity::alive)
}

/// The cgroup hierarchies of this machine: one folder each with version 1, one for all with version 2.
fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        return vec![root.to_path_buf()];
    }
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    // cpu and cpuacct may be links to one folder.
    entries.map(|entry| entry.path()).filter(|path| path.is_dir() && !path.is_symlink()).collect()
}

/// Makes the folders that the kubelet wants to find.
pub(super) fn create_cgroups(layout: &Layout) -> Result<()> {
    for hierarchy in hierarchies() {
        let root_control = hierarchy.join("cgroup.subtree_control");
        if hierarchy == Path::new("/sys/fs/cgroup") {
            // One by one: a controller that the kernel lacks must not keep the others away.
            for controller in ["+cpu", "+cpuset", "+memory", "+pids", "+io", "+hugetlb"] {
                let _ = fs::write(&root_control, controller);
            }
        }
        let dir = hierarchy.join(layout.cgroup());
        match fs::create_dir(&dir) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("cannot create {}", dir.display())),
        }
        // A version 1 cpuset starts empty and takes no process until it is filled.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if hierarchy.join("cpuset.cpu_exclusive").exists() || dir.join("cpuset.cpu_exclusive").exists() {
                fs::write(dir.join(file), fs::read(hierarchy.join(file))?)?;
            }
        }
    }
    Ok(())
}

/// The cluster's folders that are there, one in each hierarchy.
pub(super) fn cgroups(layout: &Layout) -> Vec<PathBuf> {
    hierarchies().into_iter().map(|hierarchy| hierarchy.join(layout.cgroup())).filter(|dir| dir.is_dir()).collect()
}

/// Removes the cluster's cgroups, deepest first. Processes leave a cgroup when they are reaped, a moment after they died.
pub(super) fn remove_cgroups(layout: &Layout) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let left: Vec<PathBuf> = cgroups(layout).into_iter().filter(|dir| remove_tree(dir).is_err()).collect();
        let Some(first) = left.first() else { return Ok(()) };
        if Instant::now() > deadline {
            bail!("cannot remove the cgroup {}: it still holds processes (cgroup.procs names them)", first.display());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The files of a cgroup cannot be removed, and go with their folder.
fn remove_tree(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_name_with_spaces_and_parentheses() {
        let text = "42 (a) b (c) S 7 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 98765 1 2 3";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.state, stat.parent, stat.start), ('S', 7, 98765));
    }

    #[test]
    fn a_reused_number_is_another_process() {
        let own = Identity::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(own.alive());
        assert!(!Identity { start: own.start + 1, ..own }.alive());
        assert!(!Identity { boot: own.boot + 1, ..own }.alive());
    }
}

//! Real processes in real control groups, spelled as a kubelet with a root of its own would. One control group is made,
//! and removed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};

use tourniquet_agent::netns::NetNs;

static MADE: AtomicU32 = AtomicU32::new(0);

/// Control groups below one root, and the processes in them.
pub(crate) struct Groups {
    root: PathBuf,
    children: Vec<Child>,
    /// Where this process came from.
    home: PathBuf,
}

impl Groups {
    pub(crate) fn new() -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").expect("proc");
        let mount =
            mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|fields| fields[2] == "cgroup2");
        let mount = mount.expect("this test needs the unified control group hierarchy")[1].to_owned();
        let own = fs::read_to_string("/proc/self/cgroup").expect("proc");
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).expect("a group in the unified hierarchy");
        let home = Path::new(&mount).join(own);
        // Tests of one program run beside each other.
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let root = Path::new(&mount).join(format!("tourniquet-agent-test-{}-{number}", std::process::id()));
        fs::create_dir(&root).expect("this test makes a control group: run it as root");
        Self { root, children: Vec::new(), home }
    }

    /// A process in a network namespace and a control group.
    pub(crate) fn process(&mut self, namespace: &NetNs, group: &str) -> u32 {
        self.run(namespace, group, Command::new("sleep").arg("60"))
    }

    /// A program of one's own choice.
    pub(crate) fn run(&mut self, namespace: &NetNs, group: &str, command: &mut Command) -> u32 {
        let directory = self.root.join(group);
        fs::create_dir_all(&directory).expect("a control group");
        let child = namespace.enter(|| command.spawn()).expect("the namespace").expect("started");
        let pid = child.id();
        self.children.push(child);
        fs::write(directory.join("cgroup.procs"), pid.to_string()).expect("moved");
        pid
    }

    /// Moves this process itself.
    pub(crate) fn join(&self, group: &str) {
        let directory = self.root.join(group);
        fs::create_dir_all(&directory).expect("a control group");
        fs::write(directory.join("cgroup.procs"), std::process::id().to_string()).expect("moved");
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        let _ = fs::write(self.home.join("cgroup.procs"), std::process::id().to_string());
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        remove(&self.root);
    }
}

/// Control groups have files that cannot be removed; the directories can.
fn remove(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    let _ = fs::remove_dir(directory);
}

//! Finding a pod's network namespace in a recorded proc file system: who speaks for the pod, and who cannot.

#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests: a panic is a failed test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use tempfile::TempDir;
use tourniquet_agent::netns::{NetNs, NsId};
use tourniquet_agent::pods::cgroup::Hierarchy;
use tourniquet_agent::pods::{FindError, MOST_NAMESPACES, PodNetwork, all, find, hierarchy, node_network};

const UID: &str = "9c2d1e34-5b6f-4a70-8123-b4c5d6e7f809";
const OTHER: &str = "11111111-2222-3333-4444-555555555555";

/// A proc file system of files. A namespace is a file that processes share by hard links, so that it has one inode.
struct Proc(TempDir);

impl Proc {
    fn new() -> Self {
        let proc = Self(tempfile::tempdir().expect("a directory"));
        fs::create_dir(proc.0.path().join("namespaces")).expect("a directory");
        fs::write(proc.0.path().join("uptime"), "1 2\n").expect("a file");
        proc.process(1, 0, "systemd", "host", "0::/init.scope\n")
    }

    fn namespace(&self, name: &str) -> NsId {
        NetNs::open(&self.0.path().join("namespaces").join(name)).expect("a namespace").id()
    }

    fn process(self, pid: u32, started: u64, comm: &str, namespace: &str, cgroup: &str) -> Self {
        self.state(pid, started, comm, namespace, cgroup, 'S')
    }

    fn state(self, pid: u32, started: u64, comm: &str, namespace: &str, cgroup: &str, state: char) -> Self {
        let directory = self.0.path().join(pid.to_string());
        let file = self.0.path().join("namespaces").join(namespace);
        fs::create_dir_all(directory.join("ns")).expect("a directory");
        fs::OpenOptions::new().create(true).append(true).open(&file).expect("a file");
        fs::hard_link(&file, directory.join("ns/net")).expect("a link");
        fs::write(directory.join("cgroup"), cgroup).expect("a file");
        let stat = format!("{pid} ({comm}) {state} 1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 {started} 1056768 1\n");
        fs::write(directory.join("stat"), stat).expect("a file");
        self
    }

    /// Found by itself, and the same as when all are.
    fn find(&self, uid: &str) -> Result<PodNetwork, FindError> {
        let found = find(self.0.path(), uid, &Hierarchy::default(), self.namespace("host"));
        let listed = self.all().map(|mut all| all.remove(uid));
        match (&found, listed) {
            (Err(FindError::NotHere { .. } | FindError::NotAUid(_)), Ok(None)) => {}
            (Err(FindError::Relative { .. }), Err(FindError::Relative { .. })) => {}
            (found, Ok(Some(listed))) => assert_eq!(described(found), described(&listed)),
            (found, listed) => panic!("{found:?}, and among all: {listed:?}"),
        }
        found
    }

    fn all(&self) -> Result<BTreeMap<String, Result<PodNetwork, FindError>>, FindError> {
        all(self.0.path(), &Hierarchy::default(), self.namespace("host"))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

type Described = Result<(u32, NsId, String, Vec<(u32, NsId, bool)>), String>;

fn described(found: &Result<PodNetwork, FindError>) -> Described {
    let network = found.as_ref().map_err(ToString::to_string)?;
    let strays = network.strays.iter().map(|it| (it.pid, it.netns.id(), it.on_node)).collect();
    Ok((network.pid, network.netns.id(), network.container.clone(), strays))
}

fn container(uid: &str, id: &str) -> String {
    let escaped = uid.replace('-', "_");
    format!(
        "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{escaped}.slice/cri-containerd-{id}.scope"
    )
}

/// The pod as containerd runs it: pause first, then the containers; beside it another pod.
fn ordinary() -> Proc {
    Proc::new()
        .process(300, 500, "pause", "other", &container(OTHER, "0a"))
        .process(310, 600, "nginx", "other", &container(OTHER, "0b"))
        // Younger, with a smaller number: numbers wrap around.
        .process(90, 900, "nginx", "pod", &container(UID, "1b"))
        .process(400, 800, "pause", "pod", &container(UID, "1a"))
        .process(401, 950, "nginx", "pod", &container(UID, "1b"))
}

#[test]
fn the_sandbox_speaks() {
    let proc = ordinary();
    let found = proc.find(UID).expect("the pod");
    assert_eq!(found.netns.id(), proc.namespace("pod"));
    assert_eq!((found.pid, found.container.as_str()), (400, "cri-containerd-1a.scope"));
    assert!(found.strays.is_empty());
    assert_eq!(proc.find(OTHER).expect("the other pod").netns.id(), proc.namespace("other"));
}

#[test]
fn a_process_with_a_namespace_of_its_own_does_not_mislead() {
    let proc = ordinary().process(402, 960, "unshare", "own", &container(UID, "1b")).process(
        403,
        970,
        "nsenter",
        "host",
        &container(UID, "1b"),
    );
    let found = proc.find(UID).expect("the pod");
    assert_eq!(found.netns.id(), proc.namespace("pod"));
    let strays: Vec<_> = found.strays.iter().map(|stray| (stray.pid, stray.on_node)).collect();
    assert_eq!(strays, [(402, false), (403, true)]);
    assert_eq!(found.strays[0].netns.id(), proc.namespace("own"));
}

#[test]
fn names_of_processes_and_cgroups_do_not_mislead() {
    let proc = ordinary()
        // A name that looks like the end of the name field and an early start.
        .process(404, 990, "x) S 1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 1 1", "own", &container(UID, "1b"))
        // Another pod's container with a cgroup below its own that is named like this pod.
        .process(311, 610, "pause", "other", &format!("{}/pod{UID}/1a", container(OTHER, "0b")))
        .process(312, 620, "x", "other", &format!("{}/kubepods/burstable/pod{UID}/1a", container(OTHER, "0b")));
    let found = proc.find(UID).expect("the pod");
    assert_eq!((found.pid, found.netns.id()), (400, proc.namespace("pod")));
    let strays: Vec<_> = found.strays.iter().map(|stray| stray.pid).collect();
    assert_eq!(strays, [404]);
}

#[test]
fn the_nodes_own_network_is_refused() {
    let proc = Proc::new().process(400, 800, "pause", "host", &container(UID, "1a")).process(
        401,
        900,
        "x",
        "own",
        &container(UID, "1b"),
    );
    assert!(matches!(proc.find(UID), Err(FindError::HostNetwork { pid: 400, .. })));
}

#[test]
fn a_tie_that_disagrees_is_refused() {
    let proc = Proc::new().process(400, 800, "a", "pod", &container(UID, "1a")).process(
        401,
        800,
        "b",
        "own",
        &container(UID, "1b"),
    );
    assert!(matches!(proc.find(UID), Err(FindError::Ambiguous { pids, .. }) if pids == [400, 401]));
    let proc = Proc::new().process(400, 800, "a", "pod", &container(UID, "1a")).process(
        401,
        800,
        "b",
        "pod",
        &container(UID, "1b"),
    );
    assert_eq!(proc.find(UID).expect("the pod").pid, 400);
}

#[test]
fn monitors_and_dead_processes_do_not_speak() {
    let escaped = UID.replace('-', "_");
    let slice = format!("0::/kubepods.slice/kubepods-pod{escaped}.slice");
    let proc = Proc::new()
        .process(398, 700, "conmon", "host", &format!("{slice}/crio-conmon-1a.scope"))
        .state(399, 750, "x", "host", &format!("{slice}/crio-1a.scope"), 'Z')
        .process(400, 800, "nginx", "pod", &format!("{slice}/crio-1a.scope"));
    assert_eq!(proc.find(UID).expect("the pod").pid, 400);
}

#[test]
fn what_is_not_here_is_said_so() {
    let proc = ordinary();
    let gone = "99999999-9999-9999-9999-999999999999";
    assert!(matches!(proc.find(gone), Err(FindError::NotHere { .. })));
    for uid in ["", "a/b", "..", "9c2d1e34_5b6f", &"a".repeat(65)] {
        assert!(matches!(proc.find(uid), Err(FindError::NotAUid(_))), "{uid}");
    }
    // A part of a UID is another UID.
    assert!(matches!(proc.find(&UID[..UID.len() - 1]), Err(FindError::NotHere { .. })));
}

#[test]
fn hidden_paths_are_said_so() {
    let escaped = UID.replace('-', "_");
    let hidden = format!("0::/../../kubepods-besteffort-pod{escaped}.slice/cri-containerd-1a.scope");
    let proc = Proc::new().process(400, 800, "pause", "pod", &hidden);
    assert!(matches!(proc.find(UID), Err(FindError::Relative { pid: 400 })));
    // One process from outside does not hide the others.
    let proc = ordinary().process(405, 1, "x", "host", "0::/../../x");
    assert!(proc.find(UID).is_ok());
}

/// Processes that end while they are looked at: a pod that forks without end is still found.
#[test]
fn a_pod_that_forks_without_end_is_found() {
    let proc = ordinary().process(406, 999, "sh", "pod", &container(UID, "1b"));
    fs::remove_file(proc.path().join("406/ns/net")).expect("removed");
    let found = proc.find(UID).expect("the pod");
    assert_eq!(found.pid, 400);
}

#[test]
fn all_pods_are_found_at_once_each_with_its_own_answer() {
    let [host, torn, forking] = ["a1", "a2", "a3"].map(|start| format!("{start}{}", &OTHER[2..]));
    let proc = ordinary()
        .process(500, 800, "pause", "host", &container(&host, "2a"))
        .process(510, 800, "a", "own", &container(&torn, "3a"))
        .process(511, 800, "b", "pod", &container(&torn, "3b"))
        .process(520, 800, "pause", "forking", &container(&forking, "4a"))
        .process(521, 900, "sh", "forking", &container(&forking, "4b"));
    fs::remove_file(proc.path().join("521/ns/net")).expect("removed");
    let all = proc.all().expect("all");
    let mut uids = vec![UID, OTHER, &host, &torn, &forking];
    uids.sort_unstable();
    assert_eq!(all.keys().collect::<Vec<_>>(), uids);
    assert!(matches!(all[&host], Err(FindError::HostNetwork { pid: 500, .. })));
    assert!(matches!(all[&torn], Err(FindError::Ambiguous { .. })));
    for uid in uids {
        let _the_same = proc.find(uid);
    }
    assert_eq!(proc.find(&forking).expect("the pod").pid, 520);
}

/// A process of a pod that cannot be looked at may be its oldest: that pod is not told, and the others are.
#[test]
fn what_is_unreadable_in_one_pod_does_not_hide_the_others() {
    let proc = ordinary();
    fs::write(proc.path().join("401/stat"), "nothing of use").expect("written");
    let all = proc.all().expect("all");
    assert!(matches!(all[UID], Err(FindError::Unreadable { .. })));
    assert_eq!(all[OTHER].as_ref().expect("the other pod").pid, 300);
}

/// A pod whose processes each have a network of their own takes few of the agent's files, and is found all the same.
#[test]
fn a_pod_with_networks_without_end_is_found() {
    let crowd = u32::try_from(MOST_NAMESPACES).expect("few") + 8;
    // The order of the scan is proc's: the sandbox comes before them or after them.
    for pid in [400, 999] {
        let mut proc = Proc::new().process(pid, 800, "pause", "pod", &container(UID, "1a"));
        for number in 0..crowd {
            proc = proc.process(500 + number, 900, "x", &format!("own{number}"), &container(UID, "1b"));
        }
        let found = proc.find(UID).expect("the pod");
        assert_eq!((found.pid, found.netns.id()), (pid, proc.namespace("pod")));
        assert_eq!(found.strays.len(), MOST_NAMESPACES - 1);
        assert_eq!(found.strays.len() + found.more_strays, crowd as usize);
    }
}

#[test]
fn the_agents_own_place_tells_whose_pods_count() {
    let proc = ordinary();
    assert_eq!(hierarchy(proc.path()), Hierarchy::default(), "there is no such file");
    fs::create_dir(proc.path().join("self")).expect("a directory");
    for (own, place) in [
        ("0::/\n", None),
        ("0::/../../kubepods/pod1/a\n", None),
        ("0::/system.slice/x.service\n", None),
        ("0::/a/kubepods/besteffort/pod1/b\n", Some("0::/a/kubepods/pod2/c\n")),
    ] {
        fs::write(proc.path().join("self/cgroup"), own).expect("a file");
        assert_eq!(hierarchy(proc.path()), Hierarchy::of(place.unwrap_or_default()), "{own}");
    }
}

/// This machine's own proc: what is in no pod is not found, and reading every process fails nowhere.
#[test]
fn the_real_proc_is_readable() {
    let host = node_network(Path::new("/proc")).expect("the node's namespace").id();
    let found = find(Path::new("/proc"), "00000000-0000-0000-0000-000000000000", &Hierarchy::default(), host);
    assert!(matches!(found, Err(FindError::NotHere { .. })), "{found:?}");
    assert!(all(Path::new("/proc"), &hierarchy(Path::new("/proc")), host).is_ok());
}

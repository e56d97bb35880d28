//! Finding a pod in the machine's own proc: real processes in real control groups, spelled as a kubelet with a root of
//! its own would. Makes one control group of its own, and removes it.

#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests: a panic is a failed test")]

mod lab;

use std::fs;
use std::path::Path;

use nix::sched::{CloneFlags, unshare};
use tourniquet_agent::cut::{Hooks, cut};
use tourniquet_agent::pods::cgroup::Hierarchy;
use tourniquet_agent::pods::{FindError, all, find, hierarchy, node_network};

use crate::lab::groups::Groups;
use crate::lab::{Lab, SILENCE, UNPROBED, V4, answers, echo_tcp, times_out, until};

#[test]
fn real_processes() {
    let (uid, other) = ("9c2d1e34-5b6f-4a70-8123-b4c5d6e7f809", "11111111-2222-3333-4444-555555555555");
    let proc = Path::new("/proc");
    let host = node_network(proc).expect("the node's namespace");
    let lab = Lab::new();
    let neighbour = lab::namespace();
    let mut groups = Groups::new();
    let group = format!("kubepods/burstable/pod{uid}");
    let sandbox = groups.process(&lab.pod, &format!("{group}/aaaa"));
    // Start times have steps of 10 ms, and containers come later than that.
    std::thread::sleep(SILENCE / 8);
    groups.process(&lab.pod, &format!("{group}/bbbb"));
    let stray = groups.process(&neighbour, &format!("{group}/bbbb"));
    // Another pod's container that calls a control group below its own like this pod.
    groups.process(&neighbour, &format!("kubepods/besteffort/pod{other}/cccc/pod{uid}"));
    groups.process(&neighbour, &format!("kubepods/besteffort/pod{other}/cccc/kubepods/burstable/pod{uid}/aaaa"));

    let seen_from_here = || {
        let found = find(proc, uid, &Hierarchy::default(), host.id()).expect("the pod");
        assert_eq!((found.pid, found.netns.id()), (sandbox, lab.pod.id()));
        assert_eq!(found.strays.iter().map(|stray| stray.pid).collect::<Vec<_>>(), [stray]);
        assert!(!found.strays[0].on_node);
        found
    };
    let found = seen_from_here();
    assert_eq!(find(proc, other, &Hierarchy::default(), host.id()).expect("the other").netns.id(), neighbour.id());
    // A namespace that is called the host's is refused.
    assert!(matches!(find(proc, uid, &Hierarchy::default(), lab.pod.id()), Err(FindError::HostNetwork { .. })));

    // From a pod, in a cgroup namespace of one's own, as an agent on cgroup v2 is: others' paths begin with "..".
    groups.join("kubepods/besteffort/pod00000000-0000-0000-0000-00000000a9e4/dddd");
    let own = fs::read_to_string("/proc/self/cgroup").expect("proc");
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWCGROUP).expect("a cgroup namespace (root)");
            let relative = fs::read_to_string(format!("/proc/{sandbox}/cgroup")).expect("proc");
            assert!(relative.contains(":/../"), "{relative}");
            seen_from_here();
            let shown = fs::read_to_string("/proc/self/cgroup").expect("proc");
            assert!(shown.lines().any(|line| line == "0::/"), "{shown}");
            assert_eq!(hierarchy(proc), Hierarchy::of(&own));
            let mine = all(proc, &hierarchy(proc), host.id()).expect("all pods");
            assert_eq!(mine[uid].as_ref().expect("the pod").pid, sandbox);
            assert!(mine.contains_key(other));
        });
        inside.join().expect("found from a cgroup namespace of one's own");
    });
    let hierarchy = Hierarchy::of(&own);
    assert_ne!(hierarchy, Hierarchy::default());
    assert_eq!(find(proc, uid, &hierarchy, host.id()).expect("a pod of the same kubelet").pid, sandbox);

    // What was found is what is cut.
    echo_tcp(&lab.pod, UNPROBED);
    let service = std::net::SocketAddr::new(V4.pod, UNPROBED);
    answers(&lab.node, V4.outsider, service);
    cut(&found.netns, &lab.allow(), Hooks::Netdev).expect("the cut");
    times_out(&lab.node, V4.outsider, service);

    drop(groups);
    until("the pod is gone", || {
        matches!(find(proc, uid, &Hierarchy::default(), host.id()), Err(FindError::NotHere { .. }))
    });
}

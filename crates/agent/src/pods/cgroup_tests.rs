use proptest::prelude::*;

use super::{Hierarchy, Place, Unplaced, place};

const UID: &str = "9c2d1e34-5b6f-4a70-8123-b4c5d6e7f809";
const ID: &str = "4f1d2c3b4a5968778695a4b3c2d1e0f0123456789abcdef0123456789abcdef0";

fn anywhere(text: &str) -> Result<Place, Unplaced> {
    place(text, &Hierarchy::default())
}

fn expect(text: &str, container: &str) {
    assert_eq!(anywhere(text), Ok(Place { uid: UID.into(), container: container.into() }), "{text}");
}

/// Cgroup v1, cgroupfs driver, containerd (Kubernetes 1.2x on Ubuntu 18.04): every hierarchy, named and unnamed.
#[test]
fn version_1_cgroupfs() {
    let path = format!("/kubepods/burstable/pod{UID}/{ID}");
    expect(
        &format!(
            "12:memory:{path}\n11:perf_event:{path}\n10:net_cls,net_prio:{path}\n9:hugetlb:{path}\n8:cpuset:{path}\n\
             7:devices:{path}\n6:rdma:/\n5:freezer:{path}\n4:pids:{path}\n3:blkio:{path}\n2:cpu,cpuacct:{path}\n\
             1:name=systemd:{path}\n0::/system.slice/containerd.service\n"
        ),
        ID,
    );
}

/// Cgroup v1, systemd driver.
#[test]
fn version_1_systemd() {
    let escaped = UID.replace('-', "_");
    let scope = format!("cri-containerd-{ID}.scope");
    let path = format!("/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{escaped}.slice/{scope}");
    expect(&format!("3:cpu,cpuacct:{path}\n2:memory:{path}\n1:name=systemd:{path}\n0::{path}\n"), &scope);
}

/// Cgroup v2, systemd driver: AKS today. A guaranteed pod has no class in its path.
#[test]
fn version_2_systemd() {
    let escaped = UID.replace('-', "_");
    let scope = format!("cri-containerd-{ID}.scope");
    for class in ["burstable", "besteffort"] {
        let slice = format!("kubepods-{class}.slice/kubepods-{class}-pod{escaped}.slice");
        expect(&format!("0::/kubepods.slice/{slice}/{scope}\n"), &scope);
        // A container that runs systemd of its own.
        expect(&format!("0::/kubepods.slice/{slice}/{scope}/system.slice/cron.service\n"), &scope);
    }
    expect(&format!("0::/kubepods.slice/kubepods-pod{escaped}.slice/{scope}\n"), &scope);
    expect(&format!("0::/kubepods.slice/kubepods-pod{escaped}.slice/crio-{ID}.scope\n"), &format!("crio-{ID}.scope"));
    expect(&format!("0::/kubepods.slice/kubepods-pod{escaped}.slice\n"), "");
}

/// Cgroup v2, cgroupfs driver, and roots of one's own: kind, a kubelet in a container, a test cluster.
#[test]
fn roots_above_kubepods() {
    for root in ["", "/kubelet", "/docker/0a1b/kubelet", "/tourniquet-none-3f9a/system", "/a.slice/b.scope"] {
        expect(&format!("0::{root}/kubepods/besteffort/pod{UID}/{ID}\n"), ID);
        expect(&format!("0::{root}/kubepods/pod{UID}/{ID}\n"), ID);
    }
    let escaped = UID.replace('-', "_");
    let slices = "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable";
    expect(
        &format!("0::/{slices}-pod{escaped}.slice/cri-containerd-{ID}.scope\n"),
        &format!("cri-containerd-{ID}.scope"),
    );
}

/// A pod from a file on the node has a hash for a UID.
#[test]
fn static_pods() {
    let found = anywhere("0::/kubepods/burstable/pod0f1e2d3c4b5a69788796a5b4c3d2e1f0/x\n").expect("a pod");
    assert_eq!(found.uid, "0f1e2d3c4b5a69788796a5b4c3d2e1f0");
}

#[test]
fn outside_of_pods() {
    for text in [
        "",
        "\n",
        "0::/\n",
        "0::/init.scope\n",
        "0::/system.slice/containerd.service\n",
        "0::/kubepods.slice\n",
        "0::/kubepods/burstable\n",
        "0::/kubepods/burstable/pod\n",
        "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod.slice/x\n",
        "0::kubepods/burstable/pod9c2d1e34/x\n",
        "garbage",
        "1:2",
    ] {
        assert_eq!(anywhere(text), Err(Unplaced::NoPod), "{text}");
    }
}

/// What a container names below its own cgroup, or another one's, never decides.
#[test]
fn forged_names_below() {
    let other = "11111111-2222-3333-4444-555555555555";
    let escaped = other.replace('-', "_");
    let mine = UID.replace('-', "_");
    let scope = format!("cri-containerd-{ID}.scope");
    for below in [
        format!("pod{other}/{ID}"),
        format!("kubepods/burstable/pod{other}/{ID}"),
        format!("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{escaped}.slice/{scope}"),
        format!("kubepods-burstable-pod{escaped}.slice"),
    ] {
        expect(&format!("0::/kubepods/burstable/pod{UID}/{ID}/{below}\n"), ID);
        let slices = format!("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{mine}.slice");
        expect(&format!("0::/{slices}/{scope}/{below}\n"), &scope);
    }
}

/// The whole component has to be the pod's; a part, a longer one, the other driver's or another class's spelling is
/// not.
#[test]
fn only_whole_components() {
    let escaped = UID.replace('-', "_");
    for path in [
        format!("/kubepods/burstable/xpod{UID}/{ID}"),
        format!("/kubepods/burstable/pod{UID}.slice/{ID}"),
        format!("/kubepods/burstable/pod{UID} (deleted)"),
        format!("/kubepods/burstable/besteffort/pod{UID}/{ID}"),
        format!("/kubepods/other/pod{UID}/{ID}"),
        format!("/kubepods/pod_{UID}/{ID}"),
        format!("/xkubepods/burstable/pod{UID}/{ID}"),
        format!("/kubepods.slice/kubepods-burstable.slice/kubepods-besteffort-pod{escaped}.slice/{ID}"),
        format!("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID}.slice/{ID}"),
        format!("/kubepods.slice/burstable/pod{UID}/{ID}"),
        format!("/kubepods.slice/kubepods-burstable-pod{escaped}.slice/{ID}"),
        format!("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{escaped}.slice:cri-containerd:{ID}"),
    ] {
        assert_ne!(anywhere(&format!("0::{path}\n")).map(|place| place.uid), Ok(UID.into()), "{path}");
    }
}

#[test]
fn hierarchies_that_contradict() {
    let other = "11111111-2222-3333-4444-555555555555";
    let text = format!("2:memory:/kubepods/pod{UID}/x\n1:name=systemd:/kubepods/pod{other}/x\n");
    assert_eq!(anywhere(&text), Err(Unplaced::Contradiction));
}

/// As an agent with a cgroup namespace of its own sees the pods beside it.
#[test]
fn relative_paths() {
    let escaped = UID.replace('-', "_");
    let text = format!("0::/../../kubepods-burstable-pod{escaped}.slice/cri-containerd-{ID}.scope\n");
    assert_eq!(anywhere(&text), Err(Unplaced::Relative));
    assert_eq!(anywhere(&format!("0::/../kubepods/pod{UID}/x\n")), Err(Unplaced::Relative));
}

/// A second kubelet on the machine, and a kubelet inside a pod.
#[test]
fn only_pods_of_the_agents_own_kubelet() {
    let own = Hierarchy::of(&format!("0::/kubepods/burstable/pod11111111-0000/{ID}\n"));
    let mine = format!("0::/kubepods/besteffort/pod{UID}/x\n");
    let theirs = format!("0::/docker/0a1b/kubelet/kubepods/besteffort/pod{UID}/x\n");
    assert!(place(&mine, &own).is_ok());
    assert_eq!(place(&theirs, &own), Err(Unplaced::NoPod));
    assert!(anywhere(&theirs).is_ok());
    assert_eq!(Hierarchy::of("0::/system.slice/sshd.service\n"), Hierarchy::default());
}

proptest! {
    #[test]
    fn any_text_is_read(text in "\\PC*", lines in proptest::collection::vec("[0-9]{0,2}:[a-z=,]*:(/(kubepods|pod[0-9a-f-]*|burstable|\\.\\.|[a-z.:-]*)){0,6}", 0..6)) {
        let _ = Hierarchy::of(&text);
        for text in [text, lines.join("\n")] {
            if let Ok(place) = anywhere(&text) {
                prop_assert!(has_at_the_kubelets_place(&text, &place.uid), "{:?} from {}", place, text);
            }
        }
    }

    /// Whatever a container makes below its own cgroup, it is found as itself.
    #[test]
    fn what_is_below_never_decides(below in proptest::collection::vec("(kubepods|kubepods\\.slice|burstable|pod[0-9a-f]{1,4}|[^/\n]{1,9})", 0..5)) {
        prop_assume!(below.iter().all(|name| name != ".."));
        let path = format!("0::/kubepods/burstable/pod{UID}/{ID}/{}\n", below.join("/"));
        prop_assert_eq!(anywhere(&path), Ok(Place { uid: UID.into(), container: ID.into() }));
    }
}

const OTHER: &str = "11111111-2222-3333-4444-555555555555";

/// As the kernel writes about processes of the pod: containerd with cgroupfs and cgroup v1 (all hierarchies of a node,
/// the unified one empty), containerd with systemd and v2, a kubelet with a root of its own.
fn written() -> [String; 4] {
    let escaped = UID.replace('-', "_");
    let plain = format!("/kubepods/burstable/pod{UID}/{ID}");
    let slices = format!("kubepods-besteffort.slice/kubepods-besteffort-pod{escaped}.slice/cri-containerd-{ID}.scope");
    let own = format!("a.slice/a-kubepods.slice/a-kubepods-pod{escaped}.slice/crio-{ID}.scope");
    [
        format!("12:cpuset:{plain}\n4:net_cls,net_prio:{plain}\n1:name=systemd:{plain}\n"),
        format!("0::/kubepods.slice/{slices}\n"),
        format!("0::/{own}\n"),
        format!("0::/docker/0a1b/kubelet{plain}\n"),
    ]
}

/// As the scan reads it: names are bytes, and what is no text is replaced.
fn read(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Whether a text has this pod at the kubelet's place, told in another way than [`place`] does: by one pattern for each
/// driver, over the components from the first `kubepods` on.
fn has_at_the_kubelets_place(text: &str, uid: &str) -> bool {
    let escaped = uid.replace('-', "_");
    text.lines().any(|line| {
        let path = line.splitn(3, ':').nth(2).unwrap_or_default();
        let parts: Vec<&str> = path.split('/').collect();
        let is_parent =
            |part: &str| part == "kubepods" || part == "kubepods.slice" || part.ends_with("-kubepods.slice");
        let Some(at) = parts.iter().position(|part| is_parent(part)) else { return false };
        let (parent, below) = (parts[at], &parts[at + 1..]);
        let name = parent.strip_suffix(".slice");
        ["", "burstable", "besteffort"].iter().any(|class| {
            let expected: Vec<String> = match (name, class.is_empty()) {
                (None, true) => vec![format!("pod{uid}")],
                (None, false) => vec![(*class).to_owned(), format!("pod{uid}")],
                (Some(name), true) => vec![format!("{name}-pod{escaped}.slice")],
                (Some(name), false) => {
                    vec![format!("{name}-{class}.slice"), format!("{name}-{class}-pod{escaped}.slice")]
                }
            };
            below.len() >= expected.len() && below.iter().zip(&expected).all(|(part, expected)| part == expected)
        })
    })
}

/// Names that a container may give to control groups below its own: any bytes but a slash, NUL, and the line break, which
/// the kernel refuses (`cgroup_mkdir`); and those that look most like another pod.
fn name_below() -> impl Strategy<Value = Vec<u8>> {
    let escaped = OTHER.replace('-', "_");
    let forged = [
        "kubepods".to_owned(),
        "kubepods.slice".to_owned(),
        "burstable".to_owned(),
        format!("pod{OTHER}"),
        "kubepods-burstable.slice".to_owned(),
        format!("kubepods-burstable-pod{escaped}.slice"),
        format!("kubepods-pod{escaped}.slice"),
        "0::".to_owned(),
        ":x:".to_owned(),
        "...".to_owned(),
        "\r".to_owned(),
    ];
    let bytes = proptest::collection::vec(any::<u8>().prop_filter("no name", |it| !b"/\n\0".contains(it)), 1..20);
    prop_oneof![
        proptest::sample::select(forged.to_vec()).prop_map(String::into_bytes),
        bytes.prop_filter("no name", |name| name != b"." && name != b".."),
    ]
}

/// A change of a text: at a place, so many bytes are taken away, and these put there.
type Change = (proptest::sample::Index, usize, Vec<u8>);

fn changed(text: &str, changes: &[Change]) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for (at, taken, put) in changes {
        let at = at.index(bytes.len() + 1);
        let end = (at + taken).min(bytes.len());
        bytes.splice(at..end, put.iter().copied());
    }
    read(&bytes)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(700))]

    /// In every hierarchy another one, as cgroup v1 allows.
    #[test]
    fn no_bytes_below_a_container_make_it_another_pod(
        which in 0..4usize,
        below in proptest::collection::vec(proptest::collection::vec(name_below(), 0..5), 3),
    ) {
        let text = &written()[which];
        let before = anywhere(text).expect("a pod");
        prop_assert_eq!(&before.uid, UID);
        let mut bytes = Vec::new();
        for (line, names) in text.lines().zip(&below) {
            bytes.extend(line.as_bytes());
            for name in names {
                bytes.push(b'/');
                bytes.extend(name);
            }
            bytes.push(b'\n');
        }
        let text = read(&bytes);
        prop_assert_eq!(anywhere(&text), Ok(before), "{}", text);
        prop_assert!(!has_at_the_kubelets_place(&text, OTHER));
    }

    #[test]
    fn whatever_is_read_is_the_pod_at_the_kubelets_place(
        which in 0..4usize,
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), 0..40usize, prop_oneof![name_below(), Just(b"/".to_vec()), Just(b"\n".to_vec())]), 1..5),
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        for text in [changed(&written()[which], &changes), read(&bytes)] {
            let _ = Hierarchy::of(&text);
            if let Ok(place) = anywhere(&text) {
                prop_assert!(has_at_the_kubelets_place(&text, &place.uid), "{:?} from {}", place, text);
            }
        }
    }
}

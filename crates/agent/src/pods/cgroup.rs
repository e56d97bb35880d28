//! Which pod a process belongs to, from the text of its `/proc/PID/cgroup`.
//!
//! The kubelet makes one cgroup per pod, below `kubepods`; the runtime makes one below it per container; whatever is
//! below that, a container may have made and named as it likes. So only the component at the kubelet's place counts:
//! the first `kubepods` from the root, at most one quality-of-service class, then the pod. A `pod<uid>` anywhere below
//! is a name that somebody chose.
//!
//! Spellings (Kubernetes, `pkg/kubelet/cm/cgroup_manager_linux.go`):
//!
//! | driver | path |
//! |-|-|
//! | cgroupfs | `ROOT/kubepods/burstable/pod<uid>/<container>` |
//! | systemd | `kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid with _>.slice/<container>` |
//! | systemd with `--cgroup-root=a` | `a.slice/a-kubepods.slice/a-kubepods-burstable.slice/a-kubepods-burstable-pod….slice/…` |
//!
//! A guaranteed pod has no class in between. Cgroup v1 has such a line per hierarchy, cgroup v2 the one line `0::/…`.

/// Where the kubelet's cgroups begin on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hierarchy {
    /// The components up to and with `kubepods`; none: the first `kubepods` from the root, whatever is above it.
    root: Option<Vec<String>>,
}

impl Hierarchy {
    /// The hierarchy that the process with this `/proc/PID/cgroup` is in. The agent is a pod itself: given its own
    /// text, only pods of its own kubelet are found, and a second kubelet's (a cluster in containers on the same
    /// machine) are not. A process outside any pod teaches nothing: then the first `kubepods` from the root counts.
    pub fn of(cgroup: &str) -> Self {
        let root = lines(cgroup).find_map(|path| {
            let components: Vec<&str> = path.split('/').collect();
            // Relative to another cgroup namespace: no other process's path begins like this.
            if components.contains(&"..") {
                return None;
            }
            let at = components.iter().position(|component| kubepods(component).is_some())?;
            Some(components.get(..=at)?.iter().map(ToString::to_string).collect())
        });
        Self { root }
    }
}

/// The pod and the container that a process runs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The pod's UID, as the API spells it. For a pod from a manifest file this is the annotation
    /// `kubernetes.io/config.hash` of the API's object, not its UID.
    pub uid: String,
    /// The runtime's cgroup of the container, such as `cri-containerd-<id>.scope`; empty for a process in the pod's
    /// own.
    pub container: String,
}

/// Why a text names no single pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unplaced {
    /// The process is in no pod.
    NoPod,
    /// Two hierarchies of cgroup v1 name different pods: somebody with rights over the node's cgroups has moved it.
    Contradiction,
    /// The paths are relative to another cgroup namespace than the node's; what is above the first component is
    /// unknown.
    Relative,
}

/// The pod of a process, from the text of its `/proc/PID/cgroup`.
///
/// # Errors
/// When the text names no single pod.
pub fn place(cgroup: &str, hierarchy: &Hierarchy) -> Result<Place, Unplaced> {
    let mut found: Option<Place> = None;
    for path in lines(cgroup) {
        // "..": above the reader's own root. The component that decides may be hidden.
        if path.split('/').any(|component| component == "..") {
            return Err(Unplaced::Relative);
        }
        match (&found, place_in(path, hierarchy)) {
            (_, None) => {}
            (None, some) => found = some,
            (Some(before), Some(now)) if before.uid == now.uid => {}
            (Some(_), Some(_)) => return Err(Unplaced::Contradiction),
        }
    }
    found.ok_or(Unplaced::NoPod)
}

/// The paths of all hierarchies. A line is `ID:controllers:path`; a path may hold colons, and never a line break.
fn lines(cgroup: &str) -> impl Iterator<Item = &str> {
    cgroup.lines().filter_map(|line| line.splitn(3, ':').nth(2)).filter_map(|path| path.strip_prefix('/'))
}

fn place_in(path: &str, hierarchy: &Hierarchy) -> Option<Place> {
    let mut components = path.split('/');
    let mut above = Vec::new();
    let parent = loop {
        let component = components.next()?;
        above.push(component);
        if let Some(parent) = kubepods(component) {
            break parent;
        }
    };
    if hierarchy.root.as_ref().is_some_and(|root| *root != above) {
        return None;
    }
    let mut component = components.next()?;
    let uid = match parent {
        Parent::Plain => {
            if matches!(component, "burstable" | "besteffort") {
                component = components.next()?;
            }
            component.strip_prefix("pod")?.to_owned()
        }
        Parent::Slice(name) => {
            // systemd repeats the whole ancestry in every slice's name.
            let rest = component.strip_prefix(name)?.strip_prefix('-')?;
            let rest = match rest {
                "burstable.slice" | "besteffort.slice" => {
                    let class = component.strip_suffix(".slice")?;
                    component = components.next()?;
                    component.strip_prefix(class)?.strip_prefix('-')?
                }
                other => other,
            };
            // A dash separates ancestors in a slice's name, so the kubelet writes the UID's as underscores.
            let escaped = rest.strip_suffix(".slice")?.strip_prefix("pod")?;
            if escaped.contains('-') {
                return None;
            }
            escaped.replace('_', "-")
        }
    };
    valid_uid(&uid).then(|| Place { uid, container: components.next().unwrap_or_default().to_owned() })
}

/// How a driver spells the cgroup that holds all pods.
enum Parent<'a> {
    Plain,
    Slice(&'a str),
}

fn kubepods(component: &str) -> Option<Parent<'_>> {
    if component == "kubepods" {
        return Some(Parent::Plain);
    }
    let name = component.strip_suffix(".slice")?;
    (name == "kubepods" || name.ends_with("-kubepods")).then_some(Parent::Slice(name))
}

/// Whether this can be a pod's UID: the API server makes UUIDs, the kubelet hashes for pods from files.
pub(super) fn valid_uid(uid: &str) -> bool {
    !uid.is_empty() && uid.len() <= 64 && uid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

#[cfg(test)]
#[path = "cgroup_tests.rs"]
mod tests;

//! The receipt: what an isolation does not close, for the analyst who reads it first. Each with what to do about it.
//!
//! It is about more than the network: what was taken out of the pod works elsewhere, and what is like the pod may be in the same
//! state. A pure function of what was observed. What cannot be looked at is said, and keeps nobody from isolating.

mod body;
mod elsewhere;
mod powers;
mod seen;
mod token;
mod words;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::rbac::v1::PolicyRule;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use tourniquet_api::{PinnedTarget, Residual};

pub use self::seen::{Grant, Grants, Looked, Neighbour, Neighbours};
use crate::rbac::rule;
use crate::world::{Read, Unread, World};

const HIGH: &str = "High";
const MEDIUM: &str = "Medium";
const LOW: &str = "Low";

/// What a receipt may say. The list tells it from what is seen of the isolation itself, which is said anew at each look.
const CODES: &[&str] = &[
    "TokenUsable",
    "WorkloadIdentity",
    "SecretsMounted",
    "Privileged",
    "HostPID",
    "HostIPC",
    "HostPath",
    "AddedCapabilities",
    "SharedVolumes",
    "SameImageElsewhere",
    "SameServiceAccountElsewhere",
    STILL_ROUTED,
    INCOMPLETE,
];
/// Services that send clients to an isolated pod.
pub(crate) const STILL_ROUTED: &str = "StillRouted";
const INCOMPLETE: &str = "ReceiptIncomplete";
/// What is no longer true when the pod is gone: its token was bound to it.
const ENDS_WITH_THE_POD: &[&str] = &["TokenUsable", STILL_ROUTED];

/// A status has to fit into the API server's store: 96 of these are 160 KiB at most.
const LIMIT: usize = 96;

/// The rights to look at what the receipt is about. To read roles is not to have them.
pub(crate) fn rbac() -> Vec<PolicyRule> {
    let rbac = "rbac.authorization.k8s.io";
    vec![
        rule(rbac, &["rolebindings", "clusterrolebindings"], &["list"]),
        rule(rbac, &["roles", "clusterroles"], &["get"]),
        rule("", &["serviceaccounts"], &["get"]),
        rule("", &["services", "pods"], &["list"]),
    ]
}

/// Whether this is of a receipt.
pub(crate) fn is_of(residual: &Residual) -> bool {
    CODES.contains(&residual.code.as_str())
}

/// Whether this is still true of a pod that is gone.
pub(crate) fn outlives(residual: &Residual) -> bool {
    !ENDS_WITH_THE_POD.contains(&residual.code.as_str())
}

/// Whether something could not be looked at.
pub(crate) fn is_incomplete(residual: &Residual) -> bool {
    residual.code == INCOMPLETE
}

/// A pod that the receipt is about.
struct Subject<'a> {
    pod: &'a Pod,
    namespace: &'a str,
    pod_name: &'a str,
    /// `namespace/name`.
    name: String,
    node: &'a str,
}

impl<'a> Subject<'a> {
    fn new(pod: &'a Pod) -> Self {
        let (namespace, pod_name) = (pod.metadata.namespace.as_deref(), pod.metadata.name.as_deref());
        let (namespace, pod_name) = (namespace.unwrap_or_default(), pod_name.unwrap_or_default());
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
        Self { pod, namespace, pod_name, name: format!("{namespace}/{pod_name}"), node }
    }

    /// What has to be looked at for it.
    fn reads(&self) -> Vec<Read> {
        let (namespace, account) = (self.namespace.to_owned(), seen::account(self.pod).to_owned());
        let mut reads = vec![
            Read::Neighbours { namespace: namespace.clone(), node: self.node.to_owned() },
            Read::Services { namespace: namespace.clone() },
        ];
        if token::has_token(self.pod) {
            reads.push(Read::Grants { namespace: namespace.clone(), account: account.clone() });
        }
        if token::uses_identity(self.pod) {
            reads.push(Read::ServiceAccount { namespace, name: account });
        }
        reads
    }

    fn residuals(&self, world: &World) -> Result<Vec<Residual>, Unread> {
        let (namespace, account) = (self.namespace, seen::account(self.pod));
        let mut residuals = body::residuals(self);
        residuals.extend(token::secrets(self));
        let mut missed = Vec::new();
        if token::has_token(self.pod) {
            let may = format!("what service account {namespace}/{account} may do");
            match world.grants(namespace, account)? {
                Ok(grants) => {
                    residuals.push(token::usable(self, Some(grants)));
                    missed.extend(grants.left_out.iter().map(|what| format!("{may}: {what}")));
                }
                Err(cause) => {
                    residuals.push(token::usable(self, None));
                    missed.push(format!("{may}: {cause}"));
                }
            }
        }
        if token::uses_identity(self.pod) {
            let found = world.service_account(namespace, account)?;
            residuals.push(token::identity(self, found.as_ref().ok().and_then(|found| found.as_deref())));
            missed.extend(found.as_ref().err().map(|cause| format!("the identity that it uses: {cause}")));
        }
        match world.neighbours(namespace, self.node)? {
            Ok(neighbours) => residuals.extend(elsewhere::residuals(self, neighbours)),
            Err(cause) => missed.push(format!("other pods with its image, account or volumes: {cause}")),
        }
        match world.services(namespace)? {
            Ok(services) => residuals.extend(elsewhere::still_routed(self, services)),
            Err(cause) => missed.push(format!("Services that route to it: {cause}")),
        }
        if !missed.is_empty() {
            let can = format!("system:serviceaccount:{namespace}:{account}");
            let by_hand = words::kubectl(namespace, &["auth", "can-i", "--list", "--as"], &[&can]);
            residuals.push(residual(
                INCOMPLETE,
                MEDIUM,
                format!("not everything about pod {} could be looked at: {}", self.name, missed.join("; ")),
                Some(words::with("it is tried again; by hand, what the account may do", by_hand)),
            ));
        }
        Ok(residuals)
    }
}

/// Of so many different pods a receipt is made; of more the status would not hold it.
const DIFFERENT: usize = 16;

/// A pod, and how many others have the same owner and are like it.
struct Representative<'a> {
    pod: &'a Pod,
    alike: usize,
}

/// The first of the pods of each owner.
fn representatives<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> Vec<Representative<'a>> {
    let mut found: Vec<(Option<&str>, Representative<'a>)> = Vec::new();
    for pod in pods {
        let uid = controller(pod).map(|owner| owner.uid.as_str());
        match found.iter_mut().find(|(of, _)| uid.is_some() && *of == uid) {
            Some((_, representative)) => representative.alike += 1,
            None => found.push((uid, Representative { pod, alike: 0 })),
        }
    }
    found.into_iter().map(|(_, representative)| representative).collect()
}

fn controller(pod: &Pod) -> Option<&OwnerReference> {
    let owners = pod.metadata.owner_references.iter().flatten();
    owners.into_iter().find(|owner| owner.controller == Some(true))
}

/// What these targets leave open, as far as they are pods that are there, or namespaces that are isolated. None when there is no pod.
///
/// # Errors
/// [`Unread`] names everything that has to be looked at first.
pub(crate) fn made(world: &World, targets: &[PinnedTarget]) -> Result<Option<Vec<Residual>>, Unread> {
    let mut pods = Vec::new();
    let mut more = 0;
    for target in targets.iter().filter(|target| target.kind == "Pod") {
        let pod = world.pod(target.namespace.as_deref().unwrap_or_default(), &target.name)?;
        pods.extend(pod.filter(|pod| pod.metadata.uid.as_deref() == Some(&target.uid)));
    }
    for target in targets.iter().filter(|target| target.pods.is_some()) {
        let all = representatives(world.namespace_pods(&target.name)?.values());
        more += all.len().saturating_sub(DIFFERENT);
        // What is listed of a namespace is not all of a pod.
        let names = all.iter().take(DIFFERENT).filter_map(|one| one.pod.metadata.name.as_deref());
        let names: Vec<&str> = names.collect();
        let read = |name: &&str| Read::Pod { namespace: target.name.clone(), name: (*name).to_owned() };
        world.require(names.iter().map(read))?;
        for (name, one) in names.into_iter().zip(&all) {
            let whole = world.pod(&target.name, name)?.filter(|pod| pod.metadata.uid == one.pod.metadata.uid);
            // The first, and as many that stand for those like it.
            pods.extend(std::iter::repeat_n(whole, one.alike + 1).flatten());
        }
    }
    if pods.is_empty() {
        return Ok(None);
    }
    let mut different = representatives(pods);
    more += different.len().saturating_sub(DIFFERENT);
    different.truncate(DIFFERENT);
    let subjects: Vec<(Subject<'_>, usize)> =
        different.into_iter().map(|one| (Subject::new(one.pod), one.alike)).collect();
    world.require(subjects.iter().flat_map(|(subject, _)| subject.reads()))?;
    let mut residuals = Vec::new();
    for (subject, alike) in &subjects {
        let mut found = subject.residuals(world)?;
        if let Some(owner) = controller(subject.pod).filter(|_| *alike > 0) {
            for residual in &mut found {
                residual.message += &format!("; the same goes for {alike} more pods of {} {}", owner.kind, owner.name);
            }
        }
        residuals.extend(found);
    }
    if more > 0 {
        let message = format!("pods of {more} more owners were not looked at");
        residuals.push(residual(INCOMPLETE, MEDIUM, message, None));
    }
    if residuals.len() > LIMIT {
        let rank = |residual: &Residual| [HIGH, MEDIUM, LOW].iter().position(|word| *word == residual.severity);
        residuals.sort_by_key(rank);
        let more = residuals.len() - LIMIT;
        residuals.truncate(LIMIT);
        residuals.push(residual(
            INCOMPLETE,
            MEDIUM,
            format!("{more} more, none worse than these, did not fit in here"),
            None,
        ));
    }
    Ok(Some(residuals))
}

fn residual(code: &str, severity: &str, message: String, remedy: Option<String>) -> Residual {
    Residual { code: code.to_owned(), severity: severity.to_owned(), message: words::bounded(message), remedy }
}

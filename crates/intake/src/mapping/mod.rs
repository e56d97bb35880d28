//! From what Microsoft says of an incident to what a response acts on. Pure.
//!
//! Everything in an alert was chosen by whoever raised it, names of an attacker's pods included: a name is used when it is one that Kubernetes
//! allows, and the cluster is this one. What cannot be resolved is refused by itself, with a reason for a SOC analyst; the rest is still done.

mod alert;
mod cluster;
mod entities;
mod names;

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Map, Value};
use tourniquet_api::{Incident, NamespaceTarget, NodeTarget, PodTarget, Target};

pub use cluster::ClusterId;

use alert::{Alert, Told};
use entities::{Graph, field, text};

/// How long after the end of what an alert is about a pod may have been created and still be meant. The creation of the pod is often what the alert is
/// about, and the API server writes creation times in whole seconds, the audit log its own.
const TOLERANCE: SignedDuration = SignedDuration::from_secs(60);

/// How far a clock of Azure's may be ahead.
const SKEW: SignedDuration = SignedDuration::from_mins(5);

/// How many refusals are told; the others are counted.
const MOST_REFUSED: usize = 20;

/// What kind of object is acted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The pods that are named.
    Pod,
    /// The namespaces that are named, those of the pods included.
    Namespace,
    /// The nodes that are named.
    Node,
}

impl Scope {
    /// As it stands in a message.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Namespace => "namespace",
            Self::Node => "node",
        }
    }
}

/// What happened, by whom it was told.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// An alert, as Defender for Cloud's trigger hands it to a Logic App.
    DefenderAlert(&'a Value),
    /// An incident, as Sentinel's trigger does: what is in `object`.
    SentinelIncident(&'a Value),
}

/// What bounds a mapping.
#[derive(Clone, Debug)]
pub struct Limits<'a> {
    /// The cluster that the intake runs in.
    pub cluster: &'a ClusterId,
    /// The most distinct targets of one message.
    pub targets: usize,
    /// The time.
    pub now: Timestamp,
}

/// Which incident it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// What tells it from all others: Sentinel's resource ID of the incident, or Defender's ID of the alert. Same incident, same key.
    pub key: String,
    /// For the response.
    pub facts: Incident,
}

/// What an event comes to.
#[derive(Clone, Debug, PartialEq)]
pub struct Mapped {
    /// Each distinct target once, in the order in which they are named.
    pub targets: Vec<Target>,
    /// What is not acted on.
    pub refused: Vec<Refused>,
}

/// Something that is not acted on, and why.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Refused {
    /// What it is called.
    pub what: String,
    /// Why, and what to do instead.
    pub why: String,
}

impl Refused {
    /// One refusal.
    pub fn new(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self { what: what.into(), why: why.into() }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}

/// Which incident an event is of.
///
/// # Errors
/// When it does not say, for whoever reads the playbook's comment.
pub fn identify(event: Event<'_>) -> Result<Identity, String> {
    alert::identity(event)
}

/// What an event names, of one kind.
///
/// # Errors
/// When the event has not the form of one at all.
pub fn map(event: Event<'_>, scope: Scope, limits: &Limits<'_>) -> Result<Mapped, String> {
    let alerts = alert::alerts(event)?;
    let mut found = Found { limits, scope, targets: Vec::new(), over: 0, refused: Vec::new(), further: 0 };
    for alert in &alerts {
        found.read(alert);
    }
    Ok(found.told(&alerts))
}

/// What was found so far.
struct Found<'a> {
    limits: &'a Limits<'a>,
    scope: Scope,
    targets: Vec<Target>,
    /// Targets beyond the limit.
    over: usize,
    refused: Vec<Refused>,
    /// Refusals beyond those that are told.
    further: usize,
}

/// Kinds of workload, whose pods an alert does not name.
const WORKLOADS: [&str; 6] =
    ["k8s-deployment", "k8s-replicaset", "k8s-statefulset", "k8s-daemonset", "k8s-job", "k8s-cronjob"];

impl Found<'_> {
    fn read(&mut self, alert: &Alert) {
        let list = match &alert.entities {
            Ok(list) => list,
            Err(why) => return self.refuse(Refused::new(alert.called(), why.as_str())),
        };
        let graph = match Graph::new(list) {
            Ok(graph) => graph,
            Err(why) => return self.refuse(Refused::new(alert.called(), why)),
        };
        for (called, why) in graph.broken() {
            self.refuse(Refused::new(called, why));
        }
        let pods = graph.of_type("k8s-pod").next().is_some();
        for entity in graph.entities() {
            let Some(kind) = text(entity, "Type").ok().flatten().map(str::to_ascii_lowercase) else { continue };
            let target = match (self.scope, kind.as_str()) {
                (Scope::Pod, "k8s-pod") => self.pod(&graph, entity, alert),
                (Scope::Namespace, "k8s-namespace") => self.namespace(&graph, entity, alert),
                (Scope::Node, "k8s-node") => self.node(&graph, entity, alert),
                (Scope::Pod, "container") => match container(&graph, entity) {
                    Ok(()) => continue,
                    Err(why) => Err(why),
                },
                // Pods of a workload that are there now need not be those of then, and nothing tells which is meant.
                (Scope::Pod, workload) if !pods && WORKLOADS.contains(&workload) => {
                    Err("the alert names this workload, and no pod of it: isolate its namespace, or create a response with target.pods.owner yourself".to_owned())
                }
                _ => continue,
            };
            match target {
                Ok(target) => self.add(target),
                Err(why) => self.refuse(Refused::new(called(&kind, entity), why)),
            }
        }
    }

    fn pod(&self, graph: &Graph<'_>, entity: &Map<String, Value>, alert: &Alert) -> Result<Target, String> {
        let name = names::subdomain(required(entity, "Name", "the pod")?)?;
        let namespace = graph.resolve(entity, "Namespace")?.ok_or("it does not say in which namespace the pod is")?;
        let called = names::label(required(namespace, "Name", "its namespace")?)?;
        // Where it is given in both places, both have to be right.
        self.same_cluster(graph, &[namespace, entity], alert)?;
        let time = alert.time.ok_or("the alert says nothing of when it happened, so a pod of the same name that came later could be taken for this one: isolate the pod by hand")?;
        if time > self.limits.now + SKEW {
            return Err(format!("the alert is of {time}, which is still to come: compare the clocks"));
        }
        let created_before = Some(Time(time + TOLERANCE));
        Ok(Target {
            pod: Some(PodTarget { namespace: called.to_owned(), name: name.to_owned(), uid: None, created_before }),
            ..Target::default()
        })
    }

    fn namespace(&self, graph: &Graph<'_>, entity: &Map<String, Value>, alert: &Alert) -> Result<Target, String> {
        let name = names::label(required(entity, "Name", "the namespace")?)?;
        self.same_cluster(graph, &[entity], alert)?;
        Ok(Target { namespace: Some(NamespaceTarget { name: name.to_owned(), uid: None }), ..Target::default() })
    }

    fn node(&self, graph: &Graph<'_>, entity: &Map<String, Value>, alert: &Alert) -> Result<Target, String> {
        let name = names::subdomain(required(entity, "Name", "the node")?)?;
        self.same_cluster(graph, &[entity], alert)?;
        Ok(Target { node: Some(NodeTarget { name: name.to_owned(), uid: None }), ..Target::default() })
    }

    /// Whether these are in the intake's own cluster. Where none of them says, what the alert as a whole is about does.
    fn same_cluster(&self, graph: &Graph<'_>, entities: &[&Map<String, Value>], alert: &Alert) -> Result<(), String> {
        let own = self.limits.cluster;
        let mut said = false;
        for entity in entities {
            if let Some(cluster) = graph.resolve(entity, "Cluster")? {
                let resource = graph.resolve(cluster, "CloudResource")?.unwrap_or(cluster);
                own.is(required(resource, "ResourceId", "its cluster")?)?;
                said = true;
            }
        }
        match &alert.resource {
            _ if said => Ok(()),
            Some(resource) => own.is(resource),
            None => Err("nothing says in which cluster it is".to_owned()),
        }
    }

    fn add(&mut self, target: Target) {
        if let Some(known) = self.targets.iter_mut().find(|known| same(known, &target)) {
            // A pod that several alerts name was there when the last of them was raised.
            if let (Some(known), Some(pod)) = (&mut known.pod, target.pod) {
                known.created_before = known.created_before.take().max(pod.created_before);
            }
        } else if self.targets.len() < self.limits.targets {
            self.targets.push(target);
        } else {
            self.over += 1;
        }
    }

    fn refuse(&mut self, refused: Refused) {
        if self.refused.contains(&refused) {
            return;
        }
        if self.refused.len() < MOST_REFUSED {
            self.refused.push(refused);
        } else {
            self.further += 1;
        }
    }

    fn told(mut self, alerts: &[Alert]) -> Mapped {
        if self.targets.is_empty() && self.refused.is_empty() {
            let (scope, kinds) = (self.scope.as_str(), alert::kinds(alerts));
            let named = if kinds.is_empty() { "no entities at all".to_owned() } else { kinds.join(", ") };
            self.refused.push(Refused::new(
                format!("no {scope}"),
                format!("it names no {scope} (an entity K8s-{scope}); it has {named}. What it is about may stand in its description: create a response by hand then"),
            ));
        }
        if self.over > 0 {
            self.refused.push(Refused::new(
                format!("{} further", self.over),
                format!(
                    "more than {} targets are not acted on by one message: isolate the namespace, or create responses by hand",
                    self.limits.targets
                ),
            ));
        }
        if self.further > 0 {
            self.refused.push(Refused::new(format!("{} further", self.further), "refused as well"));
        }
        Mapped { targets: self.targets, refused: self.refused }
    }
}

/// Whether two targets are one object.
fn same(one: &Target, other: &Target) -> bool {
    match (&one.pod, &other.pod) {
        (Some(one), Some(other)) => one.namespace == other.namespace && one.name == other.name,
        (None, None) => one == other,
        _ => false,
    }
}

/// A container is what its pod is. That is an entity too, where the alert names it.
fn container(graph: &Graph<'_>, entity: &Map<String, Value>) -> Result<(), String> {
    match graph.resolve(entity, "Pod")? {
        Some(pod) if text(pod, "Type")?.is_some_and(|kind| kind.eq_ignore_ascii_case("k8s-pod")) => Ok(()),
        Some(_) => Err("what it says to be its pod is no K8s-pod".to_owned()),
        None => Err("it does not say in which pod the container is".to_owned()),
    }
}

fn required<'a>(entity: &'a Map<String, Value>, name: &str, whose: &str) -> Result<&'a str, String> {
    text(entity, name)?.ok_or_else(|| format!("{whose} has no {name}"))
}

/// How an entity is called in a refusal. Its name may be anything.
fn called(kind: &str, entity: &Map<String, Value>) -> String {
    match field(entity, "Name").ok().flatten().and_then(Value::as_str) {
        Some(name) => format!("{kind} {}", quoted(name)),
        None => kind.to_owned(),
    }
}

/// Somebody else's words in a message of ours: bounded, and nothing in them that changes how the rest is shown.
#[must_use]
pub fn quoted(words: &str) -> String {
    const MOST: usize = 80;
    let mut short: String = words.chars().take(MOST).collect();
    if short.len() < words.len() {
        short.push('…');
    }
    format!("{short:?}")
}

impl Told {
    fn incident(self, source: &str) -> Incident {
        Incident {
            id: self.id,
            title: self.title,
            severity: self.severity,
            source: Some(source.to_owned()),
            url: self.url,
        }
    }
}

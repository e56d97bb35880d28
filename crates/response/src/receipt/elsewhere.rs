//! What else has to be looked at: pods that have something in common with the target, and Services that go on sending to it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use k8s_openapi::api::core::v1::{Pod, Service};
use tourniquet_api::Residual;

use super::seen::{Neighbour, Neighbours};
use super::words::{NAMED, kubectl, list, sequence, shown, with};
use super::{LOW, MEDIUM, Subject, residual};
use crate::world::service_selects;

/// How many images are told; the rarest first, since a mesh puts its proxy into every pod.
const IMAGES: usize = 3;

/// Everything that other pods have in common with it.
pub(super) fn residuals(of: &Subject<'_>, neighbours: &Neighbours) -> Vec<Residual> {
    let own = Neighbour::from(of.pod);
    let others: Vec<&Neighbour> = neighbours.pods.iter().filter(|pod| pod.uid != own.uid).collect();
    let seen = Others { of, own: &own, others, more: neighbours.more };
    [seen.volumes(), seen.image(), seen.account()].into_iter().flatten().collect()
}

struct Others<'a> {
    of: &'a Subject<'a>,
    own: &'a Neighbour,
    others: Vec<&'a Neighbour>,
    more: bool,
}

impl Others<'_> {
    fn volumes(&self) -> Option<Residual> {
        let mut shared: BTreeSet<String> = BTreeSet::new();
        let mut pods: Vec<&Neighbour> = Vec::new();
        for other in &self.others {
            let mut common = Vec::new();
            if other.namespace == self.own.namespace {
                let claims = other.claims.iter().filter(|claim| self.own.claims.contains(claim));
                common.extend(claims.map(|claim| format!("PersistentVolumeClaim {}", shown(claim))));
            }
            if other.node == self.own.node && !self.own.node.is_empty() {
                let overlaps = |path: &&String| self.own.host_paths.iter().any(|own| overlap(own, path));
                let paths = other.host_paths.iter().filter(overlaps);
                common.extend(paths.map(|path| format!("path {} of the node", shown(path))));
            }
            if !common.is_empty() {
                shared.extend(common);
                pods.push(other);
            }
        }
        let shared: Vec<String> = shared.into_iter().collect();
        (!pods.is_empty()).then(|| {
            residual(
                "SharedVolumes",
                MEDIUM,
                format!(
                    "pod {} shares volumes with {} ({}): what it wrote is there, and what it writes goes on arriving",
                    self.of.name,
                    self.count(&pods),
                    list(&shared)
                ),
                Some(look_at(&pods)),
            )
        })
    }

    fn image(&self) -> Option<Residual> {
        let images: BTreeSet<&String> = self.own.images.iter().collect();
        let mut by_image: Vec<(&String, Vec<&Neighbour>)> = images
            .into_iter()
            .map(|image| (image, self.others.iter().copied().filter(|pod| pod.images.contains(image)).collect()))
            .filter(|(_, pods): &(_, Vec<_>)| !pods.is_empty())
            .collect();
        by_image.sort_by_key(|(image, pods)| (pods.len(), *image));
        let (_, rarest) = by_image.first()?;
        let told: Vec<String> = by_image
            .iter()
            .take(IMAGES)
            .map(|(image, pods)| format!("{} runs in {}", shown(image), self.count(pods)))
            .collect();
        let more = match by_image.len().saturating_sub(IMAGES) {
            0 => String::new(),
            more => format!("; and {more} more images"),
        };
        Some(residual(
            "SameImageElsewhere",
            MEDIUM,
            format!("what pod {} runs, others run: {}{more}", self.of.name, told.join("; ")),
            Some(look_at(rarest)),
        ))
    }

    fn account(&self) -> Option<Residual> {
        let same = |pod: &&&Neighbour| pod.namespace == self.own.namespace && pod.account == self.own.account;
        let pods: Vec<&Neighbour> = self.others.iter().filter(same).copied().collect();
        (!pods.is_empty()).then(|| {
            residual(
                "SameServiceAccountElsewhere",
                LOW,
                format!(
                    "service account {}/{} of pod {} is used by {}",
                    self.own.namespace,
                    self.own.account,
                    self.of.name,
                    self.count(&pods)
                ),
                Some(look_at(&pods)),
            )
        })
    }

    /// How many, and the first of them.
    fn count(&self, pods: &[&Neighbour]) -> String {
        let names: Vec<String> = pods.iter().map(|pod| format!("{}/{}", pod.namespace, pod.name)).collect();
        let least = if self.more { "at least " } else { "" };
        let pods = if names.len() == 1 { "pod" } else { "pods" };
        format!("{least}{} other {pods}: {}", names.len(), list(&names))
    }
}

/// Whether one is in the other.
fn overlap(one: &str, other: &str) -> bool {
    let (one, other) = (Path::new(one), Path::new(other));
    one.starts_with(other) || other.starts_with(one)
}

/// Those that are named, to be looked at.
fn look_at(pods: &[&Neighbour]) -> String {
    let mut by_namespace: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for pod in pods.iter().take(NAMED) {
        by_namespace.entry(&pod.namespace).or_default().push(&pod.name);
    }
    let commands = by_namespace
        .into_iter()
        .filter_map(|(namespace, names)| kubectl(namespace, &["get", "pods", "--output", "wide"], &names));
    with("look at these too", sequence(commands))
}

/// The Services that select a pod, by name.
pub(super) fn routing<'a>(pod: &Pod, services: &'a [Service]) -> Vec<&'a Service> {
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    let selects = |service: &&Service| {
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        selector.is_some_and(|selector| service_selects(selector, &labels))
    };
    let mut services: Vec<&Service> = services.iter().filter(selects).collect();
    services.sort_by_key(|service| &service.metadata.name);
    services
}

/// Services that send their clients to a pod that answers nobody.
pub(super) fn still_routed(of: &Subject<'_>, services: &[Service]) -> Option<Residual> {
    let services = routing(of.pod, services);
    let names: Vec<&str> = services.iter().filter_map(|service| service.metadata.name.as_deref()).collect();
    if names.is_empty() {
        return None;
    }
    // Without one label of each selector none of them selects it.
    let mut keys: BTreeSet<String> = BTreeSet::new();
    for service in &services {
        let selector = service.spec.iter().flat_map(|spec| spec.selector.iter().flatten());
        let mut of_this: Vec<&String> = selector.map(|(key, _)| key).collect();
        of_this.sort();
        if !of_this.iter().any(|key| keys.contains(*key)) {
            keys.extend(of_this.first().map(|key| (*key).clone()));
        }
    }
    let removals: Vec<String> = keys.iter().map(|key| format!("{key}-")).collect();
    let mut arguments = vec![of.pod_name];
    arguments.extend(removals.iter().map(String::as_str));
    let label = kubectl(of.namespace, &["label", "pod"], &arguments);
    let (which, send) = if names.len() == 1 { ("Service", "sends") } else { ("Services", "send") };
    Some(residual(
        super::STILL_ROUTED,
        MEDIUM,
        format!(
            "{which} {} of namespace {} {send} clients to pod {} as long as it is ready, and they get no answer",
            list(&names),
            of.namespace,
            of.name
        ),
        Some(with(
            "where that hurts, take the label off by which they select it (its owner may then start another pod in its place; a release \
             does not put it back)",
            label,
        )),
    ))
}

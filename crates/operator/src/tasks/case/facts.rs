//! The circumstances of a folder, for its record. As far as they can be seen: what cannot is in the notes.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt;
use serde_json::{Value, json};
use tourniquet_evidence::folder::{
    ClockFacts, ClusterFacts, ContainerFacts, Deed, Facts, Incident, ObjectFacts, StoreFacts, TargetFacts, VolumeFacts,
};
use tourniquet_evidence::store::Checked;
use tourniquet_response::{deeds, released_by};

use super::Case;

/// Of what was done to a target, so much is kept: the latest.
const DEEDS: usize = 200;

/// What is known when a folder is opened.
pub(super) async fn of(case: &Case<'_>, checked: Option<&Checked>, began: &Deed) -> Facts {
    let mut notes = Vec::new();
    let (namespace, name) = case.custody.response.split_once('/').unwrap_or(("", &case.custody.response));
    let object = case.object;
    let (pod_namespace, uid) = (object.namespace.clone().unwrap_or_default(), object.uid.clone().unwrap_or_default());
    // Together: what is volatile waits for this.
    let (pod, identity, clock) = tokio::join!(
        case.cluster.pod(&pod_namespace, &object.name, &uid),
        case.cluster.identity(),
        case.cluster.clock()
    );
    let pod = match pod {
        Ok(Some(pod)) => pod,
        Ok(None) => {
            notes.push("the pod was gone when its record was made".to_owned());
            Pod::default()
        }
        Err(error) => {
            notes.push(format!("the pod could not be read when its record was made: {error}"));
            Pod::default()
        }
    };
    let (api_server_version, cluster_uid) = identity.unwrap_or_else(|error| {
        notes.push(error.to_string());
        (String::new(), None)
    });
    let clocks = clocks(clock, checked, &mut notes);
    let immutability = checked.map_or_else(|| "Unknown".to_owned(), |checked| format!("{:?}", checked.immutability));
    let incident = &case.custody.incident;
    let facts = Facts {
        incident: Incident {
            id: incident.id.clone(),
            title: incident.title.clone(),
            severity: incident.severity.clone(),
            source: incident.source.clone(),
            url: incident.url.clone(),
        },
        response: ObjectFacts {
            kind: "IncidentResponse".to_owned(),
            api_version: Some("tourniquet.dev/v1alpha1".to_owned()),
            namespace: Some(namespace.to_owned()),
            name: name.to_owned(),
            uid: case.key.response.clone(),
        },
        cluster: ClusterFacts {
            name: case.cluster_name.to_owned(),
            resource_id: None,
            uid: cluster_uid,
            api_server_version,
            operator_version: env!("CARGO_PKG_VERSION").to_owned(),
        },
        store: StoreFacts { name: case.custody.store.clone(), immutability },
        target: target(case, &pod, &mut notes).await,
        command: None,
        requested_by: case.custody.requested_by.clone(),
        released_by: None,
        deeds: vec![began.clone()],
        clocks,
        notes,
    };
    as_of_now(case, facts).await
}

/// The same with what is known by now of what we did, and of who has released it.
pub(super) async fn as_of_now(case: &Case<'_>, mut facts: Facts) -> Facts {
    let target = case.object.uid.as_deref().unwrap_or_default();
    let (namespace, name) = case.custody.response.split_once('/').unwrap_or_default();
    // Its own from the API server: the watch may not have come so far.
    let own = match case.cluster.response(namespace, name).await {
        Ok(own) => own.filter(|own| own.uid().as_deref() == Some(&case.key.response)),
        Err(error) => {
            facts.notes.push(format!("what this response did until then could not be read: {error}"));
            None
        }
    };
    // What this task does is in the record itself.
    let this = format!("IncidentResponse {namespace}/{name}: action {}", case.key.action);
    let mut done: Vec<_> = own.iter().flat_map(|own| deeds(own, target)).collect();
    done.retain(|deed| deed.subject != this);
    for stored in case.responses.state() {
        if let Ok(other) = &stored.0
            && other.uid().as_deref() != Some(&case.key.response)
        {
            done.extend(deeds(other, target));
        }
    }
    facts.released_by = own.as_ref().and_then(released_by);
    // What was known before and is not seen any more stays: its response may be gone by now.
    facts.deeds.retain(|known| {
        !done.iter().any(|deed| deed.at == known.at && known.what.starts_with(&format!("{} ", deed.subject)))
    });
    facts
        .deeds
        .extend(done.into_iter().map(|deed| Deed { at: deed.at, what: format!("{} {}", deed.subject, deed.became) }));
    facts.deeds.sort_by_key(|deed| deed.at);
    let over = facts.deeds.len().saturating_sub(DEEDS);
    if over > 0 {
        facts.notes.push(format!("{over} earlier things that were done to the target are left out"));
        facts.deeds.drain(..over);
    }
    facts
}

fn clocks(
    of_api_server: Result<(SignedDuration, SignedDuration), tourniquet_cluster::Error>,
    checked: Option<&Checked>,
    notes: &mut Vec<String>,
) -> Vec<ClockFacts> {
    let clock = |whose: &str, offset: SignedDuration, uncertainty: SignedDuration| ClockFacts {
        whose: whose.to_owned(),
        at: Timestamp::now(),
        offset_ms: i64::try_from(offset.as_millis()).unwrap_or_default(),
        uncertainty_ms: u64::try_from(uncertainty.as_millis()).unwrap_or_default(),
    };
    let mut clocks = vec![clock("operator", SignedDuration::ZERO, SignedDuration::ZERO)];
    match of_api_server {
        Ok((offset, uncertainty)) => clocks.push(clock("apiServer", offset, uncertainty)),
        Err(error) => notes.push(format!("the API server's clock was not compared: {error}")),
    }
    match checked {
        // The service tells whole seconds; the way there and back comes to less.
        Some(checked) => clocks.push(clock("store", checked.clock_offset, SignedDuration::from_secs(1))),
        None => notes.push("the store's clock was not compared".to_owned()),
    }
    clocks
}

async fn target(case: &Case<'_>, pod: &Pod, notes: &mut Vec<String>) -> TargetFacts {
    let object = ObjectFacts {
        kind: "Pod".to_owned(),
        api_version: Some("v1".to_owned()),
        namespace: case.object.namespace.clone(),
        name: case.object.name.clone(),
        uid: case.object.uid.clone().unwrap_or_default(),
    };
    let (owners, unknown) = case.cluster.owners(pod).await;
    notes.extend(unknown);
    let owners = owners.into_iter().map(|owner| ObjectFacts {
        kind: owner.kind,
        api_version: Some(owner.api_version),
        namespace: case.object.namespace.clone(),
        name: owner.name,
        uid: owner.uid,
    });
    let status = pod.status.clone().unwrap_or_default();
    let kinds = [
        ("Container", status.container_statuses),
        ("InitContainer", status.init_container_statuses),
        ("EphemeralContainer", status.ephemeral_container_statuses),
    ];
    let containers = kinds.into_iter().flat_map(|(kind, statuses)| {
        statuses.unwrap_or_default().into_iter().map(move |status| container(kind, status))
    });
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).map(|volume| {
        // Its one field beside the name is its source.
        let source = json!(volume);
        let source = source.as_object().and_then(|fields| fields.iter().find(|(key, _)| *key != "name"));
        VolumeFacts {
            name: volume.name.clone(),
            kind: source.map_or_else(String::new, |(kind, _)| kind.clone()),
            source: source.and_then(|(_, source)| which(source)),
        }
    });
    TargetFacts {
        object,
        node: case.custody.node.clone(),
        owners: owners.collect(),
        containers: containers.collect(),
        volumes: volumes.collect(),
    }
}

/// Which claim, Secret, ConfigMap or path of the node.
fn which(source: &Value) -> Option<String> {
    let named = ["claimName", "secretName", "name", "path", "driver"].into_iter().find_map(|field| source.get(field));
    named.and_then(Value::as_str).map(str::to_owned)
}

fn container(kind: &str, status: ContainerStatus) -> ContainerFacts {
    ContainerFacts {
        name: status.name,
        kind: kind.to_owned(),
        container_id: status.container_id,
        image: status.image,
        image_id: Some(status.image_id).filter(|id| !id.is_empty()),
        restart_count: status.restart_count,
    }
}

//! The circumstances of a collection, for its record.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use serde_json::{Value, json};
use tourniquet_evidence::folder::{
    ClockFacts, ClusterFacts, ContainerFacts, Deed, Facts, Incident, ObjectFacts, TargetFacts, VolumeFacts,
};

use super::Collecting;

/// As far as they can be seen: what cannot is in the notes.
pub(super) async fn of(of: &Collecting<'_>, store_clock: Option<SignedDuration>) -> Facts {
    let now = Timestamp::now();
    let mut notes = Vec::new();
    let (namespace, name) = of.collection.response.split_once('/').unwrap_or(("", &of.collection.response));
    let object = of.object;
    let (pod_namespace, uid) = (object.namespace.clone().unwrap_or_default(), object.uid.clone().unwrap_or_default());
    let pod = match of.cluster.pod(&pod_namespace, &object.name, &uid).await {
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
    let (api_server_version, cluster_uid) = of.cluster.identity().await.unwrap_or_else(|error| {
        notes.push(error.to_string());
        (String::new(), None)
    });
    let clock = |offset: SignedDuration| ClockFacts {
        whose: "store".to_owned(),
        at: now,
        offset_ms: i64::try_from(offset.as_millis()).unwrap_or_default(),
        // The service tells whole seconds.
        uncertainty_ms: 1000,
    };
    if store_clock.is_none() {
        notes.push("the store's clock was not compared".to_owned());
    }
    notes.push("the API server's clock was not compared".to_owned());
    let incident = &of.collection.incident;
    Facts {
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
            uid: of.key.response.clone(),
        },
        cluster: ClusterFacts {
            name: of.cluster_name.to_owned(),
            resource_id: None,
            uid: cluster_uid,
            api_server_version,
            operator_version: env!("CARGO_PKG_VERSION").to_owned(),
        },
        target: target(of, &pod),
        requested_by: of.collection.requested_by.clone(),
        released_by: None,
        deeds: vec![Deed { at: now, what: format!("action {} began to collect", of.key.action) }],
        clocks: store_clock.map(clock).into_iter().collect(),
        notes,
    }
}

fn target(of: &Collecting<'_>, pod: &Pod) -> TargetFacts {
    let object = ObjectFacts {
        kind: "Pod".to_owned(),
        api_version: Some("v1".to_owned()),
        namespace: of.object.namespace.clone(),
        name: of.object.name.clone(),
        uid: of.object.uid.clone().unwrap_or_default(),
    };
    let owners = pod.metadata.owner_references.iter().flatten().map(|owner| ObjectFacts {
        kind: owner.kind.clone(),
        api_version: Some(owner.api_version.clone()),
        namespace: of.object.namespace.clone(),
        name: owner.name.clone(),
        uid: owner.uid.clone(),
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
        node: of.collection.node.clone(),
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

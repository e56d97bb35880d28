//! What folders are of.

use std::future::{Ready, ready};

use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tourniquet_evidence::Place;
use tourniquet_evidence::folder::{
    ArtifactPlan, Bounds, ClusterFacts, Deed, Facts, Incident, ObjectFacts, Opening, Source, SourceReport, TargetFacts,
};

use super::PATIENCE;

pub(crate) fn place() -> Place {
    Place {
        cluster: "prod".to_owned(),
        response_namespace: "incident-response".to_owned(),
        response_name: "sentinel-4711".to_owned(),
        response_uid: "8d1f0000-0000-4000-8000-000000000001".to_owned(),
        target_name: "web".to_owned(),
        target_uid: "0a1b2c3d-0000-4000-8000-000000000002".to_owned(),
        action: "collect".to_owned(),
    }
}

pub(crate) fn facts() -> Facts {
    Facts {
        incident: Incident {
            id: Some("4711".to_owned()),
            title: Some("Crypto miner\ndetected".to_owned()),
            ..Incident::default()
        },
        cluster: ClusterFacts {
            name: "prod".to_owned(),
            operator_version: "0.1.0".to_owned(),
            ..ClusterFacts::default()
        },
        target: TargetFacts {
            object: ObjectFacts {
                kind: "Pod".to_owned(),
                namespace: Some("shop".to_owned()),
                name: "web".to_owned(),
                uid: place().target_uid,
                ..ObjectFacts::default()
            },
            ..TargetFacts::default()
        },
        deeds: vec![Deed { at: Timestamp::UNIX_EPOCH, what: "isolated".to_owned() }],
        ..Facts::default()
    }
}

pub(crate) fn opening(planned: &[&str]) -> Opening {
    Opening {
        opened_at: Timestamp::now(),
        facts: facts(),
        planned: planned.iter().map(|&name| name.to_owned()).collect(),
    }
}

pub(crate) fn plan(name: &str) -> ArtifactPlan {
    ArtifactPlan {
        name: name.to_owned(),
        what: "processes".to_owned(),
        source: Source::ContainerTools,
        container: Some("web".to_owned()),
        argv: vec!["ps".to_owned(), "-ef".to_owned()],
    }
}

pub(crate) fn report() -> Ready<SourceReport> {
    ready(SourceReport { exit_code: Some(0), ..SourceReport::default() })
}

pub(crate) fn bounds() -> Bounds {
    Bounds {
        limit: 1 << 30,
        idle: PATIENCE,
        deadline: Instant::now() + PATIENCE,
        grace: PATIENCE,
        cancel: CancellationToken::new(),
    }
}

//! What is known of an artifact, kept with its blob: a restart reads it there.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::record::{ArtifactRecord, BlobFacts, Outcome, STDERR, SourceReport};
use crate::store::{Ended, METADATA, Properties, Received, Stored};

/// The name of the metadata. Base64 of JSON: headers are ASCII, and what is in them is somebody else's words.
const NAME: &str = "artifact";

/// How much of somebody's words is kept, in bytes, when all of it would not fit.
const WORDS: usize = 256;

/// What becomes of an artifact whose stream ended like this, and whose source says that.
pub(super) fn outcome(ended: &Ended) -> Outcome {
    match ended {
        Ended::Whole => Outcome::Done,
        Ended::Truncated => Outcome::Truncated,
        Ended::Broken(why) => Outcome::Failed { why: why.clone() },
        Ended::TimedOut => Outcome::TimedOut,
        Ended::Cancelled => Outcome::Cancelled,
    }
}

/// How a stream ended, its source asked. What it claims to have sent and what arrived are the same, or it is not whole.
pub(super) fn ended(received: &Received, report: &SourceReport) -> Ended {
    match (&received.ended, &report.broken, &report.claimed) {
        (Ended::Whole, Some(why), _) => Ended::Broken(why.clone()),
        (Ended::Whole, None, Some(claim))
            if claim.sha256 != received.sha256 || claim.length.is_some_and(|length| length != received.length) =>
        {
            let length = claim.length.map_or_else(String::new, |length| format!("{length} bytes, "));
            Ended::Broken(format!(
                "{} says that it sent {length}SHA-256 {}; {} bytes of SHA-256 {} arrived",
                claim.by, claim.sha256, received.length, received.sha256
            ))
        }
        (Ended::Whole, None, _) if report.truncated.is_some() => Ended::Truncated,
        (ended, _, _) => ended.clone(),
    }
}

/// The end of it, which is where programs say what was wrong.
pub(super) fn bounded(mut report: SourceReport) -> SourceReport {
    let over = report.stderr.len().saturating_sub(STDERR);
    let from = (over..=report.stderr.len()).find(|at| report.stderr.is_char_boundary(*at)).unwrap_or_default();
    report.stderr.drain(..from);
    report
}

/// As metadata. What would not fit is cut, and said to be.
pub(super) fn metadata(artifact: &ArtifactRecord) -> BTreeMap<String, String> {
    let mut artifact = artifact.clone();
    artifact.blob = None;
    let mut text = encoded(&artifact);
    while text.len() + NAME.len() > METADATA && shorten(&mut artifact) {
        text = encoded(&artifact);
    }
    BTreeMap::from([(NAME.to_owned(), text)])
}

/// What was kept with a blob, and the blob; none, when no upload of an artifact made it.
pub(super) fn of(properties: &Properties, path: &str, relative: &str) -> Option<ArtifactRecord> {
    let stored = properties.stored(path)?;
    let text = URL_SAFE_NO_PAD.decode(properties.metadata.get(NAME)?).ok()?;
    let artifact: ArtifactRecord = serde_json::from_slice(&text).ok()?;
    Some(ArtifactRecord { outcome: outcome(&stored.ended), blob: Some(blob(&stored, relative)), ..artifact })
}

/// The bytes in custody.
pub(super) fn blob(stored: &Stored, relative: &str) -> BlobFacts {
    BlobFacts {
        path: relative.to_owned(),
        length: stored.length,
        sha256: stored.sha256.clone(),
        etag: stored.etag.clone(),
        version_id: stored.version_id.clone(),
    }
}

fn encoded(artifact: &ArtifactRecord) -> String {
    // Serializing these types cannot fail; if it did, the artifact would be foreign after a restart, and said to be.
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(artifact).unwrap_or_default())
}

/// Leaves something out, what can best be missed first; false, when nothing is left to leave out.
fn shorten(artifact: &mut ArtifactRecord) -> bool {
    let before = encoded(artifact).len();
    artifact.shortened = true;
    if artifact.plan.argv.len() > 1 {
        artifact.plan.argv.truncate(artifact.plan.argv.len() / 2);
        return true;
    }
    if !artifact.report.stderr.is_empty() {
        artifact.report.stderr.clear();
        return true;
    }
    let words = [
        artifact.plan.argv.first_mut(),
        Some(&mut artifact.plan.what),
        artifact.plan.container.as_mut(),
        artifact.report.broken.as_mut(),
        artifact.report.truncated.as_mut(),
        artifact.report.file.as_mut().map(|file| &mut file.path),
        match &mut artifact.outcome {
            Outcome::Failed { why } => Some(why),
            _ => None,
        },
    ];
    words.into_iter().flatten().for_each(cut);
    if let Some(claim) = &mut artifact.report.claimed {
        cut(&mut claim.by);
        cut(&mut claim.sha256);
    }
    encoded(artifact).len() < before
}

fn cut(text: &mut String) {
    if let Some(end) = (0..=WORDS.min(text.len())).rev().find(|at| text.is_char_boundary(*at)) {
        text.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::folder::{ArtifactPlan, Claim, FileFacts, Source};

    fn artifact() -> ArtifactRecord {
        ArtifactRecord {
            plan: ArtifactPlan {
                name: "web/processes.txt".to_owned(),
                what: "processes".to_owned(),
                source: Source::ContainerTools,
                container: Some("web".to_owned()),
                argv: vec!["ps".to_owned(), "-ef".to_owned()],
            },
            outcome: Outcome::Done,
            started_at: Timestamp::UNIX_EPOCH,
            ended_at: Timestamp::UNIX_EPOCH,
            report: SourceReport { exit_code: Some(0), ..SourceReport::default() },
            blob: None,
            shortened: false,
        }
    }

    fn read_back(artifact: &ArtifactRecord) -> ArtifactRecord {
        let mut metadata = metadata(artifact);
        let size: usize = metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
        assert!(size <= METADATA, "{size}");
        for (name, value) in [("sha256", "aa"), ("length", "3"), ("ended", "whole")] {
            metadata.insert(name.to_owned(), value.to_owned());
        }
        let properties = Properties { url: String::new(), length: 3, etag: "e".to_owned(), version_id: None, metadata };
        of(&properties, "f/data/x", "data/x").unwrap()
    }

    #[test]
    fn a_restart_knows_of_an_artifact_what_was_known() {
        let artifact = artifact();
        let read = read_back(&artifact);
        assert_eq!(read.blob.as_ref().unwrap().sha256, "aa");
        assert_eq!(ArtifactRecord { blob: None, ..read }, artifact);
    }

    #[test]
    fn what_does_not_fit_is_cut_and_said_to_be() {
        let long = "ä".repeat(5000);
        let mut artifact = artifact();
        artifact.plan.argv = vec![long.clone(); 100];
        artifact.plan.what.clone_from(&long);
        artifact.outcome = Outcome::Failed { why: long.clone() };
        artifact.report.stderr.clone_from(&long);
        artifact.report.broken = Some(long.clone());
        artifact.report.truncated = Some(long.clone());
        artifact.report.claimed = Some(Claim { by: long.clone(), sha256: long.clone(), length: None });
        let file = FileFacts {
            path: long,
            mode: "0100644".to_owned(),
            uid: 0,
            gid: 0,
            size: 0,
            accessed: None,
            modified: None,
            changed: None,
            born: None,
        };
        artifact.report.file = Some(file);
        assert!(read_back(&artifact).shortened);
    }

    #[test]
    fn what_arrived_is_whole_only_where_it_is_what_was_sent() {
        let received = Received { length: 3, sha256: "aa".to_owned(), ended: Ended::Whole };
        let claim = |sha256: &str, length| SourceReport {
            claimed: Some(Claim { by: "the agent".to_owned(), sha256: sha256.to_owned(), length }),
            ..SourceReport::default()
        };
        for (claim, whole) in [
            (claim("aa", Some(3)), true),
            (claim("aa", None), true),
            (claim("aa", Some(4)), false),
            (claim("ab", Some(3)), false),
        ] {
            assert_eq!(ended(&received, &claim) == Ended::Whole, whole, "{claim:?}");
        }
        let truncated = |claim| SourceReport { truncated: Some("there was more".to_owned()), ..claim };
        assert_eq!(ended(&received, &truncated(claim("aa", Some(3)))), Ended::Truncated);
        assert!(matches!(ended(&received, &truncated(claim("ab", Some(3)))), Ended::Broken(_)), "worse than that");
        let cut = Received { ended: Ended::Cancelled, ..received };
        assert_eq!(ended(&cut, &claim("ab", None)), Ended::Cancelled, "that is why");
    }

    #[test]
    fn the_end_of_stderr_is_kept() {
        let report = SourceReport { stderr: format!("{}end", "ä".repeat(STDERR)), ..SourceReport::default() };
        let bounded = bounded(report);
        assert!(bounded.stderr.len() <= STDERR && bounded.stderr.ends_with("äend"));
    }
}

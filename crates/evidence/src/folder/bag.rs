//! The files that make a folder a bag (RFC 8493): a function of the record and of the opening alone, so that whoever finishes a folder writes the same bytes.

use std::collections::BTreeMap;
use std::fmt::Write;

use sha2::{Digest, Sha256};

use super::record::Record;
use crate::store::hex;

/// What is written first.
pub(super) const OPENED: &str = "opened.json";
/// The record.
pub(super) const RECORD: &str = "data/record.json";
/// What is written last.
pub(super) const TAG_MANIFEST: &str = "tagmanifest-sha256.txt";
/// What may come later.
pub(super) const RELEASE: &str = "release.json";
/// Where what was collected lies.
pub(super) const PAYLOAD: &str = "data/";

const MANIFEST: &str = "manifest-sha256.txt";

/// What tells whoever finds a folder how far it came.
pub(super) const HOW_TO_TELL: &str = "This folder is finished if and only if tagmanifest-sha256.txt is there; without it, whoever collected was interrupted, and nothing is said of what is missing.";

/// A file of the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    pub(super) name: &'static str,
    pub(super) content: String,
}

impl File {
    pub(super) fn sha256(&self) -> String {
        digest(self.content.as_bytes())
    }
}

pub(super) fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// All files, in the order in which they are written: the one that finishes the folder is the last.
pub(super) fn files(record: &Record, record_bytes: &[u8], opened_sha256: &str) -> Vec<File> {
    // By path: the same whatever order things were collected in.
    let mut payload: BTreeMap<&str, (&str, u64)> = record
        .artifacts
        .iter()
        .filter_map(|artifact| artifact.blob.as_ref())
        .map(|blob| (blob.path.as_str(), (blob.sha256.as_str(), blob.length)))
        .collect();
    let record_sha256 = digest(record_bytes);
    payload.insert(RECORD, (&record_sha256, record_bytes.len() as u64));

    let mut files = vec![
        File { name: "bagit.txt", content: "BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n".to_owned() },
        File {
            name: "bag-info.txt",
            content: info(record, payload.len(), payload.values().map(|(_, length)| length).sum()),
        },
        File { name: MANIFEST, content: manifest(payload.iter().map(|(path, (sha256, _))| (*path, *sha256))) },
    ];
    let tags: Vec<(&str, String)> = files.iter().map(|file| (file.name, file.sha256())).collect();
    let tags = tags.iter().map(|(name, sha256)| (*name, sha256.as_str())).chain([(OPENED, opened_sha256)]);
    files.push(File { name: TAG_MANIFEST, content: manifest(tags) });
    files
}

/// As `sha256sum` writes and reads it. No name has anything in it that would have to be escaped.
fn manifest<'a>(entries: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    entries.fold(String::new(), |mut text, (path, sha256)| {
        let _ = writeln!(text, "{sha256}  {path}");
        text
    })
}

fn info(record: &Record, count: usize, bytes: u64) -> String {
    let facts = &record.facts;
    let target = &facts.target.object;
    let named = [target.namespace.as_deref(), Some(target.name.as_str())];
    let target = named.into_iter().flatten().collect::<Vec<_>>().join("/");
    let mut text = String::new();
    let mut line = |label: &str, value: &str| {
        // One line each: what others wrote cannot begin another.
        let value: Vec<&str> = value.split_whitespace().collect();
        if !value.is_empty() {
            let _ = writeln!(text, "{label}: {}", value.join(" "));
        }
    };
    line("Bag-Software-Agent", &format!("tourniquet {}", facts.cluster.operator_version));
    line("Bagging-Date", &record.sealed_at.strftime("%Y-%m-%d").to_string());
    line("External-Identifier", &record.folder);
    line("Bag-Group-Identifier", facts.incident.id.as_deref().unwrap_or_default());
    line(
        "External-Description",
        &format!("Collected from {} {target} in cluster {}", facts.target.object.kind, facts.cluster.name),
    );
    line("Internal-Sender-Description", HOW_TO_TELL);
    line("Payload-Oxum", &format!("{bytes}.{count}"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_begins_no_line_of_its_own() {
        let mut record: Record = serde_json::from_str(include_str!("record_test.json")).unwrap();
        record.facts.incident.id = Some("4711\nPayload-Oxum: 0.0\r\u{85}".to_owned());
        let text = info(&record, 2, 30);
        assert!(text.lines().any(|line| line == "Bag-Group-Identifier: 4711 Payload-Oxum: 0.0"), "{text}");
        assert_eq!(
            text.lines().filter(|line| line.starts_with("Payload-Oxum:")).collect::<Vec<_>>(),
            ["Payload-Oxum: 30.2"]
        );
    }

    #[test]
    fn the_last_file_covers_the_others_and_they_cover_the_rest() {
        let text = include_str!("record_test.json");
        let record: Record = serde_json::from_str(text).unwrap();
        let files = files(&record, text.as_bytes(), "0123");
        let names: Vec<&str> = files.iter().map(|file| file.name).collect();
        assert_eq!(names, ["bagit.txt", "bag-info.txt", "manifest-sha256.txt", "tagmanifest-sha256.txt"]);
        let lines =
            |index: usize| files[index].content.lines().map(|line| line.split_once("  ").unwrap()).collect::<Vec<_>>();
        assert_eq!(
            lines(2),
            [("aa", "data/web/processes.txt"), (digest(text.as_bytes()).as_str(), "data/record.json")]
                .into_iter()
                .rev()
                .collect::<Vec<_>>()
        );
        let [bagit, info, manifest] = [0, 1, 2].map(|index| files[index].sha256());
        assert_eq!(
            lines(3),
            [
                (bagit.as_str(), "bagit.txt"),
                (&info, "bag-info.txt"),
                (&manifest, "manifest-sha256.txt"),
                ("0123", "opened.json")
            ]
        );
    }
}

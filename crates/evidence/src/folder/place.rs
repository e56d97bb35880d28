//! Where a folder is, and names that are safe wherever a folder may be put.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use crate::store::hex;

/// What a folder is of. Each part is made safe before it becomes part of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The cluster's name.
    pub cluster: String,
    /// The response's namespace.
    pub response_namespace: String,
    /// The response's name.
    pub response_name: String,
    /// The response's UID.
    pub response_uid: String,
    /// The target's name.
    pub target_name: String,
    /// The target's UID.
    pub target_uid: String,
    /// The name of the response's action, which no two of its actions share: each has a folder of its own, since a sealed one takes nothing more.
    pub action: String,
}

impl Place {
    /// `CLUSTER/NAMESPACE/RESPONSE-UID8/TARGET-UID8/ACTION`, below the store's prefix.
    #[must_use]
    pub fn path(&self) -> String {
        let one = |name: &str, uid: &str| {
            let short: String = uid.chars().take(8).collect();
            format!("{}-{}", safe_segment(name), safe_segment(&short))
        };
        format!(
            "{}/{}/{}/{}/{}",
            safe_segment(&self.cluster),
            safe_segment(&self.response_namespace),
            one(&self.response_name, &self.response_uid),
            one(&self.target_name, &self.target_uid),
            safe_segment(&self.action)
        )
    }
}

/// The longest segment. File systems take 255 bytes.
const SEGMENT: usize = 200;
/// The longest name of an artifact; the service takes 1,024 for the whole.
const PATH: usize = 400;
/// Hex digits of the digest that stands for what is cut off.
const DIGEST: usize = 16;

/// A segment of a path that is the same wherever it is copied to: of letters, digits, `.`, `_` and `-` only; everything else becomes `=` and two hex digits for each byte.
/// Never empty, `.` or `..`, never ends in a dot, at most 200 characters (the rest gives way to `=~` and a digest). Two different names stay different.
#[must_use]
pub fn safe_segment(name: &str) -> String {
    let mut safe = String::with_capacity(name.len());
    let last = name.len().saturating_sub(1);
    for (at, byte) in name.bytes().enumerate() {
        let plain = byte.is_ascii_alphanumeric() || b"_-".contains(&byte) || (byte == b'.' && at != last);
        if plain {
            safe.push(char::from(byte));
        } else {
            let _ = write!(safe, "={byte:02X}");
        }
    }
    if safe.is_empty() {
        safe.push('=');
    }
    shortened(safe, SEGMENT)
}

/// The same for a path: each segment is made safe, empty ones are left out (a path that begins at the root is as one that does not), and at most 400 characters are kept.
#[must_use]
pub fn safe_path(path: &str) -> String {
    let segments = path.split('/').filter(|segment| !segment.is_empty());
    let safe = segments.map(safe_segment).collect::<Vec<_>>().join("/");
    match safe.is_empty() {
        true => safe_segment(""),
        false => shortened(safe, PATH),
    }
}

/// All of it is ASCII here.
fn shortened(safe: String, most: usize) -> String {
    if safe.len() <= most {
        return safe;
    }
    let digest = hex(&Sha256::digest(safe.as_bytes()));
    let mut kept = safe.get(..most - DIGEST - 2).unwrap_or_default();
    // Not in the middle of an escaped byte, nor after a slash.
    if let Some(at) = kept.rfind('=').filter(|at| at + 3 > kept.len()) {
        kept = kept.get(..at).unwrap_or_default();
    }
    format!("{}=~{}", kept.trim_end_matches('/'), digest.get(..DIGEST).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::store::is_name;

    #[test]
    fn ordinary_names_stay_as_they_are() {
        for name in ["web-7d9c-x2x", "processes.txt", ".bashrc", "a_b", "A"] {
            assert_eq!(safe_segment(name), name);
        }
        assert_eq!(safe_path("web/files/etc/passwd"), "web/files/etc/passwd");
        assert_eq!(safe_path("/etc/passwd"), "etc/passwd");
    }

    #[test]
    fn nothing_leads_elsewhere_or_means_something_else_there() {
        let long = "ä/".repeat(900);
        for name in [
            "",
            ".",
            "..",
            "...",
            "a.",
            "a b",
            "a\nb",
            "-rf",
            "a/../../b",
            "a\\b",
            "C:",
            "a%2Fb",
            "=",
            "=2E",
            "\u{202e}txt",
            "~",
            "\0",
            &long,
        ] {
            assert!(is_name(&safe_segment(name)) && !safe_segment(name).contains('/'), "{name:?}");
            assert!(safe_segment(name).len() <= SEGMENT);
            assert!(is_name(&safe_path(name)) && safe_path(name).len() <= PATH, "{name:?}: {}", safe_path(name));
        }
    }

    #[test]
    fn different_names_stay_different() {
        let long: String = "x".repeat(300);
        let names = [
            "",
            ".",
            "..",
            "=",
            "=2E",
            "=2e",
            "=3D",
            "a",
            "a.",
            "a=2E",
            "A",
            "ä",
            "a\u{308}",
            &long,
            &format!("{long}y"),
            "a/b",
            "a=2Fb",
        ];
        let safe: HashSet<String> = names.iter().map(|name| safe_segment(name)).collect();
        assert_eq!(safe.len(), names.len());
    }

    #[test]
    fn a_place_is_of_one_action_of_one_response_on_one_target() {
        let place = Place {
            cluster: "prod eu".to_owned(),
            response_namespace: "incident-response".to_owned(),
            response_name: "sentinel-4711".to_owned(),
            response_uid: "8d1f0000-1111".to_owned(),
            target_name: "web".to_owned(),
            target_uid: "0a1b2c3d-4444".to_owned(),
            action: "collect".to_owned(),
        };
        assert_eq!(place.path(), "prod=20eu/incident-response/sentinel-4711-8d1f0000/web-0a1b2c3d/collect");
    }
}

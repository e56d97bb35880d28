//! Names of blobs that mean the same in a URL, on any file system, and in a checksum file.

/// What [`is_name`] asks for, in words.
pub(super) const WANTED: &str = "segments of letters, digits and . _ - = ~, separated by single slashes, none of them ending in a dot, 1,024 characters in all";

/// Whether this is such a name.
pub(crate) fn is_name(name: &str) -> bool {
    let fits = |segment: &str| {
        !segment.is_empty()
            && !segment.ends_with('.')
            && segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-=~".contains(&b))
    };
    name.len() <= 1024 && name.split('/').all(fits)
}

#[cfg(test)]
mod tests {
    use super::is_name;

    #[test]
    fn a_name_leads_nowhere_else() {
        for name in ["a", "a/b.txt", "prod-1/ir/web=20x", "web-8d1f/data/files/app/=2E=2E/.bashrc"] {
            assert!(is_name(name), "{name}");
        }
        for name in [
            "",
            "/a",
            "a/",
            "a//b",
            "..",
            "a/../b",
            ".",
            "a/b.",
            "a b",
            "a\nb",
            "a%2Fb",
            "a\\b",
            "ä",
            &"a".repeat(1025),
        ] {
            assert!(!is_name(name), "{name:?}");
        }
    }
}

//! The Library of Congress' own tool, `bagit` from PyPI, when it was installed; without it, what RFC 8493 asks for is checked here.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use super::sources::sha256;

pub(crate) fn accepts(bag: &Path) {
    assert_eq!(complaints(bag), Vec::<String>::new());
    if let Some((passed, said)) = tool(bag) {
        assert!(passed, "{said}");
    }
}

pub(crate) fn refuses(bag: &Path) {
    assert_ne!(complaints(bag), Vec::<String>::new());
    if let Some((passed, said)) = tool(bag) {
        assert!(!passed, "{said}");
    }
}

/// What the tool says, where `TOURNIQUET_BAGIT` names a Python that has it.
fn tool(bag: &Path) -> Option<(bool, String)> {
    let python = std::env::var_os("TOURNIQUET_BAGIT")?;
    let output = Command::new(python)
        .args(["-m", "bagit", "--validate"])
        .arg(bag)
        .output()
        .expect("the Python of TOURNIQUET_BAGIT can be run");
    Some((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

fn complaints(bag: &Path) -> Vec<String> {
    let read = |name: &str| std::fs::read_to_string(bag.join(name)).unwrap_or_default();
    let mut complaints = Vec::new();
    if read("bagit.txt") != "BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n" {
        complaints.push("bagit.txt".to_owned());
    }
    let mut listed = BTreeSet::new();
    for manifest in ["manifest-sha256.txt", "tagmanifest-sha256.txt"] {
        for line in read(manifest).lines() {
            let (digest, path) = line.split_once("  ").unwrap_or_default();
            let is = std::fs::read(bag.join(path)).is_ok_and(|content| sha256(&content) == digest);
            if !is {
                complaints.push(format!("{manifest}: {path}"));
            }
            listed.insert(path.to_owned());
        }
    }
    let mut payload = (0_u64, 0_u64);
    walk(&bag.join("data"), &mut |file| {
        let path = file.strip_prefix(bag).unwrap().to_str().unwrap().to_owned();
        payload = (payload.0 + file.metadata().unwrap().len(), payload.1 + 1);
        if !listed.contains(&path) {
            complaints.push(format!("not in the manifest: {path}"));
        }
    });
    let oxum = format!("Payload-Oxum: {}.{}", payload.0, payload.1);
    if !read("bag-info.txt").lines().any(|line| line == oxum) {
        complaints.push(format!("no {oxum}"));
    }
    complaints
}

fn walk(dir: &Path, see: &mut impl FnMut(&Path)) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { walk(&path, see) } else { see(&path) }
    }
}

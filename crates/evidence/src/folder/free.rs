//! A name that nothing has yet, on any file system.

use std::collections::BTreeSet;

/// The names that are taken. Two that differ in case only are one on some file systems, and a file cannot be a folder as well.
#[derive(Debug, Default)]
pub(super) struct Taken {
    names: BTreeSet<String>,
}

impl Taken {
    /// Takes a name that nobody else can have.
    pub(super) fn insert(&mut self, name: &str) {
        self.names.insert(name.to_ascii_lowercase());
    }

    /// The name, or the same with a number, taken.
    pub(super) fn take(&mut self, name: &str) -> String {
        // In one folder less when a file has the name of one of its folders, or the other way round.
        let flat = name.replace('/', "=2F");
        let numbered = (2..).flat_map(|number| [format!("{name}~{number}"), format!("{flat}~{number}")]);
        let free = std::iter::once(name.to_owned()).chain(numbered).find(|name| self.is_free(name)).unwrap_or(flat);
        self.insert(&free);
        free
    }

    fn is_free(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        let below = format!("{name}/");
        let is_folder = self.names.range(below.clone()..).next().is_some_and(|taken| taken.starts_with(&below));
        let above =
            name.match_indices('/').filter_map(|(at, _)| name.get(..at)).any(|above| self.names.contains(above));
        !is_folder && !above && !self.names.contains(&name)
    }
}

/// The name before it got a number.
pub(super) fn planned(name: &str) -> &str {
    match name.rsplit_once('~') {
        // `=~` and a digest stand for what was too long.
        Some((before, number)) if !before.ends_with('=') && number.bytes().all(|b| b.is_ascii_digit()) => before,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_taken_gets_a_number() {
        let mut taken = Taken::default();
        taken.insert("record.json");
        let names = ["a", "a", "A", "a/b", "c/d", "c", "c/d", "record.json", "x=~0123", "x=~0123"];
        let got: Vec<String> = names.iter().map(|name| taken.take(name)).collect();
        assert_eq!(got, ["a", "a~2", "A~3", "a=2Fb~2", "c/d", "c~2", "c/d~2", "record.json~2", "x=~0123", "x=~0123~2"]);
        for (name, got) in names.iter().zip(&got).filter(|(name, _)| **name != "a/b") {
            assert!(planned(got).eq_ignore_ascii_case(name), "{got}");
        }
    }
}

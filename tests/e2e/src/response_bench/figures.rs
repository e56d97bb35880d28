//! Figures by what they are of, in the order in which they are printed.

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::Serialize;

/// Milliseconds of all rounds, where nothing else is said.
#[derive(Debug, Default, Serialize)]
pub struct Figures(pub Vec<(String, Vec<f64>)>);

impl Figures {
    pub fn add(&mut self, what: &str, from: Timestamp, to: Timestamp) {
        self.put(what, to.duration_since(from).as_micros() as f64 / 1000.0);
    }

    /// A value of another unit, which `what` names.
    pub fn put(&mut self, what: &str, value: f64) {
        match self.0.iter_mut().find(|(name, _)| name == what) {
            Some((_, values)) => values.push(value),
            None => self.0.push((what.to_owned(), vec![value])),
        }
    }

    /// The value below which this share of a hundred of them are.
    pub fn at(&self, what: &str, share: usize) -> f64 {
        let mut values: Vec<f64> =
            self.0.iter().filter(|(name, _)| name == what).flat_map(|(_, values)| values.clone()).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() * share / 100).or(values.last()).copied().unwrap_or_default()
    }
}

/// Every single figure, as JSON, where that was asked for.
pub fn write(results: &impl Serialize, path: Option<&str>) -> Result<()> {
    let results = serde_json::to_string(results)?;
    if let Some(path) = path {
        std::fs::write(path, results + "\n").with_context(|| format!("cannot write {path}"))?;
    }
    Ok(())
}

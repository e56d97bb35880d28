//! The commands of docs/runbook.md, as they stand there.

use std::fs;

use anyhow::{Context, Result, bail, ensure};

use crate::cluster::{Handle, workspace};

/// Before a block that is run.
const MARK: &str = "▶\n```sh\n";

/// What is run of one section: each block that is marked, in their order.
///
/// # Errors
/// When there is no such section, or nothing in it is marked.
pub(super) fn blocks(section: &str) -> Result<Vec<String>> {
    let path = workspace().join("docs/runbook.md");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut sections = text.split("\n## ");
    let body = sections.find_map(|body| body.strip_prefix(section)?.strip_prefix('\n'));
    let body = body.with_context(|| format!("docs/runbook.md has no section {section}"))?;
    let blocks: Vec<String> = body
        .split(MARK)
        .skip(1)
        .filter_map(|block| block.split_once("```"))
        .map(|(block, _)| block.to_owned())
        .collect();
    ensure!(!blocks.is_empty(), "docs/runbook.md has nothing to run in section {section}");
    Ok(blocks)
}

/// Runs blocks in one shell, as somebody does who pastes them, and returns what they print. `before` is set up first.
///
/// # Errors
/// With the output of the command that failed.
pub(super) fn run(cluster: &Handle, before: &str, blocks: &[String]) -> Result<String> {
    let script = format!("{}\n{before}\n{}", blocks_of_introduction()?, blocks.join("\n"));
    // Traced, so that a failure names its command.
    let output = cluster.command(&["bash", "-euxo", "pipefail", "-c", &script]).output()?;
    if !output.status.success() {
        bail!("a command of docs/runbook.md failed:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn blocks_of_introduction() -> Result<String> {
    let path = workspace().join("docs/runbook.md");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let introduction = text.split("\n## ").next().unwrap_or_default();
    let blocks: Vec<&str> =
        introduction.split(MARK).skip(1).filter_map(|block| block.split_once("```")).map(|(block, _)| block).collect();
    ensure!(!blocks.is_empty(), "docs/runbook.md does not say which response it is about");
    Ok(blocks.join("\n"))
}

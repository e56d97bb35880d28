//! The environment that processes were started with. A process may have overwritten its own since.

use std::io::Write;

use serde::Serialize;

use crate::process::{Depths, Member, Members};
use crate::report::{Deadline, Failure, Report, is_gone};
use crate::text::{Text, write_line};

/// More of one environment is never read: arguments and environment have at most 2 MiB together, where a limit of 8 MiB for
/// stacks was not raised.
const MOST: u64 = 2 * 1024 * 1024;
/// A longer name is none.
const LONGEST_NAME: usize = 256;

/// The environment of one process.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    node_pid: u32,
    container: String,
    #[serde(flatten)]
    variables: Variables,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum Variables {
    /// Without their values, and without what has no name: that may be a part of a value.
    Names {
        list: Vec<String>,
        #[serde(rename = "without")]
        without_name: usize,
    },
    /// As they are, `NAME=value`.
    Values(Vec<Text>),
}

/// Writes the environments as JSON Lines, one process a line, the oldest first.
pub(crate) fn write(
    members: &dyn Members,
    chosen: &[&Member],
    values: bool,
    out: &mut dyn Write,
    report: &mut Report,
    deadline: Deadline,
) -> Result<(), Failure> {
    let depths = Depths::of(members);
    let mut denied = None;
    for member in chosen {
        deadline.check()?;
        let read = members.open(member).and_then(|process| Ok((process.read("environ", MOST)?, process.pids()?)));
        let (bytes, pids) = match read {
            Ok(read) => read,
            Err(error) if is_gone(&error) => {
                report.count("ended", 1);
                continue;
            }
            Err(error) => {
                report.count("unreadable", 1);
                report.warn(format!(
                    "the environment of process {} (as the node counts) cannot be read: {error}",
                    member.pid
                ));
                denied = Some(error);
                continue;
            }
        };
        if bytes.len() as u64 == MOST {
            report.truncate(format!(
                "more than {MOST} bytes of the environment of process {} (as the node counts)",
                member.pid
            ));
        }
        report.count("processes", 1);
        let record = Record {
            pid: depths.pick(&member.container, &pids),
            node_pid: member.pid,
            container: member.container.clone(),
            variables: variables(&bytes, values),
        };
        write_line(out, &record).map_err(Failure::not_taken)?;
    }
    match denied {
        Some(error) if !report.counts.contains_key("processes") => {
            Err(Failure::unreadable("the environment of every process", error))
        }
        _ => Ok(()),
    }
}

fn variables(bytes: &[u8], values: bool) -> Variables {
    let all = bytes.split(|byte| *byte == 0).filter(|entry| !entry.is_empty());
    if values {
        return Variables::Values(all.map(Text::from).collect());
    }
    let mut list = Vec::new();
    let mut without_name = 0;
    for entry in all {
        match name(entry) {
            Some(name) => list.push(name.to_owned()),
            None => without_name += 1,
        }
    }
    Variables::Names { list, without_name }
}

/// The name in `NAME=value`, if it is one that a container's environment may have in Kubernetes before 1.34.
fn name(entry: &[u8]) -> Option<&str> {
    let end = entry.iter().position(|byte| *byte == b'=')?;
    let name = std::str::from_utf8(entry.get(..end)?).ok()?;
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    (!name.is_empty() && name.len() <= LONGEST_NAME && name.bytes().all(good)).then_some(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Variables, variables};

    #[test]
    fn names_come_without_what_may_be_a_secret() {
        let bytes = b"PATH=/bin\0TOKEN=hunter2\0hunter3\0a b=hunter4\0EMPTY=\0";
        let Variables::Names { list, without_name } = variables(bytes, false) else { panic!("names") };
        assert_eq!((list.join(" ").as_str(), without_name), ("PATH TOKEN EMPTY", 2));
        let Variables::Values(all) = variables(bytes, true) else { panic!("values") };
        assert_eq!(all.len(), 5);
        assert_eq!(all[1].0, b"TOKEN=hunter2");
    }

    proptest! {
        #[test]
        fn no_value_is_in_the_names(value in "[0-9A-Z=]{12,40}") {
            let names = format!("{:?}", variables(format!("A={value}\0").as_bytes(), false));
            prop_assert!(!names.contains(&value));
        }
    }
}

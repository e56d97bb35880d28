//! `/proc/PID/status` (proc_pid_status(5)). The kernel escapes line breaks in the one value that a process chooses, its name.

use std::collections::BTreeMap;

/// More of it is never read: some 60 lines, the longest being supplementary groups and masks of processors.
pub(crate) const MOST: u64 = 64 * 1024;
/// What is kept of it. Numbers of users and groups are as the node counts: real, effective, saved, of the file system.
const KEPT: [&str; 22] = [
    "Name",
    "State",
    "Umask",
    "Tgid",
    "TracerPid",
    "Uid",
    "Gid",
    "Groups",
    "NSpid",
    "VmSize",
    "VmRSS",
    "VmHWM",
    "Threads",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Seccomp_filters",
    "CoreDumping",
];

/// What is kept of it, as the kernel words it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Status(pub(crate) BTreeMap<&'static str, String>);

impl Status {
    pub(crate) fn parse(text: &[u8]) -> Self {
        let mut fields = BTreeMap::new();
        for line in String::from_utf8_lossy(text).lines() {
            let Some((key, value)) = line.split_once(':') else { continue };
            if let Some(key) = KEPT.iter().find(|kept| **kept == key) {
                // The first counts: nothing that follows can replace it.
                fields.entry(*key).or_insert_with(|| value.trim().replace('\t', " "));
            }
        }
        Self(fields)
    }

    /// The process's numbers, from the outermost PID namespace to its own.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let pids = self.0.get("NSpid").map(String::as_str).unwrap_or_default();
        pids.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Status;

    #[test]
    fn a_name_cannot_pretend_to_be_another_field() {
        // As the kernel writes the name "x\nUid:\t0".
        let status = Status::parse(b"Name:\tx\\nUid:\\t0\nUid:\t1000\t1000\t1000\t1000\nNSpid:\t4711\t7\nUid:\t0\n");
        assert_eq!(status.0["Name"], "x\\nUid:\\t0");
        assert_eq!(status.0["Uid"], "1000 1000 1000 1000");
        assert_eq!(status.pids(), [4711, 7]);
    }

    proptest! {
        #[test]
        fn any_text_is_read(bytes in proptest::collection::vec(any::<u8>(), 0..300), pid: u32) {
            let text = [format!("NSpid:\t{pid}\n").as_bytes(), &bytes].concat();
            prop_assert_eq!(Status::parse(&text).pids(), [pid]);
        }
    }
}

//! `/proc/PID/stat` (proc_pid_stat(5)).

use jiff::{SignedDuration, Timestamp};
use rustix::time::{ClockId, clock_gettime};

/// What is needed of it. The second field is the process's name in parentheses, which may hold spaces, line breaks and
/// parentheses of its own: what counts is behind the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// One letter: R, S, D, T, t, Z, X or I.
    pub state: char,
    /// The parent's number.
    pub parent: u32,
    /// `PF_KTHREAD` and so on (`include/linux/sched.h`).
    pub flags: u64,
    /// When it was started, in ticks of the clock since the node was.
    pub started: u64,
}

impl Stat {
    /// Reads it: fields 3, 4, 9 and 22.
    pub fn parse(stat: &[u8]) -> Option<Self> {
        let end = stat.iter().rposition(|byte| *byte == b')')?;
        let rest = String::from_utf8_lossy(stat.get(end + 1..)?);
        let mut fields = rest.split_ascii_whitespace();
        Some(Self {
            state: fields.next()?.chars().next()?,
            parent: fields.next()?.parse().ok()?,
            flags: fields.nth(4)?.parse().ok()?,
            started: fields.nth(12)?.parse().ok()?,
        })
    }
}

/// When it was, given ticks of the clock since the node was started. As exact as they are, 10 ms, and as the node's clock is now.
pub(crate) fn at(ticks: u64) -> Timestamp {
    let second = rustix::param::clock_ticks_per_second().max(1);
    let since_boot = SignedDuration::new(
        i64::try_from(ticks / second).unwrap_or(i64::MAX),
        i32::try_from(ticks % second * (1_000_000_000 / second)).unwrap_or_default(),
    );
    let boot = clock_gettime(ClockId::Boottime);
    let up = SignedDuration::new(boot.tv_sec, i32::try_from(boot.tv_nsec).unwrap_or_default());
    // One clock runs on between the two looks: rounded to what the ticks can tell.
    let exact = Timestamp::now().saturating_sub(up).and_then(|booted| booted.saturating_add(since_boot));
    exact.and_then(|exact| exact.round((jiff::Unit::Millisecond, 10))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Stat;

    const REST: &str = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21";

    #[test]
    fn a_process_name_cannot_pretend_to_be_older() {
        let expected = Some(Stat { state: 'S', parent: 1, flags: 6, started: 4711 });
        for name in ["pause", "x) S 1 2", "a\nb", ""] {
            assert_eq!(Stat::parse(format!("7 ({name}) {REST}").as_bytes()), expected, "{name}");
        }
        assert_eq!(Stat::parse(b"7 (x) S 1"), None);
        assert_eq!(Stat::parse(b""), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        /// Names have up to 15 bytes of any kind but NUL (`TASK_COMM_LEN`); a process chooses its own.
        #[test]
        fn no_name_changes_state_or_age(
            name in prop_oneof![
                proptest::collection::vec(1..=255u8, 0..16),
                "[() SZ1-9\n]{0,15}".prop_map(String::into_bytes),
            ],
            state in "[RSDZTtXI]",
            parent: u32,
            started: u64,
        ) {
            let rest = format!(") {state} {parent} 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 {started} 1056768 1\n");
            let bytes = [b"7 (", &name[..], rest.as_bytes()].concat();
            let state = state.chars().next().unwrap_or_default();
            prop_assert_eq!(Stat::parse(&bytes), Some(Stat { state, parent, flags: 4_194_560, started }));
        }

    }

    proptest! {
        #[test]
        fn any_text_is_read(bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b' '), Just(b')'), b'0'..=b'9'], 0..200)) {
            if let Some(stat) = Stat::parse(&bytes) {
                let digits = stat.started.to_string();
                prop_assert!(bytes.windows(digits.len()).any(|part| part == digits.as_bytes()));
            }
        }
    }
}

//! What test programs print, read for what the last lines of `cargo xtask test` say.

/// More of what a test said when it failed is above, where it ran.
const LINES: usize = 25;

/// Tests that ran, and why those failed that did.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
    pub(crate) reasons: Vec<String>,
}

impl std::ops::AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.reasons.extend(other.reasons);
    }
}

/// The output of programs of libtest, line by line.
#[derive(Default)]
pub(crate) struct Transcript {
    pub(crate) count: Count,
    /// Output of tests that passed can have panics in it as well: of those that were expected.
    in_failures: bool,
    /// Of the reason that is being read.
    left: usize,
}

impl Transcript {
    pub(crate) fn read(&mut self, line: &str) {
        if let Some(result) = line.strip_prefix("test result: ") {
            self.count.passed += number(result, " passed");
            self.count.failed += number(result, " failed");
            (self.in_failures, self.left) = (false, 0);
        } else if line == "successes:" || line == "failures:" {
            (self.in_failures, self.left) = (line == "failures:", 0);
        } else if let Some(test) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----")) {
            self.left = 0;
            if self.in_failures {
                self.count.reasons.push(format!("failed: {test}"));
            }
        } else if self.in_failures && line.starts_with("thread '") && line.contains(" panicked at ") {
            self.left = LINES;
        } else if line.starts_with("note: run with `RUST_BACKTRACE") || line == "stack backtrace:" {
            self.left = 0;
        } else if let Some(reason) = self.count.reasons.last_mut().filter(|_| self.left > 0) {
            self.left -= 1;
            reason.push('\n');
            reason.push_str(line);
        }
    }
}

/// The number before a word of libtest's summary.
fn number(line: &str, word: &str) -> u32 {
    let before = line.find(word).and_then(|end| line.get(..end));
    before.and_then(|text| text.rsplit([' ', '.']).next()).and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As libtest of Rust 1.95 prints it with `--show-output`.
    const OUTPUT: &str = "running 3 tests
test it_holds ... ok
test it_panics_as_expected - should panic ... ok
test it_does_not_hold ... FAILED

successes:

---- it_panics_as_expected stdout ----

thread 'it_panics_as_expected' (7) panicked at tests/a.rs:3:5:
as expected

successes:
    it_holds
    it_panics_as_expected

failures:

---- it_does_not_hold stdout ----
seed 7: something
--- kubectl get pods

thread 'it_does_not_hold' (8) panicked at tests/a.rs:9:5:
seed 7: it is not what it was:
- label team
stack backtrace:
   0: __rustc::rust_begin_unwind
note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace


failures:
    it_does_not_hold

test result: FAILED. 12 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s";

    #[test]
    fn the_last_lines_say_how_many_passed_and_why_others_did_not() {
        let mut transcript = Transcript::default();
        for line in OUTPUT.lines() {
            transcript.read(line);
        }
        let reason = "failed: it_does_not_hold\nseed 7: it is not what it was:\n- label team";
        assert_eq!(transcript.count, Count { passed: 12, failed: 1, reasons: vec![reason.to_owned()] });
    }
}

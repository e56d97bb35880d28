//! The end of an output.

use std::collections::VecDeque;

/// The end of an output.
pub(super) struct Tail {
    last: VecDeque<u8>,
    limit: usize,
}

impl Tail {
    pub(super) const fn new(limit: usize) -> Self {
        Self { last: VecDeque::new(), limit }
    }

    pub(super) fn add(&mut self, chunk: &[u8]) {
        self.last.extend(chunk.iter().skip(chunk.len().saturating_sub(self.limit)));
        let surplus = self.last.len().saturating_sub(self.limit);
        self.last.drain(..surplus);
    }

    /// As text that takes at most the limit in JSON, where a control character can take six bytes. `None` when nothing was written.
    pub(super) fn text(&mut self) -> Option<String> {
        let bytes = self.last.make_contiguous();
        // A character that was cut in half at the beginning.
        let start = bytes.iter().position(|byte| byte & 0xC0 != 0x80).unwrap_or(0);
        let text = String::from_utf8_lossy(bytes.get(start..).unwrap_or_default());
        let in_json = |letter: char| match letter {
            '"' | '\\' | '\n' | '\r' | '\t' => 2,
            letter if letter.is_control() => 6,
            letter => letter.len_utf8(),
        };
        let mut room = self.limit;
        let mut kept = text.char_indices().rev().take_while(|(_, letter)| {
            let size = in_json(*letter);
            let fits = size <= room;
            room = room.saturating_sub(size);
            fits
        });
        let from = kept.by_ref().last().map(|(at, _)| at)?;
        text.get(from..).map(str::to_owned)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests: a panic is a failed test")]
mod tests {
    use super::*;

    fn tail_of(output: &[u8], limit: usize) -> Option<String> {
        let mut tail = Tail::new(limit);
        output.chunks(1000).for_each(|chunk| tail.add(chunk));
        tail.text()
    }

    #[test]
    fn a_tail_is_the_end_and_within_its_limit_in_json() {
        assert_eq!(tail_of(b"", 8), None);
        assert_eq!(tail_of(b"hello", 8).as_deref(), Some("hello"));
        assert_eq!(tail_of(b"0123456789", 4).as_deref(), Some("6789"));
        assert_eq!(tail_of("aä".as_bytes(), 2).as_deref(), Some("ä"));
        assert_eq!(tail_of("ä".as_bytes(), 1), None);
        let garbage = [0xff_u8; 100_000];
        let control = [1_u8; 100_000];
        for output in [&garbage[..], &control[..], "\"\\\n".repeat(50_000).as_bytes(), "😀".repeat(5000).as_bytes()] {
            let tail = tail_of(output, 4096).unwrap();
            let stored = serde_json::to_string(&tail).unwrap().len() - 2;
            assert!(stored <= 4096 && stored > 4000, "{stored}");
        }
    }
}

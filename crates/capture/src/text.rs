//! Bytes that others chose, written so that they can neither break a record nor command a terminal.

use std::io::{self, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::ser::{CompactFormatter, Formatter};

/// Bytes that should be text. As JSON a string; where they are none, `{"lossy": …, "base64": …}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Text(pub(crate) Vec<u8>);

impl From<&[u8]> for Text {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => {
                let mut map = serializer.serialize_map(Some(2))?;
                map.serialize_entry("lossy", &String::from_utf8_lossy(&self.0))?;
                map.serialize_entry("base64", &STANDARD.encode(&self.0))?;
                map.end()
            }
        }
    }
}

/// A name for a message: in quotation marks, whatever a terminal would obey escaped, and no longer than 200 bytes of it.
pub(crate) fn quoted(name: &[u8]) -> String {
    const LONGEST: usize = 200;
    let start = String::from_utf8_lossy(name.get(..LONGEST).unwrap_or(name));
    if name.len() > LONGEST { format!("{start:?}…") } else { format!("{start:?}") }
}

/// Writes one record as one line of JSON.
pub(crate) fn write_line(out: &mut dyn Write, record: &impl Serialize) -> io::Result<()> {
    let mut line = Vec::with_capacity(1024);
    record.serialize(&mut serde_json::Serializer::with_formatter(&mut line, Printable))?;
    line.push(b'\n');
    out.write_all(&line)
}

/// JSON leaves characters above U+007E as they are. Some of them a terminal obeys (C1 control characters), or show a text in
/// another order than it has.
pub(crate) struct Printable;

impl Formatter for Printable {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut from = 0;
        for (at, it) in fragment.char_indices().filter(|(_, it)| is_unprintable(*it)) {
            let clean = fragment.get(from..at).unwrap_or_default();
            CompactFormatter.write_string_fragment(writer, clean)?;
            write!(writer, "\\u{:04x}", u32::from(it))?;
            from = at + it.len_utf8();
        }
        CompactFormatter.write_string_fragment(writer, fragment.get(from..).unwrap_or_default())
    }
}

/// Control characters, and those that order lines and directions of writing. All of them have four hexadecimal digits.
fn is_unprintable(it: char) -> bool {
    it.is_control()
        || matches!(it, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Text, quoted, write_line};

    fn line(bytes: &[u8]) -> String {
        let mut out = Vec::new();
        write_line(&mut out, &Text::from(bytes)).expect("written");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        let hostile = "\u{1b}]0;x\u{7}\r\n\u{9b}2J\u{202e}gpj.exe\u{7f}";
        assert_eq!(line(hostile.as_bytes()), "\"\\u001b]0;x\\u0007\\r\\n\\u009b2J\\u202egpj.exe\\u007f\"\n");
        let quoted = quoted(hostile.as_bytes());
        assert!(quoted.chars().all(|it| !super::is_unprintable(it)), "{quoted}");
    }

    #[test]
    fn what_is_no_text_is_kept_to_the_byte() {
        assert_eq!(line(b"a\xff"), "{\"lossy\":\"a\u{fffd}\",\"base64\":\"Yf8=\"}\n");
    }

    proptest! {
        #[test]
        fn a_record_is_one_line_and_the_same_text(text: String) {
            let line = line(text.as_bytes());
            prop_assert_eq!(line.matches('\n').count(), 1);
            prop_assert_eq!(serde_json::from_str::<String>(&line).expect("JSON"), text);
        }

        #[test]
        fn a_name_in_a_message_is_bounded(bytes in proptest::collection::vec(any::<u8>(), 0..1000)) {
            let quoted = quoted(&bytes);
            prop_assert!(quoted.len() <= 2100 && !quoted.contains('\n'));
        }
    }
}

//! Durations as people write them in manifests: hours, minutes and seconds.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

/// A length of time such as `72h`, `30m` or `1h30m`, in whole seconds.
///
/// Days and weeks are not units here: the `duration` format of JSON schema accepts `3d` and `2 weeks` where Go's parser,
/// which CEL uses, refuses them, so the schema has a pattern instead (see [`PATTERN`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Duration(std::time::Duration);

/// What the API server accepts, and [`Duration::from_str`] as well.
pub const PATTERN: &str = "^([0-9]{1,5}h)?([0-9]{1,5}m)?([0-9]{1,6}s)?$";

/// The longest text that [`PATTERN`] can match.
pub const MAX_LENGTH: u32 = 19;

/// Text that is not a duration.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a duration: write hours, minutes and seconds, such as 72h, 30m or 1h30m")]
pub struct DurationError(String);

impl Duration {
    /// A duration of whole seconds.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(std::time::Duration::from_secs(seconds))
    }

    /// The same length of time as the standard library's type.
    #[must_use]
    pub const fn get(self) -> std::time::Duration {
        self.0
    }
}

impl FromStr for Duration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let refuse = || DurationError(text.to_owned());
        let mut rest = text;
        let mut seconds = 0u64;
        for (unit, in_seconds, digits) in [('h', 3600, 5), ('m', 60, 5), ('s', 1, 6)] {
            let Some((number, after)) = rest.split_once(unit) else { continue };
            if number.is_empty() || number.len() > digits || !number.bytes().all(|b| b.is_ascii_digit()) {
                return Err(refuse());
            }
            // At most six digits: neither the parse nor the sum can overflow.
            seconds += number.parse::<u64>().map_err(|_| refuse())? * in_seconds;
            rest = after;
        }
        if text.is_empty() || !rest.is_empty() { Err(refuse()) } else { Ok(Self::from_secs(seconds)) }
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.0.as_secs();
        // What does not fit into five digits of hours stays in minutes, and of those in seconds: whatever was read can be
        // written so that it is read again.
        let hours = (all / 3600).min(99_999);
        let minutes = ((all - hours * 3600) / 60).min(99_999);
        let seconds = all - hours * 3600 - minutes * 60;
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        if seconds > 0 || all == 0 {
            write!(f, "{seconds}s")?;
        }
        Ok(())
    }
}

impl TryFrom<String> for Duration {
    type Error = DurationError;

    fn try_from(text: String) -> Result<Self, DurationError> {
        text.parse()
    }
}

impl From<Duration> for String {
    fn from(duration: Duration) -> Self {
        duration.to_string()
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({
            "type": "string",
            "maxLength": MAX_LENGTH,
            "x-kubernetes-validations": [{
                "rule": format!("size(self) > 0 && self.matches('{PATTERN}')"),
                "message": "write a duration in hours, minutes and seconds, such as 72h, 30m or 1h30m",
            }],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_read() {
        for (text, seconds) in [("72h", 259_200), ("30m", 1800), ("5s", 5), ("1h30m", 5400), ("0s", 0), ("1h1s", 3601)]
        {
            assert_eq!(text.parse::<Duration>(), Ok(Duration::from_secs(seconds)), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_duration_is_refused() {
        for text in
            ["", "3d", "2 weeks", "5", "h", "1.5h", "-5s", "30m1h", "5s5s", "123456h", "1234567s", "+5s", "1h 5s"]
        {
            assert!(text.parse::<Duration>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_duration_survives_the_way_to_text_and_back() {
        let longest: Duration = "99999h99999m999999s".parse().unwrap();
        for seconds in [0, 1, 59, 60, 61, 3600, 3661, 86_400, longest.get().as_secs()] {
            let duration = Duration::from_secs(seconds);
            assert_eq!(duration.to_string().parse::<Duration>(), Ok(duration));
        }
    }
}

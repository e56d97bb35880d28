//! Headers of a tar archive in the format of POSIX.1-2001 (pax): what does not fit into the old header is in an extended one before it.

use rustix::fs::Statx;
use tar::Header;

/// Longer names do not fit into a header.
const LONGEST_IN_HEADER: usize = 100;

/// What every entry's header has.
pub(super) fn header(stat: &Statx) -> Header {
    let mut header = Header::new_ustar();
    header.set_mode(u32::from(stat.stx_mode) & 0o7777);
    header.set_uid(stat.stx_uid.into());
    header.set_gid(stat.stx_gid.into());
    header.set_mtime(stat.stx_mtime.tv_sec.try_into().unwrap_or_default());
    header.set_size(0);
    header
}

/// Puts as much into a field as there is room for; the rest is in the extended header.
pub(super) fn place(field: &mut [u8], bytes: &[u8]) {
    field.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
}

/// The extended header: `LENGTH KEY=VALUE\n` each, whose length counts itself.
pub(super) fn pax(path: &[u8], target: &[u8], stat: &Statx) -> Vec<u8> {
    let long = |name: &[u8]| name.len() > LONGEST_IN_HEADER;
    let binary = |name: &[u8]| long(name) && std::str::from_utf8(name).is_err();
    let mut records = Vec::new();
    if binary(path) || binary(target) {
        record(&mut records, "hdrcharset", b"BINARY");
    }
    for (key, name) in [("path", path), ("linkpath", target)] {
        if long(name) {
            record(&mut records, key, name);
        }
    }
    for (key, time) in [("mtime", stat.stx_mtime), ("atime", stat.stx_atime), ("ctime", stat.stx_ctime)] {
        record(&mut records, key, decimal(time.tv_sec, time.tv_nsec).as_bytes());
    }
    records
}

fn record(records: &mut Vec<u8>, key: &str, value: &[u8]) {
    // A blank, "=" and a line break.
    let rest = key.len() + value.len() + 3;
    let mut length = rest;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    records.extend(format!("{length} {key}=").bytes());
    records.extend(value);
    records.push(b'\n');
}

/// Seconds since 1970. A time before that has its fraction counted forwards in a file system, and backwards in a number.
fn decimal(seconds: i64, nanoseconds: u32) -> String {
    match (seconds, nanoseconds) {
        (seconds, 0) => seconds.to_string(),
        (seconds, nanoseconds) if seconds < 0 => {
            format!("-{}.{:09}", seconds.unsigned_abs() - 1, 1_000_000_000u32.saturating_sub(nanoseconds))
        }
        (seconds, nanoseconds) => format!("{seconds}.{nanoseconds:09}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{decimal, record};

    #[test]
    fn times_before_1970_are_counted_backwards() {
        assert_eq!(decimal(7, 5), "7.000000005");
        assert_eq!(decimal(-1, 750_000_000), "-0.250000000");
        assert_eq!(decimal(-2, 0), "-2");
    }

    proptest! {
        #[test]
        fn a_records_length_counts_itself(key in "[a-z]{1,12}", value in proptest::collection::vec(any::<u8>(), 0..1200)) {
            let mut records = Vec::new();
            record(&mut records, &key, &value);
            let text = String::from_utf8_lossy(&records);
            let length = records.len().to_string();
            prop_assert_eq!(text.split(' ').next(), Some(length.as_str()));
        }
    }
}

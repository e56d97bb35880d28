//! Names as Kubernetes has them. Others are refused, not mended: what an alert names and what is then acted on are the same.

use super::quoted;

/// The name of a pod or node: a DNS subdomain of RFC 1123.
///
/// # Errors
/// When it is none.
pub(super) fn subdomain(name: &str) -> Result<&str, String> {
    if name.len() <= 253 && name.split('.').all(|part| !part.is_empty() && is_label(part)) {
        Ok(name)
    } else {
        Err(format!(
            "{} is no name that an object of Kubernetes can have (lower case letters, digits, '-' and '.')",
            quoted(name)
        ))
    }
}

/// The name of a namespace: a DNS label of RFC 1123.
///
/// # Errors
/// When it is none.
pub(super) fn label(name: &str) -> Result<&str, String> {
    if name.len() <= 63 && is_label(name) {
        Ok(name)
    } else {
        Err(format!("{} is no name that a namespace can have (lower case letters, digits and '-')", quoted(name)))
    }
}

fn is_label(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

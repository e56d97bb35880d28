//! Where a folder is, and names that are safe wherever a folder may be put.

/// What a folder is of. Each part is made safe before it becomes part of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The cluster's name.
    pub cluster: String,
    /// The response's namespace.
    pub response_namespace: String,
    /// The response's name.
    pub response_name: String,
    /// The response's UID.
    pub response_uid: String,
    /// The target's name.
    pub target_name: String,
    /// The target's UID.
    pub target_uid: String,
}

impl Place {
    /// `CLUSTER/NAMESPACE/RESPONSE-UID8/TARGET-UID8`, below the store's prefix.
    #[must_use]
    pub fn path(&self) -> String {
        todo!()
    }
}

/// A segment of a path that is the same wherever it is copied to: of letters, digits, `.`, `_` and `-` only; everything else becomes `=` and two hex digits for each byte.
/// Never empty, `.` or `..`, never ends in a dot, at most 200 characters (the rest gives way to a digest). Two different names stay different.
#[must_use]
pub fn safe_segment(name: &str) -> String {
    let _ = name;
    todo!()
}

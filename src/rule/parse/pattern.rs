//! Whether Python's `re` would compile a pattern.

/// Judges a pattern.
///
/// # Errors
/// Why Python's `re` would not compile it.
pub(super) fn judge(pattern: &str) -> Result<(), String> {
    fancy_regex::Expr::parse_tree(pattern).map(drop).map_err(|error| error.to_string())
}

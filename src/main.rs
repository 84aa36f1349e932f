//! The `rulesyncd` program.
fn main() {}

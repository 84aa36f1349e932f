//! The laws of the parsers of foreign bytes: only tests, and the targets in `fuzz`, have this door.
//!
//! Each law takes any bytes, checks what must be true of them, and returns whether the parser accepts them. The unit tests
//! called `…corpus…` check it on the files of `tests/corpus` and on mutations of them.

pub use crate::address::laws::address;
pub use crate::config::laws::unit;
pub use crate::rule::laws::rule;
pub use crate::store::laws::{mysql, postgresql, rule_row, state_row};
pub use crate::trust::laws::{allowed_signers, manifest, manifest_rules, release, sshsig};
pub use crate::wire::laws::request;
pub use crate::worker::laws::cache;

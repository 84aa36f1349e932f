//! Rows as anyone may have written them.

use super::laws;
use super::row::{Cell, Row};
use super::snapshot::beat_of;
use crate::testing::replay;

#[test]
fn a_rule_row_of_the_corpus_or_a_mutation_of_it_is_a_rule_or_says_why_not() {
    replay("rule_row", 5, 20_000, laws::rule_row);
}

#[test]
fn a_state_row_of_the_corpus_or_a_mutation_of_it_is_a_state_or_says_why_not() {
    replay("state_row", 6, 20_000, laws::state_row);
}

#[test]
fn a_lease_that_nobody_has_taken_yet_was_not_released() {
    for (found, is_released) in [
        ("0 0 2026-11-28 07:00:00 -", false),
        ("1 7 2026-11-28 07:00:00 -", true),
        ("1 7 2026-11-28 07:00:00", false),
    ] {
        assert_eq!(beat_of(found).unwrap().is_released, is_released, "{found}");
    }
}

//! Rows as anyone may have written them.

use super::laws;
use crate::testing::replay;

#[test]
fn a_rule_row_of_the_corpus_or_a_mutation_of_it_is_a_rule_or_says_why_not() {
    replay("rule_row", 5, 20_000, laws::rule_row);
}

#[test]
fn a_state_row_of_the_corpus_or_a_mutation_of_it_is_a_state_or_says_why_not() {
    replay("state_row", 6, 20_000, laws::state_row);
}

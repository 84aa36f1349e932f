//! Rows as anyone may have written them.

use super::columns;
use super::row::{Cell, Row};
use super::tables;
use crate::store::RowReader;
use crate::testing::replay;

/// The cells of a file of the corpus: they stand between NULs, and a byte 1 alone is null.
fn row(bytes: &[u8]) -> Row {
    let cells = bytes.split(|byte| *byte == 0).map(|cell| match cell {
        [1] => Cell::Null,
        text => Cell::from_bytes(text.to_vec()),
    });
    Row(cells.collect())
}

#[test]
fn a_rule_row_of_the_corpus_or_a_mutation_of_it_is_a_rule_or_says_why_not() {
    replay("rule_rows", 5, 20_000, |bytes| {
        let mut cells = row(bytes);
        let shown = tables::key(&cells);
        let read = columns::missing(&mut cells).and_then(|missing| match missing {
            Some(_) => Err("its text is not here".to_owned()),
            None => tables::rule_row(&mut cells),
        });
        let rule = read.and_then(|row| RowReader::default().read(&row).map_err(|rejected| rejected.reason));
        match rule {
            Ok(rule) => {
                assert_eq!(rule.rule_id().as_str(), shown);
                assert_eq!(rule.definition().unwrap().rule_id, *rule.rule_id());
                true
            }
            Err(reason) => {
                assert!(!reason.is_empty() && reason.len() < 2_048, "{reason}");
                false
            }
        }
    });
}

#[test]
fn a_state_row_of_the_corpus_or_a_mutation_of_it_is_a_state_or_says_why_not() {
    replay("state_rows", 6, 20_000, |bytes| {
        let state = tables::state_row(&mut row(bytes)).and_then(|row| {
            crate::rule::RuleId::new(&row.rule_id).map_err(|error| error.to_string())?;
            row.state().map_err(|error| error.to_string())
        });
        match state {
            Ok(state) => {
                assert!(state.confidence_max.is_none_or(|most| most >= 0.0 && most.is_finite()), "{state:?}");
                true
            }
            Err(reason) => {
                assert!(!reason.is_empty() && reason.len() < 2_048, "{reason}");
                false
            }
        }
    });
}

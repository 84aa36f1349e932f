//! What must be true of any row, and of any bytes from a server.

use super::columns;
pub use super::relay::laws::{mysql, postgresql};
use super::row::{Cell, Row};
use super::tables;
use crate::rule::RuleId;
use crate::store::RowReader;

/// The cells of a row: they are between NULs, and a byte 1 alone is null.
fn row(bytes: &[u8]) -> Row {
    let cells = bytes.split(|byte| *byte == 0).map(|cell| match cell {
        [1] => Cell::Null,
        text => Cell::from_bytes(text.to_vec()),
    });
    Row(cells.collect())
}

fn refused(reason: &str) -> bool {
    assert!(!reason.is_empty() && reason.len() < 2_048, "{reason}");
    false
}

/// A row of the rule table: it is a rule with the id of its key, or it says why not.
pub fn rule_row(bytes: &[u8]) -> bool {
    let mut cells = row(bytes);
    let shown = tables::key(&cells);
    let read = columns::missing(&mut cells).and_then(|missing| match missing {
        Some(_) => Err("its text is not here".to_owned()),
        None => tables::rule_row(&mut cells),
    });
    match read.and_then(|row| RowReader::default().read(&row).map_err(|rejected| rejected.reason)) {
        Ok(rule) => {
            assert_eq!(rule.rule_id().as_str(), shown);
            assert!(rule.definition().is_ok_and(|definition| definition.rule_id == *rule.rule_id()));
            true
        }
        Err(reason) => refused(&reason),
    }
}

/// A row of the state table: it is a state, or it says why not.
pub fn state_row(bytes: &[u8]) -> bool {
    let state = tables::state_row(&mut row(bytes)).and_then(|row| {
        RuleId::new(&row.rule_id).map_err(|error| error.to_string())?;
        row.state().map_err(|error| error.to_string())
    });
    match state {
        Ok(state) => {
            assert!(state.confidence_max.is_none_or(|most| most >= 0.0 && most.is_finite()), "{state:?}");
            true
        }
        Err(reason) => refused(&reason),
    }
}

//! The statements on `ttp_rule_state` for states of operators.

use std::collections::BTreeMap;

use super::connection::Connection;
use super::row::BadCell;
use super::tables;
use crate::clock::Timestamp;
use crate::rule::{RuleId, RuleState, StateRow, Table};
use crate::store::StoreError;
use crate::store::poll::CHUNK;

const READING: &str = "reading a state";

/// The most rows of one INSERT: with the longest texts it has less than a MiB, and no server has a
/// `max_allowed_packet` below that.
const BATCH: usize = 100;

/// The state row of `rule_id`, if it exists.
pub(super) async fn read(
    connection: &mut Connection,
    rule_id: &RuleId,
) -> Result<Option<StateRow>, StoreError> {
    let mut rows = read_all(connection, std::slice::from_ref(rule_id)).await?;
    let row = rows.remove(rule_id.as_str()).transpose();
    row.map_err(|detail| StoreError::RowRejected { what: READING, detail })
}

/// The rows of these rules by id, without those that do not exist. On some databases it has the rows of case variants,
/// too.
pub(super) async fn read_all(
    connection: &mut Connection,
    rule_ids: &[RuleId],
) -> Result<BTreeMap<String, Result<StateRow, BadCell>>, StoreError> {
    let mut found = BTreeMap::new();
    for chunk in rule_ids.chunks(CHUNK) {
        let ids: Vec<String> = chunk.iter().map(RuleId::to_string).collect();
        let query = tables::select(connection.dialect(), Table::States)
            .and(|filter| filter.push("rule_id IN ").texts(&ids));
        for mut row in connection.fetch(READING, query.into_query()).await? {
            found.insert(tables::key(&row), tables::state_row(&mut row));
        }
    }
    Ok(found)
}

/// Refuses an id if only a case variant of it has a state, or is among the ids before it: on some databases the two
/// are one id, so they are on all.
pub(super) async fn refuse_other_cases(
    connection: &mut Connection,
    what: &'static str,
    rule_ids: &[RuleId],
) -> Result<(), StoreError> {
    for chunk in rule_ids.chunks(CHUNK) {
        let folded: Vec<String> = chunk.iter().map(RuleId::folded).collect();
        let query = tables::select_keys(connection.dialect(), Table::States)
            .and(|filter| filter.push("lower(rule_id) IN ").texts(&folded));
        let mut keys: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for key in connection.fetch(what, query.into_query()).await?.iter().map(tables::key) {
            keys.entry(key.to_ascii_lowercase()).or_default().push(key);
        }
        for (rule_id, folded) in chunk.iter().zip(folded) {
            let standing = keys.entry(folded).or_default();
            match standing.first() {
                Some(first) if !standing.iter().any(|key| key == rule_id.as_str()) => {
                    return Err(StoreError::Refused {
                        what,
                        detail: format!(
                            "{rule_id} has no state, but `{first}` has, and ids that differ only in case are one"
                        ),
                        remedy: "spell the id as that row does, or clear that state first".into(),
                    });
                }
                Some(_) => {}
                None => standing.push(rule_id.to_string()),
            }
        }
    }
    Ok(())
}

/// Writes states with their stamps, and replaces existing ones.
pub(super) async fn write(
    connection: &mut Connection,
    rows: &[(RuleId, Timestamp)],
    state: &RuleState,
) -> Result<(), StoreError> {
    let cut = tables::has_whole_seconds(connection, Table::States).await?;
    // Truncated here, because a server may round up to a time in the future.
    let held = |time: Timestamp| if cut { time.whole_second() } else { time };
    for batch in rows.chunks(BATCH) {
        let query = tables::upsert(connection.dialect(), Table::States, batch, |query, (rule_id, set_at)| {
            query
                .text(rule_id.as_str())
                .push(", ")
                .text(state.state.as_str())
                .push(", ")
                .real(state.confidence_max)
                .push(", ")
                .time(state.expires_at.map(held))
                .push(", ")
                .optional_text(state.reason.clone())
                .push(", ")
                .optional_text(state.set_by.clone())
                .push(", ")
                .time(Some(held(*set_at)))
        });
        connection.execute("setting a state", query).await?;
    }
    Ok(())
}

/// Deletes a state, if `set_by` is `None` or set it. Returns whether there was one.
pub(super) async fn delete(
    connection: &mut Connection,
    rule_id: &RuleId,
    set_by: Option<&str>,
) -> Result<bool, StoreError> {
    let exact = connection.dialect().exact;
    let mut query = connection.query("DELETE FROM ttp_rule_state");
    for (index, (column, value)) in
        [("rule_id", Some(rule_id.as_str())), ("set_by", set_by)].into_iter().enumerate()
    {
        let Some(value) = value else { continue };
        // The first comparison uses the index, the second respects case.
        query = query.push(if index == 0 { " WHERE " } else { " AND " });
        query = query.push(&format!("{column} = ")).text(value);
        query = query.push(&format!(" AND {} = ", exact(column))).text(value);
    }
    Ok(connection.execute("clearing a state", query).await? > 0)
}

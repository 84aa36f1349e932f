//! Reads the rows of the two tables for a poll.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::reader::{Counts, Rows as _, StateFound, TableReader, Which};
use super::rules::RuleReading;
use super::watermarks::{ReadSoFar, unreadable_row};
use super::{CHUNK, FEW, Poll};
use crate::rule::{QuarantinedRow, RowFingerprint, RowIndex, RuleId, RuleState, Table};
use crate::store::StoreError;
use crate::store::budget::{Budget, ensure_few};
use crate::store::rows::RowParser;

/// A state, or a quarantined row.
pub(super) type FoundState = Result<(RuleId, RuleState), Box<QuarantinedRow>>;

impl<T: TableReader, K: RowIndex + Sync> Poll<'_, T, K> {
    fn window(&self, table: Table) -> Which<'static> {
        if self.full { Which::All } else { Which::Above(self.low(table)) }
    }

    /// The rules that did not fit into `worker.max_memory`, except those that a full poll reads again because they
    /// fit now.
    pub(super) fn retry(&mut self, budget: &Budget) -> Arc<BTreeMap<String, usize>> {
        let before = self.watermarks.as_ref().map(|watermarks| Arc::clone(&watermarks.over_budget));
        let mut over_budget = before.unwrap_or_default();
        if self.full && !over_budget.is_empty() {
            // Most of them are long.
            let mut free = budget.free().saturating_sub(self.config.max_memory / 2);
            let rules = Arc::make_mut(&mut over_budget);
            rules.retain(|key, _| self.index.fingerprint(Table::Rules, key).is_some());
            rules.retain(|key, size| match free.checked_sub(*size) {
                Some(rest) => {
                    free = rest;
                    self.retried.insert(key.clone());
                    false
                }
                None => true,
            });
        }
        over_budget
    }

    /// The result before the first row; it collects keys if every row is read and rows of the index may be deleted.
    fn nothing_of(&self, table: Table) -> ReadSoFar {
        let keys = (self.full && self.index.count(table) > 0).then(Vec::new);
        ReadSoFar { keys, ..ReadSoFar::default() }
    }

    /// The rules that the window, or a full poll, asks for and the index lacks.
    pub(super) async fn rules(
        &mut self,
        counts: Counts,
        parser: RowParser,
    ) -> Result<(ReadSoFar, RowParser), StoreError> {
        let mut reading = RuleReading {
            index: self.index,
            config: self.config,
            retried: &self.retried,
            full: self.full,
            low: self.low(Table::Rules),
            found: self.nothing_of(Table::Rules),
            parser,
        };
        let rows = counts.rows.filter(|_| self.full).unwrap_or(counts.in_window);
        if rows > 0 && (self.full || self.is_to_read(Table::Rules, counts)) {
            let window = self.window(Table::Rules);
            // Without digests, a full poll needs the texts anyway.
            let headers_first =
                rows > FEW && self.index.count(Table::Rules) > 0 && (!self.full || self.tables.has_digests());
            if headers_first {
                for keys in reading.differing(self.tables, window).await?.chunks(CHUNK) {
                    reading.read(self.tables, Which::Keys(keys)).await?;
                }
            } else {
                reading.read(self.tables, window).await?;
            }
        }
        Ok((reading.found, reading.parser))
    }

    /// The same for the states.
    pub(super) async fn states(
        &mut self,
        counts: Counts,
        budget: &mut Budget,
    ) -> Result<(Vec<FoundState>, ReadSoFar), StoreError> {
        let low = self.low(Table::States);
        let (mut states, mut found) = (Vec::new(), self.nothing_of(Table::States));
        let rows = counts.rows.filter(|_| self.full).unwrap_or(counts.in_window);
        if rows == 0 || !(self.full || self.is_to_read(Table::States, counts)) {
            return Ok((states, found));
        }
        let window = self.window(Table::States);
        let mut rows = self.tables.states(window);
        while let Some(StateFound { key, row }) = rows.state().await? {
            let fingerprint =
                row.as_ref().map_or_else(|reason| unreadable_row(reason), RowFingerprint::state);
            ensure_few(self.config.max_rules, Table::States, found.rows)?;
            budget.ensure_room(Table::States, found.key_bytes)?;
            if !found.record(&key, fingerprint, self.index.fingerprint(Table::States, &key), low) {
                continue;
            }
            let state = row.and_then(|row| {
                budget.take(row.memory(), self.index.memory_of(Table::States, &key))?;
                let rule_id = RuleId::new(&row.rule_id).map_err(|error| error.to_string())?;
                Ok((rule_id, row.state().map_err(|error| error.to_string())?))
            });
            states.push(state.map_err(|reason| {
                let rejected = QuarantinedRow { key, fingerprint, reason, is_text_invalid: false };
                budget.quarantine(rejected.memory());
                Box::new(rejected)
            }));
        }
        Ok((states, found))
    }

    /// Every key, if rows may have been deleted.
    pub(super) async fn keys(
        &mut self,
        table: Table,
        counts: Counts,
        found: &mut ReadSoFar,
    ) -> Result<Option<Vec<String>>, StoreError> {
        let has_all = |rows| self.index.count(table) + found.new == rows;
        if found.keys.is_some() || counts.rows.is_none_or(has_all) {
            return Ok(found.keys.take());
        }
        found.differing += 1;
        let mut keys = Vec::new();
        let ids_alone = Budget::new(self.config.max_memory, 0, 0);
        let mut rows = self.tables.keys(table);
        while let Some(key) = rows.key().await? {
            found.key_bytes += size_of::<String>() + key.len();
            keys.push(key);
            ensure_few(self.config.max_rules, table, keys.len() as u64)?;
            ids_alone.ensure_room(table, found.key_bytes)?;
        }
        Ok(Some(keys))
    }
}

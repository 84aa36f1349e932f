//! What the follower knows of the rows: the catalogue, once it was compared with the database.

use std::sync::Arc;

use super::{Broker, Inner};
use crate::rule::{ManifestWish, QuarantinedRow, RowFingerprint, RuleId, Table, TableDelta};
use crate::store::{RowIndex, TextSink};
use crate::worker::broker::release::Gatekeeper;

impl Broker {
    /// Asks the tail to read all rows again, as at its start.
    pub(in crate::worker) fn ask_to_reread(&self) {
        self.lock().reread = true;
    }

    /// Whether [`Self::ask_to_reread`] was called since the last time. If so, the index counts as empty until
    /// the next poll, which must be the first of a new follower. Only the tail calls this, between two polls.
    pub(in crate::worker) fn begin_to_reread(&self) -> bool {
        let mut inner = self.lock();
        let reread = std::mem::take(&mut inner.reread);
        inner.compared &= !reread;
        reread
    }
}

impl Inner {
    /// Adds the keys that the first poll leaves out.
    pub(super) fn complete(&mut self, delta: &mut TableDelta) {
        if !std::mem::replace(&mut self.compared, true) {
            // The poll started from an empty index, so it found every row.
            delta.rule_keys.get_or_insert_with(|| found_keys(&delta.rules, |rule| &rule.header.rule_id));
            delta.state_keys.get_or_insert_with(|| found_keys(&delta.states, |(rule_id, _)| rule_id));
        }
    }
}

/// The follower reads the index during a poll; nobody writes meanwhile.
impl RowIndex for Broker {
    fn count(&self, table: Table) -> u64 {
        let inner = self.lock();
        if inner.compared { inner.table().count(table) } else { 0 }
    }

    fn fingerprint(&self, table: Table, key: &str) -> Option<RowFingerprint> {
        let inner = self.lock();
        inner.table().fingerprint(table, key).filter(|_| inner.compared)
    }

    fn memory(&self) -> usize {
        let inner = self.lock();
        if inner.compared { inner.table().memory() } else { 0 }
    }

    fn quarantined_memory(&self, table: Table, keys: Option<&[String]>) -> usize {
        let inner = self.lock();
        if inner.compared { inner.table().quarantined_memory(table, keys) } else { 0 }
    }

    fn memory_of(&self, table: Table, key: &str) -> usize {
        let inner = self.lock();
        if inner.compared { inner.table().memory_of(table, key) } else { 0 }
    }

    fn manifest_wish(&self) -> ManifestWish {
        self.lock().gate.as_mut().map_or(ManifestWish::IfChanged, Gatekeeper::wish)
    }

    fn texts(&self) -> Option<Arc<dyn TextSink>> {
        self.texts.clone().map(|texts| texts as _)
    }
}

/// The keys of all rows that a poll found.
fn found_keys<T>(rows: &[Result<T, Box<QuarantinedRow>>], id: impl Fn(&T) -> &RuleId) -> Vec<String> {
    rows.iter()
        .map(|row| row.as_ref().map_or_else(|rejected| rejected.key.clone(), |row| id(row).to_string()))
        .collect()
}

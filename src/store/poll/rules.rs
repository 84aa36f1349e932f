//! Reads rules: headers of many, then the texts of those that differ from the index.

use std::collections::HashSet;

use super::reader::{Header, HeaderRow, RowContent, Rows, TableReader, Which, WholeRow};
use super::watermarks::{ReadSoFar, unreadable_row};
use super::{FollowConfig, LONG_ROWS};
use crate::clock::Timestamp;
use crate::rule::{ContentDigest, QuarantinedRow, RowFingerprint, RuleRow, Table};
use crate::store::budget::ensure_few;
use crate::store::rows::RowParser;
use crate::store::{RowIndex, StoreError};

/// Rules in reading.
pub(super) struct RuleReading<'p, K> {
    pub(super) index: &'p K,
    pub(super) config: &'p FollowConfig,
    /// Rules that are read again although the index has them.
    pub(super) retried: &'p HashSet<String>,
    /// Whether to compare every row by its digest.
    pub(super) full: bool,
    /// The window is above this stamp.
    pub(super) low: Timestamp,
    pub(super) found: ReadSoFar,
    pub(super) parser: RowParser,
}

impl<K: RowIndex + Sync> RuleReading<'_, K> {
    /// The keys of those rows that may differ from the index.
    pub(super) async fn differing(
        &mut self,
        tables: &mut impl TableReader,
        which: Which<'_>,
    ) -> Result<Vec<String>, StoreError> {
        let mut differing = Vec::new();
        let mut rows = tables.headers(which, self.full);
        while let Some(HeaderRow { shown, key, header }) = rows.header().await? {
            self.ensure_room(differing.len())?;
            let key = match key {
                Ok(key) => key,
                Err(reason) => {
                    // The row cannot be read by its key, or need not be.
                    self.take(shown, Err(reason)).await;
                    continue;
                }
            };
            let is_known = |known: &RowFingerprint| {
                header.as_ref().is_some_and(|header| {
                    let Header { rule_version, source_path, updated_at, content } = header;
                    let is_same_text = content.map_or(!self.full, |text| known.has_content(&text));
                    is_same_text && known.is_stamped(*updated_at, *rule_version, source_path)
                })
            };
            let known = self.known(&shown);
            match known.filter(is_known) {
                Some(fingerprint) => drop(self.found.record(&key, fingerprint, known, self.low)),
                None => differing.push(key),
            }
        }
        Ok(differing)
    }

    /// Reads whole rows, and parses those that differ from the index.
    pub(super) async fn read(
        &mut self,
        tables: &mut impl TableReader,
        which: Which<'_>,
    ) -> Result<(), StoreError> {
        let mut long = Vec::new();
        let mut rows = tables.short_rules(which);
        while let Some(WholeRow { key, content }) = rows.rule().await? {
            self.ensure_room(0)?;
            match content {
                RowContent::Long { bytes, updated_at } => long.push((key, bytes, updated_at)),
                RowContent::Row(row) => self.take(key, Ok(row)).await,
                RowContent::Unreadable(reason) => self.take(key, Err(reason)).await,
            }
        }
        drop(rows);
        for keys in self.affordable(long).chunks(LONG_ROWS) {
            let mut rows = tables.long_rules(keys);
            while let Some(WholeRow { key, content }) = rows.rule().await? {
                match content {
                    RowContent::Row(row) => self.take(key, Ok(row)).await,
                    RowContent::Unreadable(reason) => self.take(key, Err(reason)).await,
                    RowContent::Long { .. } => {}
                }
            }
        }
        Ok(())
    }

    /// The keys of those long rows for which the memory is enough; the others are quarantined. Half of the memory stays
    /// free for short rows that may come later.
    fn affordable(&mut self, long: Vec<(String, usize, Timestamp)>) -> Vec<String> {
        let kept_free = self.config.max_memory / 2;
        let mut left = kept_free;
        let mut wanted = Vec::new();
        for (key, bytes, updated_at) in long {
            let replaced = self.index.memory_of(Table::Rules, &key);
            let budget = self.parser.budget();
            if bytes <= left.min((budget.free() + replaced).saturating_sub(kept_free)) {
                left -= bytes;
                wanted.push(key);
                continue;
            }
            let reason = budget.too_much(bytes);
            let fingerprint = RowFingerprint::other(updated_at, ContentDigest::of(&reason));
            if self.found.record(&key, fingerprint, self.known(&key), self.low) {
                self.parser.quarantine_for_now(
                    QuarantinedRow { key, fingerprint, reason, is_text_invalid: false },
                    bytes,
                );
            }
        }
        wanted
    }

    /// Takes a row in, and parses it if it differs from the index.
    async fn take(&mut self, key: String, row: Result<RuleRow, String>) {
        let fingerprint = match &row {
            Ok(row) => RowFingerprint::rule(&row.header),
            Err(reason) => unreadable_row(reason),
        };
        if self.found.record(&key, fingerprint, self.known(&key), self.low) {
            match row {
                Ok(row) => self.parser.push(row, self.index.memory_of(Table::Rules, &key)).await,
                Err(reason) => self.parser.quarantine(QuarantinedRow {
                    key,
                    fingerprint,
                    reason,
                    is_text_invalid: false,
                }),
            }
        }
    }

    fn known(&self, key: &str) -> Option<RowFingerprint> {
        self.index.fingerprint(Table::Rules, key).filter(|_| !self.retried.contains(key))
    }

    /// Checks that one more row may be read, `noted` keys included.
    fn ensure_room(&mut self, noted: usize) -> Result<(), StoreError> {
        ensure_few(self.config.max_rules, Table::Rules, self.found.rows + noted as u64)?;
        self.parser.budget().ensure_room(Table::Rules, self.found.key_bytes)
    }
}

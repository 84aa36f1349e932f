//! The records of quarantined rows.

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::super::log;
use super::Tail;
use crate::rule::{QuarantineEntry, Table};
use crate::store::Follow;
use crate::telemetry::metrics;

impl<F: Follow, N: Fn() -> F> Tail<F, N> {
    /// Logs the rows that are newly quarantined, and those that no longer are.
    pub(super) fn log_quarantined(&mut self) {
        let now: BTreeSet<QuarantineEntry> = self.broker.quarantined().into_iter().collect();
        let found = now.difference(&self.quarantined).count();
        let singly = self.records.take(found, Instant::now().into_std());
        if !singly {
            log::many_quarantined(found);
        }
        for row in now.difference(&self.quarantined) {
            if singly {
                log::quarantined(self.source(), row);
            }
            metrics::rejected(match row.table {
                Table::Rules => "rule_row",
                Table::States => "state_row",
            });
        }
        let still: BTreeSet<_> = now.iter().map(|row| (row.table, &row.key)).collect();
        let gone = self.quarantined.difference(&now);
        let released: Vec<_> = gone.filter(|row| !still.contains(&(row.table, &row.key))).collect();
        if self.records.take(released.len(), Instant::now().into_std()) {
            released.into_iter().for_each(|row| log::released(self.source(), row));
        } else {
            log::many_released(released.len());
        }
        self.quarantined = now;
    }
}

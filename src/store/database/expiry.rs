//! Deletes expired states, but never one that was set meanwhile.

use super::session::Session;
use super::sql::Query;
use super::tables;
use super::writes::TRANSACTION_ROWS;
use crate::rule::{StateRow, Table};
use crate::store::StoreError;
use crate::store::transaction::{Rows, Transaction, transact};

impl Session {
    pub(super) async fn remove_expired_states(&mut self) -> Result<Vec<StateRow>, StoreError> {
        let what = "removing expired states";
        self.mend_own_tables().await?;
        let now =
            self.database.now_on(&mut self.connection).await.map_err(|error| self.map_lock_lost(error))?;
        let query = tables::select(self.connection.dialect(), Table::States)
            .and(|filter| filter.push("expires_at IS NOT NULL"));
        let rows = self
            .connection
            .fetch(what, query.into_query())
            .await
            .map_err(|error| self.map_lock_lost(error))?;
        // Compared here: SQLite would compare another program's time format as text.
        let expired = rows.into_iter().filter_map(|mut row| {
            let end = row.0.get(3)?.shown().to_owned();
            let state = tables::state_row(&mut row).ok()?;
            state.expires_at.is_some_and(|end| end <= now).then_some((state, end))
        });
        let expired: Vec<(StateRow, String)> = expired.collect();
        let mut removed = Vec::with_capacity(expired.len());
        for expired in expired.chunks(TRANSACTION_ROWS) {
            removed.extend(transact(self, &Expiry { what, expired }).await?);
        }
        Ok(removed)
    }
}

/// Deletes states that still have the `expires_at` that was read.
struct Expiry<'e> {
    what: &'static str,
    expired: &'e [(StateRow, String)],
}

impl Transaction<Session> for Expiry<'_> {
    /// Those that were deleted.
    type Done = Vec<StateRow>;

    async fn write(&self, session: &mut Session) -> Result<(Vec<StateRow>, Rows), StoreError> {
        let exact = (session.connection.dialect().exact)("rule_id");
        let mut removed = Vec::new();
        for (row, end) in self.expired {
            let query: Query = session
                .connection
                .query("DELETE FROM ttp_rule_state WHERE rule_id = ")
                .text(&*row.rule_id)
                .push(&format!(" AND {exact} = "))
                .text(&*row.rule_id)
                .push(" AND expires_at = ")
                .time_as_read(end.clone());
            if session.connection.execute(self.what, query).await? > 0 {
                removed.push(row.clone());
            }
        }
        let gone = removed.len() as u64;
        Ok((removed, Rows { changed: gone, deleted: gone }))
    }
}

//! Reads the tables for a poll, in SQL: one transaction that sees one snapshot.

pub(super) mod count;

use std::sync::Arc;
use std::time::Duration;

use super::columns::Select;
use super::connection::{self, Connection};
use super::fleet_rows::FleetRows;
use super::sql::Dialect;
use super::{columns, manifest, tables};
use crate::clock::{SharedClock, Timestamp, since_boot};
use crate::rule::{FoundManifest, Table};
use crate::store::poll::{
    Beat, CountQuestion, Counted, HeaderRow, RowContent, Rows, StateFound, TableReader, Which, WholeRow,
    unreadable,
};
use crate::store::{READING, StoreError};

/// The tables, read through one connection.
pub(super) struct Snapshot {
    pub(super) connection: Connection,
    /// The host's clock, if it is the database's, too.
    pub(super) clock: SharedClock,
    /// The realm whose manifest is read in this snapshot; `None` to read none.
    pub(super) realm: Option<Arc<str>>,
    /// Whether `rulesyncd_version` can be read.
    pub(super) has_version: bool,
    /// Whether `rulesyncd_lease` can be read.
    pub(super) has_lease: bool,
    /// Whether it can be read, or the server does not say.
    pub(super) has_beats: bool,
    /// The master's last beat where it cannot be read now; `None` if it can, or never could.
    pub(super) last_beat: Option<Beat>,
    /// What the first count asks of the manifest; `None` for nothing.
    pub(super) hint: Option<ManifestHint>,
    /// When the transaction was begun, since the host was booted; `None` before.
    pub(super) begun: Option<Duration>,
    /// The hint that it found, or why there is no manifest.
    pub(super) found_hint: Option<Result<String, FoundManifest>>,
    /// Where to put what the fleet says, if that is read in the same snapshot.
    pub(super) fleet: Option<FleetRows>,
}

/// A question whether the manifest's row is still the same.
#[derive(Debug)]
pub(super) struct ManifestHint {
    pub(super) realm: Arc<str>,
    /// The hint when the manifest was last read.
    pub(super) known: String,
}

impl Snapshot {
    fn dialect(&self) -> &'static Dialect {
        self.connection.dialect()
    }

    fn rows(&mut self, select: Select) -> SnapshotRows<'_> {
        let dialect = self.dialect();
        SnapshotRows { rows: self.connection.rows(READING, select), dialect }
    }
}

impl TableReader for Snapshot {
    type Rows<'r>
        = SnapshotRows<'r>
    where
        Self: 'r;

    fn believed_for(&self) -> Duration {
        self.dialect().rules_version.as_ref().map_or(Duration::ZERO, |version| version.believed_for)
    }

    fn has_digests(&self) -> bool {
        self.dialect().digest.is_some()
    }

    async fn count(&mut self, question: CountQuestion<'_>) -> Result<Counted, StoreError> {
        let dialect = self.dialect();
        let hint = self.hint.take();
        let role = self.connection.role_probe().map(str::to_owned);
        let shape = count::Shape {
            has_version: self.has_version,
            has_lease: self.has_lease,
            has_xor: self.connection.has_xor(),
            role: role.as_deref(),
        };
        let query = count::query(dialect, &question, shape, hint.as_ref());
        // The host's clock is read before the snapshot: rows that the snapshot does not contain are committed later.
        let now = self.clock.now();
        let row = match self.connection.row(READING, query).await {
            // A table that is missing, or may not be read, must not end the poll. In a transaction PostgreSQL answers no
            // further statement.
            Err(error) if hint.is_some() && self.begun.is_none() && !self.connection.is_broken() => {
                self.found_hint = Some(Err(manifest::missing(&error)));
                let query = count::query(dialect, &question, shape, None);
                self.connection.row(READING, query).await?
            }
            row => row?,
        };
        let answer = count::Answer::read(row.ok_or_else(|| unreadable("no answer"))?, dialect.now.is_some())?;
        // The snapshot may be as old as the transaction, or as a process that was frozen meanwhile: what was committed
        // after it must not seem to be older than the poll.
        let age = self.begun.map_or(Duration::ZERO, |begun| since_boot().saturating_sub(begun));
        let now = answer.clock.map_or(now, |now| now.before(age));
        if let Some(role) = &answer.role {
            self.connection.note_role(READING, role)?;
        }
        if let Some(ManifestHint { realm, known }) = hint.filter(|_| self.found_hint.is_none()) {
            self.realm = (answer.manifest_hint != known).then_some(realm);
            self.found_hint = Some(Ok(answer.manifest_hint));
        }
        let manifest_moved = self.realm.is_some();
        Ok(Counted {
            now,
            takes_writes: self.connection.role().is_the_writer(),
            has_beats: self.has_beats,
            beat: answer.beat.or(self.last_beat),
            rules: answer.rules,
            states: answer.states,
            rules_version: answer.rules_version,
            deletions_sign: answer.deletions_sign,
            version: answer.version,
            manifest_moved,
        })
    }

    async fn manifest(&mut self) -> Result<Option<FoundManifest>, StoreError> {
        match self.realm.clone() {
            Some(realm) => manifest::read(&mut self.connection, &realm).await.map(Some),
            None => Ok(None),
        }
    }

    async fn begin(&mut self) -> Result<(), StoreError> {
        self.begun = Some(since_boot());
        self.connection.run(READING, self.dialect().begin_poll).await
    }

    async fn end(&mut self) -> Result<(), StoreError> {
        if let Some(rows) = &mut self.fleet {
            *rows = FleetRows::read(&mut self.connection).await?;
        }
        self.connection.run(READING, "COMMIT").await
    }

    fn headers(&mut self, which: Which<'_>, thorough: bool) -> SnapshotRows<'_> {
        self.rows(filtered(tables::select_marks(self.dialect(), thorough), which))
    }

    fn short_rules(&mut self, which: Which<'_>) -> SnapshotRows<'_> {
        self.rows(filtered(tables::select(self.dialect(), Table::Rules), which).of_short_rows())
    }

    fn long_rules(&mut self, keys: &[String]) -> SnapshotRows<'_> {
        let dialect = self.dialect();
        let select = filtered(tables::select(dialect, Table::Rules), Which::Keys(keys));
        SnapshotRows { rows: self.connection.row_by_row(READING, select), dialect }
    }

    fn states(&mut self, which: Which<'_>) -> SnapshotRows<'_> {
        self.rows(filtered(tables::select(self.dialect(), Table::States), which))
    }

    fn keys(&mut self, table: Table) -> SnapshotRows<'_> {
        self.rows(tables::select_keys(self.dialect(), table))
    }
}

fn filtered(select: Select, which: Which<'_>) -> Select {
    let stamp = select.table.stamp();
    match which {
        Which::All => select,
        Which::Above(low) => select.and(|filter| filter.above(stamp, low)),
        Which::Keys(keys) => select.and(|filter| filter.push("rule_id IN ").texts(keys)),
    }
}

/// Rows of a [`Snapshot`].
pub(super) struct SnapshotRows<'r> {
    rows: connection::Rows<'r>,
    dialect: &'static Dialect,
}

impl Rows for SnapshotRows<'_> {
    async fn header(&mut self) -> Result<Option<HeaderRow>, StoreError> {
        let Some(mut row) = self.rows.next().await? else { return Ok(None) };
        let shown = tables::key(&row);
        let missing = columns::missing(&mut row);
        let key = row.text(0, "rule_id");
        let (key, header) = match missing {
            Ok(None) => (key, tables::mark(&mut row, self.dialect).ok()),
            Ok(Some(_)) => (key, None),
            Err(reason) => (key.and(Err(reason)), None),
        };
        Ok(Some(HeaderRow { shown, key, header }))
    }

    async fn rule(&mut self) -> Result<Option<WholeRow>, StoreError> {
        let Some(mut row) = self.rows.next().await? else { return Ok(None) };
        let key = tables::key(&row);
        let content = match columns::missing(&mut row) {
            Ok(Some(bytes)) => {
                let updated_at = tables::stamp(&mut row).unwrap_or(Timestamp::MIN);
                RowContent::Long { bytes, updated_at }
            }
            Ok(None) => tables::rule_row(&mut row).map_or_else(RowContent::Unreadable, RowContent::Row),
            Err(reason) => RowContent::Unreadable(reason),
        };
        Ok(Some(WholeRow { key, content }))
    }

    async fn state(&mut self) -> Result<Option<StateFound>, StoreError> {
        let row = self.rows.next().await?;
        Ok(row.map(|mut row| StateFound { key: tables::key(&row), row: tables::state_row(&mut row) }))
    }

    async fn key(&mut self) -> Result<Option<String>, StoreError> {
        Ok(self.rows.next().await?.map(|row| tables::key(&row)))
    }
}

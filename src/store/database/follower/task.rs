//! One poll, on the database's thread.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use super::super::connection::Connection;
use super::super::snapshot::{ManifestHint, Snapshot};
use super::super::sql::Purpose;
use super::super::{Database, lease, manifest, trace_context, version};
use crate::rule::{FoundManifest, ManifestWish, TableDelta};
use crate::store::poll::{Poll, Watermarks};
use crate::store::{READING, RowIndex, StoreError, TraceContextRow};
use crate::telemetry::trace;

/// What a follower remembers from one poll to the next.
#[derive(Debug, Clone)]
pub(super) struct Memory {
    pub(super) watermarks: Option<Watermarks>,
    /// SQLite's [`data_version`] before the last poll.
    pub(super) version: Option<String>,
    /// The manifest's hint when it was last read; `None` if the table could not be read.
    pub(super) manifest: Option<String>,
    /// Whether `rulesyncd_trace` can be read; tried again at each full poll.
    pub(super) has_trace_table: bool,
    /// Whether `rulesyncd_version` can be read; tried again at each full poll and in each connection.
    pub(super) version_row: Readable,
    /// The same of `rulesyncd_lease`.
    pub(super) lease_row: Readable,
}

/// Whether a row of the daemon's own can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Readable {
    Yes,
    /// Not before someone mends that: what is missing, and what to do, if that is known.
    No(Option<String>),
    /// The server did not say, and is asked again at the next poll.
    Unknown,
}

impl Readable {
    pub(super) const fn is_yes(&self) -> bool {
        matches!(self, Self::Yes)
    }

    /// After a probe found this, if it found anything.
    fn probed(&self, found: Option<Self>) -> Self {
        match (found, self) {
            (Some(found), _) => found,
            (None, Self::No(why)) => Self::No(why.clone()),
            (None, _) => Self::Unknown,
        }
    }
}

/// A poll on the database's thread.
pub(super) struct PollTask<K> {
    pub(super) database: Database,
    pub(super) connection: Option<Connection>,
    pub(super) memory: Memory,
    pub(super) woken: bool,
    pub(super) index: Arc<K>,
}

/// The result of a poll.
pub(super) struct PollResult {
    pub(super) delta: TableDelta,
    pub(super) connection: Connection,
    pub(super) memory: Memory,
    pub(super) trace_contexts: Vec<TraceContextRow>,
    /// [`Connection::notified`] since before the poll.
    pub(super) notified: Option<watch::Receiver<()>>,
}

impl<K: RowIndex + Send + Sync> PollTask<K> {
    pub(super) async fn poll(mut self) -> Result<PollResult, StoreError> {
        // Kept only if the poll ends: a cancelled poll leaves the connection in an unknown state.
        let mut connection = self.connection().await?;
        connection.listen().await?;
        let notified = connection.notified();
        let (at, interval) = (Instant::now(), self.database.follow.full_scan_interval);
        let known = self.memory.watermarks.as_ref();
        let full = known.is_none_or(|known| known.is_full_due(at, interval));
        let now = self.database.clock.now();
        let version = connection.data_version().await?;
        let wish = self.index.manifest_wish();
        if !full && version.is_some() && version == self.memory.version && wish != ManifestWish::Now {
            let watermarks = self.memory.watermarks.map(|watermarks| watermarks.idle(now));
            let memory = Memory { watermarks, ..self.memory };
            let delta = TableDelta { now, ..TableDelta::default() };
            return Ok(PollResult { delta, connection, memory, trace_contexts: Vec::new(), notified });
        }
        self.probe(&mut connection, full).await;
        let (has_version, has_lease) = (self.memory.version_row.is_yes(), self.memory.lease_row.is_yes());
        // Nothing is newer than the last beat as long as no other is known.
        let is_lease_unknown = self.memory.lease_row == Readable::Unknown;
        let last_beat = self.memory.watermarks.as_ref().and_then(Watermarks::last_beat);
        let last_beat = last_beat.filter(|_| is_lease_unknown);
        let hint = if full || version.is_some() { None } else { self.counted_hint(wish) };
        let (realm, missing) = match hint {
            Some(_) => (None, None),
            None => self.manifest(&mut connection, full, wish).await?,
        };
        let reads_manifest = realm.is_some();
        let clock = Arc::clone(&self.database.clock);
        let fleet = None;
        let mut tables = Snapshot {
            connection,
            clock,
            realm,
            has_version,
            has_lease,
            has_beats: has_lease || is_lease_unknown,
            last_beat,
            hint,
            found_hint: None,
            begun: None,
            fleet,
        };
        let watermarks = self.memory.watermarks.clone();
        let mut poll = Poll::new(&mut tables, &self.database.follow, &*self.index, watermarks, at);
        poll.woken = self.woken || version.is_some() || reads_manifest;
        // A signed release is read as a whole.
        poll.hurried = self.woken && self.database.realm.is_none();
        let (mut delta, watermarks) = poll.run().await?;
        delta.manifest = delta.manifest.or(missing);
        match tables.found_hint {
            Some(Ok(hint)) => self.memory.manifest = Some(hint),
            Some(Err(missing)) => (self.memory.manifest, delta.manifest) = (None, Some(missing)),
            None => {}
        }
        // Since it was read, the database's clock has gone on.
        delta.now = delta.now.after(at.elapsed());
        let mut connection = tables.connection;
        let trace_contexts = self.trace_contexts(&mut connection, &delta).await;
        if connection.is_elsewhere() {
            let detail = "the file was replaced while it was read".into();
            return Err(StoreError::Unavailable { what: READING, detail });
        }
        // A manifest that is read later, or a deletion that is counted later, must not be missed for want of another
        // commit.
        let is_whole = watermarks.is_counted && watermarks.window_due().is_none();
        let version = version.filter(|_| wish != ManifestWish::NotYet && is_whole);
        let memory = Memory { watermarks: Some(watermarks), version, ..self.memory };
        Ok(PollResult { delta, connection, memory, trace_contexts, notified })
    }

    /// The connection of the last poll, if it still leads to the same database.
    async fn connection(&mut self) -> Result<Connection, StoreError> {
        match self.connection.take() {
            Some(connection) if !connection.is_broken() && !connection.is_elsewhere() => Ok(connection),
            _ => {
                self.memory.version = None;
                self.memory.watermarks = self.memory.watermarks.take().map(Watermarks::reconnected);
                Connection::open(&self.database.connector, Purpose::Read).await
            }
        }
    }

    /// Asks, outside of the transaction, which rows of the daemon's own can be read: a table that is missing, spoilt, or may
    /// not be read, must not end the poll.
    async fn probe(&mut self, connection: &mut Connection, full: bool) {
        let Memory { version_row, lease_row, .. } = &mut self.memory;
        if full || *version_row == Readable::Unknown {
            let found = version::why_not_readable(connection).await.ok();
            let found = found.map(|why| why.map_or(Readable::Yes, |why| Readable::No(Some(why))));
            *version_row = version_row.probed(found);
        }
        if full || *lease_row == Readable::Unknown {
            let found = lease::is_readable(connection).await.ok();
            let found = found.map(|is_readable| if is_readable { Readable::Yes } else { Readable::No(None) });
            *lease_row = lease_row.probed(found);
        }
    }

    /// What the first statement of the poll asks of the manifest, so that the poll makes no statement for it; `None` if the
    /// manifest is asked for in another way.
    fn counted_hint(&self, wish: ManifestWish) -> Option<ManifestHint> {
        let realm = self.database.realm.clone()?;
        let known = self.memory.manifest.clone()?;
        let is_known = self.memory.watermarks.is_some() && wish == ManifestWish::IfChanged;
        is_known.then_some(ManifestHint { realm, known })
    }

    /// Whether the poll reads a manifest, and of which realm; or why there is none. Asked outside of the transaction: a
    /// table that is missing, or may not be read, must not end the poll.
    async fn manifest(
        &mut self,
        connection: &mut Connection,
        full: bool,
        wish: ManifestWish,
    ) -> Result<(Option<Arc<str>>, Option<FoundManifest>), StoreError> {
        let Some(realm) = self.database.realm.clone() else { return Ok((None, None)) };
        if wish == ManifestWish::NotYet {
            return Ok((None, None));
        }
        match manifest::hint(connection, &realm).await {
            Ok(hint) => {
                let has_changed = self.memory.manifest.as_ref() != Some(&hint);
                self.memory.manifest = Some(hint);
                Ok((Some(realm).filter(|_| has_changed || full || wish == ManifestWish::Now), None))
            }
            Err(error) if connection.is_broken() => Err(error),
            Err(error) => {
                self.memory.manifest = None;
                Ok((None, Some(manifest::missing(&error))))
            }
        }
    }

    /// The trace contexts of the changes that the poll found; none at the first poll, which finds no changes.
    async fn trace_contexts(
        &mut self,
        connection: &mut Connection,
        delta: &TableDelta,
    ) -> Vec<TraceContextRow> {
        self.memory.has_trace_table |= delta.full;
        let rules = delta.rules.iter().flatten().map(|rule| rule.rule_id().to_string());
        let states = delta.states.iter().flatten().map(|(rule_id, _)| rule_id.to_string());
        let rule_ids: Vec<String> = rules.chain(states).collect();
        let is_first = self.memory.watermarks.is_none();
        if trace::now().is_none() || !self.memory.has_trace_table || rule_ids.is_empty() || is_first {
            return Vec::new();
        }
        let found = trace_context::read(connection, &rule_ids).await;
        self.memory.has_trace_table = !found.as_ref().is_err_and(StoreError::is_lasting);
        found.unwrap_or_default()
    }
}

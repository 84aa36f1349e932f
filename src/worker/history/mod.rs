//! The history: the changes that this worker received, on disk, for `rulesyncd history`.
//!
//! A task reads the changes from the journal, as a subscriber does, and appends a line for each to a file beside the
//! cache. Nothing waits for it: while the file cannot be written the changes stay in the journal, and if the journal
//! becomes too short for them, the history says how many are missing.
//!
//! Lines are not synced to the disk one by one: a kill of the worker loses none, since the kernel has them, and what a
//! crash of the host tears, or leaves as zeros, is read as no record. The worker finds the changes of such a crash again
//! only as far as its cache is older, too. A sync for each batch would wear out small disks for a record that nothing is
//! decided by.

mod file;
mod read;
mod record;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use self::file::HistoryFile;
pub(crate) use self::read::{HistoryError, read};
pub(crate) use self::record::{HistoryEvent, HistoryRecord};
use super::broker::Broker;
use super::grace::{DISK_GRACE, stopped_for};
use super::journal::EncodedChange;
use crate::backoff::Backoff;
use crate::clock::Timestamp;
use crate::event;
use crate::outage::Outage;
use crate::rule::RuleId;
use crate::rulefile::with_suffix;
use crate::wire::{Epoch, encode};

/// The most bytes of the history's two files together.
const MAX_BYTES: u64 = 64 << 20;

/// The most bytes of a line: a longer one is no record.
const LONGEST_LINE: usize = 128 << 10;

/// How many bytes of an earlier run's records are compared with the first changes of this one: it saved its cache a
/// second or so before it ended.
const TAIL: u64 = 4 << 20;

/// The most changes of one write.
const BATCH: usize = 256;

/// The history beside a cache. The older part has the suffix `old`, too.
pub(crate) fn path(cache: &Path) -> PathBuf {
    with_suffix(cache, "history")
}

fn older(path: &Path) -> PathBuf {
    with_suffix(path, "old")
}

/// Records every change of this run until the shutdown. The last write has [`DISK_GRACE`].
pub(super) async fn keep(path: PathBuf, broker: Arc<Broker>, shutdown: CancellationToken) {
    tokio::select! {
        () = record(path.clone(), broker, &shutdown) => {}
        () = stopped_for(&shutdown, DISK_GRACE) => tracing::error!(
            message_id = event::HISTORY_UNAVAILABLE,
            "the disk did not take the history {} within {DISK_GRACE:?} of the stop: `rulesyncd history` may lack the last \
             changes",
            path.display()
        ),
    }
}

async fn record(path: PathBuf, broker: Arc<Broker>, shutdown: &CancellationToken) {
    let place = path.display().to_string();
    let mut head = broker.watch_head();
    let mut writer = Writer::new(path.clone(), broker.epoch.clone());
    let (mut cursor, mut outage, mut backoff) = (0, Outage::default(), Backoff::default());
    loop {
        let stops = shutdown.is_cancelled();
        // Changes that come from here on wake it again.
        head.borrow_and_update();
        let batch = Batch::after(&broker, cursor);
        let newest = batch.newest;
        let writing = tokio::task::spawn_blocking(move || {
            let written = writer.append(&batch);
            (writer, written)
        });
        let written = match writing.await {
            Ok((same, written)) => {
                writer = same;
                written
            }
            Err(error) => {
                writer = Writer::new(path.clone(), broker.epoch.clone());
                Err(io::Error::other(error))
            }
        };
        match written {
            Ok(()) => {
                if outage.ended(Instant::now()).is_some() {
                    tracing::info!(
                        message_id = event::HISTORY_UNAVAILABLE,
                        "the history {place} is written again"
                    );
                }
                backoff.reset();
                cursor = newest;
                if Batch::is_due(&broker, cursor) {
                    continue;
                }
                if stops {
                    return;
                }
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    _ = head.changed() => {}
                }
            }
            Err(error) => {
                if outage.failed(&error.to_string(), Instant::now()).is_some() {
                    tracing::error!(
                        message_id = event::HISTORY_UNAVAILABLE,
                        error = %error,
                        "the history {place} cannot be written, retrying: {error}; subscribers are not affected, and \
                         `rulesyncd history` lacks what the worker receives meanwhile"
                    );
                }
                if stops {
                    return;
                }
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    () = sleep(backoff.wait()) => {}
                }
            }
        }
    }
}

/// Changes to write.
struct Batch {
    changes: Vec<Arc<EncodedChange>>,
    /// How many changes before these are no longer in the journal.
    missed: u64,
    /// The number of the last of them.
    newest: u64,
    now: Timestamp,
    /// Whether the run began with the cache: only then it finds changes again that an earlier run recorded.
    is_restored: bool,
}

impl Batch {
    fn after(broker: &Broker, cursor: u64) -> Self {
        let (now, is_restored) = (broker.clock.now(), broker.is_restored());
        broker.inspect(|_, journal, _| {
            let start = cursor.max(journal.reaches_back_to());
            let changes: Vec<_> =
                journal.after(start).into_iter().flatten().take(BATCH).map(Arc::clone).collect();
            let newest = start + changes.len() as u64;
            Self { changes, missed: start - cursor, newest, now, is_restored }
        })
    }

    fn is_due(broker: &Broker, cursor: u64) -> bool {
        broker.inspect(|_, journal, _| journal.newest() > cursor)
    }
}

/// Appends records to the file.
struct Writer {
    path: PathBuf,
    file: HistoryFile,
    epoch: Epoch,
    /// The newest record of each rule and kind of change that an earlier run wrote, as hashes, until this run has
    /// compared it with its first one; `None` before they are read.
    before: Option<HashMap<u64, u64>>,
}

impl Writer {
    fn new(path: PathBuf, epoch: Epoch) -> Self {
        Self { file: HistoryFile::new(path.clone(), MAX_BYTES), path, epoch, before: None }
    }

    /// Writes a batch as a whole or not at all.
    fn append(&mut self, batch: &Batch) -> io::Result<()> {
        let records: Vec<_> =
            batch.changes.iter().filter_map(|change| HistoryRecord::of(&self.epoch, change)).collect();
        let mut before = match self.before.take() {
            Some(before) => before,
            None => self.read_before()?,
        };
        let mut lines = Vec::new();
        if batch.missed > 0 {
            let (emitted_at, epoch) = (batch.now, self.epoch.clone());
            let event = HistoryEvent::Missed { changes: batch.missed };
            encode::line(&mut lines, &HistoryRecord { emitted_at, epoch, event });
        }
        let mut compared = Vec::new();
        for record in &records {
            // A run that was killed had not saved its newest changes in the cache: the next run finds them again.
            let (key, content) = hashes(&record.event);
            compared.push(key);
            let is_repeated = batch.is_restored
                && before.get(&key) == Some(&content)
                && !compared[..compared.len() - 1].contains(&key);
            if !is_repeated {
                encode::line(&mut lines, record);
            }
        }
        let written = self.file.append(&lines);
        if written.is_ok() {
            before.retain(|key, _| !compared.contains(key));
        }
        self.before = Some(before);
        written
    }

    /// The newest records of an earlier run.
    fn read_before(&self) -> io::Result<HashMap<u64, u64>> {
        let mut before = HashMap::new();
        read::newest(&self.path, TAIL, |record| {
            let (key, content) = hashes(&record.event);
            before.insert(key, content);
            Ok(())
        })?;
        Ok(before)
    }
}

/// What a record is about, and what it says; neither has the time and number of this run.
fn hashes(event: &HistoryEvent) -> (u64, u64) {
    let hash = |value: &dyn Fn(&mut DefaultHasher)| {
        let mut hasher = DefaultHasher::new();
        value(&mut hasher);
        hasher.finish()
    };
    let (kind, rule_id): (u8, Option<&RuleId>) = match event {
        HistoryEvent::Written { rule_id, .. } | HistoryEvent::Deleted { rule_id, .. } => (0, Some(rule_id)),
        HistoryEvent::State { rule_id, .. } => (1, Some(rule_id)),
        HistoryEvent::Missed { .. } => (2, None),
    };
    let key = hash(&|hasher| (kind, rule_id).hash(hasher));
    let content = hash(&|hasher| format!("{:?}", event.without_seq()).hash(hasher));
    (key, content)
}

#[cfg(test)]
mod tests;

//! The cache: the catalogue on disk, so that a worker that starts while the database is unavailable serves the
//! last known rules at once.
//!
//! Each line is a JSON object: a header with the format, the store and the time at which the rules were current;
//! a line for each row, with its text; and the SHA-256 of all lines before the last. A file is used as a whole or
//! not used. Its digests are not trusted: each text is hashed and parsed again, and the first poll of the
//! database still reads every row.

mod format;
#[cfg(any(test, fuzzing))]
pub mod laws;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufWriter, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use self::format::{Cached, Unusable, Unwritten};
use crate::backoff::Backoff;
use crate::clock::Timestamp;
use crate::event;
use crate::plural::{count, is_or_are};
use crate::rulefile::{self, ReadError, with_suffix};
use crate::worker::broker::Broker;
use crate::worker::cached::Rows;
use crate::worker::grace::{DISK_GRACE, DISK_PATIENCE, stopped_for, told_when_late};
use crate::worker::texts::{MAX_SIZE, Texts};

/// The least time between two writes: a killed worker loses about as much.
const INTERVAL: Duration = Duration::from_secs(1);

/// After each write the worker waits this many times as long as the write took, so that it spends at most 5 % of
/// its time on writing.
const REST: u32 = 20;

/// How often the file is written although nothing changes: it says when its rules were last current, and after a kill a
/// worker believes it.
const REFRESH: Duration = Duration::from_secs(3_600);

/// How long after a failure that another look at the database may mend the file is written again: that look reads all
/// rows.
const AFTER_REREAD: Duration = Duration::from_secs(300);

/// Opens the file; `None` if it does not exist.
fn open(path: &Path) -> Result<Option<File>, Unusable> {
    let file = match rulefile::open(path) {
        Ok(file) => file,
        Err(ReadError::Absent) => return Ok(None),
        Err(ReadError::Io(error)) => return Err(error.into()),
        Err(error) => return Err(io::Error::other(error).into()),
    };
    match file.metadata()?.len() {
        size if size > MAX_SIZE => {
            Err(Unusable::Content(format!("it has {size} bytes; at most {MAX_SIZE} are possible")))
        }
        _ => Ok(Some(file)),
    }
}

fn read(path: &Path) -> Result<Option<Cached>, Unusable> {
    // If the file grows meanwhile, the rest is not read.
    open(path)?.map(|file| format::read(file.take(MAX_SIZE))).transpose()
}

/// Serves the rules of the last run from the cache, marked stale. A file that is damaged or belongs to another
/// store is never served. Cancels `restored` at the end, or before it if the disk hangs: the rules of the database do
/// not wait for those of the cache.
pub(in crate::worker) async fn restore(
    path: PathBuf,
    origin: &str,
    broker: &Broker,
    restored: &CancellationToken,
) {
    let place = path.display().to_string();
    let late = || {
        tracing::error!(
            message_id = event::CACHE_SET_ASIDE,
            "{place} is not read after {DISK_PATIENCE:?}, the disk hangs: the worker waits for the rules of the database"
        );
        restored.cancel();
    };
    told_when_late(restore_in_time(path, origin, broker), late).await;
    restored.cancel();
}

async fn restore_in_time(path: PathBuf, origin: &str, broker: &Broker) {
    let place = path.display();
    let reading = path.clone();
    let found = tokio::task::spawn_blocking(move || read(&reading)).await;
    match found.unwrap_or_else(|error| Err(Unusable::Content(error.to_string()))) {
        Ok(None) => {}
        Ok(Some(cached)) if cached.header.origin != origin => tracing::warn!(
            message_id = event::CACHE_SET_ASIDE,
            "{place} holds the rules of another database, {}: it is not served, and will be overwritten",
            cached.header.origin
        ),
        Ok(Some(Cached { header, mut delta })) => {
            delta.now = broker.clock.now();
            let age = age(header.fresh_at, broker.clock.now());
            match broker.restore(delta, header.manifest.as_ref(), age) {
                Ok(true) => tracing::info!(
                    rules = header.rules,
                    "{} of {} {} served until the database answers",
                    count(header.rules, "rule"),
                    header.fresh_at,
                    is_or_are(&header.rules)
                ),
                Ok(false) => tracing::info!("{place} is not served: the database was read first"),
                Err(why) => tracing::warn!(
                    message_id = event::CACHE_SET_ASIDE,
                    "{place} is not served: {why}; it will be overwritten"
                ),
            }
        }
        Err(Unusable::Io(error)) => tracing::error!(
            message_id = event::CACHE_SET_ASIDE,
            error = %error,
            "{place} cannot be read: {error}; starting without it"
        ),
        Err(Unusable::Version) => tracing::warn!(
            message_id = event::CACHE_SET_ASIDE,
            "{place} was written by another version of the program: it is not served, and will be overwritten"
        ),
        Err(Unusable::Content(why)) => {
            let aside = with_suffix(&path, "corrupt");
            let moved = std::fs::rename(&path, &aside);
            tracing::error!(
                message_id = event::CACHE_SET_ASIDE,
                "{place} is damaged, or not a cache ({why}): it is not served; {}",
                match moved {
                    Ok(()) => format!("it was moved to {}", aside.display()),
                    Err(error) => format!("it could not be moved aside: {error}"),
                }
            );
        }
    }
}

/// How old a file is that was written at `fresh_at`. If that is in the future, one of the two clock readings is
/// wrong, by at least their distance.
fn age(fresh_at: Timestamp, now: Timestamp) -> Duration {
    now.since(fresh_at).max(fresh_at.since(now))
}

/// Writes the file soon after changes, each hour, and at the shutdown, where the disk has [`DISK_GRACE`]. An error is
/// logged once, and the file is tried again though nothing changes.
pub(in crate::worker) async fn keep(
    path: PathBuf,
    origin: String,
    broker: Arc<Broker>,
    shutdown: CancellationToken,
) {
    let place = path.display().to_string();
    tokio::select! {
        () = save_changes(path, origin, broker, &shutdown) => {}
        () = stopped_for(&shutdown, DISK_GRACE) => tracing::error!(
            message_id = event::CACHE_SET_ASIDE,
            "the disk did not take {place} within {DISK_GRACE:?} of the stop: it stays as it is, so a restart without the \
             database would serve older rules, or none"
        ),
    }
}

async fn save_changes(path: PathBuf, origin: String, broker: Arc<Broker>, shutdown: &CancellationToken) {
    let mut head = broker.watch_head();
    // Rules may have been loaded before `watch_head`.
    head.mark_changed();
    let (mut failing, mut wait) = (None, REFRESH);
    let mut not_before = Instant::now();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            _ = head.changed() => {}
            () = sleep(wait) => {}
        }
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = sleep_until(not_before) => {}
        }
        let begun = Instant::now();
        if !head.borrow_and_update().loaded {
            continue;
        }
        wait = save(&path, &origin, &broker, &mut failing).await;
        not_before = Instant::now() + INTERVAL.max(begun.elapsed() * REST);
    }
    if head.borrow().loaded {
        save(&path, &origin, &broker, &mut failing).await;
    }
}

/// Writes the file, and returns when to write it again if nothing changes. `failing` is `None` while it can be written. A
/// disk that hangs is waited for, which is logged once.
async fn save(path: &Path, origin: &str, broker: &Broker, failing: &mut Option<Backoff>) -> Duration {
    let fresh_at = broker.clock.now().before(broker.head_status().stale_for);
    let polls = broker.texts().map_or(0, |texts| texts.polls());
    let Some(rows) = broker.cached_rows() else { return REFRESH };
    let (target, origin, texts) = (path.to_owned(), origin.to_owned(), broker.texts().cloned());
    let written = tokio::task::spawn_blocking(move || {
        write(&target, &rows, (&origin, fresh_at), texts.as_deref(), polls)
    });
    let written = told_when_late(written, || {
        if failing.is_none() {
            tracing::error!(
                message_id = event::CACHE_SET_ASIDE,
                "{} is not written after {DISK_PATIENCE:?}, the disk hangs or is slow: rules are served all the same; a \
                 restart without the database would serve older rules, or none, and `rulesyncd history` may lack changes",
                path.display()
            );
            *failing = Some(Backoff::default());
        }
    });
    let written = written.await;
    let error = match written.unwrap_or_else(|error| Err(io::Error::other(error).into())) {
        Ok(()) => {
            if failing.take().is_some() {
                tracing::info!("{} is written again", path.display());
            }
            return REFRESH;
        }
        Err(error) => error,
    };
    // Under trust a text may be missing because its row was altered: reading that again is of no use.
    let is_altered = broker.trust_status().is_some_and(|trust| !trust.altered.is_empty());
    if let (Unwritten::Missing(_), Some(texts), false) = (&error, broker.texts(), is_altered) {
        // Another program removed or changed the file. The database has the texts.
        let texts = Arc::clone(texts);
        let _ = tokio::task::spawn_blocking(move || texts.clear()).await;
        broker.ask_to_reread();
    }
    if failing.is_some() {
        tracing::debug!(error = %error, "{} still cannot be written", path.display());
    } else {
        tracing::error!(
            message_id = event::CACHE_SET_ASIDE,
            error = %error,
            "{} cannot be written: {error}; a restart without the database would serve older rules, or none",
            path.display()
        );
    }
    let backoff = failing.get_or_insert_default();
    match error {
        Unwritten::Io(_) => backoff.wait(),
        Unwritten::Missing(_) => AFTER_REREAD,
        // Only a change makes it smaller.
        Unwritten::TooLarge => REFRESH,
    }
}

/// Writes the file, with texts of the file before it where it has them. `rows` are those after so many `polls`.
fn write(
    path: &Path,
    rows: &Rows,
    of: (&str, Timestamp),
    texts: Option<&Texts>,
    polls: u64,
) -> Result<(), Unwritten> {
    if let Some(texts) = texts {
        texts.settle();
    }
    let before = open(path).ok().flatten();
    let text = |content: &_| texts.and_then(|texts| texts.get(content));
    let written = rulefile::replace(path, |file| {
        let out = BufWriter::with_capacity(1 << 16, file);
        format::write(out, rows, of, before.map(|file| file.take(MAX_SIZE)), text)
    });
    if let Some(texts) = texts {
        // A file that was not written still needs its texts.
        let wanted: HashSet<_> = match written {
            Ok(()) => HashSet::new(),
            Err(_) => rows.rules.iter().map(|rule| rule.header.content_sha256).collect(),
        };
        texts.forget(polls, |content| wanted.contains(content));
    }
    written
}

//! The catalogue on disk, so that a worker that starts while the database is away serves the last
//! known rules at once.
//!
//! One JSON object a line: a header with the format, the store it was read from and when it was
//! last that store's; a line for each row, with its text; and the SHA-256 of all lines before the last.
//! A file is taken whole or not at all, and what it says of itself is not believed: each text is hashed
//! and parsed again, and until the database was read nothing of it counts as known.

mod format;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use self::format::{Cached, Rows, Unusable, Unwritten};
use crate::clock::Timestamp;
use crate::event;
use crate::plural::{count, is_or_are};
use crate::rulefile::{self, ReadError};
use crate::worker::broker::Broker;
use crate::worker::texts::{MAX_SIZE, Texts, beside};

/// The least time from one writing to the next, and so about the most that a killed worker forgets.
const INTERVAL: Duration = Duration::from_secs(1);

/// So many times as long as a writing took, there is none: at most a twentieth of the time.
const REST: u32 = 20;

/// Puts a file in place whole, so that a crash leaves the old one or the new one.
fn replace(
    path: &Path,
    fill: impl FnOnce(BufWriter<&File>) -> Result<(), Unwritten>,
) -> Result<(), Unwritten> {
    // What is no file was not put there by a worker, and does not make way for one.
    if let Ok(found) = std::fs::metadata(path) {
        rulefile::regular(&found).map_err(io::Error::other)?;
    }
    let beside = beside(path, "new");
    let mut open = OpenOptions::new();
    open.write(true).create(true).truncate(true).mode(0o600).custom_flags(rulefile::HARMLESS);
    let file = open.open(&beside)?;
    rulefile::regular(&file.metadata()?).map_err(io::Error::other)?;
    fill(BufWriter::with_capacity(1 << 16, &file))?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    Ok(File::open(directory.unwrap_or_else(|| Path::new(".")))?.sync_all()?)
}

/// Opens a file of a size that a catalogue may have; `None` where there is none.
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
    // Should it grow meanwhile, the rest is not read.
    open(path)?.map(|file| format::read(file.take(MAX_SIZE))).transpose()
}

/// Serves what the last run knew of this store, marked stale. A file that is torn or foreign is
/// set aside and never served.
pub(in crate::worker) async fn restore(path: PathBuf, origin: &str, broker: &Broker) {
    let place = path.display();
    let reading = path.clone();
    let found = tokio::task::spawn_blocking(move || read(&reading)).await;
    match found.unwrap_or_else(|error| Err(Unusable::Content(error.to_string()))) {
        Ok(None) => {}
        Ok(Some(cached)) if cached.header.origin != origin => tracing::warn!(
            message_id = event::CACHE_SET_ASIDE,
            "{place} is of another database, {}: it is not served, and will be written over",
            cached.header.origin
        ),
        Ok(Some(Cached { header, mut delta })) => {
            delta.now = broker.clock.now();
            broker.restore(delta, age(header.fresh_at, broker.clock.now()));
            tracing::info!(
                rules = header.rules,
                "{} of {} {} served until the database answers",
                count(header.rules, "rule"),
                header.fresh_at,
                is_or_are(&header.rules)
            );
        }
        Err(Unusable::Io(error)) => tracing::error!(
            message_id = event::CACHE_SET_ASIDE,
            error = %error,
            "{place} cannot be read: {error}; starting without it"
        ),
        Err(Unusable::Version) => tracing::warn!(
            message_id = event::CACHE_SET_ASIDE,
            "{place} was written by another version of the program: it is not served, and will be written over"
        ),
        Err(Unusable::Content(why)) => {
            let aside = beside(&path, "corrupt");
            let moved = std::fs::rename(&path, &aside);
            tracing::error!(
                message_id = event::CACHE_SET_ASIDE,
                "{place} is torn, or no catalogue ({why}): it is not served; {}",
                match moved {
                    Ok(()) => format!("it was moved to {}", aside.display()),
                    Err(error) => format!("it could not be moved aside: {error}"),
                }
            );
        }
    }
}

/// How old a file is that was written at `fresh_at`, by a clock that may have stepped since. Of a time
/// ahead of the clock nothing is known but that one of the two is wrong, by as much at least.
fn age(fresh_at: Timestamp, now: Timestamp) -> Duration {
    now.since(fresh_at).max(fresh_at.since(now))
}

/// Writes the file soon after changes, and at the end. An error is told once.
pub(in crate::worker) async fn keep(
    path: PathBuf,
    origin: String,
    broker: Arc<Broker>,
    shutdown: CancellationToken,
) {
    let mut head = broker.watch_head();
    // Something may have been loaded before this listened.
    head.mark_changed();
    let mut failing = false;
    let mut not_before = Instant::now();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            _ = head.changed() => {}
        }
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = sleep_until(not_before) => {}
        }
        let begun = Instant::now();
        if !head.borrow_and_update().loaded {
            continue;
        }
        save(&path, &origin, &broker, &mut failing).await;
        not_before = Instant::now() + INTERVAL.max(begun.elapsed() * REST);
    }
    if head.borrow().loaded {
        save(&path, &origin, &broker, &mut failing).await;
    }
}

async fn save(path: &Path, origin: &str, broker: &Broker, failing: &mut bool) {
    let fresh_at = broker.clock.now().before(broker.head_status().stale_for);
    let looks = broker.texts().map_or(0, |texts| texts.looks());
    let rows = broker.inspect(|catalogue, _, _| Rows {
        rules: catalogue.rule_rows().cloned().collect(),
        states: catalogue.state_rows().map(|(id, state)| (id.clone(), state.clone())).collect(),
    });
    let (target, origin, texts) = (path.to_owned(), origin.to_owned(), broker.texts().cloned());
    let written = tokio::task::spawn_blocking(move || {
        write(&target, &rows, (&origin, fresh_at), texts.as_deref(), looks)
    });
    let error = match written.await.unwrap_or_else(|error| Err(io::Error::other(error).into())) {
        Ok(()) if std::mem::take(failing) => {
            tracing::info!("{} is written again", path.display());
            return;
        }
        Ok(()) => return,
        Err(error) => error,
    };
    if let (Unwritten::Missing(_), Some(texts)) = (&error, broker.texts()) {
        // Somebody took the file away, or changed it. The database has the texts.
        texts.clear();
        broker.ask_to_reread();
    }
    if std::mem::replace(failing, true) {
        tracing::debug!(error = %error, "{} still cannot be written", path.display());
    } else {
        tracing::error!(
            message_id = event::CACHE_SET_ASIDE,
            error = %error,
            "{} cannot be written: {error}; a restart without the database would serve older rules, or none",
            path.display()
        );
    }
}

/// Writes the file; texts that did not change are those of the file before. `rows` are those after so many
/// `polls`.
fn write(
    path: &Path,
    rows: &Rows,
    of: (&str, Timestamp),
    texts: Option<&Texts>,
    looks: u64,
) -> Result<(), Unwritten> {
    let before = open(path).ok().flatten();
    let text = |content: &_| texts.and_then(|texts| texts.get(content));
    let written =
        replace(path, |out| format::write(out, rows, of, before.map(|file| file.take(MAX_SIZE)), text));
    if let Some(texts) = texts {
        // Where it was not written, what it was to hold is wanted still.
        let wanted: HashSet<_> = match written {
            Ok(()) => HashSet::new(),
            Err(_) => rows.rules.iter().map(|rule| rule.content_sha256).collect(),
        };
        texts.forget(looks, |content| wanted.contains(content));
    }
    written
}

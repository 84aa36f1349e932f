//! The catalogue on disk, so that a worker that starts while the database is away serves the last
//! known rules at once.
//!
//! One JSON object a line: a header with the format, the store it was read from and when it was
//! last that store's; a line for each row; and the SHA-256 of all lines before the last. A file is
//! taken whole or not at all.

#[cfg(test)]
mod tests;

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::clock::Timestamp;
use crate::event;
use crate::rule::{ContentDigest, Definition, KnownRule, Look, RuleId, RuleState};
use crate::rulefile::{self, ReadError};
use crate::wire::encode;
use crate::worker::hub::Hub;

const FORMAT: &str = "rulesyncd catalogue";
const VERSION: u32 = 1;

/// A larger file is none of ours.
const MAX_SIZE: u64 = 2 * 1024 * 1024 * 1024;

/// The least time from one writing to the next, and so about the most that a killed worker forgets.
const INTERVAL: Duration = Duration::from_secs(1);

/// So many times as long as a writing took, there is none: at most a twentieth of the time.
const REST: u32 = 20;

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    format: String,
    version: u32,
    origin: String,
    fresh_at: Timestamp,
    rules: usize,
    states: usize,
}

#[derive(Debug, Deserialize)]
struct RuleRecord {
    rule_id: RuleId,
    rule_version: i64,
    source_path: Box<str>,
    updated_at: Timestamp,
    updated_by: Arc<str>,
    content_sha256: ContentDigest,
    definition: Box<RawValue>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StateRecord {
    rule_id: RuleId,
    state: RuleState,
}

#[derive(Debug, Serialize, Deserialize)]
struct Trailer {
    sha256: ContentDigest,
}

/// Every row that is known and valid.
#[derive(Debug, Default)]
pub(in crate::worker) struct Rows {
    pub(in crate::worker) rules: Vec<Arc<KnownRule>>,
    pub(in crate::worker) states: Vec<(RuleId, RuleState)>,
}

/// What a file holds.
#[derive(Debug)]
struct Cached {
    header: Header,
    look: Look,
}

/// Why a file is not taken.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it is torn, or not a catalogue: {0}")]
    Content(String),
}

/// Reads a file's bytes.
fn parse(bytes: &[u8]) -> Result<Cached, Unusable> {
    let content = |why: &str| Unusable::Content(why.to_owned());
    let body = bytes.strip_suffix(b"\n").ok_or_else(|| content("it does not end with a whole line"))?;
    let split = body.iter().rposition(|&byte| byte == b'\n').ok_or_else(|| content("it has one line"))?;
    let (body, trailer) = (&bytes[..=split], &body[split + 1..]);
    let trailer: Trailer = serde_json::from_slice(trailer).map_err(|_| content("it has no checksum"))?;
    if trailer.sha256 != ContentDigest::of(body) {
        return Err(content("the checksum is another"));
    }
    let mut lines = body.split_inclusive(|&byte| byte == b'\n');
    let header: Header = record(lines.next().unwrap_or_default())?;
    if header.format != FORMAT || header.version != VERSION {
        return Err(content("it is of another version"));
    }
    let mut look = Look::default();
    for line in lines.by_ref().take(header.rules) {
        look.rules.push(Ok(Arc::new(rule(record(line)?)?)));
    }
    for line in lines.by_ref().take(header.states) {
        let StateRecord { rule_id, state } = record(line)?;
        look.states.push(Ok((rule_id, state)));
    }
    if look.rules.len() != header.rules || look.states.len() != header.states || lines.next().is_some() {
        return Err(content("it does not hold what its header says"));
    }
    Ok(Cached { header, look })
}

fn record<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Result<T, Unusable> {
    serde_json::from_slice(line).map_err(|error| Unusable::Content(error.to_string()))
}

fn rule(record: RuleRecord) -> Result<KnownRule, Unusable> {
    let definition: Definition = serde_json::from_str(record.definition.get())
        .map_err(|error| Unusable::Content(format!("{}: {error}", record.rule_id)))?;
    if definition.rule_id != record.rule_id {
        return Err(Unusable::Content(format!("{} is stored as {}", definition.rule_id, record.rule_id)));
    }
    Ok(KnownRule {
        rule_id: record.rule_id,
        rule_version: record.rule_version,
        source_path: record.source_path,
        updated_at: record.updated_at,
        updated_by: record.updated_by,
        content_sha256: record.content_sha256,
        definition_json: Box::<str>::from(record.definition),
    })
}

/// The bytes of a file.
fn render(rows: &Rows, origin: &str, fresh_at: Timestamp) -> Vec<u8> {
    #[derive(Serialize)]
    struct Rule<'a> {
        rule_id: &'a RuleId,
        rule_version: i64,
        source_path: &'a str,
        updated_at: Timestamp,
        updated_by: &'a str,
        content_sha256: ContentDigest,
    }
    let mut out = Vec::with_capacity(rows.rules.iter().map(|rule| rule.definition_json.len() + 400).sum());
    let header = Header {
        format: FORMAT.to_owned(),
        version: VERSION,
        origin: origin.to_owned(),
        fresh_at,
        rules: rows.rules.len(),
        states: rows.states.len(),
    };
    encode::line(&mut out, &header);
    for rule in &rows.rules {
        let head = Rule {
            rule_id: &rule.rule_id,
            rule_version: rule.rule_version,
            source_path: &rule.source_path,
            updated_at: rule.updated_at,
            updated_by: &rule.updated_by,
            content_sha256: rule.content_sha256,
        };
        encode::line(&mut out, &head);
        // The definition goes in as the bytes that it is, before the `}` and the LF.
        out.truncate(out.len() - 2);
        out.extend_from_slice(br#","definition":"#);
        out.extend_from_slice(rule.definition_json.as_bytes());
        out.extend_from_slice(b"}\n");
    }
    for (rule_id, state) in &rows.states {
        encode::line(&mut out, &StateRecord { rule_id: rule_id.clone(), state: state.clone() });
    }
    let sha256 = ContentDigest::of(&out);
    encode::line(&mut out, &Trailer { sha256 });
    out
}

/// Puts a file in place whole, so that a crash leaves the old one or the new one.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // What is no file was not put there by a worker, and does not make way for one.
    if let Ok(found) = std::fs::metadata(path) {
        rulefile::regular(&found).map_err(io::Error::other)?;
    }
    let beside = beside(path, "new");
    let mut open = OpenOptions::new();
    open.write(true).create(true).truncate(true).mode(0o600).custom_flags(rulefile::HARMLESS);
    let mut file = open.open(&beside)?;
    rulefile::regular(&file.metadata()?).map_err(io::Error::other)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or_else(|| Path::new(".")))?.sync_all()
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

fn read(path: &Path) -> Result<Option<Cached>, Unusable> {
    let file = match rulefile::open(path) {
        Ok(file) => file,
        Err(ReadError::Absent) => return Ok(None),
        Err(ReadError::Io(error)) => return Err(error.into()),
        Err(error) => return Err(io::Error::other(error).into()),
    };
    let mut bytes = Vec::new();
    file.take(MAX_SIZE).read_to_end(&mut bytes)?;
    parse(&bytes).map(Some)
}

/// Serves what the last run knew of this store, marked stale. A file that is torn or foreign is
/// set aside and never served.
pub(in crate::worker) fn restore(path: &Path, origin: &str, hub: &Hub) {
    let place = path.display();
    match read(path) {
        Ok(None) => {}
        Ok(Some(cached)) if cached.header.origin != origin => tracing::warn!(
            message_id = event::CACHE_SET_ASIDE,
            "{place} is of another database, {}: it is not served, and will be written over",
            cached.header.origin
        ),
        Ok(Some(Cached { header, mut look })) => {
            look.now = hub.clock.now();
            let age = look.now.since(header.fresh_at);
            hub.restore(look, age);
            tracing::info!(
                rules = header.rules,
                "{} rules of {} are served until the database answers",
                header.rules,
                header.fresh_at
            );
        }
        Err(Unusable::Io(error)) => tracing::error!(
            message_id = event::CACHE_SET_ASIDE,
            error = %error,
            "{place} cannot be read: {error}; starting without it"
        ),
        Err(Unusable::Content(why)) => {
            let aside = beside(path, "corrupt");
            let moved = std::fs::rename(path, &aside);
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

/// Writes the file soon after changes, and at the end. An error is told once.
pub(in crate::worker) async fn keep(
    path: PathBuf,
    origin: String,
    hub: Arc<Hub>,
    shutdown: CancellationToken,
) {
    let mut news = hub.news();
    // Something may have been loaded before this listened.
    news.mark_changed();
    let mut failing = false;
    let mut not_before = Instant::now();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            _ = news.changed() => {}
        }
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = sleep_until(not_before) => {}
        }
        let begun = Instant::now();
        if !news.borrow_and_update().loaded {
            continue;
        }
        save(&path, &origin, &hub, &mut failing).await;
        not_before = Instant::now() + INTERVAL.max(begun.elapsed() * REST);
    }
    if news.borrow().loaded {
        save(&path, &origin, &hub, &mut failing).await;
    }
}

async fn save(path: &Path, origin: &str, hub: &Hub, failing: &mut bool) {
    let fresh_at = hub.clock.now().before(hub.standing().stale_for);
    let rows = hub.inspect(|catalogue, _, _| Rows {
        rules: catalogue.rule_rows().cloned().collect(),
        states: catalogue.state_rows().map(|(id, state)| (id.clone(), state.clone())).collect(),
    });
    let (target, origin) = (path.to_owned(), origin.to_owned());
    let written =
        tokio::task::spawn_blocking(move || write(&target, &render(&rows, &origin, fresh_at))).await;
    match written.unwrap_or_else(|error| Err(io::Error::other(error))) {
        Ok(()) if std::mem::take(failing) => tracing::info!("{} is written again", path.display()),
        Ok(()) => {}
        Err(error) if std::mem::replace(failing, true) => {
            tracing::debug!(error = %error, "{} still cannot be written", path.display());
        }
        Err(error) => tracing::error!(
            message_id = event::CACHE_SET_ASIDE,
            error = %error,
            "{} cannot be written: {error}; a restart without the database would serve older rules, or none",
            path.display()
        ),
    }
}

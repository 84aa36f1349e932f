//! The table `rulesyncd_worker`: what each worker reports of itself. SQLite has none: it is one host, and each report
//! would wake every worker.
//!
//! Without the table, or without the right to it, everything else works.

use std::collections::HashSet;

use super::connection::Connection;
use super::create;
use super::row::Row;
use super::sql::{Dialect, Purpose, Query};
use super::{Database, version};
use crate::clock::Timestamp;
use crate::fleet::{ReportedWorker, WorkerReport, to_forget};
use crate::store::StoreError;

const READING: &str = "reading rulesyncd_worker";
pub(super) const REPORTING: &str = "reporting to rulesyncd_worker";
const FORGETTING: &str = "deleting from rulesyncd_worker";

/// The most rows that are read.
const MOST: usize = 20_000;

/// The most rows that one statement deletes.
const BATCH: usize = 500;

/// The columns of text, and the most bytes of each that are read.
const TEXTS: [(&str, usize); 9] = [
    ("epoch", 64),
    ("worker_id", 255 * 4),
    ("host", 255 * 4),
    ("program", 64 * 4),
    ("quarantined_ids", 255 * 4),
    ("server", 255 * 4),
    ("digest", 64),
    ("trust", 255 * 4),
    ("manifest_version", 32 * 4),
];

/// The columns of numbers.
const NUMBERS: [&str; 10] = [
    "interval_ms",
    "seq",
    "rules",
    "states",
    "quarantined",
    "subscribers",
    "acknowledging",
    "acknowledged",
    "stale_ms",
    "applied",
];

/// Creates the table if it is missing.
pub(super) async fn create(connection: &mut Connection) -> Result<(), StoreError> {
    let Some(create) = connection.dialect().create_workers else { return Ok(()) };
    create::if_missing(connection, READING, "rulesyncd_worker", create).await.map(drop)
}

/// Writes the report of a worker, whose earlier one it replaces.
pub(super) async fn write(connection: &mut Connection, report: &WorkerReport) -> Result<(), StoreError> {
    let query = upsert(connection.dialect(), report);
    connection.execute(REPORTING, query).await.map(drop)
}

/// The same on a connection of its own, to the server that takes writes. The inner error says why it is not written, and
/// what to do.
pub(super) async fn write_elsewhere(
    database: Database,
    report: WorkerReport,
) -> Result<Result<(), String>, StoreError> {
    let connector = database.reports_to.as_ref().unwrap_or(&database.connector);
    let mut connection = match Connection::open(connector, Purpose::Write).await {
        Ok(connection) => connection,
        Err(error) => {
            let cause = error.cause();
            return Ok(Err(format!("{cause}; name the server that takes writes in `worker.report_url`")));
        }
    };
    let written = write(&mut connection, &report).await;
    connection.close().await;
    Ok(written.map_err(|error| why_not_written(connector.dialect(), &error)))
}

/// Why a report could not be written, with what to do.
pub(super) fn why_not_written(dialect: &Dialect, error: &StoreError) -> String {
    version::with_grant(dialect, "rulesyncd_worker", error, "SELECT, INSERT, UPDATE")
}

fn cut(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

fn upsert(dialect: &'static Dialect, report: &WorkerReport) -> Query {
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let optional = |text: &Option<String>, most| text.as_ref().map(|text| cut(text, most));
    let texts = [
        ("epoch", Some(cut(&report.epoch, 64))),
        ("worker_id", Some(cut(&report.worker_id, 255))),
        ("host", Some(cut(&report.host, 255))),
        ("program", Some(cut(&report.program, 64))),
        ("quarantined_ids", Some(cut(&report.quarantined_ids, 255))),
        ("server", Some(cut(&report.server, 255))),
        ("digest", optional(&report.digest, 64)),
        ("trust", optional(&report.trust, 255)),
        ("manifest_version", optional(&report.manifest_version, 32)),
    ];
    let numbers = [
        ("interval_ms", report.interval_ms),
        ("seq", report.seq),
        ("rules", report.rules),
        ("states", report.states),
        ("quarantined", report.quarantined),
        ("subscribers", report.subscribers),
        ("acknowledging", report.acknowledging),
        ("acknowledged", report.acknowledged),
        ("stale_ms", report.stale_ms),
    ];
    let mut columns: Vec<&str> = texts.iter().map(|(name, _)| *name).collect();
    columns.extend(numbers.iter().map(|(name, _)| *name));
    columns.push("applied");
    let now = dialect.statement_time;
    let names = columns.join(", ");
    let mut query = Query::new(
        dialect,
        format!("INSERT INTO rulesyncd_worker (started_at, reported_at, {names}) VALUES ({now}, {now}"),
    );
    for (_, text) in texts {
        query = query.push(", ").optional_text(text);
    }
    for (_, value) in numbers {
        query = query.push(", ").int(number(value));
    }
    query = match report.applied {
        Some(applied) => query.push(", ").int(number(applied)),
        None => query.push(", NULL"),
    };
    columns.push("reported_at");
    columns.retain(|column| *column != "epoch");
    query.push(")").push(&(dialect.replace)("epoch", &columns))
}

/// Counts the rows that lack this version or, if that is asked, an acknowledgement.
pub(super) fn lacking(dialect: &'static Dialect, version: u64, acknowledged: bool) -> Query {
    let count = (dialect.text)("count(*)");
    let sql = format!("SELECT {count} FROM rulesyncd_worker WHERE COALESCE(applied, -1) < ");
    let query = Query::new(dialect, sql).int(i64::try_from(version).unwrap_or(i64::MAX));
    query.push(if acknowledged { " OR acknowledged < acknowledging" } else { "" })
}

/// Every row, at most [`MOST`]; a row that cannot be read is left out.
async fn read(connection: &mut Connection) -> Result<Vec<ReportedWorker>, StoreError> {
    within_bounds(fetch(connection).await?)
}

/// The rows as they are, at most one more than [`MOST`].
pub(super) async fn fetch(connection: &mut Connection) -> Result<Vec<Row>, StoreError> {
    let dialect = connection.dialect();
    let text = |column: &str| (dialect.text)(column);
    let times = ["started_at", "reported_at"].map(text);
    let texts = TEXTS.map(|(column, most)| {
        format!("CASE WHEN {} <= {most} THEN {} END", (dialect.length)(column), (dialect.plain)(column))
    });
    let numbers = NUMBERS.map(text);
    let columns: Vec<String> = times.into_iter().chain(texts).chain(numbers).collect();
    let sql = format!("SELECT {} FROM rulesyncd_worker LIMIT {}", columns.join(", "), MOST + 1);
    let query = connection.query(sql);
    connection.fetch(READING, query).await
}

/// The reports in these rows; one that cannot be read is left out.
pub(super) fn within_bounds(rows: Vec<Row>) -> Result<Vec<ReportedWorker>, StoreError> {
    if rows.len() > MOST {
        return Err(StoreError::Refused {
            what: READING,
            detail: format!("rulesyncd_worker has more than {MOST} rows"),
            remedy: "delete the rows of workers that do not exist".into(),
        });
    }
    let workers: Vec<ReportedWorker> = rows.into_iter().filter_map(worker).collect();
    // Without a key, MariaDB adds a row at each report.
    let mut epochs = HashSet::with_capacity(workers.len());
    if !workers.iter().all(|worker| epochs.insert(&worker.report.epoch)) {
        return Err(StoreError::Refused {
            what: READING,
            detail: "rulesyncd_worker has several rows of one epoch".into(),
            remedy: "drop the table, and let `rulesyncd sync` create it with its primary key".into(),
        });
    }
    Ok(workers)
}

fn worker(mut row: Row) -> Option<ReportedWorker> {
    let times = [row.time(0, "started_at").ok()?, row.time(1, "reported_at").ok()?];
    let mut texts = Vec::with_capacity(TEXTS.len());
    for (index, (column, _)) in TEXTS.iter().enumerate() {
        texts.push(row.optional(2 + index, column).ok()?);
    }
    let mut numbers = Vec::with_capacity(NUMBERS.len());
    for (index, column) in NUMBERS.iter().enumerate() {
        let cell = row.optional(2 + TEXTS.len() + index, column).ok()?;
        numbers.push(cell.map(|cell| cell.trim().parse::<u64>().ok()));
    }
    let mut text = texts.into_iter();
    let mut needed = || text.next()?;
    let (epoch, worker_id, host) = (needed()?, needed()?, needed()?);
    let (program, quarantined_ids, server) = (needed()?, needed()?, needed()?);
    let (digest, trust, manifest_version) = (needed(), needed(), needed());
    let number = |index: usize| numbers.get(index).copied().flatten().flatten();
    let report = WorkerReport {
        epoch,
        worker_id,
        host,
        program,
        quarantined_ids,
        server,
        digest,
        trust,
        manifest_version,
        interval_ms: number(0)?,
        seq: number(1)?,
        rules: number(2)?,
        states: number(3)?,
        quarantined: number(4)?,
        subscribers: number(5)?,
        acknowledging: number(6)?,
        acknowledged: number(7)?,
        stale_ms: number(8)?,
        applied: number(9),
    };
    let [started_at, reported_at] = times;
    Some(ReportedWorker { report, started_at, reported_at })
}

/// Deletes the rows of these epochs.
async fn delete(connection: &mut Connection, epochs: &[String]) -> Result<u64, StoreError> {
    let mut deleted = 0;
    for epochs in epochs.chunks(BATCH) {
        let query = connection.query("DELETE FROM rulesyncd_worker WHERE epoch IN ").texts(epochs);
        deleted += connection.execute(FORGETTING, query).await?;
    }
    Ok(deleted)
}

/// Deletes the rows that count for nothing any more.
pub(super) async fn clean(
    connection: &mut Connection,
    now: Timestamp,
    forget_after: std::time::Duration,
) -> Result<u64, StoreError> {
    let rows = read(connection).await?;
    delete(connection, &to_forget(&rows, now, forget_after)).await
}

impl Database {
    /// Whether workers report into a table of this database.
    pub(crate) fn has_reports(&self) -> bool {
        self.connector.dialect().create_workers.is_some()
    }

    /// Deletes what the workers of these epochs reported, and returns how many rows there were.
    ///
    /// # Errors
    /// The database does not answer, or does not allow it.
    pub(crate) async fn forget_workers(&self, epochs: Vec<String>) -> Result<u64, StoreError> {
        self.ask(FORGETTING, |database| async move {
            let mut connection = Connection::open(&database.connector, Purpose::Write).await?;
            let deleted = delete(&mut connection, &epochs).await;
            connection.close().await;
            deleted.map_err(|error| match error {
                StoreError::Refused { what, detail, .. } => StoreError::Refused {
                    what,
                    detail,
                    remedy: "`GRANT SELECT, DELETE ON rulesyncd_worker` to this user".into(),
                },
                error => error,
            })
        })
        .await
    }
}

//! Where a change's trace crosses from who wrote it to the workers: a table of the daemon's own,
//! `rulesyncd_trace`, made and used only while spans are recorded. Nothing depends on it: what fails
//! here costs the connection between two traces, and no rule.
//!
//! A row stands before the change that it belongs to and names that by its content, so it needs no
//! place in the change's transaction.

use super::connection::Connection;
use crate::clock::{Clock as _, SystemClock};
use crate::rule::ContentDigest;
use crate::store::{Carried, StoreError};
use crate::telemetry::trace::{Span, Traceparent};

const WHAT: &str = "carrying a trace";

/// How long a row stands: a worker that comes later than that begins a trace of its own.
const KEPT_SECONDS: i64 = 3_600;

/// Rows that go in one statement, and rules that are asked for at once; a larger burst is not
/// followed one by one.
const BATCH: usize = 500;

const CREATE: &str = "CREATE TABLE rulesyncd_trace (rule_id VARCHAR(255) NOT NULL, \
     change_kind VARCHAR(16) NOT NULL, content VARCHAR(64) NOT NULL, traceparent VARCHAR(64) NOT NULL, \
     written_at BIGINT NOT NULL, PRIMARY KEY (rule_id, change_kind))";

/// One change that is about to be written, and its trace.
#[derive(Debug)]
pub struct Departure {
    rule_id: String,
    change_kind: &'static str,
    content: String,
    traceparent: String,
}

impl Departure {
    /// The writing of a rule; `None` where its trace is not recorded.
    pub fn of_rule(rule_id: &str, content: ContentDigest, traceparent: Option<Traceparent>) -> Option<Self> {
        Self::of(rule_id, "definition", content, traceparent)
    }

    pub(super) fn of_state(rule_id: &str, content: ContentDigest, span: &Span) -> Option<Self> {
        Self::of(rule_id, "state", content, span.traceparent())
    }

    fn of(
        rule_id: &str,
        change_kind: &'static str,
        content: ContentDigest,
        traceparent: Option<Traceparent>,
    ) -> Option<Self> {
        let (rule_id, content) = (rule_id.to_owned(), content.to_string());
        traceparent.map(|trace| Self { rule_id, change_kind, content, traceparent: trace.to_string() })
    }
}

/// Makes the table if it is missing, and takes out what is old.
pub(super) async fn prepare(connection: &mut Connection) -> Result<(), StoreError> {
    let probe = connection.query("SELECT rule_id FROM rulesyncd_trace WHERE 1 = 0");
    if connection.fetch(WHAT, probe).await.is_err() {
        connection.run(WHAT, CREATE).await?;
    }
    let old = connection.query("DELETE FROM rulesyncd_trace WHERE written_at < ");
    let old = old.int(now_seconds() - KEPT_SECONDS);
    connection.execute(WHAT, old).await.map(drop)
}

/// Writes the traces of changes that are about to be written.
pub(super) async fn depart(connection: &mut Connection, departures: &[Departure]) -> Result<(), StoreError> {
    let now = now_seconds();
    for batch in
        departures.chunk_by(|a, b| a.change_kind == b.change_kind).flat_map(|same| same.chunks(BATCH))
    {
        let ids = batch.iter().map(|departure| &departure.rule_id);
        let old = connection.query("DELETE FROM rulesyncd_trace WHERE change_kind = ");
        let old = old.text(batch[0].change_kind).push(" AND rule_id IN ").texts(ids);
        connection.execute(WHAT, old).await?;
        let mut new = connection.query(
            "INSERT INTO rulesyncd_trace (rule_id, change_kind, content, traceparent, written_at) VALUES ",
        );
        for (index, departure) in batch.iter().enumerate() {
            new = new.push(if index == 0 { "(" } else { ", (" }).text(&*departure.rule_id).push(", ");
            new = new.text(departure.change_kind).push(", ").text(&*departure.content).push(", ");
            new = new.text(&*departure.traceparent).push(", ").int(now).push(")");
        }
        connection.execute(WHAT, new).await?;
    }
    Ok(())
}

/// The traces that stand for these rules.
pub(super) async fn arrive(
    connection: &mut Connection,
    rule_ids: &[String],
) -> Result<Vec<Carried>, StoreError> {
    let rule_ids = &rule_ids[..rule_ids.len().min(BATCH)];
    let length = connection.dialect().length;
    let query =
        connection.query("SELECT rule_id, content, traceparent FROM rulesyncd_trace WHERE rule_id IN ");
    // Whoever may write the table may put texts of any length into it.
    let short = format!(" AND {} <= 64 AND {} <= 64", length("content"), length("traceparent"));
    let rows = connection.fetch(WHAT, query.texts(rule_ids).push(&short)).await?;
    let read = |mut row: super::sql::Row| {
        let rule_id = row.text(0, "rule_id").ok()?;
        let content = ContentDigest::from_hex(&row.text(1, "content").ok()?)?;
        let traceparent = Traceparent::parse(&row.text(2, "traceparent").ok()?)?;
        Some(Carried { rule_id, content, traceparent })
    };
    Ok(rows.into_iter().filter_map(read).collect())
}

fn now_seconds() -> i64 {
    SystemClock.now().as_micros() / 1_000_000
}

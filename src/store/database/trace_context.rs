//! The table `rulesyncd_trace`: it passes the trace context of a change from its writer to the workers, and exists
//! only where spans are recorded. Rules do not depend on it: if it fails, the worker's spans begin a new trace.
//!
//! A row names its change by rule, kind and content, so it is written before the change and needs no part in the
//! change's transaction.

use super::connection::Connection;
use super::create;
use crate::clock::{Clock as _, SystemClock};
use crate::rule::{ChangeKind, ContentDigest};
use crate::store::{StoreError, TraceContextRow};
use crate::telemetry::trace::Traceparent;

pub(super) const WHAT: &str = "passing on a trace context";

/// How long a row is kept. A worker that polls later begins a new trace.
const KEPT_SECONDS: i64 = 3_600;

/// The most rows of one statement, and the most rules that a poll reads contexts for.
const BATCH: usize = 500;

const CREATE: &str = "CREATE TABLE rulesyncd_trace (rule_id VARCHAR(255) NOT NULL, \
     change_kind VARCHAR(16) NOT NULL, content VARCHAR(64) NOT NULL, traceparent VARCHAR(64) NOT NULL, \
     written_at BIGINT NOT NULL, PRIMARY KEY (rule_id, change_kind))";

/// Creates the table if it is missing, and deletes old rows.
pub(super) async fn prepare(connection: &mut Connection) -> Result<(), StoreError> {
    create::if_missing(connection, WHAT, "rulesyncd_trace", CREATE).await?;
    let old = connection.query("DELETE FROM rulesyncd_trace WHERE written_at < ");
    let old = old.int(now_seconds() - KEPT_SECONDS);
    connection.execute(WHAT, old).await.map(drop)
}

/// Writes the contexts of changes that follow.
pub(super) async fn write(
    connection: &mut Connection,
    contexts: &[TraceContextRow],
) -> Result<(), StoreError> {
    let now = now_seconds();
    for batch in contexts.chunk_by(|a, b| a.change_kind == b.change_kind).flat_map(|same| same.chunks(BATCH))
    {
        let change_kind = batch[0].change_kind.as_str();
        let ids = batch.iter().map(|context| &context.rule_id);
        let old = connection.query("DELETE FROM rulesyncd_trace WHERE change_kind = ");
        let old = old.text(change_kind).push(" AND rule_id IN ").texts(ids);
        connection.execute(WHAT, old).await?;
        let mut new = connection.query(
            "INSERT INTO rulesyncd_trace (rule_id, change_kind, content, traceparent, written_at) VALUES ",
        );
        for (index, context) in batch.iter().enumerate() {
            new = new.push(if index == 0 { "(" } else { ", (" }).text(&*context.rule_id).push(", ");
            new = new.text(change_kind).push(", ").text(context.content.to_string()).push(", ");
            new = new.text(context.traceparent.to_string()).push(", ").int(now).push(")");
        }
        connection.execute(WHAT, new).await?;
    }
    Ok(())
}

/// Reads the contexts of these rules' changes.
pub(super) async fn read(
    connection: &mut Connection,
    rule_ids: &[String],
) -> Result<Vec<TraceContextRow>, StoreError> {
    let rule_ids = &rule_ids[..rule_ids.len().min(BATCH)];
    let length = connection.dialect().length;
    let query = connection
        .query("SELECT rule_id, change_kind, content, traceparent FROM rulesyncd_trace WHERE rule_id IN ");
    // A program that may write the table may write texts of any length into it.
    let short =
        ["change_kind", "content", "traceparent"].map(|column| format!(" AND {} <= 64", length(column)));
    let rows = connection.fetch(WHAT, query.texts(rule_ids).push(&short.concat())).await?;
    let context = |mut row: super::row::Row| {
        let rule_id = row.text(0, "rule_id").ok()?;
        let word = row.text(1, "change_kind").ok()?;
        let kinds = [ChangeKind::Definition, ChangeKind::State];
        let change_kind = kinds.into_iter().find(|kind| kind.as_str() == word)?;
        let content = ContentDigest::from_hex(&row.text(2, "content").ok()?)?;
        let traceparent = Traceparent::parse(&row.text(3, "traceparent").ok()?)?;
        Some(TraceContextRow { rule_id, change_kind, content, traceparent })
    };
    Ok(rows.into_iter().filter_map(context).collect())
}

fn now_seconds() -> i64 {
    SystemClock.now().as_micros() / 1_000_000
}

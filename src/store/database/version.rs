//! The table `rulesyncd_version`: its row counts the transactions that changed rules or states. A snapshot that shows
//! version v holds every change up to v, because a transaction raises the version last: the row's lock orders the
//! versions as the commits are ordered.
//!
//! Without the table, or without the right to it, everything else works; so it does where another program made the
//! version one that cannot be raised. In a table that was made by hand without a key there may be several rows: each is
//! raised, and the greatest counts.

use super::connection::Connection;
use super::create;
use super::row::Cell;
use super::sql::{Dialect, GRANT_RIGHTS};
use crate::store::StoreError;
use crate::store::transaction::Last;

/// The operation, in errors; of the last statements of a master's transaction, and of its fence alone.
const WHAT: &str = "updating rulesyncd_version";
const FINISHING: &str = "updating rulesyncd_version and rulesyncd_lease";
const FENCING: &str = "updating rulesyncd_lease";

/// The rights of a writer.
const RIGHTS: &str = "SELECT, INSERT, UPDATE";

/// Creates the table and its row if they are missing.
pub(super) async fn create(connection: &mut Connection) -> Result<(), StoreError> {
    let create = connection.dialect().create_version;
    create::if_missing(connection, WHAT, "rulesyncd_version", create).await?;
    insert(connection).await
}

/// The version, as text, of which nothing is checked; `None` if there is no row.
async fn found(connection: &mut Connection) -> Result<Option<String>, StoreError> {
    let columns = ["count(*)", "max(version)"].map(connection.dialect().text).join(", ");
    let query = connection.query(format!("SELECT {columns} FROM rulesyncd_version WHERE name = 'tables'"));
    let row = connection.row(WHAT, query).await?;
    let mut cells = row.iter().flat_map(|row| &row.0).map(Cell::shown);
    let has_row = cells.next().is_some_and(|count| count != "0");
    Ok(cells.next().filter(|_| has_row).map(str::to_owned))
}

/// Inserts the row if it is missing.
async fn insert(connection: &mut Connection) -> Result<(), StoreError> {
    if found(connection).await?.is_some() {
        return Ok(());
    }
    let now = connection.dialect().statement_time;
    let insert = format!(
        "INSERT INTO rulesyncd_version (name, version, deleted, changed_at) VALUES ('tables', 0, 0, {now})"
    );
    match connection.run(WHAT, &insert).await {
        // Another session was faster.
        Err(StoreError::RowRejected { .. }) if found(connection).await?.is_some() => Ok(()),
        inserted => inserted,
    }
}

/// Makes sure that the version can be raised, outside a transaction. A statement that changes nothing does not show
/// somebody's own trigger: with `really` it is raised.
async fn try_to_raise(connection: &mut Connection, inserts: bool, really: bool) -> Result<(), StoreError> {
    let dialect = connection.dialect();
    connection.run(WHAT, &(dialect.try_update)(&raise(dialect, true))).await?;
    if inserts {
        insert(connection).await?;
    }
    let version = found(connection).await?;
    if let Some(version) = version.filter(|version| !can_be_raised(version)) {
        let version: String = version.chars().take(64).collect();
        return Err(StoreError::Refused {
            what: WHAT,
            detail: format!("another program made the version {version:?}, which cannot be raised"),
            remedy: "delete the row of rulesyncd_version: a master writes it anew".into(),
        });
    }
    if really { connection.run(WHAT, &raise(dialect, false)).await } else { Ok(()) }
}

fn can_be_raised(version: &str) -> bool {
    version.parse().is_ok_and(|version: i64| (0..i64::MAX).contains(&version))
}

/// Why a reader cannot read the row, and what to do; `None` if it can.
///
/// # Errors
/// The server does not say now.
pub(super) async fn why_not_readable(connection: &mut Connection) -> Result<Option<String>, StoreError> {
    let probe = connection
        .query("SELECT name, version, deleted FROM rulesyncd_version WHERE name = 'tables' AND 1 = 0");
    match connection.row("reading rulesyncd_version", probe).await {
        Ok(_) => Ok(None),
        Err(error) if error.is_lasting() => Ok(Some(with_remedy(connection.dialect(), &error, "SELECT"))),
        Err(error) => Err(error),
    }
}

fn with_remedy(dialect: &Dialect, error: &StoreError, rights: &str) -> String {
    with_grant(dialect, "rulesyncd_version", error, rights)
}

/// The error of a table of the daemon's own with what to do: unless the error says it, the table is missing, or a right.
pub(super) fn with_grant(dialect: &Dialect, table: &str, error: &StoreError, rights: &str) -> String {
    let cause = error.cause();
    let remedy = match error {
        StoreError::Refused { remedy, .. } if remedy != GRANT_RIGHTS => remedy.clone(),
        // Somebody's own trigger or constraint.
        StoreError::RowRejected { .. } => "compare the table with the one that the README shows".to_owned(),
        _ if dialect.now.is_none() => "let `rulesyncd sync` create it as the tables' owner".to_owned(),
        _ => format!(
            "let `rulesyncd sync` create it as the tables' owner, and `GRANT {rights} ON {table}` to this user"
        ),
    };
    format!("{cause}; {remedy}")
}

/// Raises the version by one, if it can be raised. SQLite would add one to a text, too.
fn raise(dialect: &Dialect, deletes: bool) -> String {
    // MySQL assigns from left to right.
    let deleted = if deletes { "deleted = version + 1, " } else { "" };
    let now = dialect.statement_time;
    format!(
        "UPDATE rulesyncd_version SET {deleted}version = version + 1, changed_at = {now} \
         WHERE name = 'tables' AND version BETWEEN 0 AND {}",
        i64::MAX - 1
    )
}

/// Whether and why a writer does not raise the version.
#[derive(Debug, Default)]
pub(super) struct VersionWriter {
    problem: Option<String>,
    /// Whether a trigger or a constraint is the problem, which only a try shows.
    is_rejected: bool,
}

impl VersionWriter {
    /// A writer for an operator's connection, whose rights are checked outside a transaction.
    pub(super) async fn of_operator(connection: &mut Connection) -> Result<Self, StoreError> {
        let mut writer = Self::default();
        writer.check(connection, false).await?;
        Ok(writer)
    }

    /// A writer for a master's session, which also inserts a missing row.
    pub(super) async fn of_master(connection: &mut Connection) -> Result<Self, StoreError> {
        let mut writer = Self::default();
        writer.check(connection, true).await?;
        Ok(writer)
    }

    /// Finds out, outside a transaction, whether the row can be updated. Where another session is in the way, that stays as
    /// it was known.
    ///
    /// # Errors
    /// The connection is lost.
    pub(super) async fn check(
        &mut self,
        connection: &mut Connection,
        inserts: bool,
    ) -> Result<(), StoreError> {
        let tried = try_to_raise(connection, inserts, self.is_rejected).await;
        self.note(connection, tried)
    }

    fn note(&mut self, connection: &Connection, tried: Result<(), StoreError>) -> Result<(), StoreError> {
        match tried {
            Err(error) if connection.is_broken() => Err(error),
            Err(StoreError::RowLocked { .. } | StoreError::Conflict { .. }) => Ok(()),
            tried => {
                let dialect = connection.dialect();
                self.is_rejected = matches!(tried, Err(StoreError::RowRejected { .. }));
                self.problem = tried.err().map(|error| with_remedy(dialect, &error, RIGHTS));
                Ok(())
            }
        }
    }

    /// Why the version is not raised; `None` if it is.
    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Whether the last statements of a transaction failed because the row cannot be updated: then the writer goes on
    /// without. They concern the lease, too, so the server is asked.
    pub(super) async fn gives_up(&mut self, connection: &mut Connection, error: &StoreError) -> bool {
        let is_rejected = matches!(error, StoreError::RowRejected { .. });
        if !(error.is_lasting() || is_rejected) || self.problem.is_some() {
            return false;
        }
        let tried = try_to_raise(connection, false, is_rejected).await;
        self.note(connection, tried).is_ok() && self.problem.is_some()
    }
}

/// Carries out the last statements of a transaction, of them `fence`, in one round trip where the server takes several.
/// Returns how many rows the last matched.
pub(super) async fn finish(
    connection: &mut Connection,
    last: &[Last],
    fence: Option<String>,
) -> Result<u64, StoreError> {
    let dialect = connection.dialect();
    let statement = |last: &Last| match last {
        Last::Raise { deletes } => Some((WHAT, raise(dialect, *deletes))),
        Last::Notify => Some((WHAT, dialect.notify?.to_owned())),
        Last::Fence => Some((FENCING, fence.clone()?)),
    };
    let mut statements: Vec<(&str, String)> = last.iter().filter_map(statement).collect();
    if dialect.takes_several && !statements.is_empty() {
        let what = if fence.is_some() { FINISHING } else { WHAT };
        let texts: Vec<&str> = statements.iter().map(|(_, statement)| &**statement).collect();
        statements = vec![(what, texts.join("; "))];
    }
    let mut matched = 0;
    for (what, statement) in &statements {
        matched = connection.run_counted(what, statement).await?;
    }
    Ok(matched)
}

//! PostgreSQL, and servers that speak its protocol.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{ConnectOptions as _, Connection as _, Row as _};

use uuid::Uuid;

use super::relay::POSTGRES_PORT;
use super::row;
use super::sql::{
    self, Dialect, ErrorClass, GRANT_RIGHTS, LOCK_WAIT, POLL_STATEMENTS, Purpose, RulesVersion, ServerLockSql,
};
use crate::address::{Server, ServerRole};

pub(super) const DIALECT: Dialect = Dialect {
    backend: "postgresql",
    create_rules: include_str!("schema/postgres_rules.sql"),
    create_states: include_str!("schema/postgres_states.sql"),
    create_version: include_str!("schema/postgres_version.sql"),
    create_lease: Some(include_str!("schema/postgres_lease.sql")),
    create_workers: Some(include_str!("schema/postgres_worker.sql")),
    find_index: |table, column| {
        format!(
            "SELECT '1'::text FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0] \
             WHERE indrelid = '{table}'::regclass AND attname = '{column}'"
        )
    },
    wait_briefly: Some("SET lock_timeout = '1s'"),
    isolate_poll: None,
    begin_poll: "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
    begin_write: "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE",
    lock_rows: " FOR UPDATE",
    try_update: |update| format!("{update} AND 1 = 0"),
    statement_time: "clock_timestamp() AT TIME ZONE 'UTC'",
    // The start of the transaction, which is not later than its snapshot.
    now: Some("now()::timestamp::text"),
    commits: None,
    rules_version: Some(RULES_VERSION),
    deletions_sign: "CAST(pg_stat_get_tuples_deleted('ttp_rule'::regclass) AS text)",
    // A database that accepts any bytes as text converts none, and fails at the first that is not UTF-8.
    digest: Some(
        "encode(sha256(convert_to(yaml_content, \
         CASE getdatabaseencoding() WHEN 'SQL_ASCII' THEN 'SQL_ASCII' ELSE 'UTF8' END::name)), 'hex')",
    ),
    whole_second: "updated_at = date_trunc('second', updated_at)",
    // The columns may have any collations, and a collation may take different texts for equal.
    row_hash: Some(|key, others| {
        format!("hashtextextended(concat_ws(' ', {key}, {others}) COLLATE \"C\", 0)")
    }),
    text_hash: |column| format!("hashtextextended({column}::text COLLATE \"C\", 0)"),
    placeholder: |n| format!("${n}"),
    upper_bound: |column| format!(" AND {column} <= 'infinity'"),
    time: |placeholder| format!("{placeholder}::timestamp"),
    text: |expression| format!("({expression})::text"),
    plain: |column| format!("{column}::text"),
    length: |column| format!("octet_length({column}::text)"),
    concat: |parts| parts.join(" || "),
    flushed: str::to_owned,
    exact: str::to_owned,
    replace: sql::replace_on_conflict,
    upsert: sql::on_conflict,
    has_bells: false,
    takes_several: true,
    notify: Some("SELECT pg_notify('rulesyncd', '')"),
    listen: Some("LISTEN rulesyncd"),
    lock: Some(LOCK),
    // Shutdown by an administrator, a crash, a start in progress; errors of the connection. The server says of these, and of
    // a session or a transaction that lasted too long, that they are fatal; a pooler may not.
    ends_connection: |code| code.starts_with("57P0") || code.starts_with("08"),
    is_wrong_host: |code| code == "25006",
    classify_error,
};

/// The lock's number: the bytes of `rulesync`. The lock belongs to the database and the session.
macro_rules! lock {
    () => {
        "8247617475583766115"
    };
}

/// The mark's number, the next one.
macro_rules! mark {
    () => {
        "8247617475583766116"
    };
}

/// The sessions that have the lock, with or without the mark, or the mark alone.
macro_rules! holders {
    () => {
        concat!(
            "FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1 \
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
             AND (classid::bigint << 32 | objid::bigint) IN (",
            lock!(),
            ", ",
            mark!(),
            ")"
        )
    };
}

macro_rules! is_unleased {
    () => {
        concat!(
            "EXISTS (SELECT 1 ",
            holders!(),
            // One look at the locks, which change between two.
            " GROUP BY pid HAVING max(classid::bigint << 32 | objid::bigint) = ",
            lock!(),
            ")"
        )
    };
}

const LOCK: ServerLockSql = ServerLockSql {
    try_marked: concat!(
        "SELECT CASE WHEN CASE WHEN pg_try_advisory_lock(",
        mark!(),
        ") THEN CASE WHEN pg_try_advisory_lock(",
        lock!(),
        ") THEN true ELSE NOT pg_advisory_unlock(",
        mark!(),
        ") END ELSE false END THEN 'ours' WHEN ",
        is_unleased!(),
        " THEN 'unleased' ELSE 'leased' END"
    ),
    unmark: concat!("SELECT pg_advisory_unlock(", mark!(), ")::text"),
    is_unleased: is_unleased!(),
    is_ours: concat!(
        "SELECT (EXISTS (SELECT 1 ",
        holders!(),
        " AND pid = pg_backend_pid() AND (classid::bigint << 32 | objid::bigint) = ",
        lock!(),
        "))::text"
    ),
    holder: concat!(
        "SELECT 'session ' || pid || coalesce(', ' || usename, '') \
         || coalesce(' at ' || host(client_addr) || ' port ' || client_port, ' on the server''s own host') \
         FROM (SELECT pid ",
        holders!(),
        " AND (classid::bigint << 32 | objid::bigint) = ",
        lock!(),
        ") AS holders LEFT JOIN pg_stat_activity USING (pid) LIMIT 1"
    ),
    server: "SELECT pg_postmaster_start_time()::text",
};

/// The snapshot: which transactions it sees. Two equal snapshots see the same rows of every table, so this is a
/// proof, as long as the server runs, because it numbers transactions upwards. It is none on a standby server, where
/// a snapshot does not name the transactions in progress
/// (<https://www.postgresql.org/docs/current/functions-info.html>, `pg_current_snapshot`; this is its name before
/// PostgreSQL 13).
const RULES_VERSION: RulesVersion = RulesVersion {
    value: "(CASE WHEN NOT pg_is_in_recovery() \
            THEN concat_ws(' ', pg_postmaster_start_time(), txid_current_snapshot()) END)",
    believed_for: Duration::MAX,
};

/// The login; a [`super::relay`] knows the server's address.
pub(super) fn options(server: &Server) -> PgConnectOptions {
    let options = PgConnectOptions::new_without_pgpass()
        .port(POSTGRES_PORT)
        .database(&server.database)
        .application_name("rulesyncd")
        // The relay does TLS.
        .ssl_mode(PgSslMode::Disable)
        // Poolers refuse a parameter that they do not know, or ignore it: the session sets it.
        .extra_float_digits(None)
        .disable_statement_logging();
    let options = match &server.user {
        Some(user) => options.username(user),
        None => options,
    };
    match &server.password {
        Some(password) => options.password(password),
        None => options,
    }
}

/// The statement that makes a session independent of the server's settings, and of a pooler, which may ignore those of
/// a connection's start. It leaves out those that an older server, or its system, does not have. A database without an
/// encoding sends its texts as they are: with UTF-8 it would refuse a whole answer because of one text.
fn settings(purpose: Purpose, timeout: Duration) -> String {
    // The time until the client has read the last row counts, too: over a slow network all rules take longer than an answer
    // may take to begin.
    let limit = match purpose {
        Purpose::Read | Purpose::Master(_) => timeout.saturating_mul(POLL_STATEMENTS),
        Purpose::Write | Purpose::Create => timeout,
    };
    let limit = limit.as_millis();
    // Less than a statement may take, because other rows must be written meanwhile.
    let lock_wait = timeout.min(LOCK_WAIT).as_millis();
    let silence = purpose.longest_silence(timeout).as_millis();
    // All that a reader ever writes is its report: the next one makes up for one that a crash took, and an edit that comes
    // meanwhile need not wait for a disk, or for a synchronous standby.
    let durability = if purpose == Purpose::Read { "('synchronous_commit', 'off'), " } else { "" };
    // The server notices within seconds that the client is gone, also during a statement, and releases the lock. It does not
    // end a session that waits for the next poll.
    format!(
        "SELECT count(set_config(name, value, false)) FROM (SELECT name, value FROM (VALUES ('TimeZone', 'UTC'), ('DateStyle', 'ISO'), \
         ('extra_float_digits', '2'), ('statement_timeout', '{limit}'), ('lock_timeout', '{lock_wait}'), \
         ('idle_in_transaction_session_timeout', '{silence}'), {durability}('idle_session_timeout', '0'), ('client_connection_check_interval', '1000'), \
         ('tcp_keepalives_idle', '5'), ('tcp_keepalives_interval', '2'), ('tcp_keepalives_count', '3'), \
         ('tcp_user_timeout', '11000')) AS wanted (name, value) JOIN pg_settings USING (name) \
         WHERE name <> 'client_connection_check_interval' OR version() LIKE '%linux%' UNION ALL \
         SELECT 'client_encoding', 'SQL_ASCII' WHERE current_setting('server_encoding') = 'SQL_ASCII') AS settings"
    )
}

/// What is known of the server once a session is prepared.
pub(super) struct About {
    pub(super) role: ServerRole,
    /// The process that served the statement.
    pub(super) process: u32,
    /// What the session was marked with.
    pub(super) mark: String,
}

/// Selects what [`role`] and [`mark`] read. In a transaction of a poll, `transaction_read_only` would always be on.
pub(super) const ROLE_PROBE: &str = "concat(pg_is_in_recovery(), ' ', \
     current_setting('default_transaction_read_only'), ' ', current_setting('rulesyncd.session', true))";

/// Reads the role of a server: `f off 67e5…`.
pub(super) fn role(text: &str) -> ServerRole {
    let mut words = text.split(' ');
    let is_standby = words.next() == Some("t");
    let is_read_only = is_standby || words.next() == Some("on");
    ServerRole { is_standby, is_read_only, is_cluster_node: false }
}

/// Reads what the session was marked with; empty if it is another session.
pub(super) fn mark(text: &str) -> &str {
    text.split(' ').nth(2).unwrap_or_default()
}

/// What to do about a pooler that does not keep a session for each client.
pub(super) const SESSION_MODE: &str =
    "set `pool_mode = session` for this database in the pooler, or connect to PostgreSQL itself";

/// Connects, marks the session and asks for the server's role; with settings, makes the session independent of the
/// server's.
pub(super) async fn connect(
    options: &PgConnectOptions,
    settings: Option<(Purpose, Duration)>,
) -> Result<(PgConnection, About), sqlx::Error> {
    let mut connection = options.connect().await?;
    match prepare(&mut connection, settings).await {
        Ok(about) => Ok((connection, about)),
        Err(error) => {
            connection.close().await.ok();
            Err(error)
        }
    }
}

/// The same for a connection that exists.
async fn prepare(
    connection: &mut PgConnection,
    given: Option<(Purpose, Duration)>,
) -> Result<About, sqlx::Error> {
    let mark = Uuid::new_v4().simple().to_string();
    let set = given.map_or_else(String::new, |(purpose, timeout)| settings(purpose, timeout) + "; ");
    let sql = format!(
        "{set}SELECT set_config('rulesyncd.session', '{mark}', false); \
         SELECT {ROLE_PROBE}, pg_backend_pid()::text"
    );
    // A row of each statement.
    let rows = row::few(sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).fetch(connection), 3).await?;
    let answer = rows.last().ok_or(sqlx::Error::RowNotFound)?;
    let (found, process): (String, String) = (answer.try_get(0)?, answer.try_get(1)?);
    Ok(About { role: role(&found), process: process.parse().unwrap_or(0), mark })
}

/// Makes the session independent of the server's settings.
pub(super) async fn set(
    connection: &mut PgConnection,
    purpose: Purpose,
    timeout: Duration,
) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(sqlx::AssertSqlSafe(settings(purpose, timeout))).execute(connection).await.map(drop)
}

/// Asks for the session's mark once more, without a prepared statement.
pub(super) async fn mark_now(connection: &mut PgConnection) -> Result<String, sqlx::Error> {
    let sql = sqlx::AssertSqlSafe(format!("SELECT {ROLE_PROBE}"));
    let found: String = sqlx::raw_sql(sql).fetch_one(connection).await?.try_get(0)?;
    Ok(mark(&found).to_owned())
}

fn classify_error(code: &str, _message: &str) -> ErrorClass {
    // https://www.postgresql.org/docs/current/errcodes-appendix.html
    match code {
        "42P01" => ErrorClass::NoTable,
        "42501" => ErrorClass::Refused(GRANT_RIGHTS),
        "25006" => ErrorClass::Refused("connect to the primary: this server takes no writes"),
        // The statement was prepared in another session.
        "26000" | "42P05" => ErrorClass::Refused(SESSION_MODE),
        "3D000" => ErrorClass::Refused("create the database, or name another in `database.url`"),
        _ if code.starts_with("28") => {
            ErrorClass::Refused("check user and password in `database.url`, and the server's pg_hba.conf")
        }
        "55P03" => ErrorClass::Locked,
        // A row that changed since the snapshot, or a deadlock.
        "40001" | "40P01" => ErrorClass::Conflict,
        "22P05" => ErrorClass::CharacterRejected(
            "the database's encoding lacks this character: move the tables to one made by CREATE DATABASE … ENCODING \
             'UTF8' TEMPLATE template0",
        ),
        // Somebody's own: a view's condition, what a trigger says.
        "44000" | "P0001" => ErrorClass::RowRejected,
        _ if code.starts_with("22") || code.starts_with("23") => ErrorClass::RowRejected,
        // The first: a view that takes no such write.
        _ if code == "55000" || code.starts_with("42") => {
            ErrorClass::Refused("compare the tables with those that the README shows")
        }
        _ => ErrorClass::Transient,
    }
}

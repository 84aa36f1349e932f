//! MySQL, MariaDB, and servers that speak their protocol.

use std::time::Duration;

use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlSslMode};
use sqlx::{ConnectOptions, Connection as _};

use super::row;
use super::sql::{Dialect, ErrorClass, GRANT_RIGHTS, LOCK_WAIT, Purpose, RulesVersion, ServerLockSql};
use crate::address::{Server, ServerRole};

pub(super) const DIALECT: Dialect = Dialect {
    backend: "mysql",
    create_rules: include_str!("schema/mysql_rules.sql"),
    create_states: include_str!("schema/mysql_states.sql"),
    create_version: include_str!("schema/mysql_version.sql"),
    create_lease: Some(include_str!("schema/mysql_lease.sql")),
    create_workers: Some(include_str!("schema/mysql_worker.sql")),
    find_index: |table, column| {
        format!(
            "SELECT '1' FROM information_schema.statistics WHERE table_schema = DATABASE() \
             AND table_name = '{table}' AND column_name = '{column}' AND seq_in_index = 1"
        )
    },
    wait_briefly: Some("SET SESSION lock_wait_timeout = 1, innodb_lock_wait_timeout = 1"),
    isolate_poll: Some("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"),
    // The isolation level makes this one snapshot.
    begin_poll: "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
    begin_write: "START TRANSACTION READ WRITE",
    lock_rows: " FOR UPDATE",
    try_update: |update| format!("{update} AND 1 = 0"),
    statement_time: "UTC_TIMESTAMP(6)",
    now: Some("CAST(UTC_TIMESTAMP(6) AS CHAR)"),
    commits: None,
    rules_version: Some(RULES_VERSION),
    deletions_sign: RULES_VERSION.value,
    digest: Some("SHA2(CONVERT(yaml_content USING utf8mb4), 256)"),
    whole_second: "MICROSECOND(updated_at) = 0",
    // A CRC is linear: if two rows of equal length get the same change, the xor of their CRCs stays. The product with
    // another CRC does not.
    row_hash: Some(|key, others| {
        format!("CRC32(CONCAT_WS(' ', CAST({key} AS BINARY), {others})) * (CRC32({key}) | 1)")
    }),
    text_hash: |column| format!("CRC32({column})"),
    placeholder: |_| "?".into(),
    upper_bound: |_| String::new(),
    time: |placeholder| placeholder,
    text: |expression| format!("CAST({expression} AS CHAR)"),
    plain: str::to_owned,
    length: |column| format!("LENGTH({column})"),
    concat: |parts| format!("CONCAT({})", parts.join(", ")),
    // To compute its length, the server reads a whole long text, and it collects so many bytes of rows before it
    // sends any: without this it would be silent while it reads hundreds of long texts.
    flushed: |text| format!("RPAD({text}, @@net_buffer_length, ' ')"),
    exact: |column| format!("CAST(CONVERT({column} USING utf8mb4) AS BINARY)"),
    replace: |_, columns| {
        let sets: Vec<String> = columns.iter().map(|column| format!("{column} = VALUES({column})")).collect();
        format!(" ON DUPLICATE KEY UPDATE {}", sets.join(", "))
    },
    upsert: |columns| {
        let sets: Vec<String> = columns.iter().map(|column| format!("{column} = VALUES({column})")).collect();
        // The key too: its case may have changed.
        format!(" ON DUPLICATE KEY UPDATE {}", sets.join(", "))
    },
    has_bells: true,
    takes_several: false,
    notify: None,
    listen: None,
    lock: Some(LOCK),
    // Shut down, aborted, killed, killed, silent for too long.
    ends_connection: |number| matches!(number, "1053" | "1152" | "1927" | "3169" | "4031"),
    // Read-only by an option, by the transaction or the server's mode; not prepared for application use.
    is_wrong_host: |number| matches!(number, "1290" | "1792" | "1836" | "1047"),
    classify_error,
};

/// The lock's name. It is global on the server, so its name contains the database; the name may have 64 characters.
macro_rules! lock {
    () => {
        "CONCAT('rulesyncd:', LEFT(SHA2(DATABASE(), 256), 32))"
    };
}

/// The mark's name.
macro_rules! mark {
    () => {
        "CONCAT('rulesyncd:lease:', LEFT(SHA2(DATABASE(), 256), 32))"
    };
}

macro_rules! is_unleased {
    () => {
        concat!("COALESCE(IS_USED_LOCK(", lock!(), ") <> COALESCE(IS_USED_LOCK(", mark!(), "), 0), 0)")
    };
}

const LOCK: ServerLockSql = ServerLockSql {
    try_marked: concat!(
        "SELECT CASE WHEN CASE WHEN GET_LOCK(",
        mark!(),
        ", 0) = 1 THEN CASE WHEN GET_LOCK(",
        lock!(),
        ", 0) = 1 THEN 1 ELSE 1 - RELEASE_LOCK(",
        mark!(),
        ") END ELSE 0 END = 1 THEN 'ours' WHEN ",
        is_unleased!(),
        " THEN 'unleased' ELSE 'leased' END"
    ),
    unmark: concat!("SELECT CAST(RELEASE_LOCK(", mark!(), ") AS CHAR)"),
    is_unleased: is_unleased!(),
    is_ours: concat!("SELECT CAST(IS_USED_LOCK(", lock!(), ") = CONNECTION_ID() AS CHAR)"),
    // Without the right PROCESS, a user sees only their own sessions.
    holder: concat!(
        "SELECT CONCAT('session ', ID, ', ', USER, '@', HOST) FROM information_schema.PROCESSLIST \
         WHERE ID = IS_USED_LOCK(",
        lock!(),
        ")"
    ),
    server: "SELECT CONCAT_WS(':', @@hostname, @@port, @@server_id)",
};

/// When the last transaction that changed the rules began. Only on MariaDB's InnoDB: MySQL answers from a cache, and
/// other engines answer null. Only if it is two seconds ago, because it has whole seconds. Two transactions may begin
/// in the same second and commit one after the other, so an equal value is a sign and not a proof.
const RULES_VERSION: RulesVersion = RulesVersion {
    value: "(SELECT CAST(update_time AS CHAR) FROM information_schema.tables \
     WHERE table_schema = DATABASE() AND table_name = 'ttp_rule' AND engine = 'InnoDB' \
     AND VERSION() LIKE '%MariaDB%' AND update_time < UTC_TIMESTAMP() - INTERVAL 2 SECOND)",
    believed_for: Duration::from_secs(1),
};

/// The most bytes of a statement where the server does not say: the least that is its default anywhere.
const LONGEST_STATEMENT: usize = 1 << 20;

/// The login and the session's options; a [`super::relay`] knows the server's address.
pub(super) fn options(server: &Server) -> MySqlConnectOptions {
    let options = MySqlConnectOptions::new()
        .database(&server.database)
        // These are set below, with the rest of the session.
        .pipes_as_concat(false)
        .no_engine_substitution(false)
        .timezone(None)
        .charset("utf8mb4")
        // The relay does TLS.
        .ssl_mode(MySqlSslMode::Disabled)
        .disable_statement_logging()
        .username(server.user.as_deref().unwrap_or_default());
    match &server.password {
        Some(password) => options.password(password),
        None => options,
    }
}

/// What a server says of itself, in variables that not every server has.
const READ_ONLY: [&str; 3] = ["read_only", "super_read_only", "innodb_read_only"];
const CLUSTER: [&str; 1] = ["wsrep_on"];

/// What is known of the server once a session is prepared.
pub(super) struct About {
    pub(super) role: ServerRole,
    /// Selects what [`role`] reads.
    pub(super) role_probe: String,
    /// The most bytes of a statement that it accepts.
    pub(super) longest_statement: usize,
}

impl About {
    /// From the rows of SHOW VARIABLES.
    fn read(variables: &[(String, String)]) -> Self {
        let value = |name: &str| variables.iter().find(|(found, _)| found == name).map(|(_, value)| &**value);
        let is_on = |names: &[&str]| names.iter().filter_map(|name| value(name)).any(|value| value != "OFF");
        let digit = |names: &[&str]| {
            let known = names.iter().filter(|name| value(name).is_some());
            let on: Vec<String> = known.map(|name| format!("CONCAT(@@{name}) NOT IN ('0', 'OFF')")).collect();
            if on.is_empty() { "0".to_owned() } else { on.join(" OR ") }
        };
        let longest = value("max_allowed_packet").and_then(|bytes| bytes.parse().ok());
        Self {
            role: role_of(is_on(&READ_ONLY), is_on(&CLUSTER)),
            role_probe: format!("CONCAT({}, {})", digit(&READ_ONLY), digit(&CLUSTER)),
            longest_statement: longest.unwrap_or(LONGEST_STATEMENT),
        }
    }
}

/// Reads the role of a server: a digit each for read-only and for a node of a cluster.
pub(super) fn role(text: &str) -> ServerRole {
    role_of(text.starts_with('1'), text.ends_with('1'))
}

/// `read_only` counts even for a user who may write all the same: it says that another server is the one to write to.
const fn role_of(is_read_only: bool, is_cluster_node: bool) -> ServerRole {
    ServerRole { is_standby: is_read_only, is_read_only, is_cluster_node }
}

/// Connects, and makes the session independent of the server's settings.
pub(super) async fn connect(
    options: &MySqlConnectOptions,
    purpose: Purpose,
    timeout: Duration,
) -> Result<(MySqlConnection, About), sqlx::Error> {
    let mut connection = options.connect().await?;
    // The server ends a session that is silent for so long, and releases what it has locked. A reader is silent between two
    // polls: only MariaDB has another limit for transactions.
    let in_transaction = purpose.longest_silence(timeout).as_secs().max(1);
    let silence = match purpose {
        Purpose::Read | Purpose::Create => 3600,
        Purpose::Write | Purpose::Master(_) => in_transaction,
    };
    // In whole seconds.
    let lock_wait = timeout.min(LOCK_WAIT).as_secs().max(1);
    let session = format!(
        "SET SESSION autocommit = 1, time_zone = '+00:00', wait_timeout = {silence}, \
         /*M!100300 idle_transaction_timeout = {in_transaction}, */ \
         innodb_lock_wait_timeout = {lock_wait}, \
         sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION,ERROR_FOR_DIVISION_BY_ZERO'"
    );
    let isolation = match purpose {
        Purpose::Read | Purpose::Create => "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        // In one snapshot, some servers refuse to update a row that another session has changed since.
        Purpose::Write | Purpose::Master(_) => "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    };
    let prepared = async {
        for sql in [session.as_str(), isolation] {
            sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await?;
        }
        let variables = format!(
            "SHOW VARIABLES WHERE Variable_name IN ('max_allowed_packet', '{}')",
            [&READ_ONLY[..], &CLUSTER].concat().join("', '")
        );
        let variables = sqlx::raw_sql(sqlx::AssertSqlSafe(variables)).fetch(&mut connection);
        let variables = row::few(variables, READ_ONLY.len() + 2).await?;
        let variables = variables.iter().map(|row| {
            let mut row = row::read(row)?;
            Ok((row.text(0, "a variable").unwrap_or_default(), row.text(1, "its value").unwrap_or_default()))
        });
        Ok(About::read(&variables.collect::<Result<Vec<_>, sqlx::Error>>()?))
    };
    match prepared.await {
        Ok(about) => Ok((connection, about)),
        Err(error) => {
            connection.close().await.ok();
            Err(error)
        }
    }
}

fn classify_error(number: &str, message: &str) -> ErrorClass {
    // https://mariadb.com/docs/server/reference/error-codes/mariadb-error-code-reference
    match number.parse::<u32>() {
        Ok(1146) => ErrorClass::NoTable,
        Ok(1044 | 1142 | 1143 | 1227 | 1370) => ErrorClass::Refused(GRANT_RIGHTS),
        Ok(1045 | 1130 | 1251 | 1698) => ErrorClass::Refused(
            "check user and password in `database.url`, and the user's host on the server",
        ),
        Ok(1049) => ErrorClass::Refused("create the database, or name another in `database.url`"),
        Ok(1665) => ErrorClass::Refused("set `binlog_format` to ROW or MIXED on the server"),
        Ok(1290 | 1792 | 1836) => ErrorClass::Refused("connect to the primary: this server takes no writes"),
        Ok(1366) if message.contains("Incorrect string value") => {
            // MariaDB names the table, MySQL only the column.
            let is_state =
                ["ttp_rule_state", "'reason'", "'set_by'"].iter().any(|name| message.contains(name));
            ErrorClass::CharacterRejected(if is_state {
                "the column's character set lacks this character: ALTER TABLE ttp_rule_state CONVERT TO CHARACTER SET \
                 utf8mb4"
            } else {
                "the column's character set lacks this character: ALTER TABLE ttp_rule CONVERT TO CHARACTER SET utf8mb4"
            })
        }
        // Null, duplicate, no value; too long, invalid character, out of range, not a time.
        Ok(1048 | 1062 | 1364 | 1423 | 1153 | 1264 | 1265 | 1292 | 1300 | 1366 | 1406 | 1690 | 3140) => {
            ErrorClass::RowRejected
        }
        // Somebody's own constraint: a foreign key, a view's, a partition's, a CHECK; what a trigger says.
        Ok(1216 | 1217 | 1369 | 1451 | 1452 | 1526 | 1644 | 3819 | 4025) => ErrorClass::RowRejected,
        Ok(1205) => ErrorClass::Locked,
        // A row that changed since the snapshot; a deadlock, or at COMMIT another node of a Galera cluster that was
        // faster; the same of a replication group.
        Ok(1020 | 1213 | 3101) => ErrorClass::Conflict,
        Ok(1412) => ErrorClass::Altered,
        // The last: a view that takes no such write.
        Ok(1054 | 1064 | 1136 | 1288 | 1348 | 1471) => {
            ErrorClass::Refused("compare the tables with those that the README shows")
        }
        _ => ErrorClass::Transient,
    }
}

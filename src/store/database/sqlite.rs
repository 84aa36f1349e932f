//! SQLite: a file, or a database in this process's memory.

use std::fs::Permissions;
use std::io::Read;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::error::DatabaseError;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteRow, SqliteSynchronous};
use sqlx::{Row as _, TypeInfo, ValueRef};

use super::row::{Cell, Row};
use super::sql::{Dialect, ErrorClass, Purpose};
use crate::store::StoreError;

pub(super) const DIALECT: Dialect = Dialect {
    backend: "sqlite",
    create_rules: include_str!("schema/sqlite_rules.sql"),
    create_states: include_str!("schema/sqlite_states.sql"),
    create_version: include_str!("schema/sqlite_version.sql"),
    create_lease: None,
    create_workers: None,
    find_index: |table, column| {
        format!(
            "SELECT 1 FROM pragma_index_list('{table}') AS list, pragma_index_info(list.name) AS info \
             WHERE info.seqno = 0 AND info.name = '{column}'"
        )
    },
    wait_briefly: None,
    isolate_poll: None,
    begin_poll: "BEGIN DEFERRED",
    begin_write: "BEGIN IMMEDIATE",
    lock_rows: "",
    // An UPDATE would wait for the file's lock, even if it changes nothing.
    try_update: |update| format!("EXPLAIN {update}"),
    statement_time: "strftime('%Y-%m-%d %H:%M:%f000', 'now')",
    now: None,
    commits: Some("PRAGMA data_version"),
    rules_version: None,
    // Deletions of others are seen when the rules are counted again.
    deletions_sign: "'none'",
    digest: None,
    whole_second: "(updated_at NOT GLOB '*.[0-9][0-9][0-9][0-9][0-9][0-9]' OR updated_at GLOB '*.000000')",
    // `data_version` says whether there was a commit.
    row_hash: None,
    text_hash: str::to_owned,
    placeholder: |_| "?".into(),
    upper_bound: |_| String::new(),
    time: |placeholder| placeholder,
    text: str::to_owned,
    plain: str::to_owned,
    length: |column| format!("octet_length({column})"),
    concat: |parts| parts.join(" || "),
    flushed: str::to_owned,
    exact: str::to_owned,
    replace: super::sql::replace_on_conflict,
    upsert: super::sql::on_conflict,
    has_bells: false,
    takes_several: true,
    notify: None,
    listen: None,
    lock: None,
    ends_connection: |_| false,
    is_wrong_host: |_| false,
    classify_error,
};

/// Where the database is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Location {
    File(PathBuf),
    /// The name of a database in this process's memory.
    Memory(String),
}

impl Location {
    /// A new database in memory, which lives as long as a connection to it.
    pub(super) fn memory() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        Self::Memory(format!("/rulesyncd-{}", COUNT.fetch_add(1, Ordering::Relaxed)))
    }

    /// Refuses a path that holds anything but a database.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        const MAGIC: &[u8] = b"SQLite format 3\0";
        let Self::File(path) = self else { return Ok(()) };
        let refused = |detail: String, remedy: &str| StoreError::Refused {
            what: "opening the database",
            detail: format!("{}: {detail}", path.display()),
            remedy: remedy.into(),
        };
        let mut head = Vec::new();
        match std::fs::File::open(path).and_then(|file| file.take(16).read_to_end(&mut head)) {
            Ok(0) => Ok(()),
            Ok(_) if head == MAGIC => Ok(()),
            Ok(_) => Err(refused(
                "the file is not a SQLite database".into(),
                "name another file in `database.url`, or move this one away",
            )),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                Err(refused(error.to_string(), "give the service's user the right to read the file"))
            }
            Err(error) => Err(refused(error.to_string(), "name a file in `database.url`")),
        }
    }

    pub(super) fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Memory(_) => None,
        }
    }

    /// Identifies the file at this path.
    pub(super) fn identity(&self, frozen: bool) -> Option<FileIdentity> {
        let path = self.file()?;
        let found = std::fs::metadata(path).ok()?;
        let as_it_was = || {
            let has_log = std::fs::exists(beside(path, "-wal")).unwrap_or(true);
            (!has_log).then_some((found.mtime(), found.mtime_nsec(), found.size()))
        };
        let frozen = if frozen { Some(as_it_was()?) } else { None };
        Some(FileIdentity { file: (found.dev(), found.ino()), frozen })
    }

    /// Connects. Also returns whether the file is read as immutable.
    pub(super) async fn connect(
        &self,
        purpose: Purpose,
        timeout: Duration,
    ) -> Result<(SqliteConnection, bool), sqlx::Error> {
        let options = SqliteConnectOptions::new().busy_timeout(timeout).disable_statement_logging();
        let path = match self {
            // Not SQLite's shared cache, which locks readers out of whole tables: this keeps SQLite's own locking.
            Self::Memory(name) => {
                let options = options.filename(name).vfs("memdb").create_if_missing(true);
                return Ok((options.connect().await?, false));
            }
            Self::File(path) => path,
        };
        let options = options.filename(path);
        if purpose == Purpose::Create {
            // If this fails, SQLite fails too, with a better error.
            let _ = create_beside_its_owner(path, Readers::OfTheDirectory);
        }
        let options = match purpose {
            Purpose::Read => options.read_only(true),
            Purpose::Write => options,
            // The rules can be written again from the directory, so a commit need not wait for the disk.
            Purpose::Master(_) => options.synchronous(SqliteSynchronous::Normal),
            Purpose::Create => options.create_if_missing(true).journal_mode(SqliteJournalMode::Wal),
        };
        let connected = async {
            let mut connection = options.connect().await?;
            sqlx::raw_sql("PRAGMA schema_version").execute(&mut connection).await?;
            Ok(connection)
        };
        match connected.await {
            Ok(connection) => Ok((connection, false)),
            // To read during writes, SQLite needs files that a writer creates. While there is no writer and this
            // process may not create them, nothing changes the file.
            Err(sqlx::Error::Database(error))
                if purpose == Purpose::Read && wants_to_write(&*error) && self.identity(true).is_some() =>
            {
                Ok((options.immutable(true).connect().await?, true))
            }
            Err(error) => Err(error),
        }
    }
}

/// Identifies an open file, to notice when another one replaces it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileIdentity {
    /// Device and inode.
    file: (u64, u64),
    /// The time and size of a file that is read as immutable.
    frozen: Option<(i64, i64, u64)>,
}

impl FileIdentity {
    pub(super) const fn is_frozen(&self) -> bool {
        self.frozen.is_some()
    }
}

/// Who may read a new file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Readers {
    /// Only its owner.
    Owner,
    /// As the umask says, and the group if it may read the directory: master and worker of a host are two users of
    /// one group.
    OfTheDirectory,
}

/// Creates a file for appending, which must not exist. A file that root creates in another user's directory belongs
/// to that user, as the files do that SQLite creates next to a database: a command that root runs must not lock the
/// service out of its own database. (The files that SQLite creates copy its mode.)
///
/// # Errors
///
/// As [`std::fs::OpenOptions::create_new`], which follows no link; [`std::io::ErrorKind::AlreadyExists`] is one of
/// them.
pub(super) fn create_beside_its_owner(path: &Path, readers: Readers) -> std::io::Result<std::fs::File> {
    const GROUP_READS: u32 = 0o040;
    let mode = if readers == Readers::Owner { 0o600 } else { 0o644 };
    let file = std::fs::File::options().append(true).create_new(true).mode(mode).open(path)?;
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => std::fs::metadata(parent)?,
        _ => std::fs::metadata(".")?,
    };
    let found = file.metadata()?;
    if found.uid() == 0 && directory.uid() != 0 {
        std::os::unix::fs::fchown(&file, Some(directory.uid()), Some(directory.gid()))?;
    }
    if readers == Readers::OfTheDirectory && directory.mode() & GROUP_READS != 0 {
        file.set_permissions(Permissions::from_mode((found.mode() | GROUP_READS) & 0o777))?;
    }
    Ok(file)
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(end);
    path.into()
}

/// Whether a reader failed because it may not write the files next to the database.
fn wants_to_write(error: &dyn DatabaseError) -> bool {
    let code = error.code().and_then(|code| code.parse::<u32>().ok());
    matches!(code.map(|code| code & 0xff), Some(8 | 14))
}

pub(super) fn read(row: &SqliteRow) -> Result<Row, sqlx::Error> {
    (0..row.len())
        .map(|index| {
            let value = row.try_get_raw(index)?;
            let kind = value.type_info();
            Ok(match kind.name() {
                _ if value.is_null() => Cell::Null,
                "INTEGER" => Cell::Text(row.try_get_unchecked::<i64, _>(index)?.to_string()),
                "REAL" => Cell::Text(row.try_get_unchecked::<f64, _>(index)?.to_string()),
                _ => Cell::from_bytes(row.try_get_unchecked::<Vec<u8>, _>(index)?),
            })
        })
        .collect::<Result<_, _>>()
        .map(Row)
}

fn classify_error(code: &str, message: &str) -> ErrorClass {
    // The low byte is the primary result code, https://sqlite.org/rescode.html.
    match code.parse::<u32>().map(|code| code & 0xff) {
        Ok(1) if message.contains("no such table") => ErrorClass::NoTable,
        Ok(3 | 23) => ErrorClass::Refused("give the service's user the right to the file"),
        Ok(8) => ErrorClass::Refused(
            "give the service's user the right to write the file and its directory, or free the disk",
        ),
        Ok(11) => {
            ErrorClass::Refused("the file is damaged: restore it, or move it away and let it be made anew")
        }
        Ok(14) => ErrorClass::NoFile,
        Ok(18..=20) => ErrorClass::RowRejected,
        Ok(26) => ErrorClass::Refused("name another file in `database.url`, or move this one away"),
        Ok(1) => ErrorClass::Refused("compare the tables with those that the README shows"),
        _ => ErrorClass::Transient,
    }
}

//! What the daemon is told: defaults, then the file, then the environment, then flags; a later
//! one wins. The only place that reads the environment.

mod files;
mod layers;
mod reader;
mod setting;
mod units;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use files::SystemFiles;
pub use layers::ValueOrigin;
use layers::{Layers, Value};
use reader::{
    Reader, at_least_one, directives, flag, interval, label, log_format, number, path, patience, read,
    rule_size, text, time,
};
pub(crate) use setting::nearest;
pub use setting::{SECTIONS, SETTINGS, Setting, ValueKind, config_schema};
pub use units::{Percent, duration, size};

pub use crate::address::DatabaseConfig;

/// Why a configuration cannot be used: where, what was found, what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub(crate) String);

/// The whole configuration, resolved.
#[derive(Debug, Clone)]
pub struct Config {
    /// How the database is reached.
    pub database: DatabaseConfig,
    /// What the master is told.
    pub master: MasterConfig,
    /// What the worker is told.
    pub worker: WorkerConfig,
    /// What is logged and exported.
    pub telemetry: TelemetryConfig,
    layers: Layers,
}

/// What the master is told.
#[derive(Debug, Clone, PartialEq)]
pub struct MasterConfig {
    /// The directory that holds the rules.
    pub rules_dir: PathBuf,
    /// Directories outside of it that links among the rules may lead to.
    pub follow_links_to: Vec<PathBuf>,
    /// The label of the rows that this master owns.
    pub updated_by: String,
    /// How often everything is compared, whatever the watch said.
    pub rescan_interval: Duration,
    /// The share of the owned rows that may go at once, above [`MasterConfig::FREE_DELETES`].
    pub max_delete: Percent,
    /// The largest file that is read as a rule, in bytes.
    pub max_rule_size: usize,
    /// Where the master answers `status`.
    pub socket: PathBuf,
}

impl MasterConfig {
    /// So many deletions are never a mass deletion, however few rows there are.
    pub const FREE_DELETES: usize = 5;
}

/// What the worker is told.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerConfig {
    /// Where the stream is served when systemd passes no socket.
    pub socket: PathBuf,
    /// The socket's permission bits.
    pub socket_mode: u32,
    /// The socket's group; `None` is the daemon's own.
    pub socket_group: Option<String>,
    /// Who may connect; empty is whoever may open the socket.
    pub allow_uids: Vec<u32>,
    /// The longest that a change can wait for a poll; jittered by a tenth.
    pub poll_interval: Duration,
    /// How far below the watermark a row may still appear.
    pub overlap: Duration,
    /// How often everything is compared.
    pub full_scan_interval: Duration,
    /// Changes kept for resuming.
    pub journal_length: usize,
    /// The share of the known rules whose deletion is followed at once, above
    /// [`MasterConfig::FREE_DELETES`].
    pub max_delete: Percent,
    /// How long a larger deletion is held back where nobody allows it.
    pub max_delete_hold: Duration,
    /// How often a quiet subscriber hears a heartbeat.
    pub heartbeat_interval: Duration,
    /// Connections served at once.
    pub max_subscribers: usize,
    /// Connections of one user served at once.
    pub max_subscribers_per_uid: usize,
    /// How many changes a subscriber may be behind before a snapshot takes their place.
    pub subscriber_queue: usize,
    /// Where the last known rules are kept.
    pub cache: PathBuf,
    /// The host's message bus; `None` is none.
    pub bus_socket: Option<PathBuf>,
}

/// What is logged and exported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TelemetryConfig {
    /// Directives of what is logged, as `tracing_subscriber`'s `Targets` reads them.
    pub log: String,
    /// The form of the log.
    pub log_format: LogFormat,
    /// An OTLP/HTTP endpoint; `None` where only the standard variables say.
    pub otlp: Option<String>,
}

/// The form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Journald where standard error is connected to it, else text.
    Auto,
    /// Structured records to journald.
    Journald,
    /// Lines for people, on standard error.
    Text,
    /// One JSON object a line, on standard error.
    Json,
}

/// The values that flags gave.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `--config`
    pub config: Option<PathBuf>,
    /// `--database-url`
    pub database_url: Option<String>,
    /// `--rules-dir`
    pub rules_dir: Option<PathBuf>,
    /// `--socket`, and the key that it is for.
    pub socket: Option<(&'static str, PathBuf)>,
    /// The files of the host that are read where no other is named.
    pub system_files: SystemFiles,
    /// Whether only warnings are logged where nobody says otherwise: a command that prints what it
    /// does need not log it too.
    pub quiet: bool,
}

impl Config {
    /// Resolves all layers.
    ///
    /// # Errors
    /// [`ConfigError`] with the first thing that is wrong: the file or line, the environment
    /// variable or the flag, what was found, and what was expected.
    pub fn load(flags: &Flags) -> Result<Self, ConfigError> {
        Self::load_from(flags, variable, Path::new(files::DIRECTORY))
    }

    fn load_from(
        flags: &Flags,
        variable: impl Fn(&str) -> Option<OsString>,
        directory: &Path,
    ) -> Result<Self, ConfigError> {
        let mut layers = Layers::defaults();
        if flags.quiet {
            layers.set("telemetry.log", vec!["warn".to_owned()], ValueOrigin::Default);
        }
        // systemd's name for the directory that a unit may write: a default like any other, so the file wins.
        if let Some(directory) = variable("STATE_DIRECTORY").filter(|path| !path.is_empty()) {
            let cache = Path::new(&directory).join("catalogue.ndjson");
            layers.set_text(
                "worker.cache",
                cache.into(),
                ValueOrigin::Environment("STATE_DIRECTORY".to_owned()),
            )?;
        }
        let file = flags.config.clone().or_else(|| variable("RULESYNCD_CONFIG").map(PathBuf::from));
        let two_databases = match file {
            Some(path) => {
                layers.add_file(&path, &read(&path)?)?;
                None
            }
            None => files::add(&mut layers, directory, flags.system_files, !flags.quiet)?,
        };
        layers.add_environment(variable)?;
        if let Some(url) = &flags.database_url {
            layers.set("database.url", vec![url.clone()], ValueOrigin::Flag("--database-url"));
        }
        if let Some(dir) = &flags.rules_dir {
            layers.set_text("master.rules_dir", dir.into(), ValueOrigin::Flag("--rules-dir"))?;
        }
        if let Some((key, socket)) = &flags.socket {
            layers.set_text(key, socket.into(), ValueOrigin::Flag("--socket"))?;
        }
        let origin = Reader(&layers).database_origin();
        if let Some(pair) = two_databases.filter(|_| matches!(origin, ValueOrigin::File(..))) {
            files::ensure_same_database(&pair)?;
        }
        Self::resolve(layers)
    }

    /// The configuration file; `None` where there is none.
    pub fn file(&self) -> Option<&Path> {
        self.layers.file()
    }

    /// Where the database was named.
    pub fn database_origin(&self) -> ValueOrigin {
        Reader(&self.layers).database_origin()
    }

    /// Where the value of `key` comes from.
    pub fn origin(&self, key: &str) -> ValueOrigin {
        self.layers.get(key).map_or(ValueOrigin::Default, |value| value.origin.clone())
    }

    /// This configuration with `value` for `key`, on the word of the running daemon `name`.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn with_word_of(
        &self,
        name: &'static str,
        key: &'static str,
        value: impl Into<OsString>,
    ) -> Result<Self, ConfigError> {
        let mut layers = self.layers.clone();
        layers.set_text(key, value.into(), ValueOrigin::Daemon(name))?;
        Self::resolve(layers)
    }

    fn resolve(layers: Layers) -> Result<Self, ConfigError> {
        let from = Reader(&layers);
        let database = DatabaseConfig {
            address: from.address()?,
            url_file: from.address_file()?,
            max_connections: from.value("database.max_connections", at_least_one)?,
            connect_timeout: from.value("database.connect_timeout", patience)?,
            allow_plaintext: from.value("database.allow_plaintext", flag)?,
        };
        let master = MasterConfig {
            rules_dir: from.value("master.rules_dir", path)?,
            follow_links_to: from.list("master.follow_links_to", path)?,
            updated_by: from.value("master.updated_by", label)?,
            rescan_interval: from.value("master.rescan_interval", interval)?,
            max_delete: from.value("master.max_delete", Percent::parse)?,
            max_rule_size: from.value("master.max_rule_size", rule_size)?,
            socket: from.value("master.socket", path)?,
        };
        let worker = WorkerConfig {
            socket: from.value("worker.socket", path)?,
            socket_mode: from.value("worker.socket_mode", units::mode)?,
            socket_group: from.optional("worker.socket_group", text)?,
            allow_uids: from.list("worker.allow_uids", number)?,
            poll_interval: from.value("worker.poll_interval", interval)?,
            overlap: from.value("worker.overlap", time)?,
            full_scan_interval: from.value("worker.full_scan_interval", interval)?,
            journal_length: from.value("worker.journal_length", at_least_one)?,
            max_delete: from.value("worker.max_delete", Percent::parse)?,
            max_delete_hold: from.value("worker.max_delete_hold", time)?,
            heartbeat_interval: from.value("worker.heartbeat_interval", interval)?,
            max_subscribers: from.value("worker.max_subscribers", at_least_one)?,
            max_subscribers_per_uid: from.value("worker.max_subscribers_per_uid", at_least_one)?,
            subscriber_queue: from.value("worker.subscriber_queue", at_least_one)?,
            cache: from.value("worker.cache", path)?,
            bus_socket: from.optional("worker.bus_socket", path)?,
        };
        let telemetry = TelemetryConfig {
            log: from.value("telemetry.log", directives)?,
            log_format: from.value("telemetry.log_format", log_format)?,
            otlp: from.optional("telemetry.otlp", text)?,
        };
        Ok(Self { database, master, worker, telemetry, layers })
    }

    /// The resolved values of these sections as a configuration file, each with where it came
    /// from, secrets left out. What is printed reads itself back, but for a password.
    pub fn show(&self, sections: &[&str]) -> String {
        let mut shown = String::new();
        for section in sections {
            let _ = writeln!(shown, "{section}:");
            for setting in SETTINGS.iter().filter(|setting| setting.section() == *section) {
                let name = setting.name();
                let _ = match self.layers.get(setting.key) {
                    None => writeln!(shown, "  # {name}: not set"),
                    Some(value) => {
                        writeln!(shown, "  {name}: {}  # {}", self.quoted(setting, value), value.origin)
                    }
                };
            }
        }
        shown
    }

    fn quoted(&self, setting: &Setting, value: &Value) -> String {
        let scalar = |text: &str| serde_json::Value::from(text).to_string();
        match (setting.key, setting.kind) {
            ("database.url", _) => scalar(&self.database.address.to_string()),
            ("telemetry.otlp", _) => scalar(&units::without_secret(&value.items.join(""))),
            (_, ValueKind::Counts | ValueKind::Paths) => format!("[{}]", value.items.join(", ")),
            (_, ValueKind::Count | ValueKind::Flag | ValueKind::Duration) => value.items.join(""),
            ("master.max_rule_size", _) => units::show_size(self.master.max_rule_size),
            _ => scalar(&value.items.join("")),
        }
    }
}

/// A variable of the environment; `None` where it is not set.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// A variable of the environment; `None` where it is not set or not text.
pub(crate) fn environment(name: &str) -> Option<String> {
    variable(name)?.into_string().ok()
}

#[cfg(test)]
mod tests;

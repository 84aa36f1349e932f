//! The configuration: defaults, then the file, then the environment, then flags; a later
//! one wins. The only place that reads the environment.

mod address;
mod documents;
mod environment;
mod exposure;
mod files;
mod keys;
mod kind;
#[cfg(any(test, fuzzing))]
pub mod laws;
mod layers;
mod reader;
mod setting;
mod sources;
mod trust;
mod units;
mod yaml;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

pub use documents::commented_file;
pub(crate) use documents::config_schema;
use environment::variable;
pub(crate) use environment::{environment, unknown_variables};
pub(crate) use exposure::{ExposedPassword, is_credential};
pub(crate) use files::SystemFiles;
use keys::{DatabaseSection, Section as _};
pub use keys::{MasterConfig, SETTINGS, WorkerConfig};
pub(crate) use keys::{SECTIONS, TelemetryConfig, TrustConfig};
pub(crate) use kind::time;
pub(crate) use layers::ValueOrigin;
use layers::{Layers, Value};
use reader::{Reader, read};
pub use setting::Setting;
pub(crate) use setting::nearest;
pub use units::Percent;
pub(crate) use units::duration;
pub(crate) use yaml::from_yaml;

pub use crate::address::DatabaseConfig;
use crate::paint::sanitize;

/// Why a configuration cannot be used: where, what was found, what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ConfigError(pub(crate) String);

/// The whole configuration, resolved.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// How the database is reached.
    pub(crate) database: DatabaseConfig,
    /// The section `master`.
    pub(crate) master: MasterConfig,
    /// The section `worker`.
    pub(crate) worker: WorkerConfig,
    /// Which releases are accepted.
    pub(crate) trust: TrustConfig,
    /// What is logged and exported.
    pub(crate) telemetry: TelemetryConfig,
    layers: Layers,
}

/// The form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
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
pub(crate) struct Flags {
    /// `--config`
    pub(crate) config: Option<PathBuf>,
    /// `--database-url`
    pub(crate) database_url: Option<String>,
    /// `--rules-dir`
    pub(crate) rules_dir: Option<PathBuf>,
    /// `--socket`, and the key that it is for.
    pub(crate) socket: Option<(&'static str, PathBuf)>,
    /// The files of the host that are read if no other is named.
    pub(crate) system_files: SystemFiles,
    /// Whether only warnings are logged unless configured otherwise: a command prints what it does, and need not log
    /// it, too.
    pub(crate) quiet: bool,
}

impl Config {
    /// The keys of one daemon that are another in `changed` and wait for a restart. `database` stands for its keys.
    pub(crate) fn changed_for_restart(&self, changed: &Self, daemon: &str) -> Vec<&'static str> {
        let own = match daemon {
            "master" => self.master.changed(&changed.master),
            _ => self.worker.changed(&changed.worker),
        };
        let shared = [self.trust.changed(&changed.trust), self.telemetry.changed(&changed.telemetry)];
        let waits = |key: &&str| !SETTINGS.iter().any(|known| known.key == *key && known.applies_at_reload);
        let database = (self.database != changed.database).then_some("database");
        database.into_iter().chain(own.into_iter().chain(shared.concat()).filter(waits)).collect()
    }

    /// Resolves all layers.
    ///
    /// # Errors
    /// [`ConfigError`] with the first thing that is wrong: the file or line, the environment
    /// variable or the flag, what was found, and what was expected.
    pub(crate) fn load(flags: &Flags) -> Result<Self, ConfigError> {
        Self::load_from(flags, variable, Path::new(files::DIRECTORY))
    }

    pub(crate) fn load_from(
        flags: &Flags,
        variable: impl Fn(&str) -> Option<OsString>,
        directory: &Path,
    ) -> Result<Self, ConfigError> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let mut layers = Layers::defaults();
        if flags.quiet {
            layers.set("telemetry.log", vec!["warn".to_owned()], ValueOrigin::Default);
        }
        // systemd's name for the directory that a unit may write: a default like any other, so the file wins.
        if let Some(directory) = variable("STATE_DIRECTORY") {
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
    pub(crate) fn file(&self) -> Option<&Path> {
        self.layers.file()
    }

    /// Where the database was named.
    pub(crate) fn database_origin(&self) -> ValueOrigin {
        Reader(&self.layers).database_origin()
    }

    /// Where the value of `key` comes from.
    pub(crate) fn origin(&self, key: &str) -> ValueOrigin {
        self.layers.get(key).map_or(ValueOrigin::Default, |value| value.origin.clone())
    }

    /// This configuration with `value` for `key`, which the running daemon `name` reports.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub(crate) fn with_value_of_daemon(
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
        let section = DatabaseSection::resolve(&from)?;
        let database = DatabaseConfig {
            address: from.address()?,
            url_file: from.address_file()?,
            max_connections: section.max_connections,
            connect_timeout: section.connect_timeout,
            create_tables: section.create_tables,
            allow_plaintext: section.allow_plaintext,
        };
        let master = MasterConfig::resolve(&from)?;
        let worker = WorkerConfig::resolve(&from)?;
        let trust = TrustConfig::resolve(&from)?;
        let telemetry = TelemetryConfig::resolve(&from)?;
        Ok(Self { database, master, worker, trust, telemetry, layers })
    }

    /// The resolved values of these sections as a configuration file, each with where it came
    /// from, secrets left out. What is printed reads itself back, but for a password.
    pub(crate) fn show(&self, sections: &[&str]) -> String {
        let mut shown = String::new();
        for section in sections {
            let _ = writeln!(shown, "{section}:");
            for setting in SETTINGS.iter().filter(|setting| setting.section() == *section) {
                let name = setting.name();
                let _ = match self.layers.get(setting.key) {
                    None => writeln!(shown, "  # {name}: not set"),
                    Some(value) => {
                        writeln!(
                            shown,
                            "  {name}: {}  # {}",
                            self.spell(setting, value),
                            sanitize(&value.origin.to_string())
                        )
                    }
                };
            }
        }
        shown
    }

    fn spell(&self, setting: &Setting, value: &Value) -> String {
        match setting.key {
            "database.url" => setting.spell(&[self.database.address.to_string()]),
            "worker.report_url" => {
                let shown: Vec<String> = self.worker.report_url.iter().map(ToString::to_string).collect();
                setting.spell(&shown)
            }
            "telemetry.otlp" => setting.spell(&[units::without_secret(&value.items.concat())]),
            _ => setting.spell(&value.items),
        }
    }
}

#[cfg(test)]
mod tests;

//! What commands share: which daemons run on this host, and which database a command uses.

use std::path::Path;

use serde_json::Value;
use tokio::time::timeout;

use super::{Failure, Outcome};
use crate::address::{Address, DatabasePlace};
use crate::client::{ClientError, ask};
use crate::clock::SharedClock;
use crate::config::{Config, ExposedPassword, ValueOrigin};
use crate::event;
use crate::master::{LockStatus, MasterStatus};
use crate::socket::REQUEST_TIMEOUT;
use crate::store::{Database, FilesystemConfig, FilesystemStore, StoreError};
use crate::trust::Policy;
use crate::wire::Op;

/// The status of the daemons of this host.
#[derive(Debug)]
pub(super) struct Daemons {
    pub(super) master: Result<Value, ClientError>,
    pub(super) worker: Result<Value, ClientError>,
}

/// The database that a daemon uses.
struct DaemonDatabase {
    name: &'static str,
    place: DatabasePlace,
    address: Address,
}

/// As [`Daemons::choose_database`], but asks no daemon if the flag names the database.
///
/// # Errors
/// As [`Daemons::choose_database`].
pub(super) async fn choose_database(config: Config) -> Result<Config, Failure> {
    if matches!(config.database_origin(), ValueOrigin::Flag(_)) {
        return Ok(config);
    }
    Daemons::ask(&config).await.choose_database(config)
}

/// The store over a directory, if the configuration names one instead of a database.
pub(super) fn directory_store(config: &Config, clock: SharedClock) -> Option<FilesystemStore> {
    let Address::Directory(directory) = &config.database.address else { return None };
    let filesystem = FilesystemConfig {
        directory: directory.clone(),
        follow_links_to: config.master.follow_links_to.clone(),
        max_rule_size: config.master.max_rule_size,
        full_scan_interval: config.worker.full_scan_interval,
        max_memory: config.worker.max_memory,
    };
    Some(FilesystemStore::new(filesystem, clock))
}

/// What releases must fulfil, with a warning for each thing that is suspect; `None` where trust is off.
///
/// # Errors
/// As [`crate::config::TrustConfig::load`].
pub(super) fn load_policy(config: &Config) -> Result<Option<Policy>, Failure> {
    let loaded = config.trust.load()?;
    Ok(loaded.map(|loaded| {
        loaded.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        loaded.policy
    }))
}

/// The same at a reload. If the file cannot be used, its old content stays, with an error.
pub(super) fn reload_policy(config: &Config, daemon: &str) -> Option<Policy> {
    load_policy(config).unwrap_or_else(|failure| {
        let why = failure.message().map(ToString::to_string).unwrap_or_default();
        tracing::error!(
            message_id = event::CONFIGURATION_REFUSED,
            "{why}; the {daemon} goes on with the keys that it read before"
        );
        None
    })
}

/// As [`Database::open`], with a warning if every user of the host can read the password.
///
/// # Errors
/// As [`Database::open`].
pub(super) async fn open_database(config: &Config, clock: SharedClock) -> Result<Database, StoreError> {
    if let Some(ExposedPassword { path, mode, owner }) = config.exposed_password() {
        let path = path.display();
        tracing::warn!(
            "every user of this host can read the database's password in {path} (mode {mode:04o}, owner uid {owner}): \
             have it belong to the user who uses it, and `chmod 600 {path}`"
        );
    }
    Ok(Database::open(&config.database, clock).await?.leasing(config.master.lease))
}

/// `config` for a command or a daemon that writes.
///
/// # Errors
/// [`Failure::Usage`] if its address asks for a server that takes no writes.
pub(super) fn for_writing(mut config: Config) -> Result<Config, Failure> {
    config.database = config.database.for_writing().map_err(|why| usage!("`database.url`: {why}"))?;
    Ok(config)
}

/// Checks that the database answers within [`REQUEST_TIMEOUT`]: later waits are for work.
///
/// # Errors
/// [`Failure::Environment`].
pub(super) async fn ping(database: &Database) -> Outcome {
    match timeout(REQUEST_TIMEOUT, database.now()).await {
        Ok(answer) => Ok(answer.map(drop)?),
        Err(_) => Err(environment!("the database did not answer within {REQUEST_TIMEOUT:?}")),
    }
}

impl Daemons {
    /// Asks both at once, and waits at most [`REQUEST_TIMEOUT`].
    pub(super) async fn ask(config: &Config) -> Self {
        let (master, worker) = tokio::join!(
            ask(&config.master.socket, Op::Status {}),
            ask(&config.worker.socket, Op::Status {})
        );
        Self { master, worker }
    }

    /// The database of each daemon that answers, the master's first.
    fn databases(&self) -> Vec<DaemonDatabase> {
        let database = |(name, status): (&'static str, &Result<Value, ClientError>)| {
            let place = status.as_ref().ok()?.get("database")?;
            let place: DatabasePlace = serde_json::from_value(place.clone()).ok()?;
            Some(DaemonDatabase { name, address: place.url.parse().ok()?, place })
        };
        self.by_name().into_iter().filter_map(database).collect()
    }

    const fn by_name(&self) -> [(&'static str, &Result<Value, ClientError>); 2] {
        [("master", &self.master), ("worker", &self.worker)]
    }

    /// The status of this host's master, if it answers.
    pub(super) fn master_status(&self) -> Option<MasterStatus> {
        serde_json::from_value(self.master.as_ref().ok()?.clone()).ok()
    }

    /// Whether this host's master was asked and does not answer.
    pub(super) fn master_hangs(&self) -> bool {
        matches!(self.master, Err(ClientError::Timeout(_)))
    }

    /// Why this host's master is not the one that writes.
    pub(super) fn why_no_master(&self) -> String {
        match &self.master {
            Err(error) => error.to_string(),
            Ok(_) => match self.master_status().map(|master| master.lock) {
                Some(LockStatus::Held) => "it writes another database".to_owned(),
                Some(LockStatus::Standby) => "it stands by".to_owned(),
                Some(LockStatus::None) | None => "it does not know who holds it".to_owned(),
            },
        }
    }

    /// This host's master, if it writes the database that the command uses.
    pub(super) fn writing_master(&self, config: &Config) -> Option<(MasterStatus, Address)> {
        let master = self.master_status().filter(|master| master.lock == LockStatus::Held)?;
        let address: Address = master.database.url.parse().ok()?;
        let is_meant = match config.database_origin() {
            ValueOrigin::Default => {
                self.databases().iter().all(|used| used.address.is_same_database(&address))
            }
            _ => config.database.address.is_same_database(&address),
        };
        is_meant.then_some((master, address))
    }

    /// Whether this host has a rules directory: the configuration names one, or a master runs here.
    pub(super) fn keep_rules(&self, config: &Config) -> bool {
        let is_named = config.origin("master.rules_dir") != ValueOrigin::Default;
        is_named || self.master.as_ref().err().is_none_or(|error| !error.is_absent())
    }

    /// `config` with the rules directory of this host's master, if the configuration names none.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub(super) fn choose_rules_dir(&self, config: Config) -> Result<Config, Failure> {
        match self.master_status() {
            Some(master)
                if config.origin("master.rules_dir") == ValueOrigin::Default
                    && Path::new(&master.rules_dir).is_absolute() =>
            {
                Ok(config.with_value_of_daemon("master", "master.rules_dir", master.rules_dir)?)
            }
            _ => Ok(config),
        }
    }

    /// `config` with the database of the daemon `name`, only to be shown.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub(super) fn show_database(&self, name: &'static str, config: Config) -> Result<Config, Failure> {
        match self.databases().into_iter().find(|used| used.name == name) {
            Some(used) => Ok(config.with_value_of_daemon(name, "database.url", used.place.url)?),
            None => Ok(config),
        }
    }

    /// `config` with the database for a command: the configured one, which must be the daemons' unless a flag names
    /// it; or the daemons'; or the default.
    ///
    /// # Errors
    /// [`Failure::Usage`] if the daemons use another database, or one that this process cannot open;
    /// [`Failure::Environment`] if a daemon does not say which database it uses.
    pub(super) fn choose_database(&self, config: Config) -> Result<Config, Failure> {
        let databases = self.databases();
        let origin = config.database_origin();
        match origin {
            ValueOrigin::Flag(_) => return Ok(config),
            ValueOrigin::Default => {}
            _ => {
                let named = &config.database.address;
                return match databases.iter().find(|used| !used.address.is_same_database(named)) {
                    Some(other) => Err(usage!(
                        "{origin} names the database {}, and the {} of this host uses {}: name the one that is \
                         meant with --database-url",
                        named.place(),
                        other.name,
                        other.address.place()
                    )),
                    None => Ok(config),
                };
            }
        }
        let [first, others @ ..] = &*databases else { return self.choose_default(config) };
        if let Some(other) = others.iter().find(|other| !other.address.is_same_database(&first.address)) {
            return Err(usage!(
                "the {} of this host uses {}, and the {} uses {}: name the one that is meant with --database-url",
                first.name,
                first.address.place(),
                other.name,
                other.address.place()
            ));
        }
        if let Some(file) = &first.place.url_file {
            return Ok(config.with_value_of_daemon(first.name, "database.url_file", file)?);
        }
        if first.address.has_password() {
            return Err(usage!(
                "the {} of this host uses {}, and the password is known to it alone: give the address, with \
                 RULESYNCD_DATABASE_URL_FILE and a file of your own or with --database-url",
                first.name,
                first.address
            ));
        }
        Ok(config.with_value_of_daemon(first.name, "database.url", &first.place.url)?)
    }

    /// `config` unchanged, unless a daemon runs here that does not say which database it uses.
    fn choose_default(&self, config: Config) -> Result<Config, Failure> {
        let is_there = |(_, status): &(_, &Result<_, ClientError>)| match status {
            Err(error) => !error.is_absent(),
            Ok(_) => true,
        };
        let Some((name, status)) = self.by_name().into_iter().find(is_there) else { return Ok(config) };
        let why = match status {
            Err(error) => error.to_string(),
            Ok(_) => "it does not say".to_owned(),
        };
        Err(environment!(
            "which database the {name} of this host uses is not known: {why}; name the database with --database-url"
        ))
    }
}

/// `; did you mean R0015?`, for the `names` that are similar to `found`; empty if none is.
pub(super) fn did_you_mean<'a>(found: &str, names: impl Iterator<Item = &'a str>) -> String {
    match near_names(found, names).split_last() {
        None => String::new(),
        Some((last, [])) => format!("; did you mean {last}?"),
        Some((last, others)) => format!("; did you mean {} or {last}?", others.join(", ")),
    }
}

/// The few `names` that are most similar to `found`, the nearest first.
fn near_names<'a>(found: &str, names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    const SHOWN: usize = 3;
    const SLIPS: usize = 2;
    let found = found.to_ascii_lowercase();
    let slips = |name: &str| strsim::damerau_levenshtein(&found, &name.to_ascii_lowercase());
    let mut near: Vec<_> =
        names.map(|name| (slips(name), name)).filter(|&(slips, _)| slips <= SLIPS).collect();
    near.sort_unstable();
    near.truncate(SHOWN);
    near.into_iter().map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_the_nearest_whatever_their_case() {
        let names = ["DIS0002", "dis0001", "DIS0012", "DIS0102", "EXE0002", "DIS0020"];
        assert_eq!(near_names("DIS0002", names.into_iter()), ["DIS0002", "DIS0012", "DIS0020"]);
        assert_eq!(near_names("DSI0001", ["dis0001", "DIS0002"].into_iter()), ["dis0001", "DIS0002"]);
        assert_eq!(near_names("NOPE1", names.into_iter()), [""; 0]);
    }
}

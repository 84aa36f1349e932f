//! Finds the configuration if none is named: the files that the daemons of this host read.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::ConfigError;
use super::layers::Layers;
use super::reader::Reader;

/// Where the daemons' files are.
pub(super) const DIRECTORY: &str = "/etc/rulesyncd";

/// Which files in `/etc/rulesyncd` apply if neither `--config` nor `RULESYNCD_CONFIG` names one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum SystemFiles {
    /// None: the command does not depend on the host's daemons.
    #[default]
    None,
    /// `master.yaml`.
    Master,
    /// `worker.yaml`.
    Worker,
    /// Both: `master` of the one, `worker` of the other, the database of either, and `trust` of either.
    Both,
}

/// Two files of one host, each with its values.
pub(super) type Pair = [(PathBuf, Layers); 2];

/// Adds the values of the host's files to `layers`: for a command, which is no daemon, without those about the log.
/// Returns both files if each names a database, because they may name different ones.
///
/// # Errors
/// A file exists and cannot be used.
pub(super) fn add(
    layers: &mut Layers,
    directory: &Path,
    which: SystemFiles,
    is_daemon: bool,
) -> Result<Option<Pair>, ConfigError> {
    let names: &[&str] = match which {
        SystemFiles::None => &[],
        SystemFiles::Master => &["master"],
        SystemFiles::Worker => &["worker"],
        SystemFiles::Both => &["master", "worker"],
    };
    let mut found = Vec::new();
    for &name in names {
        let path = directory.join(name).with_extension("yaml");
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                let mut file = Layers::default();
                file.add_file(&path, &text)?;
                found.push((name, path, file));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                return Err(ConfigError(format!(
                    "{}: {error}; run this as root, or name another file with --config",
                    path.display()
                )));
            }
        }
    }
    let is_alone = found.len() == 1;
    let mut has_database = false;
    let mut has_trust = false;
    for (name, _, file) in &found {
        let takes_database = is_alone || (names_database(file) && !has_database);
        has_database |= takes_database;
        let takes_trust = !has_trust && file.get("trust.allowed_signers").is_some() || is_alone;
        has_trust |= takes_trust;
        layers.extend(file, |key, section| match section {
            "database" => takes_database,
            "trust" => takes_trust,
            "telemetry" => is_daemon || key == "telemetry.otlp",
            section => is_alone || section == *name,
        });
    }
    match <[_; 2]>::try_from(found) {
        Ok(pair) if pair.iter().all(|(_, _, file)| names_database(file)) => {
            Ok(Some(pair.map(|(_, path, file)| (path, file))))
        }
        _ => Ok(None),
    }
}

fn names_database(layers: &Layers) -> bool {
    ["database.url", "database.url_file"].iter().any(|key| layers.get(key).is_some())
}

/// Refuses to choose between the databases of two files.
///
/// # Errors
/// They are different ones, or one of them cannot be read.
pub(super) fn ensure_same_database(pair: &Pair) -> Result<(), ConfigError> {
    let [(master_file, master), (worker_file, worker)] = pair;
    let (one, other) = (Reader(master).address()?, Reader(worker).address()?);
    if one.is_same_database(&other) {
        return Ok(());
    }
    Err(ConfigError(format!(
        "{} names the database {}, and {} names {}: say which is meant, with --config or --database-url",
        master_file.display(),
        one.place(),
        worker_file.display(),
        other.place()
    )))
}

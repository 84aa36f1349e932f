//! Reads the rules of a directory, and writes the files of a release.

use std::path::Path;

use crate::clock::{Clock as _, SystemClock};
use crate::command::{Failure, Threads, block_on};
use crate::config::Config;
use crate::directory::{ScanScope, Scanner, UnfinishedFiles};
use crate::rule::Limits;
use crate::rulefile;

/// Reads and parses every rule file of a directory, as a master with this configuration does.
///
/// # Errors
/// [`Failure::Environment`] if the directory cannot be read.
pub(super) fn read_rules(directory: &Path, config: &Config) -> Result<Scanner, Failure> {
    let master = &config.master;
    let limits = Limits { size: master.max_rule_size, ..Limits::default() };
    let mut scanner = Scanner::new(directory.to_owned(), &master.follow_links_to, limits, &master.updated_by);
    block_on(
        Threads::Database,
        scanner.scan(&ScanScope::All, &UnfinishedFiles::default(), SystemClock.now()),
    )?
    .map_err(|error| Failure::Environment(error.into()))?;
    Ok(scanner)
}

/// Writes a file of a release so that a reader finds the old bytes or the new ones.
///
/// # Errors
/// [`Failure::Environment`].
pub(super) fn write(directory: &Path, name: &str, bytes: &[u8]) -> Result<(), Failure> {
    rulefile::publish(directory, name, bytes)
        .map_err(|error| environment!("{} cannot be written: {error}", directory.join(name).display()))
}

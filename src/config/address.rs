//! The address of the database, which has two keys.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::ConfigError;
use super::kind::{self, Key as _, Maybe};
use super::layers::ValueOrigin;
use super::reader::{Reader, wrong};
use crate::address::Address;
use crate::rulefile;

/// The most bytes of a file with an address.
const LONGEST_ADDRESS: usize = 64 * 1024;

impl Reader<'_> {
    /// Where the database was named: the later layer of `url` and `url_file`.
    pub(super) fn database_origin(&self) -> ValueOrigin {
        let origins = ["database.url_file", "database.url"].into_iter().filter_map(|key| self.0.get(key));
        let origins = origins.map(|value| value.origin.clone());
        origins.max_by_key(ValueOrigin::layer).unwrap_or(ValueOrigin::Default)
    }

    /// The file that `url_file` names, where the address comes from there.
    pub(super) fn address_file(&self) -> Result<Option<PathBuf>, ConfigError> {
        let layer = |key| self.0.get(key).map_or(0, |value| value.origin.layer());
        if layer("database.url_file") <= layer("database.url") {
            return Ok(None);
        }
        Maybe::<kind::Path>::resolve(self, "database.url_file")
    }

    /// The address, from `url` or from the file that `url_file` names, whichever is in the later
    /// layer. A relative path is relative to the working directory.
    pub(super) fn address(&self) -> Result<Address, ConfigError> {
        let layer = |key| self.0.get(key).map_or(0, |value| value.origin.layer());
        if layer("database.url_file") > 0 && layer("database.url_file") == layer("database.url") {
            return Err(ConfigError(
                "database.url and database.url_file are both set; set one of them".to_owned(),
            ));
        }
        if let Some(file) = self.address_file()? {
            let origin = self.database_origin();
            let text = match origin {
                // Another user's process names it, so it may be anything: a FIFO, or endless.
                ValueOrigin::Daemon(_) => rulefile::read(&file, LONGEST_ADDRESS)
                    .map_err(rulefile::ReadError::into_io)
                    .map(|text| String::from_utf8_lossy(&text).into_owned()),
                _ => std::fs::read_to_string(&file),
            };
            let text = text.map_err(|error| unreadable_address(&origin, &file, &error))?;
            let address = text.trim().parse::<Address>().map_err(|why| {
                wrong(&origin, &format!("database.url_file {}", file.display()), &why.to_string())
            })?;
            return Ok(address.absolute());
        }
        let url =
            self.optional("database.url", |text| text.parse::<Address>().map_err(|why| why.to_string()))?;
        url.map(Address::absolute).ok_or_else(|| ConfigError("database.url is not set".to_owned()))
    }
}

/// What the operator can do about a file with a database's address that cannot be read.
fn unreadable_address(origin: &ValueOrigin, path: &Path, error: &std::io::Error) -> ConfigError {
    let remedy = match error.kind() {
        ErrorKind::PermissionDenied => "run this as root, or name the database with --database-url",
        ErrorKind::NotFound if path.starts_with("/run/credentials") => {
            "systemd keeps it there while the service runs; start that, or name the database with --database-url"
        }
        _ => "correct the path, or name the database with --database-url",
    };
    ConfigError(format!(
        "{origin}: the database's address in {} cannot be read: {error}; {remedy}",
        path.display()
    ))
}

//! The configuration of a database.

use std::path::PathBuf;
use std::time::Duration;

use super::{Address, InvalidAddress};

/// How to reach the database.
#[derive(Debug, Clone, PartialEq)]
pub struct DatabaseConfig {
    /// Shown without its password.
    pub address: Address,
    /// The file that the address was read from; `None` if the configuration holds the address itself.
    pub url_file: Option<PathBuf>,
    /// The most connections of one daemon.
    pub max_connections: u32,
    /// How long connecting, or any one statement, may take.
    pub connect_timeout: Duration,
    /// Whether a master creates missing tables and indexes, or waits for another program's.
    pub create_tables: bool,
    /// Whether a connection to another host may be unencrypted or unverified.
    pub allow_plaintext: bool,
}

impl DatabaseConfig {
    /// The same for a process that writes.
    ///
    /// # Errors
    /// As [`Address::for_writing`].
    pub(crate) fn for_writing(self) -> Result<Self, InvalidAddress> {
        Ok(Self { address: self.address.for_writing()?, ..self })
    }

    /// Whether `other` differs only in the password.
    pub(crate) fn differs_in_password_only(&self, other: &Self) -> bool {
        self != other
            && Self { address: self.address.clone().with_password_of(&other.address), ..self.clone() }
                == *other
    }
}

//! The configuration of a database.

use std::path::PathBuf;
use std::time::Duration;

use super::Address;

/// How the database is reached.
#[derive(Debug, Clone, PartialEq)]
pub struct DatabaseConfig {
    /// Where it is; shown without its password.
    pub address: Address,
    /// The file that the address was read from; `None` where it stood in the configuration itself.
    pub url_file: Option<PathBuf>,
    /// Connections of one daemon at most.
    pub max_connections: u32,
    /// How long connecting, or any one query, may take.
    pub connect_timeout: Duration,
    /// Whether a connection to another host may be unencrypted or unverified.
    pub allow_plaintext: bool,
}

impl DatabaseConfig {
    /// Whether `other` differs from this in the password, and in nothing else.
    pub fn differs_in_password_only(&self, other: &Self) -> bool {
        self != other
            && Self { address: self.address.clone().with_password_of(&other.address), ..self.clone() }
                == *other
    }
}

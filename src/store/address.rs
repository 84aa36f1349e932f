use std::fmt;
use std::path::PathBuf;

/// A database's address, in sqlx's or SQLAlchemy's spelling. Shown without its password.
#[derive(Clone, PartialEq, Eq)]
pub enum Address {
    /// A SQLite file.
    SqliteFile(PathBuf),
    /// A SQLite database in this process's memory.
    SqliteMemory,
}

/// Why a text is no address; the message has no secret in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidAddress(pub String);

impl std::str::FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("sqlite://") {
            Some(path) => Ok(Self::SqliteFile(path.into())),
            None if text == "sqlite::memory:" => Ok(Self::SqliteMemory),
            None => Err(InvalidAddress("expected `sqlite://PATH`".to_owned())),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SqliteFile(path) => write!(f, "sqlite://{}", path.display()),
            Self::SqliteMemory => f.write_str("sqlite::memory:"),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

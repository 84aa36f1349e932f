//! The layers of the configuration and where each value came from.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use super::ConfigError;

/// Where a value came from, lowest first: a later layer wins.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ValueOrigin {
    /// The default.
    Default,
    /// The running daemon of this name.
    Daemon(&'static str),
    /// The file, and the line in it.
    File(PathBuf, u64),
    /// The environment variable.
    Environment(String),
    /// The flag on the command line.
    Flag(&'static str),
}

impl ValueOrigin {
    /// The number of the layer, from the lowest; values of one layer do not override each other.
    pub(crate) const fn layer(&self) -> u8 {
        match self {
            Self::Default => 0,
            Self::Daemon(_) => 1,
            Self::File(..) => 2,
            Self::Environment(_) => 3,
            Self::Flag(_) => 4,
        }
    }
}

impl fmt::Display for ValueOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Daemon(name) => write!(f, "the running {name}"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => f.write_str(name),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// A value as it was written, with where.
#[derive(Debug, Clone)]
pub(crate) struct Value {
    pub(crate) items: Vec<String>,
    pub(crate) origin: ValueOrigin,
}

/// The values of all layers, by key.
#[derive(Debug, Clone, Default)]
pub(crate) struct Layers {
    values: BTreeMap<&'static str, Value>,
    file: Option<PathBuf>,
}

impl Layers {
    /// Sets a value, over that of an earlier layer.
    pub(crate) fn set(&mut self, key: &'static str, items: Vec<String>, origin: ValueOrigin) {
        self.values.insert(key, Value { items, origin });
    }

    /// The same for a value of the environment or of a flag.
    ///
    /// # Errors
    /// [`ConfigError`] if it is not text. It is not shown, because it may be a secret.
    pub(crate) fn set_text(
        &mut self,
        key: &'static str,
        value: OsString,
        origin: ValueOrigin,
    ) -> Result<(), ConfigError> {
        let text = text(key, value, &origin)?;
        self.set(key, vec![text], origin);
        Ok(())
    }

    /// Notes the configuration file, even if it sets nothing.
    pub(super) fn set_file(&mut self, path: &Path) {
        self.file = Some(path.to_owned());
    }

    /// The configuration file; `None` if there is none.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Adds the values of `other` whose key and section `is_wanted`, over those of earlier layers.
    pub(crate) fn extend(&mut self, other: &Self, is_wanted: impl Fn(&str, &str) -> bool) {
        self.file = self.file.take().or_else(|| other.file.clone());
        for (key, value) in &other.values {
            if is_wanted(key, key.split('.').next().unwrap_or_default()) {
                self.values.insert(key, value.clone());
            }
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }
}

/// The text of a value of the environment or of a flag.
///
/// # Errors
/// As [`Layers::set_text`].
pub(super) fn text(key: &str, value: OsString, origin: &ValueOrigin) -> Result<String, ConfigError> {
    value.into_string().map_err(|_| {
        ConfigError(format!(
            "{origin}: {key}: the value is not UTF-8; expected text: a path that is none is reached by a link"
        ))
    })
}

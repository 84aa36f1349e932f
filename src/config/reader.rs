//! Reads single keys out of the layers.

use std::path::Path;

use super::ConfigError;
use super::layers::{Layers, Value, ValueOrigin};
use crate::paint::sanitize;

/// Reads single keys out of the layers; an error names the key and where its value came from.
pub(super) struct Reader<'a>(pub(super) &'a Layers);

impl Reader<'_> {
    pub(super) fn optional<T>(
        &self,
        key: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(Value { items, origin }) = self.0.get(key) else { return Ok(None) };
        let [item] = items.as_slice() else {
            return Err(ConfigError(format!(
                "{origin}: {key} is a list of {}; expected one value",
                items.len()
            )));
        };
        read(item).map(Some).map_err(|why| wrong(origin, key, &why))
    }

    pub(super) fn list<T>(
        &self,
        key: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Vec<T>, ConfigError> {
        let Some(Value { items, origin }) = self.0.get(key) else { return Ok(Vec::new()) };
        items.iter().map(|item| read(item).map_err(|why| wrong(origin, key, &why))).collect()
    }
}

/// A value that cannot be used; `why` may quote it.
pub(super) fn wrong(origin: &ValueOrigin, key: &str, why: &str) -> ConfigError {
    ConfigError(format!("{origin}: {key}: {}", sanitize(why)))
}

pub(super) fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|error| ConfigError(format!("{}: {error}", path.display())))
}

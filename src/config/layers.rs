//! The layers of the configuration and where each value came from.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};

use super::ConfigError;
use super::keys::{SECTIONS, SETTINGS};
use super::setting::{Setting, find, nearest};
use crate::paint::sanitize;

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
    /// The configuration file, even if it sets nothing.
    file: Option<PathBuf>,
}

impl Layers {
    /// The defaults alone.
    pub(crate) fn defaults() -> Self {
        let mut layers = Self::default();
        for setting in SETTINGS {
            if let Some(default) = setting.default {
                layers.set(setting.key, vec![default.to_owned()], ValueOrigin::Default);
            }
        }
        layers
    }

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
        let text = value.into_string().map_err(|_| {
            ConfigError(format!(
                "{origin}: {key}: the value is not UTF-8; expected text: a path that is none is reached by a link"
            ))
        })?;
        self.set(key, vec![text], origin);
        Ok(())
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

    /// Adds the file's values.
    pub(crate) fn add_file(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        self.file = Some(path.to_owned());
        // Comments are not read: the parser would refuse a file that has many of them in a row.
        let options = serde_yaml::options! { leading_zero_numbers_as_strings: true, emit_comments: false };
        let unreadable = |error: serde_yaml::Error| ConfigError(format!("{}: {error}", path.display()));
        let document: Option<Document> =
            serde_yaml::from_str_with_options(text, options).map_err(unreadable)?;
        for (section, entries) in document.unwrap_or_default() {
            if !SECTIONS.contains(&section.as_str()) {
                return Err(unknown(
                    path,
                    entries.referenced.line(),
                    &section,
                    &section,
                    SECTIONS.iter().copied(),
                ));
            }
            for (name, value) in entries.value.unwrap_or_default() {
                let key = format!("{section}.{name}");
                let line = value.referenced.line();
                let setting = find(&key).ok_or_else(|| {
                    let siblings = SETTINGS.iter().filter(|other| other.section() == section);
                    unknown(path, line, &key, &name, siblings.map(Setting::name))
                })?;
                if let Some(Items(items)) = value.value {
                    self.set(setting.key, items, ValueOrigin::File(path.to_owned(), line));
                }
            }
        }
        Ok(())
    }

    /// Adds the environment's values; an empty variable counts as not set.
    ///
    /// # Errors
    /// [`ConfigError`] where a value is not text.
    pub(crate) fn add_environment(
        &mut self,
        lookup: impl Fn(&str) -> Option<OsString>,
    ) -> Result<(), ConfigError> {
        for setting in SETTINGS {
            for name in setting.variables() {
                if let Some(value) = lookup(&name).filter(|value| !value.is_empty()) {
                    self.set_text(setting.key, value, ValueOrigin::Environment(name))?;
                }
            }
        }
        Ok(())
    }
}

type Document = BTreeMap<String, serde_yaml::Spanned<Option<Section>>>;
type Section = BTreeMap<String, serde_yaml::Spanned<Option<Items>>>;

fn unknown<'a>(
    path: &Path,
    line: u64,
    shown: &str,
    found: &str,
    known: impl Iterator<Item = &'a str> + Clone,
) -> ConfigError {
    let advice = nearest(found, known.clone()).map_or_else(
        || format!("known here are {}", known.collect::<Vec<_>>().join(", ")),
        |near| format!("did you mean `{near}`?"),
    );
    ConfigError(format!("{}:{line}: unknown key `{}`; {advice}", path.display(), sanitize(shown)))
}

/// One scalar or a list of them, as text.
struct Items(Vec<String>);

impl<'de> Deserialize<'de> for Items {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ItemsVisitor;
        macro_rules! scalar {
            ($($visit:ident: $type:ty),*) => {
                $(fn $visit<E>(self, value: $type) -> Result<Items, E> {
                    Ok(Items(vec![value.to_string()]))
                })*
            };
        }
        impl<'de> Visitor<'de> for ItemsVisitor {
            type Value = Items;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value, or a list of values")
            }

            scalar!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str);

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Items, A::Error> {
                let mut items = Vec::new();
                while let Some(Items(item)) = list.next_element()? {
                    items.extend(item);
                }
                Ok(Items(items))
            }
        }
        deserializer.deserialize_any(ItemsVisitor)
    }
}

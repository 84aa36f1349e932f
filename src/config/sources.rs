//! Fills the layers: the defaults, a file, the environment.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};

use super::ConfigError;
use super::keys::{SECTIONS, SETTINGS};
use super::layers::{Layers, ValueOrigin};
use super::setting::{Setting, nearest};
use super::yaml::{from_yaml, seems_a_key};

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

    /// Adds the file's values.
    pub(crate) fn add_file(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        self.set_file(path);
        let unreadable = |why: String| ConfigError(format!("{}:{why}", path.display()));
        let document: Option<Document> = from_yaml(text).map_err(unreadable)?;
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
                let setting = SETTINGS.iter().find(|setting| setting.key == key).ok_or_else(|| {
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

    /// Adds the environment's values, which are not empty.
    ///
    /// # Errors
    /// [`ConfigError`] where a value is not text.
    pub(crate) fn add_environment(
        &mut self,
        lookup: impl Fn(&str) -> Option<OsString>,
    ) -> Result<(), ConfigError> {
        for setting in SETTINGS {
            for name in setting.variables() {
                if let Some(value) = lookup(&name) {
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
    let path = path.display();
    ConfigError(match seems_a_key(shown) {
        true => format!("{path}:{line}: unknown key `{shown}`; {advice}"),
        false => format!("{path}:{line}: expected a key, and found something else; {advice}"),
    })
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

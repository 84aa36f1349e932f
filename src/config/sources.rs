//! Fills the layers: the defaults, a file, the environment.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};

use super::ConfigError;
use super::keys::{SECTIONS, SETTINGS};
use super::kind::Spelling;
use super::layers::{Layers, ValueOrigin, text};
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
                if let Some(Items { mut texts, is_number, is_list }) = value.value {
                    let written = as_written(text, line, value.referenced.column());
                    // A number in octal is a mode, and a name may look like a number.
                    let counts =
                        |written: &&str| setting.spelling == Spelling::Quoted || written.starts_with("0o");
                    if let Some(written) = written.filter(counts).filter(|_| is_number) {
                        texts = vec![written.to_owned()];
                    }
                    if !is_list {
                        texts = setting.values(texts.concat());
                    }
                    self.set(setting.key, texts, ValueOrigin::File(path.to_owned(), line));
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
                    let origin = ValueOrigin::Environment(name);
                    self.set(setting.key, setting.values(text(setting.key, value, &origin)?), origin);
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

/// The number that begins at this place, as it is written: the parser makes `1` of `1.0`, and `432` of `0o660`. `None` where
/// none is there, but the name of one.
fn as_written(text: &str, line: u64, column: u64) -> Option<&str> {
    let place = |number: u64| usize::try_from(number).ok()?.checked_sub(1);
    let line = text.lines().nth(place(line)?)?;
    let (start, _) = line.char_indices().nth(place(column)?)?;
    let written = line[start..].split([' ', '\t', ',', '}']).next()?;
    written.starts_with(|first: char| first.is_ascii_digit() || "+-.".contains(first)).then_some(written)
}

/// One scalar or a list of them, as text.
struct Items {
    texts: Vec<String>,
    /// Whether this is one number.
    is_number: bool,
    /// Whether this is a list.
    is_list: bool,
}

impl<'de> Deserialize<'de> for Items {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ItemsVisitor;
        macro_rules! scalar {
            ($is_number:literal, $($visit:ident: $type:ty),*) => {
                $(fn $visit<E>(self, value: $type) -> Result<Items, E> {
                    Ok(Items { texts: vec![value.to_string()], is_number: $is_number, is_list: false })
                })*
            };
        }
        impl<'de> Visitor<'de> for ItemsVisitor {
            type Value = Items;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value, or a list of values")
            }

            scalar!(true, visit_i64: i64, visit_u64: u64, visit_f64: f64);
            scalar!(false, visit_bool: bool, visit_str: &str);

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Items, A::Error> {
                let mut texts = Vec::new();
                while let Some(Items { texts: item, .. }) = list.next_element()? {
                    texts.extend(item);
                }
                Ok(Items { texts, is_number: false, is_list: true })
            }
        }
        deserializer.deserialize_any(ItemsVisitor)
    }
}

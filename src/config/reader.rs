//! From the words of the layers to values: what each key takes.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::time::Duration;

use tracing_subscriber::filter::{LevelFilter, Targets};

use super::layers::{Layers, Value, ValueOrigin};
use super::units::{self, duration, size};
use super::{ConfigError, LogFormat};
use crate::address::Address;
use crate::rule::Limits;
use crate::rulefile;

/// The most bytes of a file with an address.
const LONGEST_ADDRESS: usize = 64 * 1024;

/// Reads single keys out of the layers; an error names the key and where its value came from.
pub(super) struct Reader<'a>(pub(super) &'a Layers);

impl Reader<'_> {
    pub(super) fn value<T>(
        &self,
        key: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        self.optional(key, read)?.ok_or_else(|| ConfigError(format!("{key} is not set")))
    }

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
        read(item).map(Some).map_err(|why| ConfigError(format!("{origin}: {key}: {why}")))
    }

    pub(super) fn list<T>(
        &self,
        key: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Vec<T>, ConfigError> {
        let Some(Value { items, origin }) = self.0.get(key) else { return Ok(Vec::new()) };
        items
            .iter()
            .flat_map(|item| item.split(','))
            .map(|item| read(item.trim()).map_err(|why| ConfigError(format!("{origin}: {key}: {why}"))))
            .collect()
    }

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
        self.value("database.url_file", path).map(Some)
    }

    /// The address, from `url` or from the file that `url_file` names, whichever stands in the
    /// later layer. A relative path is seen from this process.
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
                // Another user's process names it: whatever stands there, reading it ends.
                ValueOrigin::Daemon(_) => rulefile::read(&file, LONGEST_ADDRESS)
                    .map_err(rulefile::ReadError::into_io)
                    .map(|text| String::from_utf8_lossy(&text).into_owned()),
                _ => std::fs::read_to_string(&file),
            };
            let text = text.map_err(|error| unreadable_address(&origin, &file, &error))?;
            let address = text.trim().parse::<Address>().map_err(|why| {
                ConfigError(format!("{origin}: database.url_file {}: {why}", file.display()))
            })?;
            return Ok(address.absolute());
        }
        self.value("database.url", |text| text.parse().map_err(|why| format!("{why}"))).map(Address::absolute)
    }
}

pub(super) fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|error| ConfigError(format!("{}: {error}", path.display())))
}

pub(super) fn text(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

/// What goes into the column `updated_by`.
pub(super) fn label(text: &str) -> Result<String, String> {
    match text.chars().count() {
        1..=255 => Ok(text.to_owned()),
        length => Err(format!("the label has {length} characters; expected 1 to 255")),
    }
}

pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("the path is empty".to_owned()) } else { Ok(PathBuf::from(text)) }
}

pub(super) fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("`{text}` is not a whole number in range"))
}

pub(super) fn at_least_one<T: std::str::FromStr + PartialOrd + From<u8>>(text: &str) -> Result<T, String> {
    let value: T = number(text)?;
    if value < T::from(1) { Err("0 is too few; expected at least 1".to_owned()) } else { Ok(value) }
}

pub(super) fn rule_size(text: &str) -> Result<usize, String> {
    match size(text)? {
        bytes if bytes > Limits::LARGEST => {
            let most = units::show_size(Limits::LARGEST);
            Err(format!("`{text}` is too large; workers take in rules of {most} at most"))
        }
        bytes => Ok(bytes),
    }
}

/// A time that may be none.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    // Longer ones overflow clocks, and mean "never", for which there is no use here.
    at_most(text, Duration::from_hours(366 * 24), "366d")
}

/// How long until something is done again: at least 1ms, since less keeps a core busy and is a slip.
pub(super) fn interval(text: &str) -> Result<Duration, String> {
    at_least_1ms(text, time(text)?)
}

/// A time that every database takes for a limit: they count milliseconds, in 31 bits.
pub(super) fn patience(text: &str) -> Result<Duration, String> {
    at_least_1ms(text, at_most(text, Duration::from_hours(1), "1h")?)
}

fn at_least_1ms(text: &str, time: Duration) -> Result<Duration, String> {
    if time < Duration::from_millis(1) {
        return Err(format!("`{text}` is too short; expected at least 1ms"));
    }
    Ok(time)
}

fn at_most(text: &str, longest: Duration, shown: &str) -> Result<Duration, String> {
    match duration(text)? {
        time if time > longest => Err(format!("`{text}` is too long; expected at most {shown}")),
        time => Ok(time),
    }
}

pub(super) fn flag(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| format!("`{text}` is neither `true` nor `false`"))
}

pub(super) fn directives(text: &str) -> Result<String, String> {
    // A word alone would be taken for a target, and nothing but that logged.
    let is_level_alone = |part: &str| part.contains('=') || LevelFilter::from_str(part).is_ok();
    match Targets::from_str(text) {
        Ok(_) if text.split(',').map(str::trim).all(is_level_alone) => Ok(text.to_owned()),
        _ => Err(format!(
            "`{text}` does not say what is logged; expected a level (`error`, `warn`, `info`, `debug`, `trace`, \
             `off`), or directives such as `info,sqlx=debug`"
        )),
    }
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "auto" => Ok(LogFormat::Auto),
        "journald" => Ok(LogFormat::Journald),
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("`{text}` is no form of log; expected `auto`, `journald`, `text` or `json`")),
    }
}

/// What may be done about a file with a database's address that cannot be read.
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

//! What the values of a key look like: how one is read, and what its bounds are.

use std::marker::PhantomData;
use std::path::PathBuf;
use std::str::FromStr as _;
use std::time::Duration;

use serde_json::{Value, json};
use tracing_subscriber::filter::{LevelFilter, Targets};

use super::reader::Reader;
use super::units::{self, Percent, duration, size};
use super::{ConfigError, LogFormat};
use crate::address::Address;
use crate::rule::Limits;
use crate::trust::{Realm, ReleaseTime};

/// What one value looks like.
pub(super) trait Kind {
    /// What the text means.
    type Value;
    /// Whether `rulesyncd config` quotes it, since YAML might read it as something else.
    const IS_QUOTED: bool;

    /// Reads one value.
    ///
    /// # Errors
    /// What was found, and what was expected.
    fn read(text: &str) -> Result<Self::Value, String>;

    /// The JSON Schema of one value.
    fn schema() -> Value;
}

/// How many values a key takes.
pub(super) trait Key {
    /// What they mean together.
    type Value;
    /// How a file writes them.
    const SPELLING: Spelling;

    /// The value of `key`, from the last layer that has one.
    ///
    /// # Errors
    /// [`ConfigError`], with the key and where its value came from.
    fn resolve(from: &Reader<'_>, key: &str) -> Result<Self::Value, ConfigError>;

    /// The JSON Schema of what a file gives the key.
    fn schema() -> Value;
}

/// How a file writes the value of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// As it is.
    Plain,
    /// In quotes.
    Quoted,
    /// In brackets, its values in quotes or as they are.
    List {
        /// Whether in quotes.
        is_quoted: bool,
    },
}

impl Spelling {
    const fn of<K: Kind>() -> Self {
        if K::IS_QUOTED { Self::Quoted } else { Self::Plain }
    }
}

/// Exactly one value.
pub(super) struct One<K>(PhantomData<K>);
/// One value, or none.
pub(super) struct Maybe<K>(PhantomData<K>);
/// Any number of values.
pub(super) struct List<K>(PhantomData<K>);

impl<K: Kind> Key for One<K> {
    type Value = K::Value;
    const SPELLING: Spelling = Spelling::of::<K>();

    fn resolve(from: &Reader<'_>, key: &str) -> Result<Self::Value, ConfigError> {
        from.optional(key, K::read)?.ok_or_else(|| ConfigError(format!("{key} is not set")))
    }

    fn schema() -> Value {
        K::schema()
    }
}

impl<K: Kind> Key for Maybe<K> {
    type Value = Option<K::Value>;
    const SPELLING: Spelling = Spelling::of::<K>();

    fn resolve(from: &Reader<'_>, key: &str) -> Result<Self::Value, ConfigError> {
        from.optional(key, K::read)
    }

    fn schema() -> Value {
        K::schema()
    }
}

impl<K: Kind> Key for List<K> {
    type Value = Vec<K::Value>;
    const SPELLING: Spelling = Spelling::List { is_quoted: K::IS_QUOTED };

    fn resolve(from: &Reader<'_>, key: &str) -> Result<Self::Value, ConfigError> {
        from.list(key, K::read)
    }

    fn schema() -> Value {
        json!({ "type": "array", "items": K::schema() })
    }
}

macro_rules! kinds {
    (quoted: $quoted:literal; $($(#[$doc:meta])+ $name:ident($value:ty): $read:expr, $schema:tt;)+) => {$(
        $(#[$doc])+
        pub(super) enum $name {}

        impl Kind for $name {
            type Value = $value;
            const IS_QUOTED: bool = $quoted;

            fn read(text: &str) -> Result<$value, String> {
                $read(text)
            }

            fn schema() -> Value {
                json!($schema)
            }
        }
    )+};
}

kinds! { quoted: true;
    /// Any text.
    Text(String): |text: &str| Ok(text.to_owned()), { "type": "string" };
    /// What the column `updated_by` takes.
    Label(String): label, { "type": "string", "minLength": 1, "maxLength": 255 };
    /// A path in the file system.
    Path(PathBuf): path, { "type": "string", "minLength": 1 };
    /// The address of a database server.
    ServerAddress(Address): server_address, {
        "type": "string", "examples": ["postgres://rulesyncd_worker@db.example.org/honeypots"]
    };
    /// Directives of what is logged.
    Directives(String): directives, { "type": "string", "examples": ["info", "info,sqlx=debug"] };
    /// The realm of a release.
    RealmName(Realm): str::parse, { "type": "string", "pattern": "^[a-z0-9-]{1,64}$" };
    /// The version of a release.
    Version(ReleaseTime): version, { "type": "string", "examples": ["2026-11-27T08:00:00Z"] };
    /// The form of the log.
    Format(LogFormat): log_format, { "enum": ["auto", "journald", "text", "json"] };
}

kinds! { quoted: false;
    /// A time of at most a year; zero is allowed.
    Time(Duration): time, { "type": "string", "examples": ["250ms", "1s", "5m"] };
    /// The time between two runs of the same thing: at least 1 ms, since less would keep a core busy.
    Interval(Duration): |text| at_least_1ms(text, time(text)?), { "type": "string", "examples": ["250ms", "1s", "5m"] };
    /// How long a lease lasts: a few beats at least, and not so long that nobody can write after a failure.
    Lease(Duration): lease, { "type": "string", "examples": ["15s", "1m"] };
    /// A time that every database takes as a limit: they count milliseconds in 31 bits.
    Timeout(Duration): timeout, { "type": "string", "examples": ["250ms", "1s", "5m"] };
    /// The size of a rule, within what workers take.
    RuleSize(usize): rule_size, { "type": ["string", "integer"], "examples": ["256KiB"] };
    /// A number of bytes.
    Bytes(usize): size, { "type": ["string", "integer"], "examples": ["64MiB"] };
    /// A share of a whole.
    Share(Percent): Percent::parse, { "type": ["string", "number"], "examples": ["20%"] };
    /// A number of things, at least one.
    Count(usize): at_least_one, { "type": "integer", "minimum": 1 };
    /// A number of connections, at least one.
    Connections(u32): at_least_one, { "type": "integer", "minimum": 1 };
    /// The number of a user.
    Uid(u32): number, { "type": "integer", "minimum": 0 };
    /// `true` or `false`.
    Flag(bool): flag, { "type": "boolean" };
    /// Permission bits in octal.
    Mode(u32): units::mode, { "type": ["string", "integer"], "examples": ["0660"] };
}

fn version(text: &str) -> Result<ReleaseTime, String> {
    text.parse().map_err(|expected| format!("`{text}` is no version; {expected}"))
}

fn lease(text: &str) -> Result<Duration, String> {
    let lease = time(text)?;
    if (Duration::from_secs(5)..=Duration::from_hours(1)).contains(&lease) {
        Ok(lease)
    } else {
        Err(format!("{text} is not within 5s and 1h"))
    }
}

fn label(text: &str) -> Result<String, String> {
    match text.chars().count() {
        1..=255 => Ok(text.to_owned()),
        length => Err(format!("the label has {length} characters; expected 1 to 255")),
    }
}

fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("the path is empty".to_owned()) } else { Ok(PathBuf::from(text)) }
}

fn server_address(text: &str) -> Result<Address, String> {
    match text.parse::<Address>().map_err(|why| why.to_string())? {
        address @ (Address::MySql(_) | Address::Postgres(_)) => Ok(address),
        other => Err(format!("{other} is no server; expected postgres://… or mysql://…")),
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("`{text}` is not a whole number in range"))
}

fn at_least_one<T: std::str::FromStr + PartialOrd + From<u8>>(text: &str) -> Result<T, String> {
    let value: T = number(text)?;
    if value < T::from(1) { Err("0 is too few; expected at least 1".to_owned()) } else { Ok(value) }
}

fn rule_size(text: &str) -> Result<usize, String> {
    match size(text)? {
        bytes if bytes > Limits::LARGEST => {
            let most = units::show_size(Limits::LARGEST);
            Err(format!("`{text}` is too large; workers take rules of at most {most}"))
        }
        bytes => Ok(bytes),
    }
}

/// A time of at most a year.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    // Longer ones overflow clocks.
    at_most(text, Duration::from_hours(366 * 24), "366d")
}

fn timeout(text: &str) -> Result<Duration, String> {
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

fn flag(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| format!("`{text}` is neither `true` nor `false`"))
}

fn directives(text: &str) -> Result<String, String> {
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

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "auto" => Ok(LogFormat::Auto),
        "journald" => Ok(LogFormat::Journald),
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("`{text}` is not a log format; expected `auto`, `journald`, `text` or `json`")),
    }
}

//! The only place that asks for the time.
//!
//! Everything else is handed a [`Clock`] or a [`Timestamp`], so that tests can move time by hand
//! and a wrong clock is a case like any other.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Datelike as _, NaiveDateTime, Timelike as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A moment in UTC with microsecond resolution, as the tables and the stream carry it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The earliest moment that any table holds; below every real stamp.
    pub const MIN: Self = Self(-62_135_596_800_000_000);

    /// From microseconds since 1970-01-01T00:00:00Z.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since 1970-01-01T00:00:00Z.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// From the naive UTC value that the tables hold; below a microsecond is cut off.
    pub fn from_naive(naive: NaiveDateTime) -> Self {
        Self(naive.and_utc().timestamp_micros())
    }

    /// The naive UTC value that the tables hold.
    pub fn to_naive(self) -> NaiveDateTime {
        DateTime::from_timestamp_micros(self.0).unwrap_or_default().naive_utc()
    }

    /// The text of a SQLite `DATETIME` as SQLAlchemy writes it: `2026-05-01 07:25:09.123456`.
    pub fn to_sql_text(self) -> String {
        self.to_naive().format("%Y-%m-%d %H:%M:%S%.6f").to_string()
    }

    /// Reads what databases and people write: `2026-05-01 07:25:09[.123456]`, the same with `T`,
    /// and RFC 3339 with any offset. A value without an offset is UTC.
    ///
    /// # Errors
    /// `None` when the text is none of these.
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(with_offset) = DateTime::parse_from_rfc3339(text) {
            return Some(Self(with_offset.timestamp_micros()));
        }
        ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f"]
            .iter()
            .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())
            .map(Self::from_naive)
    }

    /// This moment, `span` later; saturates.
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(micros(span)))
    }

    /// This moment, `span` earlier; saturates.
    pub fn before(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(micros(span)))
    }

    /// How long it is from `earlier` to this moment; zero when `earlier` is not earlier.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The same moment with its fraction of a second cut off, as whole-second columns hold it.
    pub fn whole_second(self) -> Self {
        Self(self.0.div_euclid(1_000_000) * 1_000_000)
    }
}

fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

/// RFC 3339, UTC, microseconds, `Z`.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = self.to_naive();
        let Some(year) = u32::try_from(time.year()).ok().filter(|year| *year <= 9999) else {
            return write!(f, "{}", time.format("%Y-%m-%dT%H:%M:%S%.6fZ"));
        };
        // A snapshot is full of times, and a format is read anew for each.
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        for (place, number) in [
            (0..4, year),
            (5..7, time.month()),
            (8..10, time.day()),
            (11..13, time.hour()),
            (14..16, time.minute()),
            (17..19, time.second()),
            (20..26, time.nanosecond() / 1_000),
        ] {
            write_decimal(&mut text[place], number);
        }
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

fn write_decimal(digits: &mut [u8], mut number: u32) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text)
            .ok_or_else(|| serde::de::Error::custom(format!("`{text}` is not an RFC 3339 time")))
    }
}

/// A source of the time.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The time now, by this clock. May step in either direction from one call to the next.
    fn now(&self) -> Timestamp;
}

/// A clock that is shared by the parts of a daemon.
pub type SharedClock = Arc<dyn Clock>;

/// The host's clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that asks")]
    fn now(&self) -> Timestamp {
        Timestamp(chrono::Utc::now().timestamp_micros())
    }
}

/// A clock that stands still until it is moved by hand.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// A clock that shows `now`.
    pub fn at(now: Timestamp) -> Self {
        Self(AtomicI64::new(now.0))
    }

    /// Shows `now` from here on, be it later or earlier than before.
    pub fn set(&self, now: Timestamp) {
        self.0.store(now.0, Ordering::SeqCst);
    }

    /// Moves the clock on.
    pub fn advance(&self, span: Duration) {
        self.0.fetch_add(micros(span), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

/// Stamps that rise strictly from one to the next, whatever the clock does.
#[derive(Debug, Clone, Copy)]
pub struct RisingStamp(Timestamp);

impl Default for RisingStamp {
    fn default() -> Self {
        Self(Timestamp::MIN)
    }
}

impl RisingStamp {
    /// Makes every later stamp greater than `seen`, a stamp that already stands in a table.
    pub fn rise_above(&mut self, seen: Timestamp) {
        self.0 = self.0.max(seen);
    }

    /// The next stamp: `now`, or the smallest that is greater than the last where the clock
    /// stood still or stepped back.
    pub fn next(&mut self, now: Timestamp) -> Timestamp {
        self.0 = now.max(Timestamp(self.0.0.saturating_add(1)));
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_reads_every_spelling_of_one_moment() {
        let expected = Timestamp::from_micros(1_777_620_309_123_456);
        for text in [
            "2026-05-01 07:25:09.123456",
            "2026-05-01T07:25:09.123456",
            "2026-05-01T07:25:09.123456Z",
            "2026-05-01T09:25:09.123456+02:00",
        ] {
            assert_eq!(Timestamp::parse(text), Some(expected), "{text}");
        }
        assert_eq!(expected.to_string(), "2026-05-01T07:25:09.123456Z");
        assert_eq!(expected.to_sql_text(), "2026-05-01 07:25:09.123456");
        assert_eq!(Timestamp::parse("yesterday"), None);
    }

    proptest::proptest! {
        #[test]
        fn a_timestamp_is_written_as_chrono_writes_it(micros in -100_000_000_000_000_000..300_000_000_000_000_000_i64) {
            let timestamp = Timestamp::from_micros(micros);
            let expected = timestamp.to_naive().format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
            proptest::prop_assert_eq!(timestamp.to_string(), expected);
        }
    }

    #[test]
    fn whole_seconds_are_cut_towards_the_past_before_1970_too() {
        assert_eq!(Timestamp::from_micros(-1).whole_second(), Timestamp::from_micros(-1_000_000));
    }

    #[test]
    fn stamps_rise_though_the_clock_steps_back() {
        let mut stamp = RisingStamp::default();
        let first = stamp.next(Timestamp::from_micros(1_000));
        let second = stamp.next(Timestamp::from_micros(10));
        assert_eq!((first.as_micros(), second.as_micros()), (1_000, 1_001));
        stamp.rise_above(Timestamp::from_micros(5_000));
        assert_eq!(stamp.next(Timestamp::from_micros(2_000)).as_micros(), 5_001);
    }
}

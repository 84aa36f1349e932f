//! The only module that reads the time.
//!
//! All other code gets a [`Clock`] or a [`Timestamp`], so that tests can set the time.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Datelike as _, NaiveDateTime, Timelike as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A moment in UTC with microseconds, as the tables and the stream have it, from the year 0001 to 9999: every
/// database stores these years and every client reads them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The earliest moment, before every real stamp.
    pub const MIN: Self = Self(-62_135_596_800_000_000);

    /// The latest moment: 9999-12-31T23:59:59.999999Z.
    pub(crate) const MAX: Self = Self(253_402_300_799_999_999);

    /// From microseconds since 1970-01-01T00:00:00Z; [`Timestamp::MIN`] or `Timestamp::MAX` if out of range.
    pub const fn from_micros(micros: i64) -> Self {
        match micros {
            ..=-62_135_596_800_000_000 => Self::MIN,
            253_402_300_799_999_999.. => Self::MAX,
            _ => Self(micros),
        }
    }

    /// Microseconds since 1970-01-01T00:00:00Z.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// The naive UTC value for a table.
    pub(crate) fn to_naive(self) -> NaiveDateTime {
        DateTime::from_timestamp_micros(self.0).unwrap_or_default().naive_utc()
    }

    /// The text of a SQLite `DATETIME` as SQLAlchemy writes it: `2026-05-01 07:25:09.123456`.
    pub fn to_sql_text(self) -> String {
        self.to_naive().format("%Y-%m-%d %H:%M:%S%.6f").to_string()
    }

    /// Parses what databases and people write: `2026-05-01 07:25:09[.123456]`, the same with `T` or with an offset as
    /// PostgreSQL prints it (`+00`, `+05:30`), and RFC 3339. A value without an offset is UTC. `None` if the text is none of
    /// these, or its year in UTC is not in 0001 to 9999.
    pub fn parse(text: &str) -> Option<Self> {
        let with_offset = DateTime::parse_from_rfc3339(text)
            .or_else(|_| DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f%#z"));
        let micros = match with_offset {
            Ok(with_offset) => with_offset.timestamp_micros(),
            Err(_) => ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f"]
                .iter()
                .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())?
                .and_utc()
                .timestamp_micros(),
        };
        (Self::MIN.0..=Self::MAX.0).contains(&micros).then_some(Self(micros))
    }

    /// This moment, `span` later; `Timestamp::MAX` at the latest.
    pub fn after(self, span: Duration) -> Self {
        Self::from_micros(self.0.saturating_add(micros(span)))
    }

    /// This moment, `span` earlier; [`Timestamp::MIN`] at the earliest.
    pub fn before(self, span: Duration) -> Self {
        Self::from_micros(self.0.saturating_sub(micros(span)))
    }

    /// The time from `earlier` to this moment; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The same moment, truncated to the second as by a column of whole seconds.
    pub fn whole_second(self) -> Self {
        Self(self.0.div_euclid(1_000_000) * 1_000_000)
    }
}

/// The time since the host was started, which runs on while the host sleeps, and never goes back.
pub(crate) fn since_boot() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

/// A duration for people: whole seconds, or milliseconds below one second.
pub(crate) fn humanize(span: Duration) -> humantime::FormattedDuration {
    let millis = Duration::from_millis(u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
    let is_short = span < Duration::from_secs(1);
    humantime::format_duration(if is_short { millis } else { Duration::from_secs(span.as_secs()) })
}

/// How far a stamp may be ahead without a word: the delays of replies, and columns of whole seconds, which round up.
const SLIGHTLY: Duration = Duration::from_secs(1);

/// How long ago `then` was; or that it is in the future, and how far: the clock that gave it may be ahead of the one that
/// gave `now`. `told` writes a duration.
pub(crate) fn age<T: fmt::Display>(
    now: Timestamp,
    then: Timestamp,
    told: impl FnOnce(Duration) -> T,
) -> String {
    let ahead = then.since(now);
    if ahead > SLIGHTLY {
        return format!("in the future: {} ahead of this clock", told(ahead));
    }
    format!("{} ago", told(now.since(then)))
}

impl Timestamp {
    /// What [`fmt::Display`] writes, in ASCII.
    pub(crate) fn to_ascii(self) -> [u8; 27] {
        let time = self.to_naive();
        let year = time.year().unsigned_abs();
        // A snapshot contains many times, and a format string would be parsed for each.
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
        text
    }
}

/// RFC 3339, UTC, microseconds, `Z`.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.to_ascii()).map_err(|_| fmt::Error)?)
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
    /// The current time. May step in either direction between two calls.
    fn now(&self) -> Timestamp;
}

/// A clock that the parts of a daemon share.
pub type SharedClock = Arc<dyn Clock>;

/// The host's clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that asks")]
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(chrono::Utc::now().timestamp_micros())
    }
}

/// A clock that only moves when a test sets it.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// A clock that shows `now`.
    pub fn at(now: Timestamp) -> Self {
        Self(AtomicI64::new(now.0))
    }

    /// Sets the time, forwards or backwards.
    pub fn set(&self, now: Timestamp) {
        self.0.store(now.0, Ordering::SeqCst);
    }

    /// Moves the clock forwards.
    pub fn advance(&self, span: Duration) {
        self.0.fetch_add(micros(span), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::SeqCst))
    }
}

/// Stamps that rise strictly, even if the clock stands still or steps back by less than [`RisingStamp::REACH`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct RisingStamp(Timestamp);

impl Default for RisingStamp {
    fn default() -> Self {
        Self(Timestamp::MIN)
    }
}

impl RisingStamp {
    /// How far in the future a stamp may be that later stamps must exceed.
    ///
    /// A later stamp does not come from a clock: it is a typing error, or a 9999 that means "never". If every stamp
    /// had to exceed it, all would be as late, until no database accepts another. Nothing is lost without that:
    /// workers compare contents, and their window reaches below the database's clock whatever stamps they found.
    pub(crate) const REACH: Duration = Duration::from_secs(86_400);

    /// Makes every later stamp greater than `seen`, a stamp in a table, unless that is beyond [`RisingStamp::REACH`]
    /// at `now`.
    pub(crate) fn rise_above(&mut self, seen: Timestamp, now: Timestamp) {
        if seen <= now.after(Self::REACH) {
            self.0 = self.0.max(seen);
        }
    }

    /// The next stamp: `now`, or the smallest stamp after the last one if that is not earlier, unless the last one is
    /// beyond [`RisingStamp::REACH`].
    pub(crate) fn next(&mut self, now: Timestamp) -> Timestamp {
        let last = self.0;
        self.0 = now;
        if last <= now.after(Self::REACH) {
            self.0 = now.max(last.after(Duration::from_micros(1)));
        }
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
            "2026-05-01 07:25:09.123456+00",
            "2026-05-01 12:55:09.123456+05:30",
        ] {
            assert_eq!(Timestamp::parse(text), Some(expected), "{text}");
        }
        assert_eq!(expected.to_string(), "2026-05-01T07:25:09.123456Z");
        assert_eq!(expected.to_sql_text(), "2026-05-01 07:25:09.123456");
        assert_eq!(Timestamp::parse("yesterday"), None);
    }

    #[test]
    fn a_year_that_not_every_reader_takes_is_no_time() {
        for text in [
            "+10000-01-01 00:00:00",
            "+294246-01-01T00:00:00",
            "0000-12-31 23:59:59",
            "-0001-01-01 00:00:00",
            "9999-12-31T23:59:59-01:00",
            "0001-01-01T00:00:00+01:00",
        ] {
            assert_eq!(Timestamp::parse(text), None, "{text}");
            assert!(serde_json::from_value::<Timestamp>(text.into()).is_err(), "{text}");
        }
        assert_eq!(Timestamp::parse("0001-01-01 00:00:00"), Some(Timestamp::MIN));
        assert_eq!(Timestamp::parse("9999-12-31 23:59:59.999999"), Some(Timestamp::MAX));
    }

    #[test]
    fn no_arithmetic_leaves_the_years_that_a_table_holds() {
        let now = Timestamp::from_micros(1_777_620_309_123_456);
        for span in [Duration::from_secs(300_000 * 31_557_600), Duration::MAX] {
            assert_eq!(now.after(span).to_string(), "9999-12-31T23:59:59.999999Z");
            assert_eq!(now.before(span).to_string(), "0001-01-01T00:00:00.000000Z");
        }
        assert_eq!(Timestamp::from_micros(i64::MAX).to_sql_text(), "9999-12-31 23:59:59.999999");
        assert_eq!(Timestamp::from_micros(i64::MIN), Timestamp::MIN);
    }

    proptest::proptest! {
        #[test]
        fn a_timestamp_is_written_as_chrono_writes_it(micros in Timestamp::MIN.0..=Timestamp::MAX.0) {
            let timestamp = Timestamp::from_micros(micros);
            let expected = timestamp.to_naive().format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
            proptest::prop_assert_eq!(timestamp.to_string(), expected);
        }
    }

    #[test]
    fn a_span_below_a_second_is_not_told_as_none() {
        let told = |millis| humanize(Duration::from_millis(millis)).to_string();
        assert_eq!([told(7), told(999), told(1_999), told(3_661_500)], ["7ms", "999ms", "1s", "1h 1m 1s"]);
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
        stamp.rise_above(Timestamp::from_micros(5_000), Timestamp::from_micros(2_000));
        assert_eq!(stamp.next(Timestamp::from_micros(2_000)).as_micros(), 5_001);
    }

    #[test]
    fn a_stamp_that_is_no_clocks_carries_no_other_along() {
        let now = Timestamp::from_micros(1_777_620_309_123_456);
        let mut stamp = RisingStamp::default();
        stamp.rise_above(now.after(RisingStamp::REACH), now);
        stamp.rise_above(Timestamp::MAX, now);
        let risen = stamp.next(now);
        assert_eq!(risen.since(now), RisingStamp::REACH + Duration::from_micros(1));
        // A clock that was set years ahead, and back again.
        stamp.next(Timestamp::MAX);
        assert_eq!(stamp.next(now), now);
        assert!(stamp.next(now) > now);
    }
}

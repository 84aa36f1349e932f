//! Times of a manifest.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::clock::Timestamp;

/// A time in UTC in whole seconds, `2026-11-27T08:00:00Z`: the version of a release, or when it expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReleaseTime(Timestamp);

impl ReleaseTime {
    /// The second of `time`.
    pub(crate) fn from_timestamp(time: Timestamp) -> Self {
        Self(time.whole_second())
    }

    /// The moment at which this second begins.
    pub(crate) const fn timestamp(self) -> Timestamp {
        self.0
    }

    /// This time, `span` later; the last second of the year 9999 at the latest.
    pub(crate) fn after(self, span: Duration) -> Self {
        Self::from_timestamp(self.0.after(span))
    }

    /// Parses exactly the form that [`fmt::Display`] writes; `None` for any other.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let time = Self(Timestamp::parse(text)?);
        (time.to_string() == text).then_some(time)
    }
}

impl fmt::Display for ReleaseTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        write!(f, "{}Z", text.split('.').next().unwrap_or_default())
    }
}

impl std::str::FromStr for ReleaseTime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text).ok_or_else(|| "expected a time in UTC such as 2026-11-27T08:00:00Z".to_owned())
    }
}

impl Serialize for ReleaseTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

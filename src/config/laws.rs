//! What must be true of any text of a unit or a time.

use super::units::{Percent, duration, mode, show_size, size};
use crate::clock::Timestamp;
use crate::trust::ReleaseTime;

/// Durations, sizes, shares, modes and times: what is accepted is read again as it is written.
pub fn unit(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let mut errors = Vec::new();
    let mut accepted = 0;
    let mut note = |read: Result<(), String>| match read {
        Ok(()) => accepted += 1,
        Err(error) => errors.push(error),
    };
    note(duration(text).map(|span| {
        assert_eq!(duration(&humantime::format_duration(span).to_string()), Ok(span));
    }));
    note(size(text).map(|bytes| assert_eq!(size(&show_size(bytes)), Ok(bytes))));
    note(Percent::parse(text).map(|share| {
        assert_eq!(Percent::parse(&share.to_string()), Ok(share));
        assert!(share.of(1_000) <= 1_000 && !share.is_exceeded_by(0, 1_000));
    }));
    note(mode(text).map(|mode| assert!(mode <= 0o777)));
    for error in errors {
        assert!(error.len() < text.len() + 200, "{error}");
    }
    if let Some(time) = Timestamp::parse(text) {
        accepted += 1;
        assert_eq!(Timestamp::parse(&time.to_string()), Some(time));
        assert_eq!(Timestamp::parse(&time.to_sql_text()), Some(time));
        assert!((Timestamp::MIN..=Timestamp::MAX).contains(&time));
    }
    if let Ok(time) = text.parse::<ReleaseTime>() {
        assert_eq!(time.to_string(), text);
        assert_eq!(Timestamp::parse(text), Some(time.timestamp()));
    }
    accepted > 0
}

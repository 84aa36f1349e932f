//! What must be true of any bytes from a server.

use super::frames::{FrameRules, Inspection, Violation};
use super::mysql::MySql;
use super::postgres::Postgres;

/// The bytes that passed, and the violation that ended them.
pub(super) type Passed = (Vec<u8>, Option<Violation>);

/// The bytes that pass when these pieces arrive.
pub(super) fn passed(rules: impl FrameRules, asked: &[u8], bytes: &[u8], pieces: &[usize]) -> Passed {
    let (mut inspection, mut passed) = (Inspection::new(rules), Vec::new());
    assert!(inspection.driver_sent(asked).is_ok());
    let (mut rest, mut pieces) = (bytes, pieces.iter().cycle());
    while !rest.is_empty() {
        let (now, later) = rest.split_at(rest.len().min(pieces.next().copied().unwrap_or(1)));
        if let Err(violation) = inspection.server_sent(now, &mut passed) {
            return (passed, Some(violation));
        }
        rest = later;
    }
    (passed, None)
}

pub(super) fn packet(number: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes();
    [&length[..3], &[number], payload].concat()
}

/// A query of MySQL.
pub(super) fn query() -> Vec<u8> {
    packet(0, b"\x03SELECT 1")
}

/// A beginning of `due` passes, and the pieces make no difference.
fn is_passed(bytes: &[u8], due: &[u8], pass: &dyn Fn(&[usize]) -> Passed) -> bool {
    let whole = pass(&[bytes.len().max(1)]);
    assert!(due.starts_with(&whole.0));
    for pieces in [&[1][..], &[3, 7]] {
        assert_eq!(pass(pieces), whole, "in pieces of {pieces:?}");
    }
    whole.1.is_none()
}

/// The messages of PostgreSQL without the notifications, which the relay keeps.
pub(super) fn without_notifications(mut bytes: &[u8]) -> Vec<u8> {
    let mut others = Vec::new();
    while let [kind, a, b, c, d, ..] = *bytes {
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        let (message, rest) = bytes.split_at(length.saturating_add(1).clamp(5, bytes.len()));
        if kind != b'A' {
            others.extend_from_slice(message);
        }
        bytes = rest;
    }
    others.extend_from_slice(bytes);
    others
}

/// What a server of PostgreSQL's protocol sends after the login.
pub fn postgresql(bytes: &[u8]) -> bool {
    is_passed(bytes, &without_notifications(bytes), &|pieces| {
        passed(Postgres::new(false), b"", bytes, pieces)
    })
}

/// What a server of MySQL's protocol answers to a query.
pub fn mysql(bytes: &[u8]) -> bool {
    is_passed(bytes, bytes, &|pieces| passed(MySql::new(true), &query(), bytes, pieces))
}

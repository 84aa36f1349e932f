//! What must be true of any file of a cache.

use super::format::{self, Trailer};
use crate::rule::ContentDigest;
use crate::wire::encode;

/// A cache: only a whole file is read, whether its checksum is right as it is or is made right.
pub fn cache(bytes: &[u8]) -> bool {
    is_read(&sealed(bytes));
    is_read(bytes)
}

/// These lines, with their checksum.
pub(super) fn sealed(body: &[u8]) -> Vec<u8> {
    let mut bytes = body.to_vec();
    encode::line(&mut bytes, &Trailer { sha256: ContentDigest::of(body) });
    bytes
}

fn is_read(bytes: &[u8]) -> bool {
    let cached = match format::read(bytes) {
        Ok(cached) => cached,
        Err(unusable) => {
            assert!(unusable.to_string().len() < 1_024, "{unusable}");
            return false;
        }
    };
    let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
    let Some((trailer, body)) = lines.split_last() else { return false };
    assert_eq!(cached.delta.rules.len() + cached.delta.states.len() + 1, body.len());
    let digest = ContentDigest::of(body.concat()).to_string();
    assert!(std::str::from_utf8(trailer).is_ok_and(|trailer| trailer.contains(&digest)));
    for rule in cached.delta.rules.into_iter().flatten() {
        assert!(rule.definition().is_ok_and(|definition| definition.rule_id == rule.header.rule_id));
    }
    true
}

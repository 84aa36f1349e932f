//! The floor: the newest manifest that came into force, on disk, so that no older one is accepted after a restart.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::rulefile;
use crate::trust::{Gate, MAX_MANIFEST, MAX_SIGNATURE, MAX_SIGNATURES, Policy};

/// The most bytes of the file: a manifest and its signatures.
const LONGEST: usize = MAX_MANIFEST + MAX_SIGNATURES * (MAX_SIGNATURE + 1);

/// How many lines a manifest has; the signatures follow them.
const MANIFEST_LINES: usize = 6;

/// The path of the floor beside the cache.
pub(super) fn path(cache: &Path) -> PathBuf {
    rulefile::with_suffix(cache, "floor")
}

/// A gate above the floor that an earlier run saved, if it can be read.
pub(super) fn gate(policy: Policy, cache: &Path) -> Gate {
    let path = path(cache);
    let text = match rulefile::read(&path, LONGEST) {
        Ok(text) => String::from_utf8_lossy(&text).into_owned(),
        Err(rulefile::ReadError::Absent) => return Gate::new(policy, None),
        Err(error) => {
            let error = match error {
                rulefile::ReadError::TooLarge { .. } => {
                    format!("it is larger than any release's manifest and signatures, {LONGEST} bytes")
                }
                error => error.to_string(),
            };
            tracing::error!(
                "{} cannot be read: {error}; until a release comes into force, an older one than before is accepted",
                path.display()
            );
            return Gate::new(policy, None);
        }
    };
    let end = text.match_indices('\n').nth(MANIFEST_LINES - 1).map_or(text.len(), |(end, _)| end + 1);
    let (manifest, signatures) = text.split_at(end);
    let gate = Gate::new(policy, Some((manifest.as_bytes(), signatures)));
    if !gate.has_floor() {
        tracing::warn!(
            "{} has no release that the listed keys signed: it is damaged or of a newer version, or their lines were removed; until a \
             release comes into force, an older one than before is accepted, unless `trust.min_version` says otherwise",
            path.display()
        );
    }
    gate
}

/// Saves the floor, and returns once it is on the disk.
pub(super) fn save(path: &Path, floor: &str) -> io::Result<()> {
    rulefile::replace(path, |mut file| file.write_all(floor.as_bytes()))
}

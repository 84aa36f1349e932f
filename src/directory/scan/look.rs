//! What a scan sees under one name.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::super::read::Found;
use super::super::scanned::ScannedFile;
use super::super::scope::ScanScope;
use super::super::stamp::Stamp;
use super::{Scanner, Unsettled};
use crate::clock::Timestamp;
use crate::rulefile::OpenDirectory;

/// Texts are kept from scan to write up to this many bytes in all; others are read again when they are written.
const TEXT_CACHE_BYTES: usize = 16 << 20;

/// How long an empty file counts as one that is being written.
pub(super) const EMPTY_FOR: Duration = Duration::from_secs(5);

/// What a scan sees under a name.
pub(super) enum Seen {
    /// The file as it was read.
    AsRead,
    Gone,
    /// A file with this stamp, and its text; `None` if it is still being written.
    There(Unsettled, Option<Found>),
}

/// One scan, for each of its looks.
pub(super) struct Scan<'a> {
    pub(super) scope: &'a ScanScope,
    /// Files that are being written, according to events.
    pub(super) unfinished: &'a BTreeSet<String>,
    pub(super) now: Timestamp,
    /// The directory, where every file of it is read.
    pub(super) opened: Option<OpenDirectory>,
    /// How many bytes of texts are kept for writing.
    pub(super) kept: AtomicUsize,
}

impl Scanner {
    /// Looks at one name.
    pub(super) fn look(&self, name: &str, scan: &Scan<'_>) -> Seen {
        let now = scan.now;
        let has_events = scan.unfinished.contains(name);
        let known = self.files.get(name);
        let is_as_read = |stamp| known.is_some_and(|known| known.is_settled && known.stamp == Some(stamp));
        if let (Some(opened), Some(known), false) = (&scan.opened, known, has_events)
            && let Some(stamp) = self.reader.stamp_if_unchanged(opened, name, known)
        {
            let is_settled = stamp.settles_in(now).is_none();
            return match is_as_read(stamp) {
                true => Seen::AsRead,
                false => Seen::There(Some(stamp), Some(Found::Known { stamp, is_settled })),
            };
        }
        let stamp = match self.reader.stamp(name) {
            None => return Seen::Gone,
            Some(Ok(stamp)) if *scan.scope == ScanScope::All && is_as_read(stamp) => return Seen::AsRead,
            Some(stamp) => stamp,
        };
        let is_unfinished =
            has_events || matches!(&stamp, Ok(stamp) if stamp.is_empty && stamp.age(now) < EMPTY_FOR);
        let stamped = stamp.as_ref().ok().copied();
        Seen::There(stamped, (!is_unfinished).then(|| self.read(name, stamp, known, scan)))
    }

    fn read(
        &self,
        name: &str,
        stamp: io::Result<Stamp>,
        known: Option<&ScannedFile>,
        scan: &Scan<'_>,
    ) -> Found {
        let mut found = self.reader.read(name, stamp, known, scan.now);
        if let Found::File(scanned) = &mut found {
            let text = scanned.text.take();
            let is_kept = |bytes| scan.kept.fetch_add(bytes, Ordering::Relaxed) < TEXT_CACHE_BYTES;
            scanned.text = text.filter(|text| is_kept(text.len()));
        }
        found
    }
}

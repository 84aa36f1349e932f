//! Reads the history, whoever wrote into its files.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::{HistoryRecord, LONGEST_LINE, MAX_BYTES, older};
use crate::rulefile::{self, ReadError};

/// Why a history was not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HistoryError {
    /// There is none.
    #[error("there is no such file")]
    Absent,
    /// It cannot be read, or a record could not be passed on.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads the records, the oldest first, and passes each to `each`, which can end it with an error. Returns how many lines
/// are no records. A torn last line is none of them: the worker may be writing it.
///
/// # Errors
/// [`HistoryError`].
pub(crate) fn read(
    path: &Path,
    mut each: impl FnMut(HistoryRecord) -> io::Result<()>,
) -> Result<u64, HistoryError> {
    // The newer file is opened first: if the worker renames it meanwhile, it is the older one, too.
    let newer = open(path)?;
    let older = open(&older(path))?;
    let identity = |file: &File| file.metadata().map(|metadata| (metadata.dev(), metadata.ino()));
    let files = match (older, newer) {
        (None, None) => return Err(HistoryError::Absent),
        (Some(older), Some(newer)) if identity(&older)? == identity(&newer)? => vec![newer],
        (older, newer) => older.into_iter().chain(newer).collect(),
    };
    let mut unreadable = 0;
    for file in files {
        unreadable += read_lines(BufReader::new(file.take(MAX_BYTES)), &mut each)?;
    }
    Ok(unreadable)
}

/// Passes on the records in the last `bytes` of the newer file, the oldest first.
///
/// # Errors
/// The file exists and cannot be read.
pub(super) fn newest(
    path: &Path,
    bytes: u64,
    mut each: impl FnMut(HistoryRecord) -> io::Result<()>,
) -> io::Result<()> {
    let Some(mut file) = open(path)? else { return Ok(()) };
    let size = file.metadata()?.len();
    // The first line may lack its beginning, and is then no record.
    file.seek(SeekFrom::Start(size.saturating_sub(bytes)))?;
    read_lines(BufReader::new(file.take(bytes)), &mut each).map(drop)
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match rulefile::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(ReadError::Absent) => Ok(None),
        Err(error) => Err(error.into_io()),
    }
}

fn read_lines(
    mut lines: impl BufRead,
    each: &mut impl FnMut(HistoryRecord) -> io::Result<()>,
) -> io::Result<u64> {
    let (mut line, mut unreadable, mut is_rest) = (Vec::new(), 0, false);
    loop {
        line.clear();
        lines.by_ref().take(LONGEST_LINE as u64).read_until(b'\n', &mut line)?;
        let is_whole = line.last() == Some(&b'\n');
        if !is_whole && line.len() < LONGEST_LINE {
            return Ok(unreadable);
        }
        match serde_json::from_slice(&line) {
            // The end of a line that is too long.
            _ if is_rest => {}
            Ok(record) if is_whole => each(record)?,
            _ => unreadable += 1,
        }
        is_rest = !is_whole;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(rule_id: &str) -> String {
        format!(
            r#"{{"emitted_at":"2026-05-01T07:25:09.123456Z","epoch":"e","kind":"deleted","seq":1,"rule_id":"{rule_id}"}}"#
        )
    }

    #[test]
    fn what_is_no_record_is_counted_and_a_torn_last_line_is_not() {
        let long = "x".repeat(3 * LONGEST_LINE);
        let text = format!(
            "{}\n{{\n\n{long}\n{}\n\u{0}\n{}\n{}",
            record("A"),
            record("B"),
            record("C"),
            &record("D")[..40]
        );
        let mut found = Vec::new();
        let unreadable = read_lines(text.as_bytes(), &mut |record| {
            found.push(record.event.rule_id().unwrap().to_string());
            Ok(())
        });
        assert_eq!((unreadable.unwrap(), found), (4, vec!["A".to_owned(), "B".to_owned(), "C".to_owned()]));
    }
}

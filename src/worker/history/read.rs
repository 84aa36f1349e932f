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
        if !is_rest {
            // A line that is too long is no record, and its end is counted with it.
            let is_clean = is_whole && records_of(&line, each)?;
            unreadable += u64::from(!is_clean);
        }
        is_rest = !is_whole;
    }
}

/// Passes on the records of a line, and returns whether it is nothing else. It has several where a host crashed: blocks
/// that were never written are zero, and with them the ends of lines.
fn records_of(line: &[u8], each: &mut impl FnMut(HistoryRecord) -> io::Result<()>) -> io::Result<bool> {
    let mut is_clean = true;
    for piece in line.split(|byte| *byte == 0) {
        match serde_json::from_slice(piece) {
            Ok(record) => each(record)?,
            Err(_) => is_clean = false,
        }
    }
    Ok(is_clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(rule_id: &str) -> String {
        format!(
            r#"{{"emitted_at":"2026-05-01T07:25:09.123456Z","epoch":"e","kind":"deleted","seq":1,"rule_id":"{rule_id}"}}"#
        )
    }

    fn ids(path: &Path) -> Vec<String> {
        let mut ids = Vec::new();
        read(path, |record| {
            ids.push(record.event.rule_id().unwrap().to_string());
            Ok(())
        })
        .unwrap();
        ids
    }

    /// What a host that loses its power leaves: the file ends anywhere, or blocks of it were never written. Each line that
    /// is whole is read, and so is what the next run adds.
    #[test]
    fn after_a_crash_of_the_host_every_whole_record_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let names: Vec<String> =
            (0..12).map(|number| format!("R{number}{}", "x".repeat(9 * number))).collect();
        let lines: Vec<String> = names.iter().map(|name| record(name) + "\n").collect();
        let text = lines.concat().into_bytes();
        let after_crash = |damaged: &[u8], lost: std::ops::Range<usize>| {
            std::fs::write(&path, damaged).unwrap();
            let next = record("next") + "\n";
            super::super::file::HistoryFile::new(path.clone(), MAX_BYTES).append(next.as_bytes()).unwrap();
            let mut end = 0;
            let is_whole = |line: &String| {
                let start = end;
                end += line.len();
                // The end of a line may be lost: zeros end it, too.
                start >= lost.end || start + line.len() - 1 <= lost.start
            };
            let whole: Vec<bool> = lines.iter().map(is_whole).collect();
            let expected = names.iter().zip(whole).filter(|(_, is_whole)| *is_whole).map(|(name, _)| &**name);
            let expected: Vec<&str> = expected.chain(["next"]).collect();
            assert_eq!(ids(&path), expected, "lost {lost:?}");
        };
        for end in (0..text.len()).step_by(3) {
            after_crash(&text[..end], end..text.len());
        }
        for (block, step) in [(1, 3), (512, 64)] {
            for start in (0..text.len()).step_by(step) {
                let lost = start..(start + block).min(text.len());
                let mut damaged = text.clone();
                damaged[lost.clone()].fill(0);
                after_crash(&damaged, lost);
            }
        }
        // The size reached the disk, and nothing of the rest.
        let longer = [&text[..], &vec![0; 3 * LONGEST_LINE]].concat();
        after_crash(&longer, text.len()..longer.len());
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

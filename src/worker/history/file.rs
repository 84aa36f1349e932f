//! The file of the history: it grows by whole lines up to half of the limit, and then becomes the older of two files.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use super::older;
use crate::rulefile;

/// A file of lines that is bounded together with its older part.
#[derive(Debug)]
pub(super) struct HistoryFile {
    path: PathBuf,
    max_bytes: u64,
    /// The open file and its size; `None` before the first write and after one that failed.
    open: Option<(File, u64)>,
}

impl HistoryFile {
    /// The file at `path`, which together with its older part has at most `max_bytes`.
    pub(super) const fn new(path: PathBuf, max_bytes: u64) -> Self {
        Self { path, max_bytes, open: None }
    }

    /// Appends lines, all of them or none: at most half of the limit. Creates the file even if there are no lines.
    ///
    /// # Errors
    /// The file cannot be opened, renamed or written; the lines can be appended again later.
    pub(super) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let half = self.max_bytes / 2;
        let (mut file, mut size) = self.open()?;
        if size > 0 && size + lines.len() as u64 > half {
            drop(file);
            std::fs::rename(&self.path, older(&self.path))?;
            (file, size) = self.open()?;
        }
        if let Err(error) = file.write_all(lines) {
            // Without this, the part that was written would be written again. It may fail: a torn line is not read.
            let _ = file.set_len(size);
            return Err(error);
        }
        self.open = Some((file, size + lines.len() as u64));
        Ok(())
    }

    /// The open file, unless another one or none has its name by now; else opens it. It then ends with a whole line.
    fn open(&mut self) -> io::Result<(File, u64)> {
        if let Some((file, size)) = self.open.take()
            && let Ok(named) = std::fs::metadata(&self.path)
            && let Ok(opened) = file.metadata()
            && (named.dev(), named.ino()) == (opened.dev(), opened.ino())
        {
            return Ok((file, size));
        }
        let mut options = OpenOptions::new();
        let options = options.read(true).append(true).create(true).mode(0o640);
        let mut file = rulefile::open_to_write(&self.path, options)?;
        let mut size = file.metadata()?.len();
        let mut last = [b'\n'];
        if size > 0 {
            file.read_exact_at(&mut last, size - 1)?;
        }
        if last != *b"\n" {
            // An earlier run was killed while it wrote.
            file.write_all(b"\n")?;
            size += 1;
        }
        Ok((file, size))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn two_files_of_whole_lines_stay_within_the_limit_and_have_the_newest() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut file = HistoryFile::new(path.clone(), 1_000);
        for number in 0..500 {
            if number % 7 == 0 {
                // Another run.
                file = HistoryFile::new(path.clone(), 1_000);
            }
            file.append(format!("line {number}\n").as_bytes()).unwrap();
            let read = |path| fs::read_to_string(path).unwrap_or_default();
            let text = read(older(&path)) + &read(path.clone());
            assert!(text.len() <= 1_000, "{} bytes after {number}", text.len());
            let lines: Vec<&str> = text.lines().collect();
            let expected: Vec<String> =
                (number + 1 - lines.len()..=number).map(|number| format!("line {number}")).collect();
            assert_eq!(lines, expected);
            assert!(lines.len() >= 40 || lines.len() == number + 1, "{} lines after {number}", lines.len());
        }
    }

    #[test]
    fn a_torn_line_ends_before_the_next_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        fs::write(&path, "whole\nto").unwrap();
        HistoryFile::new(path.clone(), 1_000).append(b"next\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "whole\nto\nnext\n");
    }

    #[test]
    fn a_file_that_somebody_removes_or_replaces_is_begun_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut file = HistoryFile::new(path.clone(), 1_000);
        file.append(b"first\n").unwrap();
        fs::remove_file(&path).unwrap();
        file.append(b"second\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "second\n");
        fs::write(directory.path().join("other"), "other\n").unwrap();
        fs::rename(directory.path().join("other"), &path).unwrap();
        file.append(b"third\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "other\nthird\n");
    }

    #[test]
    fn what_is_no_file_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        fs::create_dir(&path).unwrap();
        let error = HistoryFile::new(path.clone(), 1_000).append(b"line\n").unwrap_err();
        assert_eq!(error.to_string(), "it is a directory, not a file");
        assert!(path.is_dir());
    }
}

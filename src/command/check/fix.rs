//! `check --fix`: applies mechanical fixes to the files.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use similar::{ChangeTag, TextDiff};

use super::files::{Target, Text};
use crate::paint::{Paint, sanitize};
use crate::rule::{self, Limits};

/// A file that can be fixed.
#[derive(Debug)]
pub(super) struct Fix {
    pub(super) path: PathBuf,
    before: Vec<u8>,
    after: Vec<u8>,
}

/// The fixes for the files; the check reports files that cannot be read.
pub(super) fn fixes(targets: &[Target], limits: &Limits) -> impl Iterator<Item = Fix> {
    targets.iter().filter_map(|target| fix(target, limits).ok()?)
}

/// The fix for a file; `None` if there is nothing to fix.
///
/// # Errors
/// A sentence with the path, which cannot be read.
pub(super) fn fix(target: &Target, limits: &Limits) -> Result<Option<Fix>, String> {
    let before = match target.text(limits.size) {
        Text::Read(before) => before,
        Text::TooLarge(_) | Text::PassedOver => return Ok(None),
        Text::Unreadable(reason) => return Err(format!("{}: {reason}", target.path.display())),
    };
    let fixed = rule::fix(&before, limits);
    Ok(fixed.map(|after| Fix { path: target.path.clone(), before, after }))
}

impl Fix {
    /// Replaces the file atomically: another program reads the old text or the new one. Keeps mode, owner, and a
    /// symbolic link.
    ///
    /// # Errors
    /// The file cannot be written, or was changed since it was read.
    pub(super) fn write(&self) -> anyhow::Result<()> {
        self.replace().with_context(|| format!("{} cannot be fixed", self.path.display()))
    }

    fn replace(&self) -> anyhow::Result<()> {
        let path = self.path.canonicalize()?;
        let metadata = path.metadata()?;
        // No master reads a file with this name.
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let beside = path.with_file_name(format!(".{name}.{}.new", std::process::id()));
        let written = fill(&beside, &self.after, &metadata).and_then(|()| {
            if std::fs::read(&path)? != self.before {
                return Err(io::Error::other("it was changed since it was read"));
            }
            std::fs::rename(&beside, &path)
        });
        if written.is_err() {
            let _ = std::fs::remove_file(&beside);
        }
        Ok(written?)
    }

    /// The difference, as `diff -u` shows it.
    pub(super) fn diff(&self) -> String {
        let [before, after] = [&self.before, &self.after].map(|text| String::from_utf8_lossy(text));
        let path = sanitize(&self.path.to_string_lossy()).into_owned();
        let diff = TextDiff::configure().newline_terminated(true).diff_lines(&*before, &*after);
        let mut out = format!("{}\n", Paint::Bold.on(format!("--- {path}\n+++ {path}")));
        for hunk in diff.unified_diff().context_radius(3).iter_hunks() {
            out += &format!("{}\n", hunk.header());
            for change in hunk.iter_changes() {
                let line = line(change.value());
                out += &match change.tag() {
                    ChangeTag::Equal => format!(" {line}\n"),
                    ChangeTag::Delete => Paint::Bad.on(format!("-{line}")) + "\n",
                    ChangeTag::Insert => Paint::Good.on(format!("+{line}")) + "\n",
                };
            }
        }
        out
    }
}

fn fill(path: &Path, text: &[u8], like: &Metadata) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text)?;
    keep_owner(&file, like)?;
    file.set_permissions(like.permissions())?;
    file.sync_all()
}

/// Only root can change a file's owner; another user's file is then left unchanged.
fn keep_owner(file: &File, like: &Metadata) -> io::Result<()> {
    let now = file.metadata()?;
    if (now.uid(), now.gid()) == (like.uid(), like.gid()) {
        return Ok(());
    }
    fchown(file, Some(like.uid()), Some(like.gid()))
}

/// A line of a file, with its line end and tabs shown if they are fixed.
fn line(text: &str) -> String {
    let text = text.strip_suffix('\n').unwrap_or(text).replace('\u{feff}', "<U+FEFF>");
    text.split('\t')
        .map(|part| part.split('\r').map(sanitize).collect::<Vec<_>>().join("^M"))
        .collect::<Vec<_>>()
        .join("\t")
}

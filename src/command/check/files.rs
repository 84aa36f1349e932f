//! Finds the files to check from the paths of the command line.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::command::reading::Reading;
use crate::rulefile::{self, LinkPolicy, Listing, ReadError};

/// A path to check.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) path: PathBuf,
    /// Whether a master would take it for a rule, by its name and place.
    pub(super) is_named: bool,
    source: Source,
}

/// Where the text of a path is.
#[derive(Debug)]
enum Source {
    /// In the file, which is read as the master of its directory would read it.
    File(Arc<LinkPolicy>),
    /// It was read: what the caller opened can be read once.
    Passed(Vec<u8>),
    /// Nowhere: a YAML file in or below a directory that its master does not read.
    PassedOver,
    /// The path cannot be read; why.
    Unreadable(String),
}

/// What was read of a path.
pub(super) enum Text {
    Read(Vec<u8>),
    /// Larger than a rule may be; why.
    TooLarge(String),
    /// The master does not read it.
    PassedOver,
    Unreadable(String),
}

impl Target {
    fn new(path: PathBuf, source: Source) -> Self {
        let is_named = path.file_name().is_some_and(rulefile::is_rule_file_name);
        Self { path, is_named, source }
    }

    /// Its text, of at most `size` bytes.
    pub(super) fn text(&self, size: usize) -> Text {
        let read = match &self.source {
            Source::File(policy) => rulefile::read_within(&self.path, size, policy),
            Source::Passed(text) => Ok(text.clone()),
            Source::PassedOver => return Text::PassedOver,
            Source::Unreadable(reason) => return Text::Unreadable(reason.clone()),
        };
        match read {
            Ok(text) => Text::Read(text),
            Err(error @ ReadError::TooLarge { .. }) => Text::TooLarge(error.to_string()),
            Err(error) => Text::Unreadable(error.to_string()),
        }
    }
}

/// Whether a path leads to what the caller has opened: to standard input, or to another descriptor, as that of a
/// shell's `<(…)`.
pub(super) fn is_passed(path: &Path) -> bool {
    let is_descriptor =
        |parent: &Path| parent == Path::new("/dev/fd") || parent == Path::new("/proc/self/fd");
    is_stdin(path) || path.parent().is_some_and(is_descriptor)
}

/// Whether a path is standard input.
pub(super) fn is_stdin(path: &Path) -> bool {
    [DASH, "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"].into_iter().any(|stdin| path == Path::new(stdin))
}

/// The path that is standard input and no file.
const DASH: &str = "-";

/// The files at `paths`, each once: a file itself, from a directory the files that its master would read, in the
/// order of names; standard input under the name `stdin_name`.
pub(super) fn collect(paths: &[PathBuf], stdin_name: Option<&Path>, reading: &Reading) -> Vec<Target> {
    let mut seen = HashSet::new();
    let mut targets = Vec::new();
    for path in paths {
        if is_passed(path) || !path.is_dir() {
            if seen.insert(path.clone()) {
                targets.push(match is_passed(path) {
                    true => passed(path, stdin_name.filter(|_| is_stdin(path)), reading.limits.size),
                    false => {
                        let links = LinkPolicy::beside(path, &reading.follow_links_to);
                        Target::new(path.clone(), Source::File(Arc::new(links)))
                    }
                });
            }
            continue;
        }
        let Listing { rules, passed_over } = match Listing::of(path) {
            Ok(listing) if !(listing.rules.is_empty() && listing.passed_over.is_empty()) => listing,
            unusable => {
                let reason = match unusable {
                    Ok(_) => "no rule in it: a rule's file is named [A-Za-z0-9_]+.yaml or .yml".to_owned(),
                    Err(error) => format!("the directory cannot be read: {error}"),
                };
                targets.push(Target::new(path.clone(), Source::Unreadable(reason)));
                continue;
            }
        };
        let policy = Arc::new(LinkPolicy::new(path, &reading.follow_links_to));
        let files = rules.into_iter().map(|name| path.join(name)).filter(|path| seen.insert(path.clone()));
        targets.extend(files.map(|path| Target::new(path, Source::File(Arc::clone(&policy)))));
        // A folder that is itself on the command line is a rules directory.
        let own: Vec<PathBuf> = paths.iter().flat_map(|path| path.canonicalize()).collect();
        for file in passed_over.iter().map(|name| path.join(name)) {
            let folder = file.parent().filter(|folder| *folder != path.as_path());
            let is_own = folder.and_then(|folder| folder.canonicalize().ok());
            if is_own.is_none_or(|folder| !own.contains(&folder)) {
                targets.push(Target { path: file, is_named: false, source: Source::PassedOver });
            }
        }
    }
    targets
}

/// What the caller opened, up to one byte more than the size limit of a rule; `name` is the name of its file.
fn passed(path: &Path, name: Option<&Path>, limit: usize) -> Target {
    let mut text = Vec::new();
    let most = limit as u64 + 1;
    let read = match is_stdin(path) {
        true => io::stdin().lock().take(most).read_to_end(&mut text),
        false => File::open(path).and_then(|file| file.take(most).read_to_end(&mut text)),
    };
    let source = match read {
        Ok(_) => Source::Passed(text),
        Err(error) => Source::Unreadable(ReadError::from(error).to_string()),
    };
    match name {
        Some(name) => Target::new(name.to_owned(), source),
        None => {
            let path = if path == Path::new(DASH) { Path::new("<stdin>") } else { path };
            Target { path: path.to_owned(), is_named: true, source }
        }
    }
}

//! Finds the files to check from the paths of the command line.

use std::collections::HashSet;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::command::print::print_error;
use crate::config::{Config, Flags, SystemFiles};
use crate::rule::Limits;
use crate::rulefile::{self, LinkPolicy, Listing};

/// A path to check, or the reason why it cannot be checked.
#[derive(Debug)]
pub(super) enum Target {
    /// A file; `named` says whether its name is a rule's.
    File { path: PathBuf, named: bool },
    /// A file of a directory, which is read as its master would read it.
    InDirectory { path: PathBuf, policy: Arc<LinkPolicy> },
    /// A YAML file in or below a directory that its master does not read.
    PassedOver(PathBuf),
    /// Standard input, under the name of a file; `named` says whether the name is a rule's.
    Text { path: PathBuf, text: Vec<u8>, named: bool },
    /// A path that is not a file and cannot be listed.
    Unreadable { path: PathBuf, reason: String },
}

/// How the master that is configured here reads rules; of one that cannot be read the defaults count.
#[derive(Debug, Default)]
pub(super) struct Reading {
    pub(super) limits: Limits,
    follow_links_to: Vec<PathBuf>,
}

impl Reading {
    pub(super) fn as_configured() -> Self {
        let flags = Flags { quiet: true, system_files: SystemFiles::Master, ..Flags::default() };
        match Config::load(&flags) {
            Ok(Config { master, .. }) => Self {
                limits: Limits { size: master.max_rule_size, ..Limits::default() },
                follow_links_to: master.follow_links_to,
            },
            Err(error) => {
                let context = "the master's configuration cannot be read, and its defaults count";
                print_error(&anyhow::Error::from(error).context(context));
                Self::default()
            }
        }
    }
}

/// The default name of standard input.
const STDIN: &str = "<stdin>";

/// The files at `paths`, each once: a file itself, from a directory the files that its master would read, in the
/// order of names; for `-` standard input, under the name `stdin_name`.
///
/// # Errors
/// Standard input cannot be read.
pub(super) fn collect(
    paths: &[PathBuf],
    stdin_name: Option<&Path>,
    reading: &Reading,
) -> io::Result<Vec<Target>> {
    let mut seen = HashSet::new();
    let mut targets = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            if seen.insert(path.clone()) {
                targets.push(stdin(stdin_name, reading.limits.size)?);
            }
            continue;
        }
        if !path.is_dir() {
            let named = path.file_name().is_some_and(rulefile::is_rule_file_name);
            if seen.insert(path.clone()) {
                targets.push(Target::File { path: path.clone(), named });
            }
            continue;
        }
        match Listing::of(path) {
            Ok(Listing { rules, passed_over }) if rules.is_empty() && passed_over.is_empty() => {
                let reason = "no rule in it: a rule's file is named [A-Za-z0-9_]+.yaml or .yml".to_owned();
                targets.push(Target::Unreadable { path: path.clone(), reason });
            }
            Ok(Listing { rules, passed_over }) => {
                let policy = Arc::new(LinkPolicy::new(path, &reading.follow_links_to));
                let files = rules.into_iter().map(|name| path.join(name));
                for path in files.filter(|path| seen.insert(path.clone())) {
                    targets.push(Target::InDirectory { path, policy: Arc::clone(&policy) });
                }
                // A folder that is itself on the command line is a rules directory.
                let own: Vec<PathBuf> = paths.iter().flat_map(|path| path.canonicalize()).collect();
                for file in passed_over.iter().map(|name| path.join(name)) {
                    let folder = file.parent().filter(|folder| *folder != path.as_path());
                    let is_named = folder.and_then(|folder| folder.canonicalize().ok());
                    if is_named.is_none_or(|folder| !own.contains(&folder)) {
                        targets.push(Target::PassedOver(file));
                    }
                }
            }
            Err(error) => {
                let reason = format!("the directory cannot be read: {error}");
                targets.push(Target::Unreadable { path: path.clone(), reason });
            }
        }
    }
    Ok(targets)
}

/// Standard input, up to one byte more than the size limit of a rule.
fn stdin(name: Option<&Path>, limit: usize) -> io::Result<Target> {
    let mut text = Vec::new();
    io::stdin().lock().take(limit as u64 + 1).read_to_end(&mut text)?;
    let named = name.is_none_or(|name| name.file_name().is_some_and(rulefile::is_rule_file_name));
    Ok(Target::Text { path: name.unwrap_or(Path::new(STDIN)).to_owned(), text, named })
}

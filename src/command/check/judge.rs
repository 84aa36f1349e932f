//! Checks every file, on all processors, and then compares the files with each other.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::files::Target;
use super::settings::Settings;
use crate::command::Failure;
use crate::rule::attack::Attack;
use crate::rule::{self, Code, ContentDigest, Diagnostic, Limits, ParsedRule};
use crate::rulefile::{self, ReadError};

/// The result for one path.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Judged {
    pub(super) path: PathBuf,
    /// The file's text, as far as it was read.
    pub(super) text: Vec<u8>,
    /// The findings, in the order of the text.
    pub(super) findings: Vec<Diagnostic>,
    /// Why the path could not be read; then there is no text.
    pub(super) unreadable: Option<String>,
    /// The rule, if it is valid.
    rule: Option<ParsedRule>,
}

/// The rows of the database: version and digest of the text, by folded id.
pub(super) type Rows = HashMap<String, (i64, ContentDigest)>;

/// Checks all files, in order, also against `attack` and `rows`; errors come first, and `settings` determine the
/// level of each finding.
///
/// # Errors
/// [`Failure::Usage`] if settings cannot be read.
pub(super) fn judge_all(
    targets: &[Target],
    attack: &Attack,
    rows: &Rows,
    settings: &mut Settings,
) -> Result<Vec<Judged>, Failure> {
    let mut judged = in_parallel(targets, attack);
    find_duplicates(&mut judged);
    judged.iter_mut().for_each(|judged| find_same_version(judged, rows));
    for judged in &mut judged {
        settings.apply(&judged.path, &mut judged.findings)?;
        judged.findings.sort_by_key(|finding| (Reverse(finding.severity), finding.span.start));
    }
    Ok(judged)
}

fn in_parallel(targets: &[Target], attack: &Attack) -> Vec<Judged> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while let Some((at, target)) = {
            let at = next.fetch_add(1, Ordering::Relaxed);
            targets.get(at).map(|target| (at, target))
        } {
            done.push((at, judge(target, attack)));
        }
        done
    };
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(targets.len());
    let mut done = thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut done = work();
        // A thread that panicked has reported it; its result is missing.
        for other in others {
            done.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        done
    });
    done.sort_unstable_by_key(|&(at, _)| at);
    done.into_iter().map(|(_, judged)| judged).collect()
}

fn judge(target: &Target, attack: &Attack) -> Judged {
    match target {
        Target::File { path, named } => {
            let mut judged = judge_read(path, rulefile::read(path, Limits::default().size), attack);
            if !named && judged.unreadable.is_none() {
                judged.findings.insert(0, Diagnostic::file_name(path));
            }
            judged
        }
        Target::InDirectory { path, policy } => {
            judge_read(path, rulefile::read_within(path, Limits::default().size, policy), attack)
        }
        Target::Text { path, text, named } => {
            let mut judged = judge_text(path, text.clone(), attack);
            if !named {
                judged.findings.insert(0, Diagnostic::file_name(path));
            }
            judged
        }
        Target::PassedOver(path) => {
            Judged { path: path.clone(), findings: vec![Diagnostic::file_name(path)], ..Judged::default() }
        }
        Target::Unreadable { path, reason } => {
            Judged { path: path.clone(), unreadable: Some(reason.clone()), ..Judged::default() }
        }
    }
}

fn judge_read(path: &Path, text: Result<Vec<u8>, ReadError>, attack: &Attack) -> Judged {
    let judged = Judged { path: path.to_owned(), ..Judged::default() };
    match text {
        Ok(text) => judge_text(path, text, attack),
        Err(error @ ReadError::TooLarge { .. }) => {
            let finding = Diagnostic::of_file(Code::TooLarge, error.to_string());
            Judged { findings: vec![finding], ..judged }
        }
        Err(error) => Judged { unreadable: Some(error.to_string()), ..judged },
    }
}

fn judge_text(path: &Path, text: Vec<u8>, attack: &Attack) -> Judged {
    let (findings, rule) = match rule::lint(&text, &Limits::default(), attack) {
        Ok(mut rule) => (std::mem::take(&mut rule.warnings), Some(rule)),
        Err(findings) => (findings, None),
    };
    Judged { path: path.to_owned(), text, findings, rule, unreadable: None }
}

/// Adds a finding if two files of a directory have one id: the master uses the first by path.
fn find_duplicates(judged: &mut [Judged]) {
    let mut first: HashMap<(Option<PathBuf>, String), usize> = HashMap::new();
    for at in 0..judged.len() {
        let Some(rule) = &judged[at].rule else { continue };
        let (id, span) = (rule.definition.rule_id.clone(), rule.id_span.clone());
        let key = (judged[at].path.parent().map(Path::to_owned), id.folded());
        match first.get(&key) {
            Some(&known) => {
                let other = judged[known].path.display().to_string();
                let finding = Diagnostic::duplicate_id(&judged[at].text, span, &id, &other);
                judged[at].insert(finding);
            }
            None => drop(first.insert(key, at)),
        }
    }
}

/// Adds a finding if the database has another text with a version that is not lower.
fn find_same_version(judged: &mut Judged, rows: &Rows) {
    let Some(rule) = &judged.rule else { return };
    if let Some(&(version, content)) = rows.get(&rule.definition.rule_id.folded())
        && i64::from(rule.definition.rule_version) <= version
        && content != ContentDigest::of(&judged.text)
    {
        let span = rule.version_span.clone();
        judged.insert(Diagnostic::version_not_raised(&judged.text, span, version));
    }
}

impl Judged {
    fn insert(&mut self, finding: Diagnostic) {
        self.findings.push(finding);
        self.findings.sort_by_key(|finding| finding.span.start);
    }
}

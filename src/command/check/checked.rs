//! Checks every file, on all processors, and then compares the files with each other.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::thread;

use super::files::{Target, Text};
use super::settings::Settings;
use crate::command::Failure;
use crate::directory::parallel_map;
use crate::rule::attack::Attack;
use crate::rule::{self, Code, ContentDigest, Diagnostic, Limits, ParsedRule};

/// The result for one path.
#[derive(Debug, Default, PartialEq)]
pub(super) struct CheckedFile {
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
pub(super) fn check_all(
    targets: &[Target],
    limits: &Limits,
    attack: &Attack,
    rows: &Rows,
    settings: &mut Settings,
) -> Result<Vec<CheckedFile>, Failure> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let mut checked =
        parallel_map(targets.iter().collect(), threads, |target| check_target(target, limits, attack));
    find_duplicates(&mut checked);
    checked.iter_mut().for_each(|checked| find_same_version(checked, rows));
    for checked in &mut checked {
        settings.apply(&checked.path, &mut checked.findings)?;
        checked.findings.sort_by_key(|finding| (Reverse(finding.severity), finding.span.start));
    }
    Ok(checked)
}

fn check_target(target: &Target, limits: &Limits, attack: &Attack) -> CheckedFile {
    let mut checked = CheckedFile { path: target.path.clone(), ..CheckedFile::default() };
    match target.text(limits.size) {
        Text::Read(text) => {
            (checked.findings, checked.rule) = match rule::lint(&text, limits, attack) {
                Ok(mut rule) => (std::mem::take(&mut rule.warnings), Some(rule)),
                Err(findings) => (findings, None),
            };
            checked.text = text;
        }
        Text::TooLarge(reason) => checked.findings.push(Diagnostic::of_file(Code::TooLarge, reason)),
        Text::PassedOver => {}
        Text::Unreadable(reason) => return CheckedFile { unreadable: Some(reason), ..checked },
    }
    if !target.is_named {
        checked.findings.insert(0, Diagnostic::file_name(&target.path));
    }
    checked
}

/// Adds a finding if two files of a directory have one id: the master uses the first by path.
fn find_duplicates(checked: &mut [CheckedFile]) {
    let mut first: HashMap<(Option<PathBuf>, String), usize> = HashMap::new();
    for at in 0..checked.len() {
        let Some(rule) = &checked[at].rule else { continue };
        let (id, span) = (rule.definition.rule_id.clone(), rule.id_span.clone());
        let key = (checked[at].path.parent().map(Path::to_owned), id.folded());
        match first.get(&key) {
            Some(&known) => {
                let other = checked[known].path.display().to_string();
                let finding = Diagnostic::duplicate_id(&checked[at].text, span, &id, &other);
                checked[at].insert(finding);
            }
            None => drop(first.insert(key, at)),
        }
    }
}

/// Adds a finding if the database has another text with a version that is not lower.
fn find_same_version(checked: &mut CheckedFile, rows: &Rows) {
    let Some(rule) = &checked.rule else { return };
    if let Some(&(version, content)) = rows.get(&rule.definition.rule_id.folded())
        && i64::from(rule.definition.rule_version) <= version
        && content != ContentDigest::of(&checked.text)
    {
        let span = rule.version_span.clone();
        checked.insert(Diagnostic::version_not_raised(&checked.text, span, version));
    }
}

impl CheckedFile {
    fn insert(&mut self, finding: Diagnostic) {
        self.findings.push(finding);
        self.findings.sort_by_key(|finding| finding.span.start);
    }
}

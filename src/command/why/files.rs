//! The files that hold a rule, or would if they were valid.

use std::path::Path;

use serde::Serialize;

use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::config::MasterConfig;
use crate::directory::{DirectoryUnavailable, InvalidFile, ScanScope, ScannedFile, Scanner, UnfinishedFiles};
use crate::rule::plan::{Plan, plan};
use crate::rule::{ContentDigest, Limits, RuleHeader, RuleId};

/// A file that concerns the rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct RuleFile {
    pub(super) source_path: String,
    /// `None` if it could not be read.
    pub(super) content_sha256: Option<ContentDigest>,
    pub(super) modified_at: Option<Timestamp>,
    /// The author's number; `None` if the file is invalid.
    pub(super) rule_version: Option<i64>,
    /// Why the file is invalid, or that it now holds another rule.
    pub(super) error: Option<String>,
}

/// The files of the directory that hold the rule or name its id, and the file that its row names, by path; and what a
/// master would do about them and `rows`, which are those of the rule and of case variants of its id.
pub(super) async fn holding(
    directory: &Path,
    config: &MasterConfig,
    rule_id: &RuleId,
    rows: &[RuleHeader],
) -> Result<(Vec<RuleFile>, Plan), DirectoryUnavailable> {
    let limits = Limits { size: config.max_rule_size, ..Limits::default() };
    let mut scanner = Scanner::new(directory.to_owned(), &config.follow_links_to, limits, &config.updated_by);
    scanner.scan(&ScanScope::All, &UnfinishedFiles::default(), SystemClock.now()).await?;
    let folded = rule_id.folded();
    let is_concerned = |name: &str, file: &ScannedFile| {
        file.rule_id().is_some_and(|id| id.folded() == folded)
            || rows.iter().any(|row| *row.source_path == *name)
    };
    let concerned: Vec<_> = scanner.files().filter(|(name, file)| is_concerned(name, file)).collect();
    let plan = plan(concerned.iter().map(|(name, file)| (*name, file.planned())), rows, &config.updated_by);
    let files = concerned.into_iter().map(|(name, file)| RuleFile::new(name, file, &folded));
    Ok((files.collect(), plan))
}

impl RuleFile {
    fn new(name: &str, file: &ScannedFile, folded: &str) -> Self {
        let other = file.rule().filter(|rule| rule.rule_id.folded() != folded);
        let holds = other.map(|rule| format!("it holds {} now", rule.rule_id));
        Self {
            source_path: name.to_owned(),
            content_sha256: file.digest(),
            modified_at: file.saved_at(),
            rule_version: file.rule().filter(|_| other.is_none()).map(|rule| rule.rule_version),
            error: holds.or_else(|| file.outcome.as_ref().err().map(InvalidFile::sentence)),
        }
    }
}

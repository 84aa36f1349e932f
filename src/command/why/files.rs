//! The files that hold a rule, or would if they were valid.

use std::io;
use std::path::Path;
use std::time::UNIX_EPOCH;

use serde::Serialize;

use crate::clock::Timestamp;
use crate::rule::{ContentDigest, Limits, RuleId, Severity, parse};
use crate::rulefile::{self, LinkPolicy, Listing};

/// A file that concerns the rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct RuleFile {
    pub(super) source_path: String,
    /// `None` if it could not be read.
    pub(super) content_sha256: Option<ContentDigest>,
    pub(super) modified_at: Option<Timestamp>,
    /// The author's number; `None` if the file is invalid.
    pub(super) rule_version: Option<i32>,
    /// Why the file is invalid, or that it now holds another rule.
    pub(super) error: Option<String>,
}

/// The files of the directory that hold the rule, the file that its row names, and invalid files that name this id,
/// by path.
pub(super) fn holding(
    directory: &Path,
    rule_id: &RuleId,
    row_path: Option<&str>,
    limit: usize,
    links: &LinkPolicy,
) -> io::Result<Vec<RuleFile>> {
    let names = Listing::of(directory)?.rules;
    let look = |name: String| look(directory, name, rule_id, row_path, limit, links);
    Ok(names.into_iter().filter_map(look).collect())
}

fn look(
    directory: &Path,
    name: String,
    rule_id: &RuleId,
    row_path: Option<&str>,
    limit: usize,
    links: &LinkPolicy,
) -> Option<RuleFile> {
    let path = directory.join(&name);
    let is_rows = row_path == Some(&*name);
    let modified_at = std::fs::metadata(&path).and_then(|found| found.modified()).ok();
    let modified_at = modified_at.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let mut file = RuleFile {
        source_path: name,
        content_sha256: None,
        modified_at: modified_at.map(|since| Timestamp::from_micros(0).after(since)),
        rule_version: None,
        error: None,
    };
    match rulefile::read_within(&path, limit, links) {
        Err(error) => {
            file.error = Some(error.to_string());
            is_rows.then_some(file)
        }
        Ok(text) => {
            let names_it = String::from_utf8_lossy(&text).to_ascii_lowercase().contains(&rule_id.folded());
            if !is_rows && !names_it {
                return None;
            }
            file.content_sha256 = Some(ContentDigest::of(&text));
            match parse(&text, &Limits { size: limit, ..Limits::default() }) {
                Ok(rule) if rule.definition.rule_id.folded() == rule_id.folded() => {
                    file.rule_version = Some(rule.definition.rule_version);
                    Some(file)
                }
                Ok(rule) => {
                    file.error = Some(format!("it holds {} now", rule.definition.rule_id));
                    is_rows.then_some(file)
                }
                Err(findings) => {
                    let first = findings.iter().find(|finding| finding.severity == Severity::Error);
                    file.error = first.map(|found| {
                        format!("line {}, column {}: {}", found.line, found.column, found.message)
                    });
                    Some(file)
                }
            }
        }
    }
}
